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
from core.adapters.store.tables import Table
from core.domain.message import StreamRecord
from core.errors import Unavailable
from core.ports.stream import PutResult, Stream


@dataclass(slots=True)
class FaultRates:
    """How often a call fails before or after its effect, and how slow it may be; changed while it runs."""

    before: float = 0.0
    after: float = 0.0
    delay_s_max: float = 0.0


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
    """A store engine behind a gate; implements ``Engine``."""

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
