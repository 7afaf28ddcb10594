"""The name server that devices are given: platform names to platform addresses, and nothing else.

Rules: the header is checked before anything is read by it: one question, no answers, at most one additional
record (the OPT of EDNS, which is ignored: RFC 6891 §7). What is no such question gets no answer. The name is
read once, label by label; a compression pointer has no place in a first name. A platform name of another type
than A has no data; every other name is refused, for this is no resolver (RFC 1035 §4.1.1, RCODE 5). The
answer is the header, the question and at most one record.
"""

import struct
from collections.abc import Mapping
from ipaddress import IPv4Address

DNS_PORT = 53
QUESTION_BYTES_MAX = 512
"""A message over UDP (RFC 1035 §2.3.4)."""
LABEL_BYTES_MAX, NAME_BYTES_MAX = 63, 255
TTL_S = 300

_HEADER = struct.Struct("!HHHHHH")
_TYPE_AND_CLASS = struct.Struct("!HH")
_TO_THE_QUESTION = b"\xc0\x0c"
_RESPONSE, _AUTHORITATIVE, _RECURSION_DESIRED, _OPCODE = 0x8000, 0x0400, 0x0100, 0x7800
_NOT_IMPLEMENTED, _REFUSED = 4, 5
_A, _IN = 1, 1


class NameServer:
    """Answers questions. ``names`` are without the last dot."""

    def __init__(self, names: Mapping[str, IPv4Address]) -> None:
        self._records = {
            _wire_name(name): _TO_THE_QUESTION + struct.pack("!HHIH", _A, _IN, TTL_S, 4) + address.packed
            for name, address in names.items()
        }

    def answer(self, message: bytes) -> bytes | None:
        """The answer to a question; ``None`` for what is none."""
        if not _HEADER.size < len(message) <= QUESTION_BYTES_MAX:
            return None
        number, flags, questions, answers, authorities, additional = _HEADER.unpack_from(message)
        if flags & _RESPONSE or questions != 1 or answers or authorities or additional > 1:
            return None
        name_end = _name_end(message)
        if name_end is None:
            return None
        end = name_end + _TYPE_AND_CLASS.size
        asked_type, asked_class = _TYPE_AND_CLASS.unpack_from(message, name_end)
        # A length is at most 63, below every letter: lower() changes the text alone (RFC 4343).
        record = self._records.get(message[_HEADER.size : name_end].lower())
        flags = _RESPONSE | flags & (_OPCODE | _RECURSION_DESIRED)
        found = b""
        if flags & _OPCODE or asked_class != _IN:
            flags |= _AUTHORITATIVE | _NOT_IMPLEMENTED
        elif record is None:
            flags |= _REFUSED
        else:
            flags |= _AUTHORITATIVE
            found = record if asked_type == _A else b""
        return _HEADER.pack(number, flags, 1, bool(found), 0, 0) + message[_HEADER.size : end] + found


def _name_end(message: bytes) -> int | None:
    """Where the question's name ends; ``None`` when it is none, or type and class do not follow."""
    at = begin = _HEADER.size
    limit = min(begin + NAME_BYTES_MAX, len(message) - _TYPE_AND_CLASS.size)
    while at < limit:
        length = message[at]
        at += 1 + length
        if not length:
            return at
        if length > LABEL_BYTES_MAX:
            return None
    return None


def _wire_name(name: str) -> bytes:
    return b"".join(bytes((len(label),)) + label.lower().encode() for label in name.split(".")) + b"\0"
