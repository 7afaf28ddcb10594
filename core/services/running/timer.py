"""One timer for something that has times of its own: a protocol's machine, a table whose entries expire.

Rules:

- ``rearm`` is called after each call that may have begun a time; it sets the timer again if it moved earlier.
  One that moved later, or is over, rings in vain once: that is cheaper than to set it at each datagram.
- Where times are many and dear to ask for, they say how short the shortest is: while the timer runs they are
  not asked, for it never sleeps longer.
- Times are kept while ``run`` runs. Nothing is polled: where no time is due there is no timer.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from core.ports.clock import Clock

DELAY_S_MIN = 0.001
"""An event loop's own clock may be so much off: what rang too early would be set again and again."""


class Timed(Protocol):
    """Has times, without keeping them."""

    def get_timer(self) -> float | None:
        """When ``handle_timer`` wants to be called, by ``Clock.monotonic``; ``None``: never."""
        ...

    def handle_timer(self, now: float) -> None:
        """Do what is due; it may be nothing."""
        ...


class Timer:
    """Calls ``handle_timer`` when it is due, and ``then`` after it. With ``shortest_s`` no time of ``timed``
    that begins meanwhile is due sooner than that after it began.
    """

    def __init__(
        self,
        timed: Timed,
        *,
        clock: Clock,
        shortest_s: float = 0.0,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        self._timed = timed
        self._clock = clock
        self._shortest_s = shortest_s
        self._then = then
        self._handle: asyncio.TimerHandle | None = None
        self._rings_at = 0.0
        self._running: asyncio.Future[None] | None = None

    async def run(self) -> None:
        """Keep the times until cancelled; raises what ``handle_timer`` or ``then`` raises."""
        self._running = asyncio.get_running_loop().create_future()
        try:
            self.rearm()
            await self._running
        finally:
            self._running = None
            if self._handle is not None:
                self._handle.cancel()
                self._handle = None

    def rearm(self) -> None:
        """Set the timer to the next time, unless it rings before."""
        handle = self._handle
        if self._running is None or (handle is not None and self._shortest_s):
            return
        due = self._timed.get_timer()
        if due is None or (handle is not None and due >= self._rings_at):
            return
        if handle is not None:
            handle.cancel()
        now = self._clock.monotonic()
        self._rings_at = min(due, now + self._shortest_s) if self._shortest_s else due
        delay_s = max(self._rings_at - now, DELAY_S_MIN)
        self._handle = asyncio.get_running_loop().call_later(delay_s, self._ring)

    def _ring(self) -> None:
        self._handle = None
        try:
            self._timed.handle_timer(self._clock.monotonic())
            self._then()
            self.rearm()
        except Exception as error:
            if self._running is not None and not self._running.done():
                self._running.set_exception(error)
