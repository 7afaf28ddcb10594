"""Ending idle sessions, so that their addresses become free.

Rules: a session ends after ``idle_timeout_s`` without a packet, never before and at the latest half of that
later; after a restart the time begins anew. A suspended session is not idle: its device cannot send.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from datetime import timedelta

from core.ports.clock import Clock
from core.services.sessions.index import SessionIndex

PARTS = 4
"""Parts of ``idle_timeout_s``, each with the set of sessions that had packets in it. One part more is kept,
as these are known late (by ``usage.report_interval_s``, a part at most)."""
LOOKED_AT = 5_000
"""Sessions that are looked at before the loop has its turn."""


class IdleSessions:
    """Watches the sessions of one gateway instance; ``idle_timeout_s`` 0: none ends.

    ``end_all`` ends sessions, with a message to their peers.
    """

    def __init__(
        self,
        *,
        index: SessionIndex,
        clock: Clock,
        idle_timeout_s: float,
        end_all: Callable[[Sequence[str]], Awaitable[None]],
    ) -> None:
        self._index = index
        self._clock = clock
        self._idle_timeout_s = idle_timeout_s
        self._end_all = end_all
        self._moved: deque[set[str]] = deque([set()], maxlen=PARTS + 1)

    def handle_moved(self, session_ids: Iterable[str]) -> None:
        """These sessions had packets since the last call."""
        if self._idle_timeout_s:
            self._moved[-1].update(session_ids)

    async def run(self) -> None:
        """End idle sessions, for ever."""
        while self._idle_timeout_s:
            await asyncio.sleep(self._idle_timeout_s / PARTS)
            if len(self._moved) == self._moved.maxlen:
                await self._end_all(await self._idle())
            self._moved.append(set())

    async def _idle(self) -> list[str]:
        opened_before, found = self._clock.now() - timedelta(seconds=self._idle_timeout_s), []
        for number, session_id in enumerate(list(self._index.by_id), 1):
            session = self._index.by_id.get(session_id)
            if (
                session is not None
                and session.tunnel is not None
                and not session.is_suspended
                and session.opened <= opened_before
                and not any(session_id in moved for moved in self._moved)
            ):
                found.append(session_id)
            if number % LOOKED_AT == 0:
                await asyncio.sleep(0)
        return found
