"""A TUN device: the kernel's own IP stack as the internet side of the user plane.

Rules: opened only where it is configured (needs NET_ADMIN and /dev/net/tun); the device lives in the network
namespace of the process and goes away with it, and so do its routes; nothing else of the host is touched.
"""

import asyncio
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from core.domain.apn import MTU_BYTES_MAX
from core.errors import ConfigurationError

PACKETS_PER_TURN_MAX = 64
QUEUE_PACKETS = 1_000

_TUN_DEVICE = "/dev/net/tun"
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_SIOCSIFFLAGS, _SIOCSIFADDR, _SIOCSIFNETMASK = 0x8914, 0x8916, 0x891C
_SIOCSIFMTU, _SIOCSIFTXQLEN = 0x8922, 0x8943
_SIOCADDRT, _SIOCDELRT = 0x890B, 0x890C
_IFF_UP_RUNNING = 0x41
_RTF_UP = 0x1
_HOST_MASK = IPv4Address("255.255.255.255")
_ROUTE = struct.Struct("@8x16s16s16sH30xP24x")
"""struct rtentry of <linux/route.h>."""
_ROUTE_IPV6 = struct.Struct("@16s16s16sIHHILIi")
"""struct in6_rtmsg of <linux/ipv6_route.h>."""
_ADDRESS_IPV6 = struct.Struct("@16sIi")
"""struct in6_ifreq of <linux/ipv6.h>."""
_NAME_NUMBER = struct.Struct("=16si20x")
_NAME_FLAGS = struct.Struct("=16sH22x")
_NAME_ADDRESS = struct.Struct("=16sH2x4s16x")

_FIXES = {
    errno.ENOENT: f"there is no {_TUN_DEVICE}; load the tun module",
    errno.EPERM: "the process needs NET_ADMIN; run as root or grant it",
    errno.EACCES: f"the process may not open {_TUN_DEVICE}; run as root or grant NET_ADMIN",
    errno.EBUSY: "another process has this device; choose another name",
}


class Tun:
    """One TUN device with addresses of its own, up; ``route`` leads devices' addresses to it.

    The kernel fragments or refuses what is larger than ``mtu_bytes``. Raises ``ConfigurationError`` when the
    process may not. ``write`` hands one IP packet to the kernel and raises ``OSError`` when it does not take
    it; it must not be called after ``close``.
    """

    def __init__(
        self,
        name: str,
        *,
        addresses: Iterable[IPv4Address | IPv6Address],
        mtu_bytes: int = MTU_BYTES_MAX,
    ) -> None:
        self._name = name.encode()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._on_packet: Callable[[bytes], object] | None = None
        self._fd = -1
        self.write: Callable[[bytes], int]
        try:
            self._fd = os.open(_TUN_DEVICE, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
            fcntl.ioctl(self._fd, _TUNSETIFF, _NAME_FLAGS.pack(self._name, _IFF_TUN_NO_PI))
            _configure(self._name, addresses, mtu_bytes)
            self.write = partial(os.write, self._fd)
        except OSError as error:
            self.close()
            fix = _FIXES.get(error.errno or 0, f"{error.strerror}")
            raise ConfigurationError(
                f"gateway.tun {name}: {fix}; or leave gateway.tun empty to serve the device edge alone"
            ) from None

    def read_into(self, on_packet: Callable[[bytes], object]) -> None:
        """Call ``on_packet`` with each IP packet that the kernel routes to a device, on the running loop."""
        self._on_packet = on_packet
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._fd, self._read_burst)

    def resize(self, mtu_bytes: int) -> None:
        """Take packets of so many octets from now on; raises ``ConfigurationError``, and is as it was."""
        if self._fd < 0:
            return
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
                fcntl.ioctl(control, _SIOCSIFMTU, _NAME_NUMBER.pack(self._name, mtu_bytes))
        except OSError as error:
            raise ConfigurationError(
                f"gateway.apns: mtu_bytes: {self._name.decode()} cannot be given an MTU of {mtu_bytes}:"
                f" {_FIXES.get(error.errno or 0, error.strerror)}; restart the node"
            ) from None

    def route(self, network: IPv4Network | IPv6Network) -> None:
        """The kernel sends here what is for this network."""
        self._change_route(_SIOCADDRT, network)

    def unroute(self, network: IPv4Network | IPv6Network) -> None:
        """It does so no longer."""
        self._change_route(_SIOCDELRT, network)

    def _change_route(self, request: int, network: IPv4Network | IPv6Network) -> None:
        """Nothing happens to a route that is there already, or gone, or whose device is."""
        if self._fd < 0:
            return
        name = ctypes.create_string_buffer(self._name)
        if isinstance(network, IPv4Network):
            family, packed = socket.AF_INET, _route(network, name)
        else:
            family, packed = socket.AF_INET6, _route_ipv6(network, self._name)
        with (
            socket.socket(family, socket.SOCK_DGRAM) as control,
            suppress(FileExistsError, ProcessLookupError),
        ):
            fcntl.ioctl(control, request, packed)

    def close(self) -> None:
        """Take the device away; idempotent."""
        if self._fd < 0:
            return
        if self._loop is not None:
            self._loop.remove_reader(self._fd)
        os.close(self._fd)
        self._fd = -1

    def _read_burst(self) -> None:
        read, fd, on_packet = os.read, self._fd, self._on_packet
        if on_packet is None:
            return
        for _ in range(PACKETS_PER_TURN_MAX):
            try:
                packet = read(fd, MTU_BYTES_MAX)
            except OSError:  # nothing left, or the device was taken down
                return
            on_packet(packet)


def _configure(name: bytes, addresses: Iterable[IPv4Address | IPv6Address], mtu_bytes: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFMTU, _NAME_NUMBER.pack(name, mtu_bytes))
        fcntl.ioctl(control, _SIOCSIFTXQLEN, _NAME_NUMBER.pack(name, QUEUE_PACKETS))
        fcntl.ioctl(control, _SIOCSIFFLAGS, _NAME_FLAGS.pack(name, _IFF_UP_RUNNING))
        for address in addresses:
            if isinstance(address, IPv4Address):
                fcntl.ioctl(control, _SIOCSIFADDR, _address(name, address))
                fcntl.ioctl(control, _SIOCSIFNETMASK, _address(name, _HOST_MASK))
            else:
                _configure_ipv6(name, address)


def _configure_ipv6(name: bytes, address: IPv6Address) -> None:
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFADDR, _ADDRESS_IPV6.pack(address.packed, 128, _index(name)))


def _route(network: IPv4Network, name: "ctypes.Array[ctypes.c_char]") -> bytes:
    return _ROUTE.pack(
        _socket_address(network.network_address),
        _socket_address(IPv4Address(0)),
        _socket_address(network.netmask),
        _RTF_UP,
        ctypes.addressof(name),
    )


def _route_ipv6(network: IPv6Network, name: bytes) -> bytes:
    prefix, nothing = network.network_address.packed, bytes(16)
    return _ROUTE_IPV6.pack(
        *(prefix, nothing, nothing, 0, network.prefixlen, 0), *(0, 0, _RTF_UP, _index(name))
    )


def _index(name: bytes) -> int:
    return socket.if_nametoindex(name.decode())


def _socket_address(address: IPv4Address) -> bytes:
    return struct.pack("=H2x4s8x", socket.AF_INET, address.packed)


def _address(name: bytes, address: IPv4Address) -> bytes:
    return _NAME_ADDRESS.pack(name, socket.AF_INET, address.packed)
