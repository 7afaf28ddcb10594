"""Rate and concurrency limits of the API per customer.

Rules:

- A call costs what it takes: one unit (some 1.5 ms of a core), a list one more for each ten rows of its page,
  and what goes through the whole fleet or a month as much as ``DEAR``. An operator gets ``calls_per_s`` units
  a second and may save up ``BURST_S`` seconds of them; beyond that a call is refused, with the time to wait.
- ``CALLS_AT_ONCE`` of an operator's calls are worked on, ``CALLS_WAITING_MAX`` wait for their turn.
- In each turn of the event loop one call begins, or goes on with the next part of a page (``LoopTurns``),
  however many clients and connections there are: an attach or a lease stands behind one, not behind all.
- Each answer says what is left (``X-Soracom-Ratelimit-*``, the contract's own headers).
"""

import asyncio
import math
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from core.domain.reasons import RequestRefusal
from core.errors import Refused
from core.ports.clock import Clock

PAGE_DEFAULT = 100
PAGE_MAX = 1_000
BURST_S = 5.0
CALLS_AT_ONCE = 8
CALLS_WAITING_MAX = 256
OPERATORS_MAX = 10_000
"""Operators whose units are counted; beyond it the one that called longest ago gets all units again."""
ROWS_PER_UNIT = 10
DEAR = {
    "listSubscribers": 20,
    "listSubscribersInGroup": 20,
    "getAirStats": 2,
    "getAirStatsOfSim": 2,
    "getBillingHistory": 40,
    "getLatestBilling": 20,
    "exportLatestBilling": 20,
    "getBilling": 20,
    "getBillingPerDay": 20,
    "exportBilling": 20,
}
"""Units of a call beside those of its page."""


@dataclass(slots=True)
class _Share:
    """What an operator has left."""

    units: float
    at: float
    turns: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(CALLS_AT_ONCE))
    calls: int = 0


class TooMany(Refused):
    """Beyond an operator's share; ``headers`` say when to come again."""

    def __init__(self, detail: str, headers: dict[str, str]) -> None:
        super().__init__(RequestRefusal.TOO_MANY_REQUESTS, detail)
        self.headers = headers


class LoopTurns:
    """Hands out the turns of the event loop, one to each waiting call, in order. Other ready callbacks run
    between them; no call waits for a time, so it costs no throughput.
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()

    async def next(self) -> None:
        """Wait for it."""
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        self._waiting.append(turn)
        if len(self._waiting) == 1:
            loop.call_soon(self._give)
        await turn

    def _give(self) -> None:
        turn = self._waiting.popleft()
        if not turn.done():
            turn.set_result(None)
        if self._waiting:
            asyncio.get_running_loop().call_soon(self._give)


class OperatorLimits:
    """Every operator's share of one node's API; ``calls_per_s`` 0 counts nothing."""

    def __init__(self, *, clock: Clock, calls_per_s: float) -> None:
        self._clock = clock
        self._rate = calls_per_s
        self._most = calls_per_s * BURST_S
        self._shares: OrderedDict[str, _Share] = OrderedDict()
        self.loop_turns = LoopTurns()

    @asynccontextmanager
    async def turn(self, operator_id: str, cost: int) -> AsyncIterator[dict[str, str]]:
        """An operator's call of this cost, once it may be worked on; the headers of its answer.

        Raises ``TooMany``.
        """
        share = self._share(operator_id)
        if share.calls >= CALLS_AT_ONCE + CALLS_WAITING_MAX:
            raise TooMany("Too many calls at once.", {"Retry-After": "1"})
        headers = self._pay(share, cost) if self._rate else {}
        share.calls += 1
        try:
            async with share.turns:
                yield headers
        finally:
            share.calls -= 1

    def _share(self, operator_id: str) -> _Share:
        now = self._clock.monotonic()
        share = self._shares.pop(operator_id, None) or _Share(self._most, now)
        share.units = min(self._most, share.units + (now - share.at) * self._rate)
        share.at = now
        self._shares[operator_id] = share
        if len(self._shares) > OPERATORS_MAX:
            self._shares.popitem(last=False)
        return share

    def _pay(self, share: _Share, cost: int) -> dict[str, str]:
        cost = min(cost, int(self._most))
        is_enough = share.units >= cost
        if is_enough:
            share.units -= cost
        headers = {
            "X-Soracom-Ratelimit-Limit": str(int(self._most)),
            "X-Soracom-Ratelimit-Remaining": str(int(share.units)),
            "X-Soracom-Ratelimit-Seconds-Before-Refresh": str(
                math.ceil((self._most - share.units) / self._rate)
            ),
        }
        if not is_enough:
            wait_s = max(1, math.ceil((cost - share.units) / self._rate))
            raise TooMany(f"Too many calls; try again in {wait_s} s.", headers | {"Retry-After": str(wait_s)})
        return headers


def cost_of(operation_id: str, limit: str | None) -> int:
    """The units of a call with this ``limit`` in its query; one that cannot be read is refused later."""
    is_list = limit is not None or operation_id.startswith("list")
    rows = int(limit) if limit and limit.isascii() and limit.isdigit() and len(limit) < 5 else PAGE_DEFAULT
    return 1 + DEAR.get(operation_id, 0) + (min(rows, PAGE_MAX) // ROWS_PER_UNIT if is_list else 0)
