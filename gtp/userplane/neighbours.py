"""IPv6 on a device's link: Neighbour Discovery between the device and the gateway, which is its router.

Rules:

- A Router Solicitation is answered with the session's /64, whose addresses the device makes by itself
  (SLAAC): M=0 and O=0, for there is no DHCPv6, prefix with A=1 and L=0 (RFC 4861 §4.2, §4.6.2; RFC 4862;
  TS 29.061 §11.2.1.3), the link's MTU and name servers (RFC 8106 §5.1).
- A Neighbour Solicitation is answered when it asks for the gateway's own address. Any other is not: the /64
  and the link are the device's alone, so no duplicate of its addresses can exist.
- The gateway's link-local address is the one that RFC 6543 keeps for access routers; no host makes it.
- What is not as RFC 4861 §6.1.1 and §7.1.1 demand is no solicitation. An option of length 0 ends the reading.

What is said here is not the customer's traffic: it is not metered.
"""

import struct
from collections.abc import Sequence
from ipaddress import IPv6Address

from gtp.userplane.inner import HEADER_IPV6_BYTES, ICMPV6, icmpv6, is_sum_icmpv6

GATEWAY_LINK_LOCAL = IPv6Address("fe80::200:5eff:fe00:5213").packed
ROUTER_SOLICITATION, ROUTER_ADVERTISEMENT = 133, 134
NEIGHBOUR_SOLICITATION, NEIGHBOUR_ADVERTISEMENT = 135, 136
ADVERTISE_AGAIN_S = 21_600.0
"""An advertisement is repeated with the first packet that comes this long after the last."""

_HOP_LIMIT = 255
_ALL_NODES = IPv6Address("ff02::1").packed
_UNSPECIFIED = bytes(16)
_SOLICITED_NODE = IPv6Address("ff02::1:ff00:0").packed[:13]
_LINK_LAYER_SOURCE = 1
_FIXED_BYTES = {ROUTER_SOLICITATION: 8, NEIGHBOUR_SOLICITATION: 24}
_LIFETIME_S = 65_535
"""Of the default route and of name servers; repeated thrice in this time."""
_FOREVER = 0xFFFFFFFF
_ROUTER = struct.Struct("!BBHIIBBBBIII8s8xBBHI")
"""Hop limit, flags, lifetimes; the option of the prefix with its flags and lifetimes; that of the MTU."""
_SERVERS = struct.Struct("!BB2xI")
"""The head of the option of name servers, with their lifetime."""


def solicitation(packet: bytes) -> int:
    """The type of a valid solicitation that the gateway answers, or 0. ``packet`` is a whole IPv6 packet."""
    message = packet[HEADER_IPV6_BYTES:]
    fixed = _FIXED_BYTES.get(message[0]) if message else None
    if fixed is None or len(message) < fixed or packet[6] != ICMPV6 or packet[7] != _HOP_LIMIT or message[1]:
        return 0
    options = _options(message[fixed:])
    if options is None or not is_sum_icmpv6(packet):
        return 0
    source, destination, kind = packet[8:24], packet[24:40], message[0]
    if source == _UNSPECIFIED and (
        _LINK_LAYER_SOURCE in options
        or (kind == NEIGHBOUR_SOLICITATION and destination[:13] != _SOLICITED_NODE)
    ):
        return 0
    return 0 if kind == NEIGHBOUR_SOLICITATION and message[8:24] != GATEWAY_LINK_LOCAL else kind


def _options(rest: bytes) -> set[int] | None:
    """The types of options; ``None`` when one has length 0 or goes beyond the end."""
    found, at = set(), 0
    while at < len(rest):
        length = 8 * rest[at + 1] if at + 1 < len(rest) else 0
        if not length or at + length > len(rest):
            return None
        found.add(rest[at])
        at += length
    return found


def router_advertisement(prefix: bytes, to: bytes, mtu_bytes: int, dns: Sequence[bytes] = ()) -> bytes:
    """The packet that gives a device its /64 (8 octets of it), to all nodes if ``to`` is unspecified; ``dns``
    are name servers, packed.
    """
    content = _ROUTER.pack(
        *(64, 0, _LIFETIME_S, 0, 0),
        *(3, 4, 64, 0x40, _FOREVER, _FOREVER, 0, prefix),
        *(5, 1, 0, mtu_bytes),
    )
    if dns:
        content += _SERVERS.pack(25, 1 + 2 * len(dns), _LIFETIME_S) + b"".join(dns)
    return _advertisement(ROUTER_ADVERTISEMENT, to, content)


def neighbour_advertisement(to: bytes) -> bytes:
    """The packet that says that the gateway has its address: router, override, and solicited where asked."""
    flags = b"\xa0" if to == _UNSPECIFIED else b"\xe0"
    return _advertisement(NEIGHBOUR_ADVERTISEMENT, to, flags + bytes(3) + GATEWAY_LINK_LOCAL)


def _advertisement(kind: int, to: bytes, content: bytes) -> bytes:
    return icmpv6(kind, GATEWAY_LINK_LOCAL, _ALL_NODES if to == _UNSPECIFIED else to, content, _HOP_LIMIT)
