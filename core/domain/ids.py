"""Identifiers that sort by time.

Rule: an id is made from the time and random bytes in the arguments; nothing here reads a clock.
"""

import re
from datetime import UTC, datetime

_ID = re.compile(r"[0-9a-f]{32}")


def time_ordered_id(at: datetime, random_bytes: bytes) -> str:
    """32 hex digits: 48 bits of milliseconds, then 80 random bits (RFC 9562 §5.7 layout without its marks).

    ``random_bytes`` must be 10 bytes long.
    """
    return f"{int(at.timestamp() * 1_000):012x}{random_bytes.hex()}"


def time_of_id(id_: str) -> datetime:
    """When it was made; raises ``ValueError`` for a text that is not such an id."""
    if not is_id(id_):
        raise ValueError("not 32 hex digits")
    return datetime.fromtimestamp(int(id_[:12], 16) / 1_000, UTC)


def is_id(text: str) -> bool:
    """Whether it has the form of one."""
    return _ID.fullmatch(text) is not None
