"""Ending sessions wherever they live: on this node, or on the one that holds their virtual gateway.

Rules: the sessions of a SIM are read from the store, each tells its gateway, whose lease tells the holder. A
holder that cannot be reached is ``Unavailable``; whoever takes the gateway over looks at each SIM's status.
"""

from collections.abc import Mapping
from typing import Protocol

from core.domain.session import CloseReason
from core.errors import Unavailable
from core.ports.peers import Peers
from core.ports.store import Store


class Holder(Protocol):
    """A gateway that is held here."""

    @property
    def sessions(self) -> "EndsSessions":
        """Its session service."""
        ...


class EndsSessions(Protocol):
    """The part of the session service that is meant here."""

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        """End every session of a SIM."""
        ...


class ClusterControl:
    """Implements ``SessionControl`` over all nodes. ``held``: the gateways of this node, by id."""

    def __init__(self, *, store: Store, peers: Peers, held: Mapping[str, Holder]) -> None:
        self._store = store
        self._peers = peers
        self._held = held

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        """End every session of a SIM; how many there were. Raises ``Unavailable``.

        Gateways held here are asked whatever the store says: a session may be on its way into it.
        """
        ended = 0
        for holder in list(self._held.values()):
            ended += await holder.sessions.end_sessions_of(sim_id, reason)
        gateways = {session.gateway_id for session in await self._store.sessions.of_sim(sim_id)}
        for gateway_id in sorted(gateways - self._held.keys()):
            ended += await self.end_at(gateway_id, sim_id, reason)
        return ended

    async def end_at(self, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """End a SIM's sessions on one gateway; how many there were. Raises ``Unavailable``."""
        if (holder := self._held.get(gateway_id)) is not None:
            return await holder.sessions.end_sessions_of(sim_id, reason)
        lease = await self._store.leases.get(gateway_id)
        if lease is None or lease.is_released:
            raise Unavailable(f"{gateway_id} is held by nobody now")
        return await self._peers.end_sessions_of(lease.contact, gateway_id, sim_id, reason)
