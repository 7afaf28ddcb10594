"""The RADIUS wire format (RFC 2865 §3, §5; RFC 3579 §3.2; RFC 5176 §2.3).

Rules:

- A packet whose lengths do not add up is refused whole; octets after its length are padding (RFC 2865 §3).
- One pass over the octets makes a table by type; a vendor's attribute has its vendor and type as its type.
- The values of one type keep their order (RFC 2865 §5) and stay octets. A Vendor-Specific attribute whose
  inner length is wrong stays as it is, and is ignored (RFC 2865 §5.26).
- Each packet that is sent has Message-Authenticator as its first attribute (the answer to CVE-2024-3596),
  except Accounting-Response.
- Secrets are arguments; nothing here keeps or shows one.
"""

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from enum import IntEnum

from msgspec import Struct

from core.errors import LocalProtocolError, RemoteProtocolError
from radius.attributes import (
    CHAP_CHALLENGE,
    CHAP_PASSWORD,
    MESSAGE_AUTHENTICATOR,
    USER_PASSWORD,
    VENDOR_SPECIFIC,
    AttributeType,
)

HEADER_BYTES = 20
PACKET_BYTES_MAX = 4_096
ATTRIBUTES_MAX = 200
VALUE_BYTES_MAX = 253
PASSWORD_BYTES_MAX = 128
CHAP_PASSWORD_BYTES = 17
AUTHENTICATOR_BYTES = 16
NO_AUTHENTICATOR = bytes(AUTHENTICATOR_BYTES)
VENDOR_BYTES_MIN = 8
"""Of a Vendor-Specific attribute with one of its vendor in it: two, the vendor's number, and again two."""
_SIGNATURE_HEAD = bytes((MESSAGE_AUTHENTICATOR, 18))
_UNSIGNED = _SIGNATURE_HEAD + NO_AUTHENTICATOR


class Code(IntEnum):
    """Packet codes (RFC 2865 §4, RFC 2866 §4, RFC 5997 §3, RFC 5176 §3)."""

    ACCESS_REQUEST = 1
    ACCESS_ACCEPT = 2
    ACCESS_REJECT = 3
    ACCOUNTING_REQUEST = 4
    ACCOUNTING_RESPONSE = 5
    STATUS_SERVER = 12
    DISCONNECT_REQUEST = 40
    DISCONNECT_ACK = 41
    DISCONNECT_NAK = 42


Attribute = tuple[int, bytes]
"""Type and value."""


class Packet(Struct, frozen=True, gc=False):
    """A decoded packet; ``data`` are its octets without padding, for the checks that need them.

    ``firsts`` is the first value of each type, ``others`` the further values of these types, in order.
    ``signature_at`` is where Message-Authenticator's value stands in ``data``, 0 without one.
    """

    code: int
    identifier: int
    authenticator: bytes
    firsts: Mapping[AttributeType, bytes]
    others: Sequence[tuple[AttributeType, bytes]]
    data: bytes
    signature_at: int

    def first(self, type_: AttributeType) -> bytes | None:
        """The first value of a type."""
        return self.firsts.get(type_)

    def all(self, type_: AttributeType) -> list[bytes]:
        """Every value of a type, in order."""
        if type_ not in self.firsts:
            return []
        first = self.firsts[type_]
        return [first, *[value for kind, value in self.others if kind == type_]] if self.others else [first]

    def text(self, type_: AttributeType) -> str:
        """The first value as UTF-8; empty when there is none or it is not UTF-8."""
        if type_ not in self.firsts:
            return ""
        try:
            return self.firsts[type_].decode()
        except UnicodeDecodeError:
            return ""

    def integer(self, type_: AttributeType) -> int | None:
        """The first value as a 32-bit number; ``None`` when there is none of four octets."""
        if type_ not in self.firsts:
            return None
        try:
            first, second, third, fourth = self.firsts[type_]
        except ValueError:
            return None
        return first << 24 | second << 16 | third << 8 | fourth

    def address(self, type_: AttributeType) -> str:
        """The first value as a dotted quad; empty when there is none of four octets."""
        return address_of(self.firsts[type_]) if type_ in self.firsts else ""


