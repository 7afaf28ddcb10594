"""Ending and changing sessions wherever they live: on this node, or on the one that holds their gateway.

Rules: a SIM's sessions are read from the store; each names its gateway, and the gateway's lease names its
holder. A holder that cannot be reached is ``Unavailable``, raised after all others were called. A node that
takes a gateway reads each of its SIMs again, so a change is not sent to a gateway without a holder.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from core.domain.session import CloseReason
from core.errors import Unavailable
from core.ports.peers import Peers
from core.ports.store import Store

T = TypeVar("T")


class Holder(Protocol):
    """A gateway that is held here."""

    @property
    def sessions(self) -> "ChangesSessions":
        """Its session service."""
        ...

    @property
    def reconciler(self) -> "HeedsGroups":
        """What looks at its SIMs."""
        ...


class ChangesSessions(Protocol):
    """The part of the session service that is used here."""

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        """End every session of a SIM."""
        ...

    async def refresh_sessions_of(self, sim_id: str) -> None:
        """Apply to them what the SIM and its group say now."""
        ...


class HeedsGroups(Protocol):
    """The part of the reconciler that is used here."""

    async def group_changed(self, operator_id: str, group_id: str) -> None:
        """Have the SIMs of a group looked at."""
        ...


class ClusterControl:
    """Implements ``SessionControl`` over all nodes. ``held``: the gateways of this node, by id, of all those
    that there are.
    """

    def __init__(
        self, *, store: Store, peers: Peers, held: Mapping[str, Holder], gateway_ids: Sequence[str]
    ) -> None:
        self._store = store
        self._peers = peers
        self._held = held
        self._gateway_ids = gateway_ids

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        """End every session of a SIM; how many there were. Raises ``Unavailable``."""

        def end(gateway_id: str) -> Awaitable[int]:
            return self.end_at(gateway_id, sim_id, reason)

        return sum(await self._at_each(sim_id, end))

    async def end_at(self, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """End a SIM's sessions on one gateway; how many there were. Raises ``Unavailable``."""
        if (holder := self._held.get(gateway_id)) is not None:
            return await holder.sessions.end_sessions_of(sim_id, reason)
        contact = await self._contact(gateway_id)
        if contact is None:
            raise Unavailable(f"{gateway_id} is served by no node at present")
        return await self._peers.end_sessions_of(contact, gateway_id, sim_id, reason)

    async def refresh_sessions_of(self, sim_id: str) -> None:
        """Apply to a SIM's sessions what it and its group say now; raises ``Unavailable``."""

        async def refresh(gateway_id: str) -> None:
            if (holder := self._held.get(gateway_id)) is not None:
                await holder.sessions.refresh_sessions_of(sim_id)
            elif (contact := await self._contact(gateway_id)) is not None:
                await self._peers.refresh_sessions_of(contact, gateway_id, sim_id)

        await self._at_each(sim_id, refresh)

    async def group_changed(self, operator_id: str, group_id: str) -> None:
        """Notify every gateway; raises ``Unavailable``."""

        async def notify(gateway_id: str) -> None:
            if (holder := self._held.get(gateway_id)) is not None:
                await holder.reconciler.group_changed(operator_id, group_id)
            elif (contact := await self._contact(gateway_id)) is not None:
                await self._peers.group_changed(contact, gateway_id, operator_id, group_id)

        _done(await _tried(self._gateway_ids, notify))

    async def _at_each(self, sim_id: str, act: Callable[[str], Awaitable[T]]) -> list[T]:
        """Act at the gateways held here, whatever the store says, for a session may be on its way into it;
        then at the others that the SIM has sessions on. One that fails keeps no other from its turn.
        """
        here = await _tried(list(self._held), act)
        return _done([*here, *await _tried(await self._elsewhere(sim_id), act)])

    async def _elsewhere(self, sim_id: str) -> list[str]:
        """The gateways, not held here, that a SIM has sessions on."""
        gateways = {session.gateway_id for session in await self._store.sessions.of_sim(sim_id)}
        return sorted(gateways - self._held.keys())

    async def _contact(self, gateway_id: str) -> str | None:
        """Where its holder is reached; ``None``: no node holds it."""
        lease = await self._store.leases.get(gateway_id)
        return None if lease is None or lease.is_released else lease.contact


async def _tried(gateway_ids: Sequence[str], act: Callable[[str], Awaitable[T]]) -> list[T | BaseException]:
    """Act at all of them at once; what each returned or raised, when all have come to an end."""
    return await asyncio.gather(*map(act, gateway_ids), return_exceptions=True)


def _done(outcomes: Sequence[T | BaseException]) -> list[T]:
    """What all returned; raises what the first one raised."""
    done: list[T] = []
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome
        done.append(outcome)
    return done
