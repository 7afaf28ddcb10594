"""Destination filter for packets of devices.

Rules: a verdict depends on the destination alone and never changes, so it is remembered; the memory is
bounded. Nobody reaches the gateway, a network of the operator's own, or what is no address of the internet.

References: RFC 6890 (IPv4), RFC 4291 §2.4 and RFC 6052 (IPv6).
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

VERDICTS_MAX = 65_536
"""Destinations whose verdict is remembered."""

INTERNET, EDGE, DEVICE, FORBIDDEN = "internet", "edge", "device", "forbidden"
"""The verdicts, compared by identity; ``DEVICE`` is for who asks to say."""

_NOT_INTERNET = tuple(
    IPv4Network(network)
    for network in ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4")
)
"""This network, loopback, link local, multicast, reserved with broadcast (RFC 6890)."""
_INTERNET_IPV6 = (IPv6Network("2000::/3"), IPv6Network("fc00::/7"))
"""Global unicast and unique local: not unspecified, loopback, IPv4 in disguise, link local, multicast."""
_TRANSLATED = IPv6Network("64:ff9b::/96")
"""An IPv4 address behind a NAT64 (RFC 6052): as forbidden as that address."""

Network = IPv4Network | IPv6Network


class Destinations:
    """Judges destinations. ``devices`` are the networks of devices' addresses, ``platform`` is the edge's;
    ``forbidden`` are the gateway's own addresses and whatever else no device may reach.

    ``verdicts`` holds what was judged, by packed address.
    """

    def __init__(
        self, *, devices: tuple[Network, ...], platform: IPv4Network, forbidden: tuple[Network, ...]
    ) -> None:
        self.verdicts: dict[bytes, str] = {}
        self._devices = devices
        self._platform = platform
        self._forbidden = forbidden

    def judge(self, destination: bytes) -> str:
        """Where packets for this address, of 4 or 16 octets, go."""
        address = IPv4Address(destination) if len(destination) == 4 else IPv6Address(destination)
        verdict = self._judge(address)
        if len(self.verdicts) >= VERDICTS_MAX:
            self.verdicts.clear()
        self.verdicts[destination] = verdict
        return verdict

    def _judge(self, address: IPv4Address | IPv6Address) -> str:
        if address in self._platform:
            return EDGE
        if any(address in network for network in self._forbidden):
            return FORBIDDEN
        if any(address in network for network in self._devices):
            return DEVICE
        if isinstance(address, IPv4Address):
            return FORBIDDEN if any(address in network for network in _NOT_INTERNET) else INTERNET
        if address in _TRANSLATED:
            behind = self._judge(IPv4Address(address.packed[12:]))
            return INTERNET if behind is INTERNET else FORBIDDEN
        return INTERNET if any(address in network for network in _INTERNET_IPV6) else FORBIDDEN
