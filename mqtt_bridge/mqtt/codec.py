"""The MQTT wire format, 3.1.1 and 5 (OASIS MQTT 3.1.1 §2–§3, MQTT 5.0 §2–§3), as a server needs it.

Rules: what a client sends is decoded whole or refused with the reason code of version 5; a length is checked
before anything is read by it; text is UTF-8 without NUL (§1.5.4).
"""

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from msgspec import Struct

from core.errors import RemoteProtocolError

VERSION_3, VERSION_5 = 4, 5
"""Protocol levels: 3.1.1 calls itself 4."""


class PacketType(IntEnum):
    """Control packet types (§2.1.2)."""

    CONNECT = 1
    CONNACK = 2
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    SUBACK = 9
    UNSUBSCRIBE = 10
    UNSUBACK = 11
    PINGREQ = 12
    PINGRESP = 13
    DISCONNECT = 14
    AUTH = 15


class Reason(IntEnum):
    """Reason codes (MQTT 5.0 §2.4); those of version 3.1.1 are found by ``CONNACK_OF_REASON``."""

    SUCCESS = 0x00
    DISCONNECT_WITH_WILL = 0x04
    MALFORMED_PACKET = 0x81
    PROTOCOL_ERROR = 0x82
    IMPLEMENTATION_SPECIFIC_ERROR = 0x83
    UNSUPPORTED_PROTOCOL_VERSION = 0x84
    CLIENT_IDENTIFIER_NOT_VALID = 0x85
    NOT_AUTHORIZED = 0x87
    SERVER_UNAVAILABLE = 0x88
    SERVER_BUSY = 0x89
    BAD_AUTHENTICATION_METHOD = 0x8C
    KEEP_ALIVE_TIMEOUT = 0x8D
    SESSION_TAKEN_OVER = 0x8E
    TOPIC_NAME_INVALID = 0x90
    RECEIVE_MAXIMUM_EXCEEDED = 0x93
    TOPIC_ALIAS_INVALID = 0x94
    PACKET_TOO_LARGE = 0x95
    MESSAGE_RATE_TOO_HIGH = 0x96
    QUOTA_EXCEEDED = 0x97
    ADMINISTRATIVE_ACTION = 0x98
    PAYLOAD_FORMAT_INVALID = 0x99
    RETAIN_NOT_SUPPORTED = 0x9A
    QOS_NOT_SUPPORTED = 0x9B


CONNACK_OF_REASON: Mapping[Reason, int] = {
    Reason.SUCCESS: 0,
    Reason.UNSUPPORTED_PROTOCOL_VERSION: 1,
    Reason.CLIENT_IDENTIFIER_NOT_VALID: 2,
    Reason.SERVER_UNAVAILABLE: 3,
    Reason.SERVER_BUSY: 3,
    Reason.NOT_AUTHORIZED: 5,
}
"""MQTT 3.1.1 §3.2.2.3; a reason that is not here closes the connection without CONNACK."""


class Property(IntEnum):
    """The properties that are read or written here (MQTT 5.0 §2.2.2.2)."""

    SESSION_EXPIRY_INTERVAL = 0x11
    ASSIGNED_CLIENT_IDENTIFIER = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTHENTICATION_METHOD = 0x15
    REASON_STRING = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS = 0x23
    MAXIMUM_QOS = 0x24
    RETAIN_AVAILABLE = 0x25
    USER_PROPERTY = 0x26
    MAXIMUM_PACKET_SIZE = 0x27
    WILDCARD_SUBSCRIPTION_AVAILABLE = 0x28
    SUBSCRIPTION_IDENTIFIER_AVAILABLE = 0x29
    SHARED_SUBSCRIPTION_AVAILABLE = 0x2A


