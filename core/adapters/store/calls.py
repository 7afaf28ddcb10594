"""Calls of the driver as futures of the event loop.

Rules:

- Nothing blocks the loop: the driver's thread hands its answers over in bursts, one wake-up for all that came
  meanwhile. (Its asyncio reactor costs three times the CPU per call.)
- Every call ends: one sweep looks after all of them, and sets off the driver's own time-out for those that
  are late. A timer for each, as the driver makes them, wakes its thread and keeps every call in memory until
  it would have been late.
"""

import asyncio
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from cassandra.cluster import ResponseFuture, Session
from cassandra.query import Statement

SWEEP_S = 0.5
"""How long a call may be late."""


class Calls:
    """What the driver was asked and has not answered, in the order of asking."""

    def __init__(self, *, session: Session, timeout_s: float) -> None:
        self._session = session
        self._timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._asked: dict[asyncio.Future[Any], tuple[float, ResponseFuture]] = {}
        self._is_sweeping = False
        self._arrived: deque[tuple[asyncio.Future[Any], Any, BaseException | None]] = deque()
        self._lock = threading.Lock()
        self._is_woken = False

    def ask(self, statement: Statement, profile: Any) -> asyncio.Future[Any]:
        """The rows or the driver's error, after ``timeout_s`` and a sweep at the latest."""
        future: asyncio.Future[Any] = self._loop.create_future()
        response = self._session.execute_async(statement, execution_profile=profile, timeout=None)
        self._asked[future] = (self._loop.time() + self._timeout_s, response)
        if not self._is_sweeping:
            self._is_sweeping = True
            self._loop.call_later(SWEEP_S, self._sweep)
        response.add_callbacks(
            callback=lambda rows: self._arrive(future, rows, None),
            errback=lambda error: self._arrive(future, None, error),
        )
        return future

    def _sweep(self) -> None:
        now = self._loop.time()
        late = []
        for future, (deadline, response) in self._asked.items():
            if deadline > now:
                break
            late.append((future, response))
        for future, response in late:
            del self._asked[future]
            # in the driver's thread, where no answer can come at the same time
            self._session.cluster.connection_class.create_timer(0, response._on_timeout)
        self._is_sweeping = bool(self._asked)
        if self._is_sweeping:
            self._loop.call_later(SWEEP_S, self._sweep)

    def _arrive(self, future: asyncio.Future[Any], rows: Any, error: BaseException | None) -> None:
        with self._lock:
            self._arrived.append((future, rows, error))
            if self._is_woken:
                return
            self._is_woken = True
        with suppress(RuntimeError):  # the event loop has ended, and all waiting callers with it
            self._loop.call_soon_threadsafe(self._settle)

    def _settle(self) -> None:
        with self._lock:
            arrived, self._arrived = self._arrived, deque()
            self._is_woken = False
        for future, rows, error in arrived:
            self._asked.pop(future, None)
            if future.done():
                continue  # its caller was cancelled
            if error is None:
                future.set_result(rows)
            else:
                future.set_exception(error)
