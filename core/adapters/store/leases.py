"""Leases of virtual gateways, jobs, static addresses and shards: written under conditions, never removed."""

from collections.abc import Sequence
from ipaddress import IPv4Address
from typing import Generic, TypeVar

from msgspec.structs import astuple

from core.adapters.store.engine import Batch, Condition, Engine, Put
from core.adapters.store.rows import BodyReader, body_of, get_row
from core.adapters.store.tables import ADDRESS_HOLDER, GATEWAY_LEASE, SHARD_LEASE
from core.domain.consumer import ShardLease
from core.domain.gateway import AddressHolder, GatewayLease
from core.domain.lease import Lease
from core.domain.values import replace

L = TypeVar("L", bound=Lease)


class WideLeases(Generic[L]):
    """Implements ``Leases`` for one kind of lease. Every kind is in one table, in rows that nodes of version
    0.2 can read: each lease had a restart counter then.
    """

    def __init__(self, *, engine: Engine, kind: type[L]) -> None:
        self._engine = engine
        self._bodies = BodyReader(GATEWAY_LEASE, kind)

    async def get(self, lease_id: str) -> L | None:
        """The lease as stored."""
        row = await get_row(self._engine, GATEWAY_LEASE, (lease_id,))
        return self._bodies.read_optional((lease_id,), row)

    async def put(self, lease: L) -> L:
        """Write if the stored version is ``lease.version``."""
        stored = replace(lease, version=lease.version + 1)
        row = GatewayLease(*astuple(stored))
        put = Put((), (body_of(row),), stored.version)
        condition = Condition((), lease.version)
        await self._engine.write(Batch(GATEWAY_LEASE, (lease.lease_id,), (put,), condition))
        return stored


class WideHolders:
    """Implements ``Holders``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._bodies = BodyReader(ADDRESS_HOLDER, AddressHolder)

    async def get(self, address: IPv4Address) -> AddressHolder | None:
        """The row as stored."""
        row = await get_row(self._engine, ADDRESS_HOLDER, (str(address),))
        return self._bodies.read_optional((str(address),), row)

    async def put(self, holder: AddressHolder) -> AddressHolder:
        """Write if the stored version is ``holder.version``."""
        stored = replace(holder, version=holder.version + 1)
        put = Put((), (body_of(stored),), stored.version)
        await self._engine.write(
            Batch(ADDRESS_HOLDER, (str(holder.address),), (put,), Condition((), holder.version))
        )
        return stored


class WideShardLeases:
    """Implements ``ShardLeases``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._bodies = BodyReader(SHARD_LEASE, ShardLease)

    async def of_application(self, application: str) -> Sequence[ShardLease]:
        """Every lease of an application, by shard id."""
        rows = await self._engine.scan(SHARD_LEASE, (application,))
        return [self._bodies.read((application,), row) for row in rows]

    async def put(self, lease: ShardLease) -> ShardLease:
        """Write if the stored version is ``lease.version``."""
        stored = replace(lease, version=lease.version + 1)
        put = Put((lease.shard_id,), (body_of(stored),), stored.version)
        condition = Condition((lease.shard_id,), lease.version)
        await self._engine.write(Batch(SHARD_LEASE, (lease.application,), (put,), condition))
        return stored
