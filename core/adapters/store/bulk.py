"""A store for callers that can wait: customers' lists and bills, however many ask at once.

Rules:

- All of them together have at most ``CALLS_AT_ONCE`` calls of ``ROWS_AT_ONCE`` rows before the engine at a
  time, so an attach or the renewal of a lease stands behind a few hundred rows, whichever engine it is.
- A long read is cut into short ones and waits for its turn before each, so it does not hold up short ones.
- Memory is bounded: who comes when ``CALLS_MAX`` wait is refused; who was accepted is answered.
"""

import asyncio
from collections.abc import Sequence

from core.adapters.store.engine import SCAN_ROWS_MAX, Batch, Engine, Key, Row, RowKey, check_scan
from core.adapters.store.tables import Table
from core.errors import Unavailable

CALLS_AT_ONCE = 8
ROWS_AT_ONCE = 32
PARTITIONS_AT_ONCE = 16
"""Of one read of several partitions."""
CALLS_MAX = 2_000
"""Accepted and not yet answered."""


class _Accepted:
    """How many calls are; a context for each of them. Raises ``Unavailable``."""

    def __init__(self) -> None:
        self._calls = 0

    def __enter__(self) -> None:
        if self._calls >= CALLS_MAX:
            raise Unavailable(f"the store is overloaded: {self._calls} customer calls are waiting")
        self._calls += 1

    def __exit__(self, *_: object) -> None:
        self._calls -= 1


class BulkEngine:
    """Implements ``Engine`` before another one."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.hot = engine.hot
        self._turns = asyncio.Semaphore(CALLS_AT_ONCE)
        self._accepted = _Accepted()

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        """The rows with these keys, some at a time."""
        found: list[Row | None] = []
        with self._accepted:
            for start in range(0, len(keys), ROWS_AT_ONCE):
                async with self._turns:
                    found += await self._engine.get(table, keys[start : start + ROWS_AT_ONCE])
        return found

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
        """Rows of one partition in clustering order, some at a time."""
        check_scan(table, prefix, above, below, limit)
        found: list[Row] = []
        with self._accepted:
            while True:
                some = min(limit - len(found), ROWS_AT_ONCE)
                async with self._turns:
                    rows = await self._engine.scan(
                        table, partition, prefix=prefix, above=above, below=below, limit=some, reverse=reverse
                    )
                found += rows
                if len(rows) < some or len(found) == limit:
                    return found
                last = rows[-1].clustering[len(prefix) :]
                above, below = (above, last) if reverse else (last, below)

    async def scan_each(
        self, table: Table, partitions: Sequence[Key], *, prefix: Key = (), limit: int = SCAN_ROWS_MAX
    ) -> Sequence[Sequence[Row]]:
        """Rows of several partitions, some partitions at a time."""
        found: list[Sequence[Row]] = []
        with self._accepted:
            for start in range(0, len(partitions), PARTITIONS_AT_ONCE):
                some = partitions[start : start + PARTITIONS_AT_ONCE]
                async with self._turns:
                    found += await self._engine.scan_each(table, some, prefix=prefix, limit=limit)
        return found

    async def write(self, *batches: Batch) -> None:
        """Write batches in this order."""
        with self._accepted:
            async with self._turns:
                await self._engine.write(*batches)

    async def write_all(self, batches: Sequence[Batch]) -> None:
        """Write unconditional batches, some at a time."""
        with self._accepted:
            for start in range(0, len(batches), ROWS_AT_ONCE):
                async with self._turns:
                    await self._engine.write_all(batches[start : start + ROWS_AT_ONCE])

    async def aclose(self) -> None:
        """Close what is behind."""
        await self._engine.aclose()
