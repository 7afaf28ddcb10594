"""Daily rollup of usage: which day is due, and its progress.

Rules:

- A day is sealed first: from then on a node that stores a report of it rolls it up too. The day is read
  ``SEAL_S`` later, when every write of a node that did not know the seal is over. So no report is missed,
  however late it comes, whatever the wall clocks of the nodes show.
- Days are rolled up in order, a page of IMSIs at a time; how far it has come is durable after each page, and
  written only over what was read before the page. A page that is rolled up twice is the same page.
"""

import asyncio
from datetime import timedelta

from core.domain.usage import RollupProgress, day_after, day_of
from core.domain.values import replace
from core.ports.clock import Clock
from core.ports.store import PAGE_MAX, ROLLUP_FRESH_S, Usage

SEAL_S = 3 * ROLLUP_FRESH_S
LOOK_S = 10.0
"""How often it is looked whether a day is due."""
BACK = timedelta(days=80)
"""Folding begins so far back: older slots are gone."""
ROLLUPS_AT_A_TIME = 4
"""Each costs the event loop some milliseconds at a time."""


class UsageRollup:
    """Folds what is due. ``after_s``: how long after its end a day is sealed.

    ``rolled_up`` counts days of one IMSI rolled up by this process, ``days_behind`` is how many days were due
    and not rolled up when it last looked.
    """

    def __init__(self, *, usage: Usage, clock: Clock, after_s: float) -> None:
        self._usage = usage
        self._clock = clock
        self._after = timedelta(days=1, seconds=after_s)
        self._seal = (0, 0.0)
        self.rolled_up = 0
        self.days_behind = 0

    async def step(self) -> float:
        """Do a piece, a page of IMSIs at most; seconds until there may be more to do: after a page as many as
        it took, for the node has other work.

        Raises ``Unavailable``, and ``StaleVersion`` when another node rolls up too.
        """
        now = self._clock.now()
        due = day_of(now - self._after)
        rollup_progress = await self._usage.rollup_progress()
        if rollup_progress is None:
            first = RollupProgress(begun=day_of(now), sealed=0, folded=day_of(now - BACK))
            rollup_progress = await self._usage.put_rollup_progress(first)
        if rollup_progress.sealed < due:
            rollup_progress = await self._usage.put_rollup_progress(replace(rollup_progress, sealed=due))
        if rollup_progress.sealed != self._seal[0]:
            self._seal = (rollup_progress.sealed, self._clock.monotonic())
        self.days_behind = _days_between(rollup_progress.folded, rollup_progress.sealed)
        if not self.days_behind:
            return LOOK_S
        left_s = self._seal[1] + SEAL_S - self._clock.monotonic()
        if left_s > 0:
            return left_s
        began = self._clock.monotonic()
        await self._usage.put_rollup_progress(await self._roll_up_on(rollup_progress))
        return self._clock.monotonic() - began

    async def _roll_up_on(self, rollup_progress: RollupProgress) -> RollupProgress:
        """Roll up the next page; the progress after it. Days without usage are passed over."""
        before, day = rollup_progress.folded, day_after(rollup_progress.folded)
        operator_id = rollup_progress.operator_id or await self._operator_after(day, "")
        while not operator_id:
            before, day = day, day_after(day)
            if before >= rollup_progress.sealed:
                return replace(rollup_progress, folded=before)
            operator_id = await self._operator_after(day, "")
        page = await self._usage.imsis_of(operator_id, day, after=rollup_progress.imsi, limit=PAGE_MAX)
        await self._roll_up_all(page.items, day)
        rollup_progress = replace(rollup_progress, folded=before, operator_id=operator_id, imsi=page.next_key)
        if page.next_key:
            return rollup_progress
        following = await self._operator_after(day, operator_id)
        return replace(rollup_progress, operator_id=following, folded=before if following else day)

    async def _roll_up_all(self, imsis: tuple[str, ...], day: int) -> None:
        gate = asyncio.Semaphore(ROLLUPS_AT_A_TIME)

        async def roll_up(imsi: str) -> None:
            async with gate:
                await self._usage.roll_up(imsi, day)
                self.rolled_up += 1

        for outcome in await asyncio.gather(*map(roll_up, imsis), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def _operator_after(self, day: int, operator_id: str) -> str:
        """The next operator with usage on that day, or none."""
        page = await self._usage.operators_of(day, after=operator_id, limit=1)
        return page.items[0] if page.items else ""


def _days_between(day: int, later: int) -> int:
    count = 0
    while day < later:
        day, count = day_after(day), count + 1
    return count
