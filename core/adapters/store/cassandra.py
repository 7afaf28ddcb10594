"""The store on Cassandra 5 (or Amazon Keyspaces), through the driver's libev reactor.

Rules:

- LOCAL_QUORUM for all; a batch with a condition is one Paxos round of its partition (LOCAL_SERIAL), any other
  is one unlogged batch of one partition, which Cassandra applies atomically.
- Single rows with a timestamp of their own, asked for in one turn of the loop, go to their replica together,
  in unlogged batches of several partitions (``write_batching.py``).
- A write whose answer is lost may or may not be stored: ``Unavailable`` that is ambiguous.
- A row expires by this node's clock, as in every engine; the TTL only removes it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakValueDictionary

from cassandra import ConsistencyLevel, InvalidRequest
from cassandra import Unavailable as NotEnoughReplicas
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, NoHostAvailable, Session
from cassandra.io.libevreactor import LibevConnection
from cassandra.policies import (
    ConstantReconnectionPolicy,
    DCAwareRoundRobinPolicy,
    FallthroughRetryPolicy,
    TokenAwarePolicy,
)
from cassandra.query import (
    BatchStatement,
    BatchType,
    BoundStatement,
    PreparedStatement,
    Statement,
    dict_factory,
    tuple_factory,
)

from core.adapters.store import cql
from core.adapters.store.calls import Calls
from core.adapters.store.checksums import CHECKSUM, checksum_of, damaged_row, is_intact
from core.adapters.store.engine import (
    SCAN_ROWS_MAX,
    Batch,
    Condition,
    Delete,
    Key,
    Put,
    Row,
    RowKey,
    check_scan,
    check_unconditional,
    expiry_us,
    microseconds,
)
from core.adapters.store.tables import (
    EMPTY,
    GATEWAY_LEASE,
    READABLE_FROM,
    SCHEMA_VERSION,
    TABLES,
    Column,
    Table,
)
from core.adapters.store.write_batching import BatchedWrites
from core.errors import ConfigurationError, LocalProtocolError, StaleVersion, Unavailable
from core.ports.clock import Clock

WAITING_MAX = 20_000
"""Calls asked for and not yet answered; beyond it a call is refused at once."""
IN_FLIGHT_MAX = 1_024
"""Calls that the driver has at a time."""
LEASES_IN_FLIGHT_MAX = 64
"""Besides: calls for leases of gateway instances wait behind no other, or a slow store would cost them
all."""
TIMEOUT_S = 10.0
TTL_S_MAX = 630_720_000
"""Twenty years: the longest that Cassandra takes."""
RECONNECT_S = 1.0
"""How often a lost node is tried; by the driver's own habit it would be every ten minutes at last."""
PROTOCOL_VERSION = 4
"""Keyspaces speaks no later one, and the segments of version 5 cost the driver a tenth more CPU."""
_CONDITIONAL = "conditional"
_VERSION, _EXPIRES, _CHECKSUM, _CHECKSUM_WRITTEN, _VERSION_WRITTEN = range(-5, 0)
"""Where they are in a row as it is selected."""


@dataclass(frozen=True, slots=True)
class CassandraAddress:
    """Where the cluster is. ``datacenter``: the local one, whose replicas are asked."""

    contact_points: tuple[str, ...]
    keyspace: str
    datacenter: str
    port: int = 9_042
    user_name: str = ""
    password: str = field(default="", repr=False)


class _Accepted:
    """Calls that wait for their answer: ``with`` is one of them. Raises ``Unavailable`` beyond the limit."""

    def __init__(self) -> None:
        self.waiting = 0
        self.is_closed = False
        self.idle = asyncio.Event()
        self.idle.set()

    def __enter__(self) -> None:
        self._add(1)

    def __exit__(self, *_: object) -> None:
        self._remove(1)

    @contextmanager
    def more(self, calls: int) -> Iterator[None]:
        """So many at once."""
        self._add(calls)
        try:
            yield
        finally:
            self._remove(calls)

    def _add(self, calls: int) -> None:
        if self.is_closed or self.waiting + calls > WAITING_MAX:
            why = "closed" if self.is_closed else f"behind: {self.waiting} calls wait"
            raise Unavailable(f"the store is {why}")
        self.waiting += calls
        self.idle.clear()

    def _remove(self, calls: int) -> None:
        self.waiting -= calls
        if not self.waiting:
            self.idle.set()


