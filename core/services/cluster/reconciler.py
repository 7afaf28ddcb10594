"""Reconciles the sessions of one gateway with their SIMs and groups, for calls that it missed.

Rules: a lease term begins with a look at every SIM that has sessions; after that each is looked at once
within ``ROUND_S``, and those of a group soon after it changed. A SIM that could not be read is read again,
and delays no other; one that can never be read waits for the next round.
"""

import asyncio

from core.errors import Unavailable, Unreadable
from core.services.running.faults import Fault, Faults
from core.services.sessions.index import SessionIndex
from core.services.sessions.modify import SessionModifier

ROUND_S = 3_600.0
"""A change that this gateway missed takes effect within this time."""
RETRY_S = 1.0
LOOP = "reconciler"
AT_ONCE = 10_000
"""So many sessions are gone through before others have their turn: some milliseconds."""


class Reconciler:
    """Looks at SIMs until cancelled; those that wait have open sessions."""

    def __init__(self, *, index: SessionIndex, modifier: SessionModifier, faults: Faults) -> None:
        self._index = index
        self._modifier = modifier
        self._faults = faults
        self._due: dict[str, None] = {}
        self._is_due = asyncio.Event()

    async def group_changed(self, operator_id: str, group_id: str) -> None:
        """Have the SIMs of a group looked at; does not wait for it."""
        for place, session in enumerate(list(self._index.by_id.values()), 1):
            if (session.operator_id, session.group_id) == (operator_id, group_id):
                self._look_soon(session.sim_id)
            if place % AT_ONCE == 0:
                await asyncio.sleep(0)

    async def run(self) -> None:
        """Run until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for sim_id in self._index.sim_ids:
                self._look_soon(sim_id)
            tasks.create_task(self._look())
            tasks.create_task(self._go_around())

    def _look_soon(self, sim_id: str) -> None:
        self._due[sim_id] = None
        self._is_due.set()

    async def _look(self) -> None:
        while True:
            await self._is_due.wait()
            self._is_due.clear()
            while self._due:
                sim_id = next(iter(self._due))
                del self._due[sim_id]
                await asyncio.sleep(0)  # what is read may be at hand, and nothing else would wait
                try:
                    await self._modifier.refresh_sessions_of(sim_id)
                    self._faults.goes_on(LOOP)
                except Unreadable as error:
                    self._faults.passed_over(LOOP, Fault.ITEM, f"SIM {sim_id}: {error}")
                except Unavailable as error:
                    self._faults.stands(LOOP, error)
                    self._due[sim_id] = None
                    await asyncio.sleep(RETRY_S)

    async def _go_around(self) -> None:
        while True:
            sim_ids = self._index.sim_ids
            for sim_id in sim_ids:
                await asyncio.sleep(ROUND_S / len(sim_ids))
                self._look_soon(sim_id)
            if not sim_ids:
                await asyncio.sleep(ROUND_S)
