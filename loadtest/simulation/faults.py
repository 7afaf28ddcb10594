"""Adapters that misbehave by seed, for the virtual world.

Rules: a fault is one that the real thing has: slow, gone before it did anything, gone after it did it;
after a crash nothing of the old process reaches the disks any more.
"""

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from core.adapters.store.engine import Batch, Engine, Key, Row, RowKey
from core.adapters.store.tables import USAGE, Table
from core.domain.message import StreamRecord
from core.errors import Unavailable
from core.ports.stream import PutResult, Stream

REWOUND_MAX = 40
"""Older writes that are repeated at once."""
LATE_S_MAX = 30.0


@dataclass(slots=True)
class FaultRates:
    """How often a call fails before or after its effect, and how slow it is; changed while it runs.

    Each call takes ``delay_s``, and up to ``delay_s_max`` more.
    """

    before: float = 0.0
    after: float = 0.0
    delay_s_max: float = 0.0
    delay_s: float = 0.0


@dataclass(slots=True)
class Incarnation:
    """One life of a process; once dead, its calls never return."""

    is_alive: bool = True


class _Gate:
    def __init__(self, rates: FaultRates, life: Incarnation, rng: random.Random) -> None:
        self._rates = rates
        self._life = life
        self._rng = rng

    async def before(self) -> None:
        if self._rates.delay_s:
            await asyncio.sleep(self._rates.delay_s)
        if self._rates.delay_s_max:
            await asyncio.sleep(self._rng.random() * self._rates.delay_s_max)
        await self.still_alive()
        if self._rng.random() < self._rates.before:
            raise Unavailable("injected: not carried out")

    async def after(self) -> None:
        await self.still_alive()
        if self._rng.random() < self._rates.after:
            raise Unavailable("injected: carried out, answer lost", ambiguous=True)

    async def still_alive(self) -> None:
        if not self._life.is_alive:
            await asyncio.get_running_loop().create_future()


class FaultyEngine:
    """A store engine behind a gate, which every read passes; implements ``Engine``."""

    hot = None

    def __init__(self, engine: Engine, *, rates: FaultRates, life: Incarnation, rng: random.Random) -> None:
        self._engine = engine
        self._gate = _Gate(rates, life, rng)

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        """Read, or fail."""
        await self._gate.before()
        rows = await self._engine.get(table, keys)
        await self._gate.still_alive()
        return rows

    async def scan(self, table: Table, partition: Key, **bounds: Any) -> Sequence[Row]:
        """Read, or fail."""
        await self._gate.before()
        rows = await self._engine.scan(table, partition, **bounds)
        await self._gate.still_alive()
        return rows

    async def scan_each(
        self, table: Table, partitions: Sequence[Key], **bounds: Any
    ) -> Sequence[Sequence[Row]]:
        """Read, or fail."""
        await self._gate.before()
        found = await self._engine.scan_each(table, partitions, **bounds)
        await self._gate.still_alive()
        return found

    async def write(self, *batches: Batch) -> None:
        """Write, or fail before or after."""
        await self._gate.before()
        await self._engine.write(*batches)
        await self._gate.after()

    async def write_all(self, batches: Sequence[Batch]) -> None:
        """Write, or fail before or after."""
        await self._gate.before()
        await self._engine.write_all(batches)
        await self._gate.after()

    async def aclose(self) -> None:
        """Close what is behind."""
        await self._engine.aclose()


@dataclass(slots=True)
class RetoldRates:
    """How often a usage write is repeated, is followed by repeats of older ones, or takes effect late."""

    again: float = 0.0
    rewound: float = 0.0
    late: float = 0.0


class RetellingEngine:
    """Usage reported at least once, in any order, as by a replayed stream, a repeated request or a returning
    replica. Implements ``Engine``.

    ``told`` has all writes so far, shared by every node and restart. A write that takes effect late was
    answered as failed: no node knows of it.
    """

    def __init__(self, engine: Engine, *, rates: RetoldRates, told: list[Batch], rng: random.Random) -> None:
        self._engine = engine
        self._rates = rates
        self._told = told
        self._rng = rng
        self._late: set[asyncio.Task[None]] = set()
        self.get, self.scan, self.scan_each = engine.get, engine.scan, engine.scan_each
        self.aclose, self.hot = engine.aclose, engine.hot

    async def write(self, *batches: Batch) -> None:
        """Write; usage among it may come again, or later."""
        usage = [batch for batch in batches if batch.table is USAGE]
        if usage and self._rng.random() < self._rates.late:
            self._late.add(asyncio.create_task(self._write_late(usage)))
            raise Unavailable("injected: its effect comes later", ambiguous=True)
        await self._engine.write(*batches)
        self._told += usage
        if usage and self._rng.random() < self._rates.again:
            await self._engine.write(*usage)
        if usage and self._rng.random() < self._rates.rewound:
            first = self._rng.randrange(len(self._told))
            older = self._told[first : first + REWOUND_MAX]
            self._rng.shuffle(older)
            await self._engine.write(*older)

    async def write_all(self, batches: Sequence[Batch]) -> None:
        """As ``write``, in any order."""
        await self.write(*self._rng.sample(batches, len(batches)))

    async def _write_late(self, usage: Sequence[Batch]) -> None:
        await asyncio.sleep(self._rng.random() * LATE_S_MAX)
        await self._engine.write(*usage)
        self._told += usage


class FaultyStream:
    """The ``put`` of a stream behind a gate; single records fail too, as Kinesis' do."""

    keeps_order = False

    def __init__(self, stream: Stream, *, rates: FaultRates, life: Incarnation, rng: random.Random) -> None:
        self._stream = stream
        self._rates = rates
        self._rng = rng
        self._gate = _Gate(rates, life, rng)

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        """Put, with some records throttled, or fail before or after."""
        await self._gate.before()
        taken = [self._rng.random() >= self._rates.before for _ in records]
        accepted = [record for record, is_taken in zip(records, taken, strict=True) if is_taken]
        stored = iter(await self._stream.put(accepted) if accepted else ())
        await self._gate.after()
        throttled = PutResult(error="ProvisionedThroughputExceededException")
        return [next(stored) if is_taken else throttled for is_taken in taken]

    def __getattr__(self, name: str) -> Any:
        """Everything but ``put`` is the stream's own."""
        return getattr(self._stream, name)
