"""Traffic flow templates (TS 24.008 §10.5.6.12): which packets go by a dedicated bearer.

Rules: a template is written as one that creates a new one; it is read of whatever operation, up to its
bounds, and what overruns, is named twice or is no component of ``PacketFilter`` raises
``RemoteProtocolError``.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

from core.domain.flow import PacketFilter, Ports
from core.errors import LocalProtocolError, RemoteProtocolError

FILTERS_MAX = 15
"""The count has four bits."""

_IPV4_REMOTE, _IPV6_REMOTE, _IPV6_REMOTE_PREFIX = 0x10, 0x20, 0x21
_PROTOCOL = 0x30
_LOCAL_PORT, _LOCAL_PORTS, _REMOTE_PORT, _REMOTE_PORTS = 0x40, 0x41, 0x50, 0x51
_LENGTHS = {
    _IPV4_REMOTE: 8, _IPV6_REMOTE: 32, _IPV6_REMOTE_PREFIX: 17, _PROTOCOL: 1, _LOCAL_PORT: 2,
    _LOCAL_PORTS: 4, _REMOTE_PORT: 2, _REMOTE_PORTS: 4,
}  # fmt: skip
_DOWNLINK, _UPLINK = 0x10, 0x20


class TftOperation(IntEnum):
    """What a template does with the one that is there."""

    CREATE = 1
    DELETE = 2
    ADD_FILTERS = 3
    REPLACE_FILTERS = 4
    DELETE_FILTERS = 5
    NO_OPERATION = 6


@dataclass(frozen=True, slots=True)
class Tft:
    """A template. ``identifiers``: of the filters that ``DELETE_FILTERS`` names."""

    operation: TftOperation
    filters: tuple[PacketFilter, ...] = ()
    identifiers: tuple[int, ...] = ()


def encode_tft(filters: Sequence[PacketFilter]) -> bytes:
    """The template that creates these; raises ``LocalProtocolError`` when they cannot be encoded."""
    if not 0 < len(filters) <= FILTERS_MAX or len({each.identifier for each in filters}) != len(filters):
        raise LocalProtocolError(f"{len(filters)} packet filters")
    return bytes((TftOperation.CREATE << 5 | len(filters),)) + b"".join(map(_encode_filter, filters))


def decode_tft(value: bytes) -> Tft:
    """Raises ``RemoteProtocolError``. Parameters that follow (bit E) are not read."""
    if not value:
        raise RemoteProtocolError("no TFT")
    count = value[0] & 0x0F
    try:
        operation = TftOperation(value[0] >> 5)
    except ValueError:
        raise RemoteProtocolError(f"TFT operation {value[0] >> 5}") from None
    if operation in (TftOperation.DELETE, TftOperation.NO_OPERATION):
        return Tft(operation)
    if not count:
        raise RemoteProtocolError("a TFT without filters")
    if operation is TftOperation.DELETE_FILTERS:
        if len(value) < 1 + count:
            raise RemoteProtocolError("TFT overrun")
        return Tft(operation, identifiers=tuple(octet & 0x0F for octet in value[1 : 1 + count]))
    filters: list[PacketFilter] = []
    at = 1
    for _ in range(count):
        end = at + 3 + (value[at + 2] if at + 2 < len(value) else 0)
        if at + 3 > len(value) or end > len(value):
            raise RemoteProtocolError("TFT overrun")
        filters.append(_decode_filter(value[at], value[at + 1], value[at + 3 : end]))
        at = end
    if len({each.identifier for each in filters}) != count:
        raise RemoteProtocolError("a filter twice")
    return Tft(operation, tuple(filters))


def _encode_filter(each: PacketFilter) -> bytes:
    parts: list[bytes] = []
    if each.remote:
        network = ip_network(each.remote)
        if isinstance(network, IPv4Network):
            parts.append(bytes((_IPV4_REMOTE,)) + network.network_address.packed + network.netmask.packed)
        else:
            prefix = bytes((network.prefixlen,))
            parts.append(bytes((_IPV6_REMOTE_PREFIX,)) + network.network_address.packed + prefix)
    if each.protocol is not None:
        parts.append(bytes((_PROTOCOL, each.protocol)))
    parts.append(_encode_ports(_LOCAL_PORT, _LOCAL_PORTS, each.local_ports))
    parts.append(_encode_ports(_REMOTE_PORT, _REMOTE_PORTS, each.remote_ports))
    contents = b"".join(parts)
    if not contents or not (each.is_uplink or each.is_downlink):
        raise LocalProtocolError("a filter that takes everything, or nothing")
    direction = (_UPLINK if each.is_uplink else 0) | (_DOWNLINK if each.is_downlink else 0)
    return bytes((direction | each.identifier, each.precedence, len(contents))) + contents


def _encode_ports(single: int, several: int, ports: Ports | None) -> bytes:
    if ports is None:
        return b""
    first, last = ports
    if first == last:
        return bytes((single,)) + first.to_bytes(2, "big")
    return bytes((several,)) + first.to_bytes(2, "big") + last.to_bytes(2, "big")


def _decode_filter(head: int, precedence: int, contents: bytes) -> PacketFilter:
    found = _components(contents)
    direction = head & (_UPLINK | _DOWNLINK) or _UPLINK | _DOWNLINK  # 0: before release 7, both
    protocol = found.get(_PROTOCOL)
    return PacketFilter(
        identifier=head & 0x0F,
        precedence=precedence,
        is_uplink=bool(direction & _UPLINK),
        is_downlink=bool(direction & _DOWNLINK),
        remote=_remote(found),
        protocol=protocol[0] if protocol else None,
        local_ports=_ports(found.get(_LOCAL_PORT) or found.get(_LOCAL_PORTS)),
        remote_ports=_ports(found.get(_REMOTE_PORT) or found.get(_REMOTE_PORTS)),
    )


def _components(contents: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    at = 0
    while at < len(contents):
        kind = contents[at]
        length = _LENGTHS.get(kind)
        if length is None or kind in found or at + 1 + length > len(contents):
            raise RemoteProtocolError(f"packet filter component {kind:#x}")
        found[kind] = contents[at + 1 : at + 1 + length]
        at += 1 + length
    if not found:
        raise RemoteProtocolError("an empty packet filter")
    return found


def _remote(found: dict[int, bytes]) -> str:
    try:
        if value := found.get(_IPV4_REMOTE):
            return str(IPv4Network((IPv4Address(value[:4]), _ones(value[4:])), strict=False))
        if value := found.get(_IPV6_REMOTE_PREFIX):
            return str(IPv6Network((IPv6Address(value[:16]), value[16]), strict=False))
        if value := found.get(_IPV6_REMOTE):
            return str(IPv6Network((IPv6Address(value[:16]), _ones(value[16:])), strict=False))
    except ValueError:
        raise RemoteProtocolError("a remote address that is no network") from None
    return ""


def _ones(mask: bytes) -> int:
    """How long the prefix is that a mask names; raises ``ValueError`` when it has holes."""
    bits = "".join(f"{octet:08b}" for octet in mask).rstrip("0")
    if "0" in bits:
        raise ValueError(mask.hex())
    return len(bits)


def _ports(value: bytes | None) -> Ports | None:
    if not value:
        return None
    first, last = int.from_bytes(value[:2], "big"), int.from_bytes(value[-2:], "big")
    if first > last:
        raise RemoteProtocolError("ports in no order")
    return first, last
