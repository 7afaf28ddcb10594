"""The node on a real Cassandra: migrations by the CLI, kills, one of three nodes lost."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.store import cql
from core.adapters.store.calls import SWEEP_S
from core.adapters.store.cassandra import TIMEOUT_S, CassandraAddress, CassandraEngine, connect, migrate
from core.adapters.store.checksums import CorruptRow
from core.adapters.store.engine import Batch, Condition, Put, Row, RowKey
from core.adapters.store.tables import EMPTY, OPERATOR, SCHEMA_VERSION, SESSION_BY_GATEWAY, USAGE
from core.adapters.store.wide_column import WideColumnStore
from core.domain.values import replace
from core.errors import ConfigurationError, StaleVersion, Unavailable
from loadtest.api_client import ApiClient
from loadtest.external import cassandra
from loadtest.peers.nas import Nas
from loadtest.serving import ROOT, Served, free_gateway_address, free_tcp_port, radius_clients
from tests.contract.stores import event_of, report_of, session_of, sim_of

pytestmark = [pytest.mark.e2e, pytest.mark.cassandra]

NAS_SECRET = "the secret of the NAS"
KEYSPACE = "airloom_serve"
T = TypeVar("T")


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What points Airloom to a node of its own."""
    with cassandra.served(is_quick=True) as (node,):
        yield {
            "AIRLOOM_OBJECTS__FOLDER": str(tmp_path_factory.mktemp("objects")),
            "AIRLOOM_STORE__CASSANDRA": node.host,
            "AIRLOOM_STORE__PORT": str(node.port),
            "AIRLOOM_STORE__KEYSPACE": KEYSPACE,
            "AIRLOOM_STORE__REPLICATION_FACTOR": "1",
        }


