"""Faults of loops that read what others wrote (streams, rows, outboxes, links): one rule for all.

| fault | raised as | what the loop does |
|---|---|---|
| transient | ``Unavailable`` | waits and tries again |
| final for an item | ``Unreadable``, or whatever this item alone makes raise | passes it over; audited |
| final for a position | ``PositionLost`` | goes on from the oldest record there is; audited |
| final for a source | ``SourceGone`` | stands still and tries again, slowly |
| a fault of ours | any other exception | this loop alone begins again, after a pause that grows |

Each is counted, shown by ``airloom node status`` while it lasts, and logged once when it begins and once when
it is over. None ends another loop: only ``LeaseLost`` and ``ConfigurationError`` go further up.
"""

import asyncio
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import Enum

from core.errors import ConfigurationError, LeaseLost, PositionLost, SourceGone, Unavailable, Unreadable
from core.ports.clock import Clock

RESTART_FIRST_S, RESTART_S_MAX = 1.0, 60.0
"""How long a loop that a fault of ours ended waits until it begins again."""
TRANSIENT_TOLD_S = 10.0
"""A transient fault is logged when it has lasted so long."""
ITEMS_LOGGED_S = 10.0
"""Of one loop a line about items passed over is logged once in this time, with their number."""
ENDS = (LeaseLost, ConfigurationError)


class Fault(Enum):
    """How final a fault is."""

    TRANSIENT = "transient"
    ITEM = "item"
    POSITION = "position"
    SOURCE = "source"
    CRASH = "crash"


@dataclass(slots=True)
class _Standing:
    """A loop, or its reading of one source, that cannot go on."""

    fault: Fault
    why: str
    since: float
    is_logged: bool


class Faults:
    """Those of one process. ``log`` writes a line of the log."""

    def __init__(self, *, clock: Clock, log: Callable[[str], None] = lambda _: None) -> None:
        self._clock = clock
        self._log = log
        self._standing: dict[tuple[str, str], _Standing] = {}
        self._items: dict[str, tuple[float, int]] = {}
        self.counts: Counter[tuple[str, ...]] = Counter()
        """By loop and fault: items and positions passed over, and how often a loop came to stand still."""

    @property
    def standing(self) -> dict[str, str]:
        """What stands still now, and why."""
        return {_name(*key): f"{each.fault.value}: {each.why}" for key, each in self._standing.items()}

    def passed_over(self, loop: str, fault: Fault, why: str, *, number: int = 1) -> None:
        """The loop goes on without so many items, or from another position."""
        self.counts[loop, fault.value] += number
        logged, unlogged = self._items.get(loop, (float("-inf"), 0))
        now = self._clock.monotonic()
        if fault is Fault.ITEM and now - logged < ITEMS_LOGGED_S:
            self._items[loop] = logged, unlogged + number
            return
        also = f" (and {unlogged} more since the last line)" if unlogged else ""
        self._log(f"{loop}: skipped: {why}{also}")
        self._items[loop] = now, 0

    def stands(self, loop: str, error: Exception, source: str = "") -> None:
        """It cannot go on now; called for each try that fails."""
        fault, now = fault_of(error), self._clock.monotonic()
        why = str(error) if fault is not Fault.CRASH else f"{type(error).__name__}: {error}"
        standing = self._standing.get((loop, source))
        if standing is None or standing.fault is not fault:
            standing = self._standing[loop, source] = _Standing(fault, why, now, is_logged=False)
            self.counts[loop, fault.value] += 1
        standing.why = why
        if not standing.is_logged and (
            fault is not Fault.TRANSIENT or now - standing.since >= TRANSIENT_TOLD_S
        ):
            standing.is_logged = True
            self._log(f"{_name(loop, source)}: stalled: {why}")

    def goes_on(self, loop: str, source: str = "") -> None:
        """It went on, or that source is no longer read."""
        standing = self._standing.pop((loop, source), None)
        if standing is not None and standing.is_logged:
            self._log(f"{_name(loop, source)}: resumed")

    async def supervise(self, loop: str, run: Callable[[], Awaitable[None]], source: str = "") -> None:
        """Run a loop until its end or its cancellation; one that raises begins again, except for ``ENDS``."""
        try:
            await self._run_again(loop, run, source)
            self.goes_on(loop, source)
        finally:
            self._standing.pop((loop, source), None)  # it no longer runs

    async def _run_again(self, loop: str, run: Callable[[], Awaitable[None]], source: str) -> None:
        pause_s = RESTART_FIRST_S
        while True:
            began = self._clock.monotonic()
            crash = self._standing.get((loop, source))
            lasting = asyncio.get_running_loop().call_later(RESTART_S_MAX, self._lasts, loop, source, crash)
            try:
                return await run()
            except Exception as error:
                self.crashed(loop, error, source)
            finally:
                lasting.cancel()
            if self._clock.monotonic() - began > RESTART_S_MAX:
                pause_s = RESTART_FIRST_S
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_S_MAX)

    def _lasts(self, loop: str, source: str, crash: "_Standing | None") -> None:
        """Since it was begun again it has run for long; what it has reported since then stands."""
        if crash is not None and self._standing.get((loop, source)) is crash:
            self.goes_on(loop, source)

    def crashed(self, loop: str, error: Exception, source: str = "") -> None:
        """Count and report what a loop did not foresee; raises it again when it is not the loop's alone."""
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError from error  # TaskGroup forgets it beside an error (3.11)
        if isinstance(error, ENDS) or (isinstance(error, ExceptionGroup) and error.subgroup(ENDS)):
            raise error
        before = self._standing.get((loop, source))
        if fault_of(error) is Fault.CRASH and (before is None or before.fault is not Fault.CRASH):
            lines = "".join(traceback.format_exception(error))
            self._log(f"{_name(loop, source)}: internal error:\n{lines}")
        self.stands(loop, error, source)


def fault_of(error: Exception) -> Fault:
    """How final what was raised is."""
    if isinstance(error, Unreadable):
        return Fault.ITEM
    if isinstance(error, SourceGone):
        return Fault.SOURCE
    if isinstance(error, PositionLost):
        return Fault.POSITION
    return Fault.TRANSIENT if isinstance(error, Unavailable) else Fault.CRASH


def _name(loop: str, source: str) -> str:
    return f"{loop} {source}" if source else loop
