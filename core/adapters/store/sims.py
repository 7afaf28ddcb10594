"""The SIM registry.

Rules: every put writes the index rows again, first, in one write with the SIM: so a crash, or two changes
of operator that cross, are mended by the next put. The index row of the operator before is removed last.
An IMSI that was bound stays bound.
"""

from collections.abc import Sequence
from dataclasses import replace

from core.adapters.store.engine import Batch, Condition, Delete, Engine, Put, Row, RowKey, microseconds
from core.adapters.store.rows import BodyReader, Names, body_of, collect_page, get_row
from core.adapters.store.tables import SIM, SIM_BY_IMSI, SIM_BY_OPERATOR
from core.domain.sim import Sim
from core.ports.clock import Clock
from core.ports.store import Page

SIM_ROW = ("sim", "sim")
"""Clustering key of the SIM itself in its partition."""
_STOCK = "-"
"""Stands for no operator: Cassandra allows no empty partition key."""


class WideSims:
    """Implements ``Sims``."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._bodies = BodyReader(SIM, Sim)
        self._imsis = Names(engine, SIM_BY_IMSI, self._has_imsi)

    async def get(self, sim_id: str) -> Sim | None:
        """By SIM id."""
        return self._bodies.read_optional((sim_id,), await get_row(self._engine, SIM, (sim_id,), SIM_ROW))

    async def sim_id_of_imsi(self, imsi: str) -> str | None:
        """The SIM that has this IMSI."""
        return await self._imsis.owner(imsi)

    async def put(self, sim: Sim) -> Sim:
        """Index rows and SIM in one write, if the stored version is ``sim.version``."""
        old = await self.get(sim.sim_id)
        stored = replace(sim, version=sim.version + 1)
        now_us = microseconds(self._clock.now())
        bindings = [await self._imsis.bind(s.imsi, sim.sim_id, now_us) for s in sim.subscribers]
        put = Put(SIM_ROW, (body_of(stored),), stored.version)
        await self._engine.write(
            *[binding for binding in bindings if binding is not None],
            Batch(SIM_BY_OPERATOR, _index_of(sim.operator_id), (Put((sim.sim_id,), ()),)),
            Batch(SIM, (sim.sim_id,), (put,), Condition(SIM_ROW, sim.version)),
        )
        if old is not None and old.operator_id != sim.operator_id:
            delete = Delete((sim.sim_id,))
            await self._engine.write(Batch(SIM_BY_OPERATOR, _index_of(old.operator_id), (delete,)))
        return stored

    async def of_operator(self, operator_id: str, *, after: str = "", limit: int = 100) -> Page[Sim]:
        """An operator's SIMs in order of SIM id."""

        async def scan(after: str, limit: int) -> Sequence[Row]:
            above = (after,) if after else ()
            return await self._engine.scan(SIM_BY_OPERATOR, _index_of(operator_id), above=above, limit=limit)

        async def resolve(rows: Sequence[Row]) -> Sequence[Sim | None]:
            keys = [RowKey(row.clustering, SIM_ROW) for row in rows]
            found = await self._engine.get(SIM, keys)
            sims = [self._bodies.read_optional(k.partition, row) for k, row in zip(keys, found, strict=True)]
            return [sim if sim is not None and sim.operator_id == operator_id else None for sim in sims]

        return await collect_page(scan, resolve, after=after, limit=limit)

    async def _has_imsi(self, sim_id: str, imsi: str) -> bool:
        sim = await self.get(sim_id)
        return sim is not None and any(subscriber.imsi == imsi for subscriber in sim.subscribers)


def _index_of(operator_id: str) -> tuple[str]:
    return (operator_id or _STOCK,)
