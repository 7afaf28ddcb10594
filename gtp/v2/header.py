"""The GTP version 2 header (TS 29.274 §5).

::

    octet 1   version (3 bits) = 2 | P | T | MP | spare
    octet 2   message type
    3–4       length of what follows octet 4
    5–8       TEID, where T is set
    then      sequence number (24 bits), and an octet that is spare or carries the priority

Rules: a datagram shorter than its length says is refused. With P another message follows in the datagram
(§5.5.1); the decoder asks for it.
"""

import struct

from msgspec import Struct

from core.errors import RemoteProtocolError

VERSION = 2
FLAG_P, FLAG_T = 0x10, 0x08
FIRST_BYTES = 4
"""Octets that the length does not count."""
SHORTEST_BYTES = FIRST_BYTES + 4
_WITHOUT_TEID, _WITH_TEID = struct.Struct("!BBHI"), struct.Struct("!BBHII")


class Header(Struct, frozen=True):
    """A decoded header. ``teid`` is ``None`` without T; ``following`` is a piggybacked message, or empty."""

    message_type: int
    teid: int | None
    sequence: int
    payload: bytes
    following: bytes = b""


def decode_header(data: bytes) -> Header:
    """Decode the header of a version 2 message; raises ``RemoteProtocolError``."""
    if len(data) < SHORTEST_BYTES or data[0] >> 5 != VERSION:
        raise RemoteProtocolError("no GTPv2 header")
    flags, end = data[0], FIRST_BYTES + int.from_bytes(data[2:4], "big")
    at = sequence_at(data)
    if end > len(data) or at + 4 > end:
        raise RemoteProtocolError(f"length {end - FIRST_BYTES} does not fit {len(data)} octets")
    teid = int.from_bytes(data[4:8], "big") if flags & FLAG_T else None
    sequence = int.from_bytes(data[at : at + 3], "big")
    following = data[end:] if flags & FLAG_P else b""
    return Header(data[1], teid, sequence, data[at + 4 : end], following)


def sequence_at(data: bytes) -> int:
    """Where the sequence number begins."""
    return FIRST_BYTES + (4 if data[0] & FLAG_T else 0)


def encode_header(message_type: int, teid: int | None, sequence: int, payload: bytes) -> bytes:
    """Header and payload; without a TEID for Echo and Version Not Supported."""
    numbered = sequence << 8  # three octets and one that is spare
    if teid is None:
        return _WITHOUT_TEID.pack(VERSION << 5, message_type, len(payload) + 4, numbered) + payload
    flags = VERSION << 5 | FLAG_T
    return _WITH_TEID.pack(flags, message_type, len(payload) + 8, teid, numbered) + payload