_KINDS = {
    0x01: "1", 0x02: "4", 0x03: "s", 0x08: "s", 0x09: "b", 0x0B: "v", 0x11: "4", 0x12: "s", 0x13: "2",
    0x15: "s", 0x16: "b", 0x17: "1", 0x18: "4", 0x19: "1", 0x1A: "s", 0x1C: "s", 0x1F: "s", 0x21: "2",
    0x22: "2", 0x23: "2", 0x24: "1", 0x25: "1", 0x26: "p", 0x27: "4", 0x28: "1", 0x29: "1", 0x2A: "1",
}  # fmt: skip
"""Every property's type: octets of a number, ``v``ariable number, ``s``tring, ``b``inary, ``p``air."""
CONNECT_PROPERTIES = frozenset({0x11, 0x15, 0x16, 0x17, 0x19, 0x21, 0x22, 0x26, 0x27})
WILL_PROPERTIES = frozenset({0x01, 0x02, 0x03, 0x08, 0x09, 0x18, 0x26})
PUBLISH_PROPERTIES = frozenset({0x01, 0x02, 0x03, 0x08, 0x09, 0x23, 0x26})
SUBSCRIBE_PROPERTIES = frozenset({0x0B, 0x26})
UNSUBSCRIBE_PROPERTIES = frozenset({0x26})
DISCONNECT_PROPERTIES = frozenset({0x11, 0x1F, 0x26})


class Message(Struct, frozen=True, gc=False):
    """An application message as a client publishes it, or leaves it as its will."""

    topic: str
    payload: bytes
    qos: int = 0
    packet_id: int = 0
    is_retain: bool = False


@dataclass(frozen=True, slots=True)
class Connect:
    """CONNECT (§3.1). ``receive_maximum`` and ``packet_bytes_max`` are what the client takes."""

    version: int
    client_id: str
    is_clean: bool
    keep_alive_s: int
    will: Message | None
    authentication_method: str = ""


@dataclass(frozen=True, slots=True)
class Subscribe:
    """SUBSCRIBE or UNSUBSCRIBE (§3.8, §3.10): how many topic filters are asked for."""

    packet_id: int
    filters: int


@dataclass(frozen=True, slots=True)
class Disconnect:
    """DISCONNECT (§3.14)."""

    reason: int


class Malformed(RemoteProtocolError):
    """What a client sent; ``cause`` is the reason code that it gets."""

    def __init__(self, message: str, reason: Reason = Reason.MALFORMED_PACKET) -> None:
        super().__init__(message, cause=reason)
        self.reason = reason


def _text(encoded: bytes) -> str:
    try:
        text = encoded.decode()
    except UnicodeDecodeError:
        raise Malformed("text that is not UTF-8") from None
    if "\0" in text:
        raise Malformed("text with NUL")
    return text


class Reader:
    """Reads one packet's content from front to back; raises ``Malformed`` where it ends too soon."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def is_done(self) -> bool:
        """Whether everything was read."""
        return self._at == len(self._data)

    def take(self, length: int) -> bytes:
        """The next octets."""
        end = self._at + length
        if end > len(self._data):
            raise Malformed("the packet ends too soon")
        taken, self._at = self._data[self._at : end], end
        return taken

    def rest(self) -> bytes:
        """All that is left."""
        return self.take(len(self._data) - self._at)

    def number(self, octets: int) -> int:
        """A number in network order."""
        return int.from_bytes(self.take(octets), "big")

    def variable(self) -> int:
        """A variable byte integer (§1.5.5)."""
        value = 0
        for shift in range(0, 28, 7):
            octet = self.number(1)
            value |= (octet & 0x7F) << shift
            if octet < 0x80:
                return value
        raise Malformed("a variable byte integer of more than four octets")

    def binary(self) -> bytes:
        """Binary data (§1.5.6)."""
        return self.take(self.number(2))

    def text(self) -> str:
        """A UTF-8 string (§1.5.4)."""
        return _text(self.binary())

    def properties(self, allowed: frozenset[int]) -> dict[int, int | str | bytes]:
        """Properties (MQTT 5.0 §2.2.2); user properties and subscription identifiers are passed over."""
        reader = Reader(self.take(self.variable()))
        found: dict[int, int | str | bytes] = {}
        while not reader.is_done:
            kind = reader.variable()
            if kind not in allowed:
                raise Malformed(f"property {kind:#x}", Reason.PROTOCOL_ERROR)
            value = reader.value(_KINDS[kind])
            if kind in found and kind != Property.USER_PROPERTY:
                raise Malformed(f"property {kind:#x} twice", Reason.PROTOCOL_ERROR)
            found[kind] = value
        return found

    def value(self, kind: str) -> int | str | bytes:
        """One property's value."""
        match kind:
            case "s":
                return self.text()
            case "b":
                return self.binary()
            case "v":
                return self.variable()
            case "p":
                return self.text() + self.text()
            case _:
                return self.number(int(kind))


