"""The GTP version 1 header (TS 29.060 §6, TS 29.281 §5.1).

::

    octet 1   version (3 bits) = 1 | PT = 1 | spare | E | S | PN
    octet 2   message type
    3–4       length of what follows octet 8
    5–8       TEID
    9–12      sequence number, N-PDU number, next extension header type: present if any of E, S, PN is set

Rules: a datagram shorter than its length says is refused; bytes beyond it are not read; the chain of
extension headers is bounded and a length of zero in it is refused. Extension headers are read over; which
there were is reported.
"""

import struct

from msgspec import Struct

from core.errors import RemoteProtocolError
from gtp.v1.cause import Cause

VERSION_1_PT = 0x30
FLAG_PT = 0x10
FLAG_E, FLAG_S, FLAG_PN = 0x04, 0x02, 0x01
HEADER_BYTES = 8
OPTIONAL_BYTES = 4
EXTENSION_HEADERS_MAX = 8

_HEADER = struct.Struct("!BBHI")
_NUMBERED = struct.Struct("!BBHIHH")
"""With a sequence number, without N-PDU number and extension headers."""


class Header(Struct, frozen=True):
    """A decoded header; ``sequence`` is ``None`` when S is not set, ``payload`` what follows it all.

    ``extensions`` are the types of its extension headers.
    """

    message_type: int
    teid: int
    sequence: int | None
    payload: bytes
    extensions: tuple[int, ...] = ()


def decode_header(data: bytes) -> Header:
    """Decode the header of a version 1 message; raises ``RemoteProtocolError``."""
    if len(data) < HEADER_BYTES:
        raise RemoteProtocolError("shorter than a GTP header")
    if data[0] >> 5 != 1:
        raise RemoteProtocolError(f"GTP version {data[0] >> 5}", cause=Cause.VERSION_NOT_SUPPORTED)
    flags, message_type, length, teid = _HEADER.unpack_from(data)
    if not flags & FLAG_PT:
        raise RemoteProtocolError("GTP' (PT = 0) is another protocol")
    end = HEADER_BYTES + length
    if end > len(data):
        raise RemoteProtocolError(f"length {length} is beyond the datagram's {len(data)} octets")
    if not flags & 0x07:
        return Header(message_type, teid, None, data[HEADER_BYTES:end])
    at = HEADER_BYTES + OPTIONAL_BYTES
    if at > end:
        raise RemoteProtocolError("no room for the sequence number")
    sequence = data[8] << 8 | data[9] if flags & FLAG_S else None
    extensions: list[int] = []
    if flags & FLAG_E:
        at = _skip_extension_headers(data, data[11], at, end, extensions)
    return Header(message_type, teid, sequence, data[at:end], tuple(extensions))


def encode_header(message_type: int, teid: int, sequence: int | None, payload: bytes) -> bytes:
    """Header and payload; with a sequence number when one is given (S = 1)."""
    if sequence is None:
        return _HEADER.pack(VERSION_1_PT, message_type, len(payload), teid) + payload
    length = len(payload) + OPTIONAL_BYTES
    return _NUMBERED.pack(VERSION_1_PT | FLAG_S, message_type, length, teid, sequence, 0) + payload


def _skip_extension_headers(data: bytes, following: int, at: int, end: int, found: list[int]) -> int:
    """Where the chain ends (TS 29.281 §5.2.1: each is a multiple of four octets, its last the next type)."""
    for _ in range(EXTENSION_HEADERS_MAX):
        if following == 0:
            return at
        if at >= end or data[at] == 0 or at + data[at] * 4 > end:
            raise RemoteProtocolError("an extension header has length 0 or overruns the message")
        found.append(following)
        at += data[at] * 4
        following = data[at - 1]
    if following:
        raise RemoteProtocolError(f"more than {EXTENSION_HEADERS_MAX} extension headers")
    return at
