"""GTP-U messages as bytes (TS 29.281): what stands before an inner packet, and what the path itself says.

Rules: GTPv1-U alone; nothing is read beyond the end that the header names; a chain that does not end is
malformed.
"""

import struct

GTP_U_PORT = 2152
EXTENSION_HEADERS_MAX = 8
EXTENSION_HEADERS = b"\x40\x81\x82\x83\x84\x85\xc0"
"""Those of TS 29.281 table 5.2.1-3. All are between others, about radio: a gateway passes over them."""
NOT_UNDERSTOOD = -1

ECHO_REQUEST, ECHO_RESPONSE, ERROR_INDICATION = 1, 2, 26
SUPPORTED_EXTENSION_HEADERS, END_MARKER, G_PDU = 31, 254, 255
PLAIN = 0x30
"""Version 1, GTP, no optional field (§5.1)."""
NUMBERED = 0x32
"""The same with a sequence number."""

_VERSION_MASK = 0xF0
_EXTENSION_FLAG, _SEQUENCE_FLAG = 0x04, 0x02
_OPTIONAL_FLAGS = 0x07
_MUST_BE_UNDERSTOOD = 0x80
_TEID_ELEMENT = 16
_HEADER = struct.Struct("!BBHI")


def payload_start(data: bytes, flags: int, end: int) -> int:
    """Where the payload begins behind optional fields and extension headers (§5.1, §5.2).

    0: malformed; ``NOT_UNDERSTOOD``: an extension header is unknown that the receiver must understand.
    """
    if flags & _VERSION_MASK != PLAIN or end > len(data):
        return 0
    if not flags & _OPTIONAL_FLAGS:
        return 8
    start = 12
    if end < start:
        return 0
    following = data[11] if flags & _EXTENSION_FLAG else 0
    for _ in range(EXTENSION_HEADERS_MAX):
        if not following:
            break
        if following & _MUST_BE_UNDERSTOOD and following not in EXTENSION_HEADERS:
            return NOT_UNDERSTOOD
        length = 4 * data[start] if start < end else 0
        start += length
        if not length or start > end:
            return 0
        following = data[start - 1]
    return 0 if following else start


def echo_request(sequence: int) -> bytes:
    """An Echo Request (§7.2.1)."""
    return b"\x32\x01\x00\x04\0\0\0\0" + sequence.to_bytes(2, "big") + b"\0\0"


def echo_sequence(message: bytes) -> int | None:
    """The sequence number of an Echo Response, which must have one (§4.3.1)."""
    return int.from_bytes(message[8:10], "big") if message[0] & _SEQUENCE_FLAG else None


def echo_response(request: bytes) -> bytes:
    """The answer to an Echo Request; Recovery is 0 in GTP-U (§7.2.2)."""
    sequence = request[8:10] if request[0] & _SEQUENCE_FLAG else bytes(2)
    return b"\x32\x02\x00\x06\0\0\0\0" + sequence + b"\0\0\x0e\x00"


def error_indication(teid: bytes, own: bytes) -> bytes:
    """That the TEID of a G-PDU is none of ours (§7.3.1); ``own`` is the address it came to (§8.4)."""
    return b"\x32\x1a\x00\x10" + bytes(8) + b"\x10" + teid + b"\x85\x00\x04" + own


def indicated_teid(message: bytes, start: int) -> bytes:
    """The TEID that an Error Indication is about: its first element (§7.3.1, §8.3); empty when malformed."""
    if len(message) < start + 5 or message[start] != _TEID_ELEMENT:
        return b""
    return message[start + 1 : start + 5]


def supported_extension_headers() -> bytes:
    """Which extension headers are understood (§7.2.3, §8.5)."""
    content = bytes((141, len(EXTENSION_HEADERS))) + EXTENSION_HEADERS
    return _HEADER.pack(0x32, SUPPORTED_EXTENSION_HEADERS, 4 + len(content), 0) + bytes(4) + content


def end_marker(teid: int) -> bytes:
    """That nothing more comes by this tunnel (§7.3.2)."""
    return _HEADER.pack(PLAIN, END_MARKER, 0, teid)