def airloom(environment: dict[str, str], *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "airloom", *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


async def test_migrated_served_and_killed(environment: dict[str, str], tmp_path: Path) -> None:
    run = asyncio.to_thread
    checked = await run(airloom, environment, "store", "check")
    assert checked.returncode == 78
    assert "airloom store migrate" in checked.stderr
    refused = await run(airloom, {**environment, "AIRLOOM_NODE__DATA_DIR": str(tmp_path / "x")}, "serve")
    assert refused.returncode == 78
    assert "airloom store migrate" in refused.stderr
    for before in (0, SCHEMA_VERSION):
        found = f"schema {before} before, {SCHEMA_VERSION} now"
        migrated = await run(airloom, environment, "store", "migrate")
        assert (migrated.returncode, found in migrated.stdout) == (0, True), migrated
    assert (await run(airloom, environment, "store", "check")).returncode == 0

    served = Served(
        tmp_path / "var",
        gateway_address=free_gateway_address(),
        api_port=free_tcp_port("127.0.0.1", 0),
        environment={
            **environment,
            "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            "AIRLOOM_RADIUS__CLIENTS": radius_clients(NAS_SECRET, "127.0.0.0/8"),
            "AIRLOOM_EDGE__DEVICE_NETWORK": "off",
        },
    )
    await served.start()
    gateway = served.gateway_address
    nas = Nas(
        network=UdpNetwork(),
        address=free_gateway_address("127.0.3"),
        authentication=(gateway, 1812),
        accounting=(gateway, 1813),
        secret=NAS_SECRET.encode(),
        entropy=SystemEntropy(),
    )
    try:
        async with nas.running():
            async with ApiClient(served.endpoint) as customer:
                await customer.sign_up("cassandra@example.com", "Aa1-on-cassandra")
                sim = await customer.new_sim()
                (profile,) = sim["profiles"].values()
                (imsi,) = profile["subscribers"]
                session = await nas.attach(imsi=imsi, apn="soracom.io")
                session.carry(1_000_000, 2_000_000)
                await nas.report(session)
                await served.kill()
                await served.start()
                session.carry(1, 2)
                await nas.report(session)
                await nas.detach(session)
                stored = await customer.call("GET", f"/sims/{sim['simId']}")
                assert stored["sessionStatus"]["online"] is False
        engine = await CassandraEngine.open(address=address_in(environment, KEYSPACE), clock=SystemClock())
        store = WideColumnStore(engine=engine, clock=SystemClock())
        today = int(SystemClock().now().strftime("%Y%m%d"))
        rows = await store.usage.of_day(imsi, today)
        await store.aclose()
        assert {(row.volume.up_bytes, row.volume.down_bytes) for row in rows[-1:]} == {(1_000_001, 2_000_002)}
    finally:
        await served.stop()


async def test_tables_of_an_earlier_version_get_what_they_lack(environment: dict[str, str]) -> None:
    keyspace = "airloom_earlier"
    address = address_in(environment, keyspace)
    earlier = replace(SESSION_BY_GATEWAY, values=SESSION_BY_GATEWAY.values[:1])
    cluster, session = await asyncio.to_thread(connect, address)

    def make() -> None:
        session.execute(cql.create_keyspace(keyspace, cassandra.DATACENTER, 1))
        session.execute(cql.create_schema_table(keyspace))
        session.execute(cql.create_table(keyspace, earlier))
        session.execute(cql.put_schema(keyspace), (cql.SCHEMA_NAME, SCHEMA_VERSION - 1))
        insert = session.prepare(cql.insert(keyspace, earlier))
        session.execute(insert, ("vg-1", 3, "s1", "sim-1", 0, cql.NEVER_US, 0, 0))
        session.execute(f'ALTER TABLE "{keyspace}"."{earlier.name}" DROP checksum')

    await asyncio.to_thread(make)
    with pytest.raises(ConfigurationError, match="run airloom store migrate"):
        await CassandraEngine.open(address=address, clock=SystemClock())
    assert await migrate(address=address, replication_factor=1) == SCHEMA_VERSION - 1
    engine = await CassandraEngine.open(address=address, clock=SystemClock())
    (row,) = await engine.get(SESSION_BY_GATEWAY, [RowKey(("vg-1", 3), ("s1",))])
    assert row is not None
    assert row.values == ("sim-1", *(EMPTY[column.type] for column in SESSION_BY_GATEWAY.values[1:]))
    await engine.aclose()
    await asyncio.to_thread(cluster.shutdown)


async def test_a_checksum_tells_of_damage_and_not_of_an_older_node_that_wrote(
    environment: dict[str, str],
) -> None:
    """A node of 0.2.0 names all columns but the checksum's, and its write is later than that."""
    keyspace = "airloom_summed"
    address = address_in(environment, keyspace)
    await migrate(address=address, replication_factor=1)
    engine = await CassandraEngine.open(address=address, clock=SystemClock())
    cluster, session = await asyncio.to_thread(connect, address)
    table, key = f'"{keyspace}"."{OPERATOR.name}"', RowKey(("OP1",))

    async def execute(text: str) -> Any:
        return await asyncio.to_thread(session.execute, text)

    for version in (0, 2):
        put, condition = Put((), ("{}",), version + 1), Condition((), version)
        await engine.write(Batch(OPERATOR, key.partition, (put,), condition))
        (row,) = await engine.get(OPERATOR, [key])
        assert row == Row((), ("{}",), version + 1)
        at = (await execute(f"SELECT WRITETIME(version) FROM {table}")).one()[0]  # noqa: S608 - our own names
        await execute(f"UPDATE {table} USING TIMESTAMP {at} SET body = '{{~' WHERE operator_id = 'OP1'")  # noqa: S608 - ours
        (row,) = await engine.get(OPERATOR, [key])
        assert row is not None
        with pytest.raises(CorruptRow, match=r"table operator, key \(OP1\)"):
            _ = row.values[0]
        older = f"SET body = '[]', version = {version + 2}, expires_us = {cql.NEVER_US}"
        await execute(f"UPDATE {table} {older} WHERE operator_id = 'OP1' IF version = {version + 1}")
        (row,) = await engine.get(OPERATOR, [key])
        assert row == Row((), ("[]",), version + 2)
    await engine.aclose()
    await asyncio.to_thread(cluster.shutdown)


@pytest.mark.parametrize(
    ("readable_from", "is_usable"), [(SCHEMA_VERSION, True), (SCHEMA_VERSION + 1, False)]
)
async def test_tables_of_the_next_version_are_used_while_they_fit(
    environment: dict[str, str], readable_from: int, is_usable: bool
) -> None:
    address = address_in(environment, "airloom_next")
    with suppress(ConfigurationError):  # the second time they are too new
        await migrate(address=address, replication_factor=1)
    cluster, session = await asyncio.to_thread(connect, address)
    for row in ((cql.SCHEMA_NAME, SCHEMA_VERSION + 1), (cql.READABLE_NAME, readable_from)):
        await asyncio.to_thread(session.execute, cql.put_schema(address.keyspace), row)
    await asyncio.to_thread(cluster.shutdown)
    if is_usable:
        await (await CassandraEngine.open(address=address, clock=SystemClock())).aclose()
    else:
        with pytest.raises(ConfigurationError, match="run a newer Airloom"):
            await CassandraEngine.open(address=address, clock=SystemClock())


def address_in(environment: dict[str, str], keyspace: str) -> CassandraAddress:
    return CassandraAddress(
        (environment["AIRLOOM_STORE__CASSANDRA"],),
        keyspace,
        cassandra.DATACENTER,
        port=int(environment["AIRLOOM_STORE__PORT"]),
    )


async def tried(call: Callable[[], Awaitable[T]]) -> T:
    """As services do: again while the store cannot, until a dead node is known to be dead."""
    for _ in range(20):
        with suppress(Unavailable):
            return await call()
        await asyncio.sleep(0.5)
    return await call()


async def test_each_report_has_its_own_outcome_and_every_call_ends() -> None:
    """Of one batch: other timestamps, one report refused, statements forgotten, a node that stands still."""
    with cassandra.served(is_quick=True) as (node,):
        address = cassandra.address_of([node], "airloom_outcomes")
        await migrate(address=address, replication_factor=1)
        engine = await CassandraEngine.open(address=address, clock=SystemClock())
        usage = WideColumnStore(engine=engine, clock=SystemClock()).usage
        imsis = [f"0010100000{number:05d}" for number in range(30)]

        async def record(*values: int, timestamp_us: int, more: str = "") -> list[BaseException | None]:
            """A report of each value for each SIM, each value a microsecond older than the one before it."""
            reports = [
                replace(report_of(value), imsi=imsi, timestamp_us=timestamp_us - age)
                for age, value in enumerate(values)
                for imsi in (*imsis, more)
                if imsi
            ]
            return await asyncio.gather(*(usage.record([each]) for each in reports), return_exceptions=True)

        async def stored() -> set[int]:
            days = [await usage.of_day(imsi, 20261130) for imsi in imsis]
            return {row.volume.up_bytes for (row,) in days}

        assert await record(1, timestamp_us=10) == [None] * 30
        assert await record(5, 9, 7, timestamp_us=20) == [None] * 90
        assert await stored() == {5}

        (*taken, refused) = await record(2, timestamp_us=30, more="0" * 70_000)
        assert taken == [None] * 30
        assert isinstance(refused, Unavailable)
        assert not refused.ambiguous
        assert await stored() == {2}

        await asyncio.to_thread(forget_statements, address)
        assert await record(4, timestamp_us=40) == [None] * 30
        assert await stored() == {4}

        node.pause()
        began = asyncio.get_running_loop().time()
        late = await record(3, timestamp_us=50)
        assert TIMEOUT_S <= asyncio.get_running_loop().time() - began < TIMEOUT_S + 3 * SWEEP_S
        assert all(isinstance(error, Unavailable) and error.ambiguous for error in late)
        node.resume()
        await tried(partial(usage.record, [replace(report_of(6), imsi=imsis[0], timestamp_us=60)]))
        assert await record(6, timestamp_us=60) == [None] * 30
        assert await stored() == {6}
        await engine.aclose()


def forget_statements(address: CassandraAddress) -> None:
    """A column more: Cassandra forgets what was prepared for the table."""
    cluster, session = connect(address)
    try:
        session.execute(f'ALTER TABLE "{address.keyspace}"."{USAGE.name}" ADD later text')
    finally:
        cluster.shutdown()


async def test_three_nodes_go_on_with_two() -> None:
    """Replication 3, LOCAL_QUORUM: a node killed during writes loses none that was acknowledged."""
    with cassandra.served(3, is_quick=True) as nodes:
        address = cassandra.address_of(nodes, "airloom_three")
        await migrate(address=address, replication_factor=3)
        engine = await CassandraEngine.open(address=address, clock=SystemClock())
        store = WideColumnStore(engine=engine, clock=SystemClock())
        sim = await store.sims.put(sim_of(1, operator_id="OP0000000001"))
        stored = await store.sessions.put(session_of(sim), event_of(sim))

        async def write(first: int) -> None:
            for value in range(first, 1_000, 20):
                await tried(partial(store.usage.record, [report_of(value, session=f"s{first}")]))

        writing = asyncio.gather(*(write(first) for first in range(20)))
        await asyncio.sleep(0.5)
        await asyncio.to_thread(nodes[2].kill)
        await writing
        assert await store.sims.get(sim.sim_id) == sim
        with suppress(StaleVersion):  # a try whose answer was lost was stored
            await tried(partial(store.sessions.put, stored, event_of(sim, 2)))
        assert await store.sessions.of_sim(sim.sim_id) == [replace(stored, version=2)]
        rows = await store.usage.of_day("001010000000001", 20261130)
        last = {row.session_id: row.volume.up_bytes for row in rows}
        assert last == {f"s{first}": 980 + first for first in range(20)}
        await store.aclose()