def decode_connect(data: bytes) -> Connect:
    """CONNECT's content."""
    reader = Reader(data)
    name, version = reader.text(), reader.number(1)
    if name != "MQTT" or version not in (VERSION_3, VERSION_5):
        raise Malformed(f"protocol {name!r} {version}", Reason.UNSUPPORTED_PROTOCOL_VERSION)
    flags, keep_alive_s = reader.number(1), reader.number(2)
    has_will, will_qos = bool(flags & 0x04), flags >> 3 & 3
    if flags & 1 or will_qos == 3 or (not has_will and flags & 0x38):
        raise Malformed("connect flags")
    if version == VERSION_3 and flags & 0x40 and not flags & 0x80:
        raise Malformed("a password without a user name")
    properties = reader.properties(CONNECT_PROPERTIES) if version == VERSION_5 else {}
    if properties.get(Property.RECEIVE_MAXIMUM) == 0 or properties.get(Property.MAXIMUM_PACKET_SIZE) == 0:
        raise Malformed("a maximum of 0", Reason.PROTOCOL_ERROR)
    client_id = reader.text()
    will = None
    if has_will:
        if version == VERSION_5:
            reader.properties(WILL_PROPERTIES)
        will = Message(topic_name(reader.binary()), reader.binary(), will_qos, 0, bool(flags & 0x20))
    if flags & 0x80:
        reader.text()
    if flags & 0x40:
        reader.binary()
    if not reader.is_done:
        raise Malformed("octets after CONNECT")
    method = str(properties.get(Property.AUTHENTICATION_METHOD, ""))
    return Connect(version, client_id, bool(flags & 2), keep_alive_s, will, method)


def decode_publish(flags: int, data: bytes, version: int) -> Message:
    """PUBLISH's content (§3.3)."""
    qos, size = flags >> 1 & 3, len(data)
    if qos == 3 or (qos == 0 and flags & 8):
        raise Malformed("PUBLISH flags")
    if size < 2:
        raise Malformed("the packet ends too soon")
    topic_end = 2 + (data[0] << 8 | data[1])
    at = topic_end + 2 if qos else topic_end
    if size < at:
        raise Malformed("the packet ends too soon")
    topic = topic_name(data[2:topic_end])
    packet_id = data[topic_end] << 8 | data[topic_end + 1] if qos else 0
    if qos and packet_id == 0:
        raise Malformed("packet identifier 0", Reason.PROTOCOL_ERROR)
    if version == VERSION_5:
        reader = Reader(data[at:])
        if Property.TOPIC_ALIAS in reader.properties(PUBLISH_PROPERTIES):
            raise Malformed("topic aliases are not offered", Reason.TOPIC_ALIAS_INVALID)
        return Message(topic, reader.rest(), qos, packet_id, bool(flags & 1))
    return Message(topic, data[at:], qos, packet_id, bool(flags & 1))


def topic_name(encoded: bytes) -> str:
    """A topic name (§4.7.3): text that is not empty and has no wildcards."""
    topic = _text(encoded)
    if not topic or "+" in topic or "#" in topic:
        raise Malformed("a topic name that is empty or has wildcards", Reason.TOPIC_NAME_INVALID)
    return topic


def decode_release(flags: int, data: bytes) -> int:
    """PUBREL of 3.1.1 (§3.6); the packet identifier."""
    if flags != 2 or len(data) != 2:
        raise Malformed("PUBREL")
    return int.from_bytes(data, "big")


def decode_subscribe(data: bytes, version: int) -> Subscribe:
    """SUBSCRIBE's content (§3.8)."""
    return _filters(data, version, SUBSCRIBE_PROPERTIES, option_octets=1)