def decode(data: bytes) -> Packet:
    """Decode a packet; raises ``RemoteProtocolError`` for one that must be discarded in silence."""
    received = len(data)
    length = data[2] << 8 | data[3] if received >= HEADER_BYTES else received
    if not HEADER_BYTES <= length <= PACKET_BYTES_MAX or length > received:
        raise RemoteProtocolError(f"length {length} in {received} octets")
    data = data[:length]
    firsts: dict[AttributeType, bytes] = {}
    others: list[tuple[AttributeType, bytes]] = []
    at, signature_at, count = HEADER_BYTES, 0, 0
    while at + 2 <= length:
        type_: AttributeType = data[at]
        start, end = at + 2, at + data[at + 1]
        if end < start or end > length:
            break
        if type_ == VENDOR_SPECIFIC:
            if end - at >= VENDOR_BYTES_MIN and data[at + 7] == end - at - 6:  # one, as nearly all are sent
                type_, start = data[start : at + 7], at + VENDOR_BYTES_MIN
            else:
                _add_several(firsts, data[start:end])
        if type_ not in firsts:
            firsts[type_] = data[start:end]
            if type_ == MESSAGE_AUTHENTICATOR:
                signature_at = start
        elif type_ == MESSAGE_AUTHENTICATOR:
            raise RemoteProtocolError("two Message-Authenticators")
        else:
            others.append((type_, data[start:end]))
        at, count = end, count + 1
    if at != length:
        raise RemoteProtocolError("an attribute overruns the packet")
    if count > ATTRIBUTES_MAX:
        raise RemoteProtocolError(f"more than {ATTRIBUTES_MAX} attributes")
    return Packet(data[0], data[1], data[4:HEADER_BYTES], firsts, others, data, signature_at)


def encode_attributes(attributes: Iterable[Attribute]) -> bytes:
    """Attributes in order (RFC 2865 §5); raises ``LocalProtocolError`` for one of more than 253 octets."""
    body = b""
    for type_, value in attributes:
        length = len(value)
        if length > VALUE_BYTES_MAX:
            raise LocalProtocolError(f"attribute {type_} of {length} octets")
        body += bytes((type_, length + 2)) + value
    return body


def encode_response(code: Code, request: Packet, body: bytes, secret: bytes) -> bytes:
    """A response to ``request`` with its authenticators (RFC 2865 §3, RFC 3579 §3.2); ``body`` are its other
    attributes (``encode_attributes``). Raises ``LocalProtocolError`` when they are too long.

    A response to an Accounting-Request has no Message-Authenticator: no RFC says over which authenticator
    it would be made, implementations differ, and MD5 over the whole is all that its protocol has.
    """
    if request.code == Code.ACCOUNTING_REQUEST:
        head = _header(code, request.identifier, HEADER_BYTES + len(body))
    else:
        head = _header(code, request.identifier, HEADER_BYTES + 18 + len(body))
        unsigned = head + request.authenticator + _UNSIGNED + body
        body = _SIGNATURE_HEAD + hmac.digest(secret, unsigned, "md5") + body
    signed = head + request.authenticator + body + secret
    return head + hashlib.md5(signed, usedforsecurity=False).digest() + body


def encode_access_request(
    identifier: int, authenticator: bytes, attributes: Iterable[Attribute], secret: bytes
) -> bytes:
    """An Access-Request or Status-Server's body shape; ``authenticator`` is 16 unpredictable octets."""
    data = bytearray(_plain(Code.ACCESS_REQUEST, identifier, authenticator, attributes))
    _sign(data, secret)
    return bytes(data)


def encode_signed_request(
    code: Code, identifier: int, attributes: Iterable[Attribute], secret: bytes
) -> bytes:
    """An Accounting-Request or Disconnect-Request: its authenticator signs it (RFC 2866 §3)."""
    data = bytearray(_plain(code, identifier, NO_AUTHENTICATOR, attributes))
    _sign(data, secret)
    data[4:HEADER_BYTES] = hashlib.md5(bytes(data) + secret, usedforsecurity=False).digest()
    return bytes(data)


def is_signed(packet: Packet, secret: bytes) -> bool:
    """Whether a request's authenticator was made with the secret (Accounting, Disconnect)."""
    blank = packet.data[:4] + NO_AUTHENTICATOR + packet.data[HEADER_BYTES:]
    digest = hashlib.md5(blank + secret, usedforsecurity=False).digest()
    return hmac.compare_digest(digest, packet.authenticator)


def is_answer(packet: Packet, request_authenticator: bytes, secret: bytes) -> bool:
    """Whether a response's authenticator fits the request's."""
    blank = packet.data[:4] + request_authenticator + packet.data[HEADER_BYTES:]
    digest = hashlib.md5(blank + secret, usedforsecurity=False).digest()
    return hmac.compare_digest(digest, packet.authenticator)


