"""Which of a session's tunnels takes a downlink packet (TS 24.008 §10.5.6.12, TS 23.401 §4.7.2).

Rules: the filters of the dedicated bearers are asked in ascending order of precedence; what none of them
takes goes by the default bearer. Later fragments, and IPv6 packets with an extension header, have no ports: a
filter of ports takes none of them.
"""

from dataclasses import dataclass
from ipaddress import ip_network

from core.domain.flow import DedicatedBearer, PacketFilter, Ports
from core.ports.network import Address
from gtp.userplane.messages import GTP_U_PORT

_WITH_PORTS = frozenset((6, 17, 33, 132, 136))
"""TCP, UDP, DCCP, SCTP, UDP-Lite."""
_OFFSET = 0x1FFF
_ANY_PORT: Ports = (-1, 0xFFFF)
_NO_PORTS = -1, -1


@dataclass(frozen=True, slots=True)
class BearerPath:
    """One downlink filter, and the tunnel of what it takes. With a mask of 0 any address is taken."""

    precedence: int
    peer_teid: int
    to: Address
    octets: int
    mask: int
    remote: int
    protocol: int | None
    local_ports: Ports
    remote_ports: Ports

    def takes(self, remote: bytes, protocol: int, remote_port: int, local_port: int) -> bool:
        """Whether this filter is for a packet from this far address and port to this port of the device."""
        if self.mask and (
            len(remote) != self.octets or int.from_bytes(remote, "big") & self.mask != self.remote
        ):
            return False
        if self.protocol is not None and protocol != self.protocol:
            return False
        return (
            self.remote_ports[0] <= remote_port <= self.remote_ports[1]
            and self.local_ports[0] <= local_port <= self.local_ports[1]
        )


def bearer_paths(dedicated: tuple[DedicatedBearer, ...]) -> tuple[BearerPath, ...]:
    """The downlink filters of these bearers in the order in which they are asked."""
    found = [_bearer_path(bearer, one) for bearer in dedicated for one in bearer.filters if one.is_downlink]
    return tuple(sorted(found, key=lambda bearer_path: bearer_path.precedence))


def _bearer_path(bearer: DedicatedBearer, one: PacketFilter) -> BearerPath:
    network = ip_network(one.remote, strict=False) if one.remote else ip_network("0.0.0.0/0")
    return BearerPath(
        precedence=one.precedence,
        peer_teid=bearer.peer_teid_user,
        to=(bearer.peer_user_address, GTP_U_PORT),
        octets=network.max_prefixlen // 8,
        mask=int(network.netmask),
        remote=int(network.network_address),
        protocol=one.protocol,
        local_ports=one.local_ports or _ANY_PORT,
        remote_ports=one.remote_ports or _ANY_PORT,
    )


def choose(among: tuple[BearerPath, ...], packet: bytes) -> BearerPath | None:
    """The way of a whole downlink packet; ``None``: the default bearer's."""
    if packet[0] >> 4 == 4:
        remote, protocol, at = packet[12:16], packet[9], (packet[0] & 15) * 4
        is_first = not int.from_bytes(packet[6:8], "big") & _OFFSET
    else:
        remote, protocol, at, is_first = packet[8:24], packet[6], 40, True
    remote_port, local_port = _NO_PORTS
    if is_first and protocol in _WITH_PORTS and len(packet) >= at + 4:
        remote_port = int.from_bytes(packet[at : at + 2], "big")
        local_port = int.from_bytes(packet[at + 2 : at + 4], "big")
    for bearer_path in among:
        if bearer_path.takes(remote, protocol, remote_port, local_port):
            return bearer_path
    return None
