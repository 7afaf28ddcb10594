"""The SIM registry.

Rules: every put writes the index rows again, first, in one write with the SIM, so that the next put repairs
a crash or two concurrent changes of operator. The index row of the former operator is removed last. An IMSI
stays bound; a static address is released when its SIM no longer has it.
"""

import asyncio
from collections.abc import Coroutine, Sequence
from ipaddress import IPv4Address
from typing import Any

from core.adapters.store.engine import Batch, Condition, Delete, Engine, Key, Put, Row, RowKey, microseconds
from core.adapters.store.rows import BodyReader, HotReader, Names, body_of, collect_page
from core.adapters.store.tables import SIM, SIM_BY_IMSI, SIM_BY_OPERATOR, STATIC_ADDRESS, STATIC_BY_OPERATOR
from core.domain.sim import Sim
from core.domain.values import replace
from core.errors import StaleVersion
from core.ports.clock import Clock
from core.ports.store import Page

SIM_ROW: Key = ("sim", "sim")
"""Clustering key of the SIM itself in its partition."""
_STOCK = "-"
"""Stands for no operator: Cassandra allows no empty partition key."""


class WideSims:
    """Implements ``Sims``."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._sims = HotReader(engine, SIM, BodyReader(SIM, Sim).read)
        self._imsis = Names(engine, SIM_BY_IMSI, self._has_imsi)
        self._static_addresses = Names(engine, STATIC_ADDRESS, self._has_static_address)

    def get(self, sim_id: str) -> Coroutine[Any, Any, Sim | None]:
        """By SIM id."""
        return self._sims.get((sim_id,), SIM_ROW)

    async def get_many(self, sim_ids: Sequence[str]) -> Sequence[Sim | None]:
        """In their order."""
        return await self._sims.get_many([((sim_id,), SIM_ROW) for sim_id in sim_ids])

    async def count_of_operator(self, operator_id: str) -> int:
        """Of its index rows, those that a crash left included."""
        return len(await self._engine.scan(SIM_BY_OPERATOR, _index_of(operator_id)))

    async def put_new(self, sims: Sequence[Sim]) -> Sequence[Sim | None]:
        """Looks the IMSIs up in one read; a SIM whose IMSI is bound goes through ``put``."""
        bound = await self._engine.get(SIM_BY_IMSI, [RowKey((sim.imsi,)) for sim in sims])
        now_us = microseconds(self._clock.now())

        async def add(sim: Sim, *, is_free: bool) -> Sim | None:
            try:
                if not is_free or len(sim.subscribers) > 1 or sim.static_address is not None:
                    return await self.put(sim)
                stored = replace(sim, version=1)
                binding = Put((), (sim.sim_id, now_us), 1)
                await self._engine.write(
                    Batch(SIM_BY_IMSI, (sim.imsi,), (binding,), Condition((), 0)), *_written(stored, 0)
                )
                return stored
            except StaleVersion:
                return None

        return await asyncio.gather(
            *(add(sim, is_free=row is None) for sim, row in zip(sims, bound, strict=True))
        )

    async def sim_id_of_imsi(self, imsi: str) -> str | None:
        """The SIM that has this IMSI."""
        return await self._imsis.owner(imsi)

    def sim_id_bound_to_imsi(self, imsi: str) -> Coroutine[Any, Any, str | None]:
        """The SIM that the IMSI is bound to, unread."""
        return self._imsis.bound_to(imsi)

    async def put(self, sim: Sim) -> Sim:
        """Index rows and SIM in one write, if the stored version is ``sim.version``."""
        old = await self.get(sim.sim_id)
        stored = replace(sim, version=sim.version + 1)
        now_us = microseconds(self._clock.now())
        bindings = [await self._imsis.bind(s.imsi, sim.sim_id, now_us) for s in sim.subscribers]
        if sim.static_address is not None:
            bindings.append(await self._static_addresses.bind(str(sim.static_address), sim.sim_id, now_us))
        await self._engine.write(
            *[binding for binding in bindings if binding is not None], *_written(stored, sim.version)
        )
        if old is not None and old.operator_id != sim.operator_id:
            delete = Delete((sim.sim_id,))
            await self._engine.write(Batch(SIM_BY_OPERATOR, _index_of(old.operator_id), (delete,)))
        if old is not None and old.static_address not in (None, sim.static_address):
            await self._static_addresses.unbind(str(old.static_address), sim.sim_id)
            await self._engine.write(*_static_index(old, is_there=False))
        return stored

    async def sim_id_of_static_address(self, address: IPv4Address) -> str | None:
        """The SIM that has this static address."""
        return await self._static_addresses.owner(str(address))

    async def with_static_address(self, operator_id: str, *, after: str = "", limit: int = 100) -> Page[Sim]:
        """An operator's SIMs with a static address, in order of address."""

        async def scan(after: str, limit: int) -> Sequence[Row]:
            above = (int(after),) if after else ()
            return await self._engine.scan(
                STATIC_BY_OPERATOR, _index_of(operator_id), above=above, limit=limit
            )

        async def resolve(rows: Sequence[Row]) -> Sequence[Sim | None]:
            sims = await self._sims.get_many([((row.values[0],), SIM_ROW) for row in rows])
            return [
                sim
                if sim is not None
                and (sim.operator_id, sim.static_address)
                == (operator_id, IPv4Address(int(row.clustering[0])))
                else None
                for row, sim in zip(rows, sims, strict=True)
            ]

        return await collect_page(scan, resolve, after=after, limit=limit)

    async def of_operator(self, operator_id: str, *, after: str = "", limit: int = 100) -> Page[Sim]:
        """An operator's SIMs in order of SIM id."""

        async def scan(after: str, limit: int) -> Sequence[Row]:
            above = (after,) if after else ()
            return await self._engine.scan(SIM_BY_OPERATOR, _index_of(operator_id), above=above, limit=limit)

        async def resolve(rows: Sequence[Row]) -> Sequence[Sim | None]:
            sims = await self._sims.get_many([(row.clustering, SIM_ROW) for row in rows])
            return [sim if sim is not None and sim.operator_id == operator_id else None for sim in sims]

        return await collect_page(scan, resolve, after=after, limit=limit)

    async def _has_static_address(self, sim_id: str, address: str) -> bool:
        sim = await self.get(sim_id)
        return sim is not None and sim.static_address == IPv4Address(address)

    async def _has_imsi(self, sim_id: str, imsi: str) -> bool:
        sim = await self.get(sim_id)
        return sim is not None and sim.has_imsi(imsi)


def _written(stored: Sim, version: int) -> list[Batch]:
    """A SIM and its index rows but those of its IMSIs, if the stored version is ``version``."""
    put = Put(SIM_ROW, (body_of(stored),), stored.version)
    return [
        Batch(SIM_BY_OPERATOR, _index_of(stored.operator_id), (Put((stored.sim_id,), ()),)),
        *_static_index(stored, is_there=True),
        Batch(SIM, (stored.sim_id,), (put,), Condition(SIM_ROW, version)),
    ]


def _static_index(sim: Sim, *, is_there: bool) -> list[Batch]:
    if sim.static_address is None:
        return []
    key = (int(sim.static_address),)
    write = Put(key, (sim.sim_id,)) if is_there else Delete(key)
    return [Batch(STATIC_BY_OPERATOR, _index_of(sim.operator_id), (write,))]


def _index_of(operator_id: str) -> tuple[str]:
    return (operator_id or _STOCK,)