def is_authentic(packet: Packet, secret: bytes, authenticator: bytes | None = None) -> bool | None:
    """Whether Message-Authenticator fits; ``None`` when there is none.

    ``authenticator`` is what stood in the header when it was made, if not the packet's own: the request's
    for a response, sixteen zeros for Accounting and Disconnect requests (RFC 3579 §3.2).
    """
    at = packet.signature_at
    if not at:
        return None
    data, end = packet.data, at + AUTHENTICATOR_BYTES  # one of another length fits no digest
    header = data[:HEADER_BYTES] if authenticator is None else data[:4] + authenticator
    blank = header + data[HEADER_BYTES:at] + NO_AUTHENTICATOR + data[end:]
    return hmac.compare_digest(hmac.digest(secret, blank, "md5"), packet.firsts[MESSAGE_AUTHENTICATOR])


def reveal_password(packet: Packet, secret: bytes) -> bytes | None:
    """User-Password in clear (RFC 2865 §5.2); ``None`` when there is none that could be one."""
    hidden = packet.first(USER_PASSWORD)
    if hidden is None or not 0 < len(hidden) <= PASSWORD_BYTES_MAX or len(hidden) % 16:
        return None
    clear, previous = b"", packet.authenticator
    for at in range(0, len(hidden), 16):
        block = hidden[at : at + 16]
        clear += _xor(block, hashlib.md5(secret + previous, usedforsecurity=False).digest())
        previous = block
    return clear.rstrip(b"\0")


def hide_password(password: bytes, authenticator: bytes, secret: bytes) -> bytes:
    """The inverse, for a client."""
    if len(password) > PASSWORD_BYTES_MAX:
        raise LocalProtocolError(f"a password of {len(password)} octets")
    padded = password + bytes(-len(password) % 16 if password else 16)
    hidden, previous = b"", authenticator
    for at in range(0, len(padded), 16):
        key = hashlib.md5(secret + previous, usedforsecurity=False).digest()
        previous = _xor(padded[at : at + 16], key)
        hidden += previous
    return hidden


def is_chap_answer(packet: Packet, password: bytes) -> bool | None:
    """Whether CHAP-Password answers its challenge (RFC 2865 §2.2, §5.3); ``None`` when there is none."""
    answer = packet.first(CHAP_PASSWORD)
    if answer is None:
        return None
    challenge = packet.first(CHAP_CHALLENGE) or packet.authenticator
    digest = hashlib.md5(answer[:1] + password + challenge, usedforsecurity=False).digest()
    return len(answer) == CHAP_PASSWORD_BYTES and hmac.compare_digest(digest, answer[1:])


def vendor_attribute(type_: bytes, value: bytes) -> Attribute:
    """A vendor's attribute in a Vendor-Specific one (RFC 2865 §5.26)."""
    return VENDOR_SPECIFIC, type_ + bytes((len(value) + 2,)) + value


def _plain(code: Code, identifier: int, authenticator: bytes, attributes: Iterable[Attribute]) -> bytes:
    """The packet with room for a Message-Authenticator as its first attribute."""
    body = _UNSIGNED + encode_attributes(attributes)
    return _header(code, identifier, HEADER_BYTES + len(body)) + authenticator + body


def _header(code: Code, identifier: int, length: int) -> bytes:
    """The four octets before the authenticator."""
    if length > PACKET_BYTES_MAX:
        raise LocalProtocolError(f"a packet of {length} octets")
    return bytes((code, identifier, length >> 8, length & 0xFF))


def _sign(data: bytearray, secret: bytes) -> None:
    at = HEADER_BYTES + 2
    data[at : at + 16] = hmac.digest(secret, bytes(data), "md5")


def _add_several(firsts: dict[AttributeType, bytes], value: bytes) -> None:
    """Add what a Vendor-Specific attribute with several of its vendor holds, up to one that is broken."""
    at = 4
    while at + 2 <= len(value) and 2 <= value[at + 1] <= len(value) - at:
        firsts.setdefault(value[:4] + value[at : at + 1], value[at + 2 : at + value[at + 1]])
        at += value[at + 1]


def _xor(left: bytes, right: bytes) -> bytes:
    return bytes(a ^ b for a, b in zip(left, right, strict=True))


def text_of(value: bytes) -> str:
    """A value as UTF-8; empty when it is no text."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return ""


def address_of(value: bytes) -> str:
    """A value as a dotted quad; empty unless it is of four octets."""
    return f"{value[0]}.{value[1]}.{value[2]}.{value[3]}" if len(value) == 4 else ""
