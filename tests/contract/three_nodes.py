"""The store's contract over three Cassandra nodes, of which one is killed and restarted during the tests.

Rules: tables are emptied by TRUNCATE, which needs every node, so while one is away each test has a keyspace
of its own, made before. Calls are repeated, as the services do; a call that finds its own row has succeeded.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from threading import Timer
from typing import Any, TypeVar

from core.adapters.store.cassandra import CassandraAddress, CassandraEngine, migrate
from core.adapters.store.engine import Batch, Engine, Key, Put, Row, RowKey
from core.adapters.store.tables import Table
from core.domain.values import replace
from core.errors import StaleVersion, Unavailable
from loadtest.external import cassandra
from tests.contract.stores import SetClock, empty_tables

KILLED_IN, BACK_IN = 12, 18
"""Tests, counted from one: it is killed a moment after the one begins, and back before the other."""
TRIES, PAUSE_S = 60, 0.5
T = TypeVar("T")


class ThreeNodes:
    """Hands out a keyspace for each test."""

    def __init__(self, nodes: list[cassandra.Node]) -> None:
        self._nodes = nodes
        self._first = cassandra.address_of(nodes, "airloom")
        self._spare = [replace(self._first, keyspace=f"airloom_{n}") for n in range(BACK_IN - KILLED_IN - 1)]
        self._tests = 0
        self._killed = self.away_s = 0.0
        for address in (self._first, *self._spare):
            asyncio.run(migrate(address=address, replication_factor=3))

    def next_address(self) -> CassandraAddress:
        """Whose tables are empty. Blocks."""
        self._tests += 1
        if KILLED_IN < self._tests < BACK_IN:
            return self._spare.pop()
        if self._tests == BACK_IN:
            self._nodes[2].start()
            self._nodes[2].wait()
            self.away_s = time.monotonic() - self._killed
        _patiently(partial(empty_tables, self._first))
        if self._tests == KILLED_IN:
            self._killed = time.monotonic()
            Timer(0.05, self._nodes[2].kill).start()
        return self._first

    def demand_killed(self) -> None:
        """The suite was long enough for it."""
        assert self.away_s > 0, f"{self._tests} tests, none with a node away"


def _patiently(work: Callable[[], None]) -> None:
    """The others may take a node that is back for dead for a while."""
    for _ in range(TRIES):
        try:
            return work()
        except Exception:
            time.sleep(PAUSE_S)
    work()


def patient_opener(address: CassandraAddress) -> Callable[[SetClock], Awaitable[Engine]]:
    """On three nodes."""

    async def open_engine(clock: SetClock) -> Engine:
        return PatientEngine(await CassandraEngine.open(address=address, clock=clock))

    return open_engine


class PatientEngine:
    """Tries again while the store cannot. Implements ``Engine``."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.hot = engine.hot
        self.aclose = engine.aclose

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        return await self._tried(partial(self._engine.get, table, keys))

    async def scan(self, table: Table, partition: Key, **bounds: Any) -> Sequence[Row]:
        return await self._tried(partial(self._engine.scan, table, partition, **bounds))

    async def scan_each(
        self, table: Table, partitions: Sequence[Key], **bounds: Any
    ) -> Sequence[Sequence[Row]]:
        return await self._tried(partial(self._engine.scan_each, table, partitions, **bounds))

    async def write(self, *batches: Batch) -> None:
        for batch in batches:
            await self._write(batch)

    async def write_all(self, batches: Sequence[Batch]) -> None:
        await self._tried(partial(self._engine.write_all, batches))

    async def _tried(self, call: Callable[[], Awaitable[T]]) -> T:
        for _ in range(TRIES):
            try:
                return await call()
            except Unavailable:
                await asyncio.sleep(PAUSE_S)
        return await call()

    async def _write(self, batch: Batch) -> None:
        """A version that is stale because an earlier try of this write took effect is no conflict."""
        may_be_stored = False
        for left in reversed(range(TRIES + 1)):
            try:
                return await self._engine.write(batch)
            except Unavailable as error:
                may_be_stored |= error.ambiguous
                if not left:
                    raise
                await asyncio.sleep(PAUSE_S)
            except StaleVersion:
                if may_be_stored and await self._is_stored(batch):
                    return None
                raise
        raise AssertionError("the last try returns or raises")

    async def _is_stored(self, batch: Batch) -> bool:
        keys = [RowKey(batch.partition, write.clustering) for write in batch.writes]
        rows = await self.get(batch.table, keys)
        return all(
            row is not None and (row.values, row.version) == (write.values, write.version)
            if isinstance(write, Put)
            else row is None
            for write, row in zip(batch.writes, rows, strict=True)
        )
