"""Run as a child process: create a network namespace, open sockets in it, pass them to the parent, exit.

Rules: an ordinary user also needs a user namespace around it, root does not. No route, address or device of
the host is changed. The sockets keep the namespace alive: it disappears when the last of them is closed,
however the parent ends.

::

    kernel's TCP/IP ── edge0 ══ wire0 ── packet socket ── tunnels

Checksum and segmentation offload of ``edge0`` is off, because no hardware behind ``wire0`` would do it.
"""

import array
import ctypes
import fcntl
import json
import os
import socket
import struct
import sys
from dataclasses import asdict, dataclass

from pyroute2 import IPRoute

EDGE, WIRE = "edge0", "wire0"
EDGE_STATION = bytes.fromhex("020000000001")
"""The link address of ``edge0``: neither end of the wire resolves addresses."""
BACKLOG = 1_024
SOCKETS_PER_MESSAGE_MAX = 64
READY = b"ready"

_CLONE_NEWUSER, _CLONE_NEWNET = 0x1000_0000, 0x4000_0000
_SIOCETHTOOL = 0x8946
_ETHTOOL_STXCSUM, _ETHTOOL_SSG, _ETHTOOL_STSO, _ETHTOOL_SGSO = 0x17, 0x19, 0x1F, 0x24
_ETH_P_IP = 0x0800
_IFF_NOARP = 0x80
_RTN_LOCAL = 2


@dataclass(frozen=True, slots=True)
class Wanted:
    """What the namespace shall have: networks as CIDR text, every address of ``local`` its own, ``remote``
    behind the wire, which takes packets of ``mtu_bytes``; listeners as address and port; ``clients`` are the
    addresses of sockets to connect with.
    """

    local: str
    remote: tuple[str, ...]
    mtu_bytes: int
    listeners: tuple[tuple[str, int], ...] = ()
    clients: tuple[str, ...] = ()

    def as_json(self) -> str:
        """For the child's command line."""
        return json.dumps(asdict(self))


def main(channel_fd: int, wanted: Wanted) -> None:
    """Make it and hand over: the packet socket, the listeners, the clients, in their order."""
    _enter_namespace()
    _build(wanted)
    packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(_ETH_P_IP))
    packets.bind((WIRE, _ETH_P_IP))
    sockets = [
        packets,
        *(_listener(address, port) for address, port in wanted.listeners),
        *(_bound(address, 0) for address in wanted.clients),
    ]
    with socket.socket(fileno=channel_fd) as channel:
        for first in range(0, len(sockets), SOCKETS_PER_MESSAGE_MAX):
            some = sockets[first : first + SOCKETS_PER_MESSAGE_MAX]
            fds = array.array("i", [each.fileno() for each in some])
            channel.sendmsg([READY], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])


def _enter_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNET if user == 0 else _CLONE_NEWUSER | _CLONE_NEWNET
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags):
        number = ctypes.get_errno()
        raise OSError(number, f"unshare: {os.strerror(number)}")
    if user:
        for name, text in (
            ("setgroups", "deny"),
            ("uid_map", f"0 {user} 1"),
            ("gid_map", f"0 {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)


def _build(wanted: Wanted) -> None:
    with IPRoute() as ip:
        ip.link("add", ifname=EDGE, kind="veth", peer={"ifname": WIRE})
        loopback, edge, wire = (ip.link_lookup(ifname=name)[0] for name in ("lo", EDGE, WIRE))
        ip.link("set", index=edge, address=EDGE_STATION.hex(":"))
        for index in (edge, wire):
            ip.link("set", index=index, mtu=wanted.mtu_bytes, flags=_IFF_NOARP, change=_IFF_NOARP)
        for command in (_ETHTOOL_STXCSUM, _ETHTOOL_SSG, _ETHTOOL_STSO, _ETHTOOL_SGSO):
            _switch_off(EDGE, command)
        for index in (loopback, edge, wire):
            ip.link("set", index=index, state="up")
        for network in wanted.remote:
            ip.route("add", dst=network, oif=edge)
        ip.route("add", dst=wanted.local, oif=loopback, type=_RTN_LOCAL, table=255, scope=254)


def _switch_off(device: str, command: int) -> None:
    value = array.array("I", [command, 0])
    request = struct.pack("16sP", device.encode(), value.buffer_info()[0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCETHTOOL, request)


def _bound(address: str, port: int) -> socket.socket:
    bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    bound.bind((address, port))
    return bound


def _listener(address: str, port: int) -> socket.socket:
    listener = _bound(address, port)
    listener.listen(BACKLOG)
    return listener


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    listeners = tuple((str(address), int(port)) for address, port in given["listeners"])
    try:
        main(
            int(sys.argv[1]),
            Wanted(
                given["local"], tuple(given["remote"]), given["mtu_bytes"], listeners, tuple(given["clients"])
            ),
        )
    except OSError as error:
        sys.exit(f"{error.strerror or error}")
