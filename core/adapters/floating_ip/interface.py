"""Addresses on a network interface of this host (Linux), by netlink and ARP.

Rules:

- An address is added as a /32 beside what the interface has, with a lifetime that the kernel itself ends: a
  process that was killed does not leave an address behind for longer than its lease term.
- Neighbours learn of the move at once, by ARP announcements (RFC 5227 §3); one may be lost, so they are
  repeated with the next calls.
- The calls block for the kernel's answer, some 0.3 ms, so a thread makes them.
"""

import asyncio
import errno
import math
import socket
import struct
from ipaddress import IPv4Address

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from core.errors import ConfigurationError, Unavailable

ANNOUNCEMENTS = 3
_ETH_P_ARP = 0x0806
_BROADCAST = b"\xff" * 6
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_FIXES = {
    errno.EPERM: "the process needs NET_ADMIN and NET_RAW; run as root or grant both",
    errno.EACCES: "the process needs NET_ADMIN and NET_RAW; run as root or grant both",
    errno.ENODEV: "there is no such interface; name one that `ip link` shows",
}


class InterfaceFloatingIp:
    """Implements ``FloatingIp`` on the interface ``name``, whose link address is ``station``, on a plain
    network, where the host that announces an address has it.
    """

    def __init__(self, name: str, station: bytes) -> None:
        self.name = name
        self.station = station
        self._announced: dict[IPv4Address, int] = {}

    @classmethod
    async def open(cls, name: str) -> "InterfaceFloatingIp":
        """Look whether it is there and may be used; raises ``ConfigurationError``."""
        try:
            with _wire(name) as wire:
                return cls(name, wire.getsockname()[4])
        except OSError as error:
            raise _fault(name, error) from None

    def may_attach(self, address: IPv4Address) -> bool:
        """Always: which addresses the neighbours expect here is not known."""
        return True

    async def attach(self, address: IPv4Address, *, lasting_s: float) -> None:
        """Add it or renew its lifetime; announce it by ARP the first times."""
        announced = self._announced.get(address, 0)
        await asyncio.to_thread(self._bring, address, lasting_s, is_announced=announced < ANNOUNCEMENTS)
        self._announced[address] = min(announced + 1, ANNOUNCEMENTS)

    async def detach(self, address: IPv4Address) -> None:
        """Remove it."""
        self._announced.pop(address, None)
        await asyncio.to_thread(self._let_go, address)

    async def aclose(self) -> None:
        """Nothing is held."""

    def _bring(self, address: IPv4Address, lasting_s: float, *, is_announced: bool) -> None:
        life_s = max(1, math.ceil(lasting_s))
        try:
            with IPRoute() as ip:
                ip.addr(
                    "replace",
                    index=socket.if_nametoindex(self.name),
                    address=str(address),
                    prefixlen=32,
                    preferred_lft=life_s,
                    valid_lft=life_s,
                )
            if is_announced:
                self._announce(address)
        except (NetlinkError, OSError) as error:
            raise _fault(self.name, error) from None

    def _let_go(self, address: IPv4Address) -> None:
        try:
            with IPRoute() as ip:
                index = socket.if_nametoindex(self.name)
                ip.addr("delete", index=index, address=str(address), prefixlen=32)
        except (NetlinkError, OSError) as error:
            if _number(error) not in (errno.EADDRNOTAVAIL, errno.ENODEV):
                raise Unavailable(f"{address} on {self.name}: {error}") from None

    def _announce(self, address: IPv4Address) -> None:
        arp = _ARP.pack(1, 0x0800, 6, 4, 1, self.station, address.packed, bytes(6), address.packed)
        with _wire(self.name) as wire:
            wire.send(_BROADCAST + self.station + _ETH_P_ARP.to_bytes(2, "big") + arp)


def _wire(name: str) -> socket.socket:
    wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    try:
        wire.bind((name, _ETH_P_ARP))
    except OSError:
        wire.close()
        raise
    return wire


def _fault(name: str, error: Exception) -> ConfigurationError | Unavailable:
    number = _number(error)
    if number in _FIXES:
        return ConfigurationError(f"gateway.floating_ip_interface {name}: {_FIXES[number]}")
    return Unavailable(f"gateway.floating_ip_interface {name}: {error}")


def _number(error: Exception) -> int:
    """The kernel's, of either kind of error; a name that no interface has comes without one of its own."""
    if isinstance(error, NetlinkError):
        return int(error.code)
    number = error.errno if isinstance(error, OSError) else None
    return errno.ENODEV if number in (None, errno.ENXIO) else int(number or 0)