def decode_unsubscribe(data: bytes, version: int) -> Subscribe:
    """UNSUBSCRIBE's content (§3.10)."""
    return _filters(data, version, UNSUBSCRIBE_PROPERTIES, option_octets=0)


def _filters(data: bytes, version: int, allowed: frozenset[int], *, option_octets: int) -> Subscribe:
    reader = Reader(data)
    packet_id = reader.number(2)
    if version == VERSION_5:
        reader.properties(allowed)
    filters = 0
    while not reader.is_done:
        reader.text()
        reader.take(option_octets)
        filters += 1
    if not packet_id or not filters:
        raise Malformed("no packet identifier or no topic filter", Reason.PROTOCOL_ERROR)
    return Subscribe(packet_id, filters)


def decode_disconnect(data: bytes, version: int) -> Disconnect:
    """DISCONNECT's content (§3.14)."""
    if version == VERSION_3 or not data:
        if data:
            raise Malformed("DISCONNECT with content")
        return Disconnect(Reason.SUCCESS)
    reader = Reader(data)
    reason = reader.number(1)
    if not reader.is_done:
        reader.properties(DISCONNECT_PROPERTIES)
    return Disconnect(reason)


def encode(kind: PacketType, flags: int, content: bytes) -> bytes:
    """One packet."""
    return bytes((kind << 4 | flags,)) + encode_variable(len(content)) + content


def encode_variable(value: int) -> bytes:
    """A variable byte integer (§1.5.5)."""
    encoded = bytearray()
    while True:
        value, digit = value >> 7, value & 0x7F
        encoded.append(digit | (0x80 if value else 0))
        if not value:
            return bytes(encoded)


def encode_properties(properties: Mapping[Property, int | str]) -> bytes:
    """Properties with their length."""
    encoded = b""
    for kind, value in properties.items():
        encoded += bytes((kind,))
        if isinstance(value, str):
            text = value.encode()
            encoded += len(text).to_bytes(2, "big") + text
        else:
            encoded += value.to_bytes(int(_KINDS[kind]), "big")
    return encode_variable(len(encoded)) + encoded


def encode_connack(version: int, reason: Reason, properties: Mapping[Property, int | str]) -> bytes:
    """CONNACK (§3.2) without a session; empty where version 3.1.1 has no code for the reason."""
    if version == VERSION_5:
        return encode(PacketType.CONNACK, 0, bytes((0, reason)) + encode_properties(properties))
    code = CONNACK_OF_REASON.get(reason)
    return b"" if code is None else encode(PacketType.CONNACK, 0, bytes((0, code)))


_PUBACK = struct.Struct("!BBH")
_PUBACK_REASON = struct.Struct("!BBHB")


def encode_puback(packet_id: int, reason: Reason = Reason.SUCCESS) -> bytes:
    """PUBACK (§3.4); a reason other than success is version 5's alone."""
    if reason == Reason.SUCCESS:
        return _PUBACK.pack(PacketType.PUBACK << 4, 2, packet_id)
    return _PUBACK_REASON.pack(PacketType.PUBACK << 4, 3, packet_id, reason)


def encode_release(kind: PacketType, packet_id: int) -> bytes:
    """PUBREC or PUBCOMP of 3.1.1 (§3.5, §3.7)."""
    return _PUBACK.pack(kind << 4, 2, packet_id)


def encode_suback(version: int, kind: PacketType, subscribe: Subscribe, reason: int) -> bytes:
    """SUBACK or UNSUBACK (§3.9, §3.11) with the same reason for each filter."""
    content = subscribe.packet_id.to_bytes(2, "big")
    if version == VERSION_5:
        content += b"\0"
    if version == VERSION_5 or kind == PacketType.SUBACK:
        content += bytes((reason,)) * subscribe.filters
    return encode(kind, 0, content)


def encode_disconnect(reason: Reason) -> bytes:
    """DISCONNECT of a server (MQTT 5.0 §3.14); 3.1.1 has none."""
    return encode(PacketType.DISCONNECT, 0, bytes((reason,)))
