"""A simulated customer: suspends SIMs, changes their sessions' speed, adds and removes bearers.

Rule: policies have their own random generator, so that a plan without them runs as before.
"""

import asyncio
from contextlib import suppress

from airloom.app.gateway_runtime import GatewayRuntime
from core.domain.flow import PacketFilter
from core.domain.requests import ModifySession
from core.domain.session import CloseReason, Qos, Session
from core.domain.sim import CUTS_SESSION, SimStatus
from core.domain.values import replace
from core.errors import Refused, StaleVersion, Unavailable
from loadtest.simulation.running import RunningWorld, SimState

REQUEST_S = 10.0


class Customer:
    """The owner of a world's SIMs."""

    def __init__(self, world: RunningWorld) -> None:
        self._world = world

    async def suspend_sims(self) -> None:
        """Suspend a SIM, which ends its sessions, and activate all again; six times."""
        world = self._world
        for _ in range(6):
            await asyncio.sleep(world.rng.random() * world.plan.active_s / 6)
            await self.set_status(world.rng.choice(world.sims), SimStatus.SUSPENDED)
            await asyncio.sleep(world.rng.random() * 8)
            for state in world.sims:
                await self.set_status(state, SimStatus.ACTIVE)

    async def set_status(self, state: SimState, status: SimStatus) -> None:
        """Change a SIM's status, repeated until a node has stored it."""
        cuts = status in CUTS_SESSION
        state.is_touched, state.cuts_under_way = state.is_touched or cuts, state.cuts_under_way + cuts
        await self._set_status_at_last(state, status)
        state.is_touched, state.cuts_under_way = state.is_touched or cuts, state.cuts_under_way - cuts

    async def _set_status_at_last(self, state: SimState, status: SimStatus) -> None:
        while True:
            await self._world.gate.wait()
            try:
                async with asyncio.timeout(REQUEST_S):  # a killed node never answers
                    await self._try_set_status(state, status)
                return
            except (TimeoutError, Unavailable, StaleVersion):
                await asyncio.sleep(0.2)

    async def _try_set_status(self, state: SimState, status: SimStatus) -> None:
        store = self._world.node._world.store
        sim = await store.sims.get(state.sim.sim_id)
        if sim is not None and sim.status is not status:
            await store.sims.put(replace(sim, status=status))
        if status in CUTS_SESSION:
            held = await self._world.holding()
            await held.sessions.end_sessions_of(state.sim.sim_id, CloseReason.CUSTOMER)

    async def change_policies(self) -> None:
        """Change the speed of random sessions, and add or remove dedicated bearers."""
        world = self._world
        for number in range(world.plan.policies):
            await asyncio.sleep(world.policy_rng.random() * 2 * world.plan.active_s / world.plan.policies)
            await world.gate.wait()
            held = await world.holding()
            if sessions := list(held.sessions.open_sessions.values()):
                with suppress(Refused, Unavailable, TimeoutError):
                    async with asyncio.timeout(4 * REQUEST_S):  # a killed node never answers
                        await self._apply_policy(held, world.policy_rng.choice(sessions), number)

    async def _apply_policy(self, held: GatewayRuntime, session: Session, number: int) -> None:
        session_id, kbps = session.session_id, 100 + number
        qos = Qos(ambr_up_kbps=kbps, ambr_down_kbps=kbps)
        told = await held.sessions.modify(ModifySession(session_id=session_id, qos=qos))
        if (front_end := held.sessions.front_end_of(told)) is not None:
            front_end.changed(told)
        if session.dedicated and self._world.policy_rng.random() < 0.5:
            await held.dedicated.remove(session_id, self._world.policy_rng.choice(session.dedicated).ebi)
        else:
            each = PacketFilter(1, number, remote="10.1.0.0/16", protocol=17)
            await held.dedicated.add(session_id, qci=7, arp=0x34, filters=[each])
            self._world.bearers_made += 1
