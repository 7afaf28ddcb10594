"""What counts calls, and the loop, clock and ports that make a count come out the same each time.

Rules:

- Counted is what the product does, whatever library it does it with. A coroutine that goes on is a call
  again, as to every profiler. The event loop's own functions count as one call where they are called and not
  inside, as those of uvloop, which is all C. What stands in for devices, sockets and clocks (``loadtest``)
  does not count, but for a reading of the clock: it is the two calls that ``SystemClock`` makes of it.
- Nothing depends on how fast the machine is. Time is the loop's own and passes only when nothing is left to
  do, here or in a thread; a thread that was given work begins it when the loop waits, so that it finds all
  that waits at once, as under load.
"""

import asyncio
import os
import random
import selectors
import sqlite3
import sys
import threading
import time
from asyncio import base_events, events, selector_events, unix_events
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from queue import SimpleQueue
from types import CodeType, FrameType
from typing import Any, TypeVar, TypeVarTuple

from core.adapters.clock import SystemEntropy
from core.adapters.store.engine import SCAN_ROWS_MAX, Batch, Engine, Key, Row, RowKey
from core.adapters.store.tables import Table
from core.domain.message import StreamRecord
from core.ports.stream import IteratorType, PutResult, ReadResult, Shard, Stream
from loadtest.simulation.virtual import Stalled, VirtualClock

LOADTEST = f"{Path(__file__).resolve().parent.parent}{os.sep}"
PEERS_LIBRARY = f"{os.sep}pyrad{os.sep}"
LOOP_FILES = frozenset(
    {each.__file__ for each in (base_events, events, selector_events, unix_events, selectors)}
)
THREAD_SWITCH_S = 1_000.0
"""A thread gives the interpreter away only where it waits, or calls what takes long."""
LOOK_S = 0.002
"""Of real time, between two looks whether other threads still do something."""
WAITS = frozenset({"get", "acquire"})
"""Functions in which a thread that has nothing to do is: a queue's, a lock's."""
ENTROPY_BYTES = 1 << 20

Answer = TypeVar("Answer")
Arguments = TypeVarTuple("Arguments")
Caller = tuple[CodeType, int]
Called = CodeType | str
Profile = Callable[[FrameType, str, Any], None]


class Whose(Enum):
    """Whose function it is, by its file."""

    PRODUCT = "product"
    LOOP = "loop"
    OUTSIDE = "outside"


def whose(file: str) -> Whose:
    """By the file's name."""
    if file in LOOP_FILES:
        return Whose.LOOP
    is_outside = file.startswith(LOADTEST) or PEERS_LIBRARY in file
    return Whose.OUTSIDE if is_outside else Whose.PRODUCT


class Calls:
    """Of one thread, or of several; ``by_place`` has them by function and caller, where it is asked for."""

    def __init__(self, counts: "Counts", *, by_place: bool) -> None:
        self._counts = counts
        self._whose: dict[str, Whose] = {}
        self._by_place = by_place
        self.python = 0
        self.c = 0
        self.readings = 0
        self.by_place: Counter[tuple[Called, Caller | None]] = Counter()

    def profile(self, frame: FrameType, event: str, arg: Any) -> None:
        """What ``sys.setprofile`` calls."""
        if not self._counts.is_on or event not in ("call", "c_call"):
            return
        code = frame.f_code
        owner = self._owner(code.co_filename)
        if event == "c_call":
            if owner is Whose.PRODUCT:
                self.c += 1
                if self._by_place:
                    self.by_place[arg.__qualname__, (code, frame.f_lineno)] += 1
        elif owner is Whose.PRODUCT:
            self.python += 1
            if self._by_place:
                self._place(code, frame.f_back)
        elif code in CLOCK_CODES:
            self.readings, self.python, self.c = self.readings + 1, self.python + 1, self.c + 1
            if self._by_place:
                self._place(code, frame.f_back)
                self.by_place["the system's clock", (code, frame.f_lineno)] += 1
        elif owner is Whose.LOOP and self._is_of_product(frame.f_back):
            self.c += 1
            if self._by_place:
                self._place(code, frame.f_back)

    def _owner(self, file: str) -> Whose:
        found = self._whose.get(file)
        if found is None:
            found = self._whose[file] = whose(file)
        return found

    def _is_of_product(self, caller: FrameType | None) -> bool:
        return caller is not None and self._owner(caller.f_code.co_filename) is Whose.PRODUCT

    def _place(self, code: CodeType, caller: FrameType | None) -> None:
        self.by_place[code, (caller.f_code, caller.f_lineno) if caller is not None else None] += 1


