"""The installed sessions, by everything that a packet may name.

Rule: an entry is its session's alone: what another session has taken over meanwhile stays the other's.
"""

from collections.abc import Iterator
from functools import lru_cache

from msgspec import Struct

from core.domain.flow import DedicatedBearer
from core.ports.network import Address
from core.ports.user_plane import Bearer
from gtp.userplane.filters import BearerPath, bearer_paths
from gtp.userplane.links import Link, Links
from gtp.userplane.messages import GTP_U_PORT
from gtp.userplane.policing import rate

PEERS_MAX = 4_096
"""Of so many peers the address is one object for all their tunnels."""


_INTERFACE = bytes(4)
"""Before the number of the session's address: its interface identifier (``Session.interface_identifier``)."""


class Tunnel(Struct, eq=False, gc=False):
    """One installed session as its packets need it.

    ``link`` is its access point's. ``address`` is the device's IPv4 address, ``prefix`` its /64 in 8 octets
    and ``interface`` the identifier of its link-local address, each empty without that family. ``source`` is
    the peer that sends, empty while the next packet is waited for; ``to`` is where downlink goes with
    ``peer_teid``, but for what one of ``bearer_paths`` takes. Its four counters begin at ``counters_at``.
    Speeds are those of ``policing.rate``; ``due`` is when the line is free again. ``advertised_s`` is when
    the device was last sent its prefix; ``sequences`` has the number of the next packet by peer and its TEID,
    once there is one. ``indicated_at`` is how many packets had gone down when its peer last said that it does
    not know it.
    """

    session_id: str
    link: Link
    local_teid: int
    address: bytes
    prefix: bytes
    interface: bytes
    peer: str
    source: str
    peer_teid: int
    to: Address
    dedicated: tuple[DedicatedBearer, ...]
    bearer_paths: tuple[BearerPath, ...]
    counters_at: int
    is_suspended: bool
    closed_group: str
    up_octet_s: float
    up_slack_s: float
    down_octet_s: float
    down_slack_s: float
    up_due_s: float = 0.0
    down_due_s: float = 0.0
    advertised_s: float = float("-inf")
    sequences: dict[Address, int] | None = None
    indicated_at: int = 0


class Tables:
    """Finds tunnels by session, by our TEIDs, by the device's packed address or prefix (4 or 8 octets), and
    by peer and its TEIDs. The dictionaries are read by the forwarding, and changed here alone.
    """

    def __init__(self, links: Links) -> None:
        self._links = links
        self.by_session: dict[str, Tunnel] = {}
        self.by_teid: dict[bytes, Tunnel] = {}
        self.by_ue: dict[bytes, Tunnel] = {}
        self.by_peer: dict[Address, Tunnel] = {}

    def put(self, bearer: Bearer, counters_at: int) -> Tunnel | None:
        """Install, in place of what was installed for the session before, which is returned.

        At the same speed a queue goes on: a session that moves from peer to peer gets no new burst.
        """
        before = self.take(bearer.session_id) if bearer.session_id in self.by_session else None
        tunnel = _tunnel(bearer, counters_at, self._links.of(bearer.apn))
        if before is not None:
            tunnel.source = before.source and tunnel.peer
            tunnel.advertised_s = before.advertised_s
            if before.sequences is not None:
                kept = ends(tunnel).values()
                tunnel.sequences = {end: n for end, n in before.sequences.items() if end in kept}
            if before.up_octet_s == tunnel.up_octet_s:
                tunnel.up_due_s = before.up_due_s
            if before.down_octet_s == tunnel.down_octet_s:
                tunnel.down_due_s = before.down_due_s
        self.by_session[tunnel.session_id] = tunnel
        # Not by ``ends``: a hundred thousand are put in when sessions are read back, one tunnel each.
        self.by_teid[tunnel.local_teid.to_bytes(4, "big")] = tunnel
        self.by_peer[tunnel.peer, tunnel.peer_teid] = tunnel
        for each in tunnel.dedicated:
            self.by_teid[each.local_teid_user.to_bytes(4, "big")] = tunnel
            self.by_peer[each.peer_user_address, each.peer_teid_user] = tunnel
        if tunnel.address:
            self.by_ue[tunnel.address] = tunnel
        if tunnel.prefix:
            self.by_ue[tunnel.prefix] = tunnel
        return before

    def take(self, session_id: str) -> Tunnel | None:
        """Take out; what was installed."""
        tunnel = self.by_session.pop(session_id, None)
        if tunnel is None:
            return None
        for teid in _local_teids(tunnel):
            if self.by_teid.get(teid) is tunnel:
                del self.by_teid[teid]
        for key in (tunnel.address, tunnel.prefix):
            if self.by_ue.get(key) is tunnel:
                del self.by_ue[key]
        for end in ends(tunnel).values():
            if self.by_peer.get(end) is tunnel:
                del self.by_peer[end]
        return tunnel


def ends(tunnel: Tunnel) -> dict[int, Address]:
    """Peer and its TEID of each of a session's tunnels: of dedicated ones by EBI, of the default by 0."""
    found = {each.ebi: (each.peer_user_address, each.peer_teid_user) for each in tunnel.dedicated}
    return {0: (tunnel.peer, tunnel.peer_teid), **found}


def is_dedicated_peer(tunnel: Tunnel, teid: bytes, peer: str) -> bool:
    """Whether packets with our TEID of a dedicated bearer come from this peer."""
    number = int.from_bytes(teid, "big")
    return any(each.local_teid_user == number and each.peer_user_address == peer for each in tunnel.dedicated)


@lru_cache(PEERS_MAX)
def _port_of(peer: str) -> Address:
    """One for all the tunnels that lead there."""
    return peer, GTP_U_PORT


def _tunnel(bearer: Bearer, counters_at: int, link: Link) -> Tunnel:
    up_octet_s, up_slack_s = rate(bearer.up_kbps)
    down_octet_s, down_slack_s = rate(bearer.down_kbps)
    return Tunnel(
        session_id=bearer.session_id,
        link=link,
        local_teid=bearer.local_teid,
        address=bearer.ue_address.packed if bearer.has_ipv4 else b"",
        prefix=bearer.ue_prefix.network_address.packed[:8] if bearer.ue_prefix else b"",
        interface=_INTERFACE + bearer.ue_address.packed if bearer.ue_prefix else b"",
        peer=bearer.peer_address,
        source=bearer.peer_address,
        peer_teid=bearer.peer_teid,
        to=_port_of(bearer.peer_address),
        dedicated=bearer.dedicated,
        bearer_paths=bearer_paths(bearer.dedicated) if bearer.dedicated else (),
        counters_at=counters_at,
        is_suspended=bearer.is_suspended,
        closed_group=bearer.closed_group,
        up_octet_s=up_octet_s,
        up_slack_s=up_slack_s,
        down_octet_s=down_octet_s,
        down_slack_s=down_slack_s,
    )


def _local_teids(tunnel: Tunnel) -> Iterator[bytes]:
    yield tunnel.local_teid.to_bytes(4, "big")
    for each in tunnel.dedicated:
        yield each.local_teid_user.to_bytes(4, "big")
