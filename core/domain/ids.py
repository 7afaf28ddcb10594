"""Identifiers that sort by time.

Rule: an id is made from the time and fresh random bytes handed in; nothing here reads a clock or dice.
"""

from datetime import datetime


def time_ordered_id(at: datetime, random_bytes: bytes) -> str:
    """32 hex digits: 48 bits of milliseconds, then 80 random bits (RFC 9562 §5.7 layout without its marks).

    ``random_bytes`` must be 10 bytes long.
    """
    milliseconds = int(at.timestamp() * 1_000)
    return milliseconds.to_bytes(6, "big").hex() + random_bytes.hex()