class Counts:
    """Everything that is counted while ``is_on``; without a profile, calls are not."""

    def __init__(self, *, by_place: bool = False, has_profile: bool = True) -> None:
        self.is_on = False
        self._has_profile = has_profile
        self.loop = Calls(self, by_place=by_place)
        self.others = Calls(self, by_place=by_place)
        self.tasks = 0
        self.statements = 0
        self.rows_written = 0
        self.blocks_kept = 0
        self.waiting = 0
        """Calls that a thread has not answered yet: meanwhile time stands still."""
        self._others_did = 0
        self._is_resting: dict[int, bool] = {}
        self.loop_works = threading.Lock()
        """Held by the loop's thread, but while it waits for others."""

    @contextmanager
    def in_threads(self) -> Iterator[None]:
        """Threads that are started inside are counted; this one is counted by ``on``."""
        before = sys.getswitchinterval()
        sys.setswitchinterval(THREAD_SWITCH_S)
        if self._has_profile:
            threading.setprofile(self._profile_other)
        try:
            with self.loop_works:
                yield
        finally:
            threading.setprofile(None)
            sys.setswitchinterval(before)

    def _profile_other(self, frame: FrameType, event: str, arg: Any) -> None:
        """Who takes work waits until the loop has nothing more to give."""
        ident = threading.get_ident()
        if event == "c_return" and type(getattr(arg, "__self__", None)) is SimpleQueue:
            self._is_resting[ident] = True
            with self.loop_works:
                pass
        self._others_did += 1
        self._is_resting[ident] = event == "c_call" and arg.__name__ in WAITS
        self.others.profile(frame, event, arg)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Count what is done inside."""
        self._wait_for_threads()
        blocks = sys.getallocatedblocks()
        self.is_on = True
        sys.setprofile(self.loop.profile)
        try:
            yield
        finally:
            sys.setprofile(None)
            self._wait_for_threads()
            self.is_on = False
            self.blocks_kept = sys.getallocatedblocks() - blocks

    def _wait_for_threads(self) -> None:
        """A thread that has answered has still something to do before it waits for more."""
        while True:
            before = self._others_did
            time.sleep(LOOK_S)
            idents = [thread.ident or 0 for thread in threading.enumerate()]
            if before == self._others_did and all(self._is_resting.get(ident, True) for ident in idents):
                return

    async def answered(self, call: Coroutine[Any, Any, Answer]) -> Answer:
        """Wait for what a thread does."""
        self.waiting += 1
        try:
            return await call
        finally:
            self.waiting -= 1


class _Selector(selectors.SelectSelector):
    """Waits for threads that work, and else lets the loop's time jump to the next timer."""

    def __init__(self, counts: Counts) -> None:
        super().__init__()
        self._counts = counts
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is not None and timeout <= 0:
            return []  # a look would give the interpreter to another thread
        if self._counts.waiting:
            self._counts.loop_works.release()
            found = super().select(None)
            self._counts.loop_works.acquire()
            return found
        if timeout is None:
            raise Stalled("no timer is set and nothing is ready")
        self.now += timeout
        return []


class CountedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a number, and which counts its tasks."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts
        self._selector_of_time = _Selector(counts)
        super().__init__(self._selector_of_time)
        self.set_task_factory(self._make_task)

    def time(self) -> float:
        """Seconds of its own time."""
        return self._selector_of_time.now

    def run_in_executor(
        self, executor: Executor | None, func: Callable[[*Arguments], Answer], *args: *Arguments
    ) -> "asyncio.Future[Answer]":
        """As every loop does, and time waits for it."""
        counts = self._counts
        future = super().run_in_executor(executor, func, *args)
        counts.waiting += 1

        def end(_: Any) -> None:
            counts.waiting -= 1

        future.add_done_callback(end)
        return future

    async def shutdown_default_executor(self) -> None:
        """As every loop does, and time waits for it."""
        await self._counts.answered(super().shutdown_default_executor())

    def _make_task(
        self, loop: asyncio.AbstractEventLoop, work: Any, context: Any = None
    ) -> "asyncio.Task[Any]":
        self._counts.tasks += self._counts.is_on
        return asyncio.Task(work, loop=loop, context=context)


