"""What must hold while a world runs: sessions that were accepted stay, and those that their peer lost end.

Rule: a check reads the disk between two steps of the run and changes none of them.
"""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from core.adapters.store.memory import MemoryEngine
from core.adapters.store.sessions import WideSessions
from core.domain.session import CloseReason, Session, SessionEventKind
from loadtest.simulation.running import RunningWorld, SimState

Seen = TypeVar("Seen")

RESTART_HEARD_S = 130.0
"""Within this time a gateway detects a peer's restart and has ended the sessions that the peer lost."""


class _AtOnce(MemoryEngine):
    """For reading the disk from outside the run: no other task runs meanwhile."""

    async def _turn(self) -> None:
        pass


class ChecksDuringRun:
    """Adds what it finds to a world's findings."""

    def __init__(self, world: RunningWorld) -> None:
        self._world = world

    async def find_ghosts(self) -> None:
        """A peer that restarted reports it: its lost sessions have ended, newer ones stay."""
        self._world.network.cut_off.clear()
        for peer in self._world.peers:
            await peer.echo()
        if self._world.engine is None:
            await asyncio.sleep(RESTART_HEARD_S)
        else:  # real time: no longer than it takes
            with suppress(TimeoutError):
                async with asyncio.timeout(RESTART_HEARD_S):
                    while self._ghosts():  # noqa: ASYNC110 - the ends have many reasons
                        await asyncio.sleep(1)
        self._world.findings += [
            f"session of {each.imsi} outlived its peer's restart" for each in self._ghosts()
        ]

    def _ghosts(self) -> list[Session]:
        """Open sessions that their peers do not have."""
        known = {
            (peer.address, teid) for peer in self._world.peers for teid in {*peer.contexts, *peer.silent}
        }
        return [
            each
            for each in self._world.open_sessions()
            if (tunnel := each.tunnel)
            and (tunnel.peer_control_address, tunnel.peer_teid_control) not in known
        ]

    def check_accepted(self, state: SimState) -> None:
        """The peers' own view: each accepted session is stored, open on the node that serves, and no packet
        of it was answered with an Error Indication.

        No node serves after a crash, and when the store was away until the lease ended (TS 23.007 §18: a peer
        that gets no answer keeps its contexts); accepted sessions are stored then, too. A real store is not
        read: that takes time.
        """
        context, peer = state.context, state.peer
        if context is None or peer is None or not context.is_active:
            return
        if state.is_touched or state.cuts_under_way:
            return
        kept = [self._stored(state)] if self._world.engine is None else []
        if self._world.gate.is_set() and "vg-1" in self._world.node.held:
            kept.append(self._world.open_sessions())
        is_kept = all(any(context.peer_teid_control in each.teids for each in found) for found in kept)
        if not is_kept or any(context is each for each in peer.refuted):
            self._world.findings.append(f"session of {state.imsi} was accepted and is dead")

    def _stored(self, state: SimState) -> Sequence[Session]:
        """A SIM's sessions on the disk."""
        return self._look(lambda sessions: sessions.of_sim(state.sim.sim_id))

    def _was_lost(self, state: SimState) -> bool:
        """Whether the session at its NAS was ended because its opening was uncertain: a kill may lose the
        Disconnect-Request, which is sent again after the NAS's next report.
        """
        if state.nas_session is None or self._world.engine is not None:
            return False
        session_id, now = state.nas_session.class_.decode(), self._world.clock.now()
        history = self._look(
            lambda sessions: sessions.events(
                state.sim.sim_id, since=now - timedelta(days=1), until=now + timedelta(days=1)
            )
        )
        return any(
            (event.session_id, event.kind, event.cause)
            == (session_id, SessionEventKind.DELETED, CloseReason.LOST.value)
            for event in history.items
        )

    def _look(self, at: Callable[[WideSessions], Coroutine[Any, Any, Seen]]) -> Seen:
        """Read the disk between two steps of the run, without changing the run."""
        clock = self._world.clock
        reading = at(WideSessions(engine=_AtOnce(disk=self._world.disk, clock=clock), clock=clock))
        try:
            reading.send(None)
        except StopIteration as done:
            seen: Seen = done.value
            return seen
        raise AssertionError("reading the disk must not wait")

    def check_recovered(self) -> None:
        """A device whose attach was acknowledged is still attached."""
        addresses = {session.ue_address for session in self._world.open_sessions()}
        for state in self._world.sims:
            context = state.nas_session or state.context
            if context is None or not context.is_active or state.is_touched or state.cuts_under_way:
                continue
            if context.ue_address not in addresses and not self._was_lost(state):
                self._world.findings.append(f"session of {state.imsi} was acknowledged and is gone")
