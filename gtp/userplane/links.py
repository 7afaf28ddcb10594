"""What all tunnels of an access point have alike: changed here, it is changed for each of them at once."""

from collections.abc import Hashable, Iterable, Mapping
from typing import TypeVar

from msgspec import Struct

from core.domain.apn import Apn

ADVERTISED_SERVERS_MAX = 3
"""Name servers in a Router Advertisement: as many as a host must at least take (RFC 8106 §5.3.1)."""


class Link(Struct, eq=False, gc=False):
    """The link of an access point's devices: its MTU, and the name servers that are advertised on it, packed.

    ``changed_s``: since when it is so; devices that were advertised it before are sent it again.
    """

    apn: str
    mtu_bytes: int
    dns: tuple[bytes, ...] = ()
    changed_s: float = float("-inf")


class Links:
    """By access point. Of one that is not served the MTU is ``mtu_bytes``, and nothing is advertised."""

    def __init__(self, apns: Iterable[Apn], mtu_bytes: int) -> None:
        self._links: dict[str, Link] = {}
        self._mtu_bytes = mtu_bytes
        self.serve(apns, mtu_bytes, float("-inf"))

    def of(self, apn: str) -> Link:
        """An access point's; they are as many as were ever configured, for each session was authorised."""
        name = apn.lower()
        if name not in self._links:
            self._links[name] = Link(name, self._mtu_bytes)
        return self._links[name]

    def serve(self, apns: Iterable[Apn], mtu_bytes: int, now: float) -> None:
        """From now on they are these."""
        self._mtu_bytes = mtu_bytes
        wanted = {apn.name: (apn.mtu_bytes, _advertised(apn)) for apn in apns}
        for name in self._links.keys() | wanted.keys():
            link = self.of(name)
            told = wanted.get(name, (mtu_bytes, ()))
            if (link.mtu_bytes, link.dns) != told:
                (link.mtu_bytes, link.dns), link.changed_s = told, now


Device = TypeVar("Device", bound=Hashable)


def device_mtus(apns: Iterable[Apn], devices: Mapping[str, Device]) -> Mapping[Device, int]:
    """What each device to the internet must take: the most that an access point has whose packets go by it.
    ``devices`` are by access point, the common one under "".
    """
    found: dict[Device, int] = {}
    for apn in apns:
        device = devices.get(apn.name, devices.get(""))
        if device is not None:
            found[device] = max(found.get(device, 0), apn.mtu_bytes)
    return found


def _advertised(apn: Apn) -> tuple[bytes, ...]:
    return tuple(server.packed for server in apn.dns_ipv6[:ADVERTISED_SERVERS_MAX])