class CassandraEngine:
    """Implements ``Engine``. Make one with ``open``."""

    hot = None

    def __init__(self, *, cluster: Cluster, session: Session, keyspace: str, clock: Clock) -> None:
        self._cluster = cluster
        self._session = session
        self._keyspace = keyspace
        self._clock = clock
        self._calls = Calls(session=session, timeout_s=TIMEOUT_S)
        policy = session.get_execution_profile(EXEC_PROFILE_DEFAULT).load_balancing_policy
        self._joined = BatchedWrites(metadata=cluster.metadata, policy=policy, execute=self._execute_batched)
        self._prepared: dict[str, PreparedStatement] = {}
        self._rounds: WeakValueDictionary[tuple[str, Key], asyncio.Lock] = WeakValueDictionary()
        self._in_flight = asyncio.Semaphore(IN_FLIGHT_MAX)
        self._accepted = _Accepted()
        self._leases_in_flight = asyncio.Semaphore(LEASES_IN_FLIGHT_MAX)
        self._leases_accepted = _Accepted()

    @classmethod
    async def open(cls, *, address: CassandraAddress, clock: Clock) -> "CassandraEngine":
        """Connect; raises ``ConfigurationError`` with the fix, also for a wrong schema version."""
        cluster, session = await asyncio.to_thread(connect, address)
        try:
            schema = await asyncio.to_thread(schema_of, session, address.keyspace)
            if not schema.is_usable:
                raise ConfigurationError(_told(address, schema))
            await asyncio.to_thread(session.set_keyspace, address.keyspace)
        except BaseException:
            await asyncio.to_thread(cluster.shutdown)
            raise
        return cls(cluster=cluster, session=session, keyspace=address.keyspace, clock=clock)

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        """The rows with these keys."""
        with self._accepted_for(table):
            select = await self._prepare(cql.select_row(self._keyspace, table))
            answers = await asyncio.gather(
                *(
                    self._execute(select.bind((*key.partition, *key.clustering)), table=table)
                    for key in keys
                    if _is_key(key)
                )
            )
        rows_of = iter(answers)
        now_us = self._now_us()
        return [
            next(iter(_alive(table, key.partition, next(rows_of), now_us)), None) if _is_key(key) else None
            for key in keys
        ]

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
        """Rows of one partition in clustering order; expired ones are skipped."""
        check_scan(table, prefix, above, below, limit)
        found: list[Row] = []
        while True:
            with self._accepted:
                text = cql.select_rows(
                    self._keyspace, table, len(prefix), len(above), len(below), reverse=reverse
                )
                select = await self._prepare(text)
                rows = await self._execute(select.bind((*partition, *prefix, *above, *below, limit)))
            found += _alive(table, partition, rows, self._now_us())
            if len(rows) < limit or len(found) >= limit:
                return found[:limit]
            last = tuple(rows[-1][len(prefix) : len(table.clustering)])
            above, below = (above, last) if reverse else (last, below)

    async def scan_each(
        self, table: Table, partitions: Sequence[Key], *, prefix: Key = (), limit: int = SCAN_ROWS_MAX
    ) -> Sequence[Sequence[Row]]:
        """Rows of several partitions, asked for side by side."""
        scans = (self.scan(table, each, prefix=prefix, limit=limit) for each in partitions)
        return await asyncio.gather(*scans)

    async def write(self, *batches: Batch) -> None:
        """Write batches in this order."""
        with self._accepted_for(batches[0].table if batches else None):
            for batch in batches:
                if batch.condition is None:
                    await self._written(batch)
                else:
                    await self._write_if(batch, batch.condition)

    async def write_all(self, batches: Sequence[Batch]) -> None:
        """Write unconditional batches, at once."""
        check_unconditional(batches)
        if len(batches) == 1:
            with self._accepted:
                return await self._written(batches[0])
        with self._accepted.more(len(batches)):
            outcomes = await asyncio.gather(*map(self._written, batches), return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def aclose(self) -> None:
        """Wait for what was accepted, then disconnect; idempotent."""
        if self._accepted.is_closed:
            return
        self._accepted.is_closed = True
        self._leases_accepted.is_closed = True
        await self._accepted.idle.wait()
        await self._leases_accepted.idle.wait()
        await asyncio.to_thread(self._cluster.shutdown)

    # -- inside ---------------------------------------------------------------------------------------

    def _now_us(self) -> int:
        return microseconds(self._clock.now())

    async def _prepare(self, text: str) -> PreparedStatement:
        if text not in self._prepared:
            try:
                self._prepared[text] = await asyncio.to_thread(self._session.prepare, text)
            except Exception as error:
                raise _unavailable(error, is_write=False) from error
        return self._prepared[text]

    def _accepted_for(self, table: Table | None) -> _Accepted:
        return self._leases_accepted if table is GATEWAY_LEASE else self._accepted

    async def _execute(
        self, statement: Any, *, is_write: bool = False, profile: Any = None, table: Table | None = None
    ) -> Any:
        try:
            async with self._leases_in_flight if table is GATEWAY_LEASE else self._in_flight:
                return await self._calls.ask(statement, profile or EXEC_PROFILE_DEFAULT) or ()
        except Exception as error:
            raise _unavailable(error, is_write=is_write) from error

    def _written(self, batch: Batch) -> Awaitable[None]:
        if len(batch.writes) == 1:
            (put,) = batch.writes
            if isinstance(put, Put) and put.timestamp_us is not None:
                text = cql.insert(self._keyspace, batch.table, is_stamped=True)
                if text in self._prepared:
                    return self._joined.add(self._prepared[text], _inserted(batch, put, self._now_us()))
        return self._write(batch)

    async def _write(self, batch: Batch) -> None:
        now_us = self._now_us()
        statements = [_unconditional(self._keyspace, batch, write, now_us) for write in batch.writes]
        await self._execute(await self._bound(statements), is_write=True, table=batch.table)

    async def _execute_batched(self, statements: Sequence[BoundStatement]) -> None:
        try:
            await self._execute(_batch_of(statements), is_write=True)
        except Unavailable as error:
            if len(statements) == 1 or not isinstance(error.__cause__, NotEnoughReplicas):
                raise
            why = f"{error}; the coordinator goes from partition to partition"
            raise Unavailable(why, ambiguous=True) from error

    async def _write_if(self, batch: Batch, condition: Condition) -> None:
        """One Paxos round; a second one if the row that fails the condition has expired.

        This node's rounds in one partition wait for each other, because concurrent rounds conflict.
        """
        place = (batch.table.name, batch.partition)
        lock = self._rounds.setdefault(place, asyncio.Lock())
        async with lock:
            is_applied = await self._try(batch, condition, over=None)
            if not is_applied and condition.version == 0:
                select = await self._prepare(cql.select_row(self._keyspace, batch.table))
                rows = await self._execute(select.bind((*batch.partition, *condition.clustering)))
                if rows and rows[0][_EXPIRES] <= self._now_us():
                    is_applied = await self._try(batch, condition, over=rows[0][_VERSION])
        if not is_applied:
            raise StaleVersion(f"{batch.table.name} {batch.partition} {condition.clustering}")

    async def _try(self, batch: Batch, condition: Condition, over: int | None) -> bool:
        """``over``: the version of an expired row that may be replaced."""
        table, now_us = batch.table, self._now_us()
        statements: list[tuple[str, Key]] = []
        where = (*batch.partition, *condition.clustering)
        version = condition.version if over is None else over
        if all(write.clustering != condition.clustering for write in batch.writes):
            if over is None:
                statements.append((cql.demand_absent(self._keyspace, table), where))
            else:
                text = cql.delete(self._keyspace, table, is_conditional=True, is_over=True)
                statements.append((text, (*where, version, now_us)))
        for write in batch.writes:
            if write.clustering != condition.clustering:
                statements.append(_unconditional(self._keyspace, batch, write, now_us))
            elif not isinstance(write, Put):
                text = cql.delete(self._keyspace, table, is_conditional=True, is_over=over is not None)
                statements.append((text, (*where, version, now_us)))
            elif version == 0:
                statements.append(
                    (cql.insert(self._keyspace, table, is_new=True), _inserted(batch, write, now_us))
                )
            else:
                expires_us = expiry_us(table, write, now_us) or cql.NEVER_US
                kept = (write.version, expires_us, _checksum(batch, write))
                row = (_ttl_s(expires_us, now_us), *write.values, *kept)
                text = cql.update(self._keyspace, table, is_over=over is not None)
                statements.append((text, (*row, *where, version, now_us)))
        (answer, *_) = await self._execute(
            await self._bound(statements), is_write=True, profile=_CONDITIONAL, table=table
        )
        return bool(answer["[applied]"])

    async def _bound(self, statements: Sequence[tuple[str, Key]]) -> Any:
        return _batch_of([(await self._prepare(text)).bind(values) for text, values in statements])


# -- migrations ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Schema:
    """The version of a keyspace's tables (0: none), and of the oldest nodes that may work on them."""

    version: int
    readable_from: int

    @property
    def is_usable(self) -> bool:
        """Whether a node of this version may work on them: they are of it, or newer and still fit."""
        return self.readable_from <= SCHEMA_VERSION <= self.version


async def migrate(*, address: CassandraAddress, replication_factor: int) -> int:
    """Make the keyspace and the tables, or bring them to this version; the version that was there before.

    Nodes of the version before go on meanwhile. Raises ``ConfigurationError``.
    """

    def work() -> int:
        cluster, session = connect(address)
        try:
            session.execute(cql.create_keyspace(address.keyspace, address.datacenter, replication_factor))
            before = schema_of(session, address.keyspace)
            if before.version > SCHEMA_VERSION:
                raise ConfigurationError(_told(address, before))
            session.execute(cql.create_schema_table(address.keyspace))
            for table in TABLES:
                session.execute(cql.create_table(address.keyspace, table))
                for column in _missing(session, address.keyspace, table):
                    session.execute(cql.add_column(address.keyspace, table, column))
            for row in ((cql.READABLE_NAME, READABLE_FROM), (cql.SCHEMA_NAME, SCHEMA_VERSION)):
                session.execute(cql.put_schema(address.keyspace), row)
            return before.version
        finally:
            cluster.shutdown()

    return await asyncio.to_thread(work)


def _missing(session: Session, keyspace: str, table: Table) -> list[Column]:
    there = session.cluster.metadata.keyspaces[keyspace].tables[table.name].columns
    return [column for column in (*table.values, CHECKSUM) if column.name not in there]


def schema_of(session: Session, name: str) -> Schema:
    """What a keyspace's tables are. Blocks."""
    keyspace = session.cluster.metadata.keyspaces.get(name)
    if keyspace is None or cql.SCHEMA_TABLE not in keyspace.tables:
        return Schema(0, 0)
    rows = [
        session.execute(cql.select_schema(name), (of,)).one() for of in (cql.SCHEMA_NAME, cql.READABLE_NAME)
    ]
    version, readable_from = (int(row[0]) if row else 0 for row in rows)
    return Schema(version, readable_from or version)


def _told(address: CassandraAddress, schema: Schema) -> str:
    fix = "run airloom store migrate" if schema.version < SCHEMA_VERSION else "run a newer Airloom"
    return f"keyspace {address.keyspace}: schema {schema.version}, this version reads {SCHEMA_VERSION}; {fix}"


def connect(address: CassandraAddress) -> tuple[Cluster, Session]:
    """A cluster and a session without a keyspace; blocks. Raises ``ConfigurationError``."""
    policy = TokenAwarePolicy(DCAwareRoundRobinPolicy(local_dc=address.datacenter))

    def profile(row_factory: Callable[..., Any]) -> ExecutionProfile:
        return ExecutionProfile(
            load_balancing_policy=policy,
            retry_policy=FallthroughRetryPolicy(),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            serial_consistency_level=ConsistencyLevel.LOCAL_SERIAL,
            request_timeout=TIMEOUT_S,
            row_factory=row_factory,
        )

    auth = PlainTextAuthProvider(address.user_name, address.password) if address.user_name else None
    cluster = Cluster(
        list(address.contact_points),
        port=address.port,
        auth_provider=auth,
        connection_class=LibevConnection,
        execution_profiles={
            EXEC_PROFILE_DEFAULT: profile(tuple_factory),
            _CONDITIONAL: profile(dict_factory),
        },
        protocol_version=PROTOCOL_VERSION,
        reconnection_policy=ConstantReconnectionPolicy(RECONNECT_S, max_attempts=None),
    )
    try:
        session = cluster.connect()
    except NoHostAvailable as error:
        cluster.shutdown()
        fix = "name nodes that answer, their port, user name and password"
        raise ConfigurationError(
            f"Cassandra at {', '.join(address.contact_points)}: {error}; {fix}"
        ) from error
    session.default_fetch_size = None
    return cluster, session


# -- small parts --------------------------------------------------------------------------------------


def _is_key(key: RowKey) -> bool:
    """Cassandra has no empty keys, and so no row of that name."""
    return "" not in key.partition


def _unconditional(keyspace: str, batch: Batch, write: Put | Delete, now_us: int) -> tuple[str, Key]:
    """A write's statement and what is bound to it."""
    if isinstance(write, Put):
        text = cql.insert(keyspace, batch.table, is_stamped=write.timestamp_us is not None)
        return text, _inserted(batch, write, now_us)
    return cql.delete(keyspace, batch.table), (*batch.partition, *write.clustering)


def _inserted(batch: Batch, put: Put, now_us: int) -> Key:
    expires_us = expiry_us(batch.table, put, now_us) or cql.NEVER_US
    stamp = () if put.timestamp_us is None else (put.timestamp_us,)
    row = (*batch.partition, *put.clustering, *put.values, put.version, expires_us, _checksum(batch, put))
    return (*row, *stamp, _ttl_s(expires_us, now_us))


def _checksum(batch: Batch, put: Put) -> int:
    """Not of ``expires_us``: of two writes that have one timestamp, either's may stay."""
    return checksum_of(batch.table, batch.partition, put.clustering + put.values, (put.version,))


def _ttl_s(expires_us: int, now_us: int) -> int:
    """The TTL in seconds; 0 means none in CQL, so an expired row gets one second and is skipped when read."""
    if expires_us == cql.NEVER_US:
        return 0
    return min(max(-(-(expires_us - now_us) // 1_000_000), 1), TTL_S_MAX)


def _alive(table: Table, partition: Key, rows: Sequence[Any], now_us: int) -> list[Row]:
    return [_row(table, partition, row) for row in rows if row[_EXPIRES] > now_us]


def _row(table: Table, partition: Key, row: Sequence[Any]) -> Row:
    split, found, version = len(table.clustering), tuple(row[:_VERSION]), row[_VERSION]
    if None in found:
        found = _filled(table, found)
    is_of_one_write = row[_CHECKSUM_WRITTEN] == row[_VERSION_WRITTEN]
    if is_of_one_write and not is_intact(row[_CHECKSUM], table, partition, found, (version,)):
        return damaged_row(table, partition, found[:split], found[split:], version)
    return Row(found[:split], found[split:], version)


def _filled(table: Table, found: Key) -> Key:
    """A row that is older than one of its columns."""
    columns = table.clustering + table.values
    return tuple(
        EMPTY[column.type] if value is None else value for column, value in zip(columns, found, strict=True)
    )


def _batch_of(statements: Sequence[BoundStatement]) -> Statement:
    """One statement of all; its replicas are those of the first."""
    if len(statements) == 1:
        return statements[0]
    batch = BatchStatement(batch_type=BatchType.UNLOGGED)
    for statement in statements:
        batch.add(statement)
    batch.keyspace = None  # protocol 4 sends none; the session's own finds the replicas
    return batch


def _unavailable(error: Exception, *, is_write: bool) -> Exception:
    if isinstance(error, Unavailable | LocalProtocolError | StaleVersion):
        return error
    is_refused = isinstance(error, NotEnoughReplicas | InvalidRequest)
    return Unavailable(f"Cassandra: {error}", ambiguous=is_write and not is_refused)
