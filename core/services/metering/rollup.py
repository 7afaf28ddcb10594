"""Daily rollup of usage: which day is due, and its progress.

Rules:

- A day is sealed first: from then on whoever stores a report of it folds it too. It is read
  ``SEAL_S`` later, when nobody can be under way who has not heard of the seal. So no report is missed,
  however late it comes, whatever the wall clocks of the nodes show.
- Days are folded in order, a page of IMSIs at a time; how far it has come is durable after each page, and
  written only over what was read before the page. A page that is folded twice is the same page.
"""

import asyncio
from datetime import timedelta

from core.domain.usage import Folding, day_after, day_of
from core.domain.values import replace
from core.ports.clock import Clock
from core.ports.store import FOLDING_FRESH_S, PAGE_MAX, Usage

SEAL_S = 3 * FOLDING_FRESH_S
LOOK_S = 10.0
"""How often it is looked whether a day is due."""
BACK = timedelta(days=80)
"""Folding begins so far back: older slots are gone."""
FOLDS_AT_A_TIME = 4
"""Each costs the event loop some milliseconds at a time."""


class UsageFolder:
    """Folds what is due. ``after_s``: how long after its end a day is sealed.

    ``folded`` counts days of one IMSI folded by this process, ``days_behind`` is how many days were due and
    not folded when it last looked.
    """

    def __init__(self, *, usage: Usage, clock: Clock, after_s: float) -> None:
        self._usage = usage
        self._clock = clock
        self._after = timedelta(days=1, seconds=after_s)
        self._seal = (0, 0.0)
        self.folded = 0
        self.days_behind = 0

    async def step(self) -> float:
        """Do a piece, a page of IMSIs at most; seconds until there may be more to do: after a page as many as
        it took, for the node has other work.

        Raises ``Unavailable``, and ``StaleVersion`` when somebody else folds too.
        """
        now = self._clock.now()
        due = day_of(now - self._after)
        folding = await self._usage.folding()
        if folding is None:
            first = Folding(begun=day_of(now), sealed=0, folded=day_of(now - BACK))
            folding = await self._usage.put_folding(first)
        if folding.sealed < due:
            folding = await self._usage.put_folding(replace(folding, sealed=due))
        if folding.sealed != self._seal[0]:
            self._seal = (folding.sealed, self._clock.monotonic())
        self.days_behind = _days_between(folding.folded, folding.sealed)
        if not self.days_behind:
            return LOOK_S
        left_s = self._seal[1] + SEAL_S - self._clock.monotonic()
        if left_s > 0:
            return left_s
        began = self._clock.monotonic()
        await self._usage.put_folding(await self._fold_on(folding))
        return self._clock.monotonic() - began

    async def _fold_on(self, folding: Folding) -> Folding:
        """The next page, and where that leaves us; days on which nobody used anything are passed over."""
        before, day = folding.folded, day_after(folding.folded)
        operator_id = folding.operator_id or await self._operator_after(day, "")
        while not operator_id:
            before, day = day, day_after(day)
            if before >= folding.sealed:
                return replace(folding, folded=before)
            operator_id = await self._operator_after(day, "")
        page = await self._usage.imsis_of(operator_id, day, after=folding.imsi, limit=PAGE_MAX)
        await self._fold_all(page.items, day)
        folding = replace(folding, folded=before, operator_id=operator_id, imsi=page.next_key)
        if page.next_key:
            return folding
        following = await self._operator_after(day, operator_id)
        return replace(folding, operator_id=following, folded=before if following else day)

    async def _fold_all(self, imsis: tuple[str, ...], day: int) -> None:
        gate = asyncio.Semaphore(FOLDS_AT_A_TIME)

        async def fold(imsi: str) -> None:
            async with gate:
                await self._usage.fold(imsi, day)
                self.folded += 1

        for outcome in await asyncio.gather(*map(fold, imsis), return_exceptions=True):
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