def run_counted(counts: Counts, main: Callable[[], Coroutine[Any, Any, None]]) -> None:
    """Run to the end in a loop of its own."""
    with counts.in_threads(), asyncio.Runner(loop_factory=lambda: CountedLoop(counts)) as runner:
        runner.run(main())


async def rest(seconds: float) -> None:
    """``asyncio.sleep`` that is not counted."""
    loop = asyncio.get_running_loop()
    over: asyncio.Future[None] = loop.create_future()
    loop.call_later(seconds, over.set_result, None)
    await over


class CountedClock(VirtualClock):
    """Implements ``Clock``; each reading is counted."""

    _FIRST = datetime(2026, 11, 30, 12, 0, tzinfo=UTC)

    def __init__(self) -> None:
        super().__init__(self._FIRST)
        self._loop = asyncio.get_running_loop()

    def now(self) -> datetime:
        """UTC; threads ask, too."""
        return self._FIRST + timedelta(seconds=self._loop.time())

    def monotonic(self) -> float:
        """The loop's time."""
        return self._loop.time()


CLOCK_CODES = frozenset({CountedClock.now.__code__, CountedClock.monotonic.__code__})


class SeededEntropy(SystemEntropy):
    """``SystemEntropy`` with the same bytes each time, as many as a run needs."""

    def __init__(self) -> None:
        super().__init__()
        self._pool, self._left = random.Random(1).randbytes(ENTROPY_BYTES), ENTROPY_BYTES


class CountedEngine:
    """Implements ``Engine`` over another one; what it is asked is waited for, and what it writes counted."""

    def __init__(self, inner: Engine, counts: Counts) -> None:
        self._inner = inner
        self._counts = counts
        self.hot = inner.hot

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        """As it does."""
        return await self._counts.answered(self._inner.get(table, keys))

    async def scan(
        self,
        table: Table,
        partition: Key,
        *,
        prefix: Key = (),
        above: Key = (),
        below: Key = (),
        limit: int = SCAN_ROWS_MAX,
        reverse: bool = False,
    ) -> Sequence[Row]:
        """As it does."""
        return await self._counts.answered(
            self._inner.scan(
                table, partition, prefix=prefix, above=above, below=below, limit=limit, reverse=reverse
            )
        )

    async def scan_each(
        self, table: Table, partitions: Sequence[Key], *, prefix: Key = (), limit: int = SCAN_ROWS_MAX
    ) -> Sequence[Sequence[Row]]:
        """As it does."""
        return await self._counts.answered(
            self._inner.scan_each(table, partitions, prefix=prefix, limit=limit)
        )

    async def write(self, *batches: Batch) -> None:
        """As it does."""
        self._count(batches)
        await self._counts.answered(self._inner.write(*batches))

    async def write_all(self, batches: Sequence[Batch]) -> None:
        """As it does."""
        self._count(batches)
        await self._counts.answered(self._inner.write_all(batches))

    async def aclose(self) -> None:
        """As it does."""
        await self._inner.aclose()

    def _count(self, batches: Sequence[Batch]) -> None:
        if self._counts.is_on:
            self._counts.rows_written += sum(len(batch.writes) for batch in batches)


class CountedStream:
    """Implements ``Stream`` over one with threads, which are waited for."""

    def __init__(self, inner: Stream, counts: Counts) -> None:
        self._inner = inner
        self._counts = counts
        self.keeps_order = inner.keeps_order

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        """As it does."""
        return await self._counts.answered(self._inner.put(records))

    async def shards(self) -> Sequence[Shard]:
        """As it does."""
        return await self._inner.shards()

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        """As it does."""
        return await self._inner.iterator(shard_id, kind, sequence_number)

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        """As it does."""
        return await self._inner.read(iterator, limit=limit)

    async def aclose(self) -> None:
        """As it does."""
        await self._inner.aclose()


def count_statements(connections: Sequence[sqlite3.Connection], counts: Counts) -> None:
    """Every statement that SQLite begins on these connections."""

    def seen(_: str) -> None:
        counts.statements += counts.is_on

    for connection in connections:
        connection.set_trace_callback(seen)
