"""What is particular to the embedded store: group commit, limits, kill -9, disks that refuse."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from datetime import timedelta
from pathlib import Path

import pytest

from core.adapters.clock import SystemClock
from core.adapters.store import bulk as bulk_module
from core.adapters.store import sqlite as sqlite_module
from core.adapters.store.bulk import CALLS_AT_ONCE, ROWS_AT_ONCE, BulkEngine
from core.adapters.store.engine import Batch, Condition, Put, Row, RowKey
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.sqlite import (
    GROUP_REQUESTS_MAX,
    LEASES_WAITING_MAX,
    READS_WAITING_MAX,
    WRITES_WAITING_MAX,
    SqliteEngine,
)
from core.adapters.store.tables import (
    GATEWAY_LEASE,
    OPERATOR,
    OUTBOX,
    REVOKED_TOKEN,
    SCHEMA_VERSION,
    SESSION_BY_GATEWAY,
    SIM_GROUP,
    Table,
)
from core.adapters.store.wide_column import WideColumnStore
from core.domain.values import replace
from core.errors import ConfigurationError, Unavailable
from tests.contract.stores import SetClock, mount, report_of, sim_of, unmount

CALLERS = 256


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[SqliteEngine]:
    made = await SqliteEngine.open(path=tmp_path / "airloom.db", clock=SystemClock())
    yield made
    await made.aclose()


def rows_in(path: Path, table: str) -> int:
    with closing(sqlite3.connect(path)) as connection:
        count: int = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()[0]  # noqa: S608 - our own table
    return count


def token(number: int, *, expires_us: int = 0) -> Batch:
    return Batch(REVOKED_TOKEN, (f"t{number:06d}",), (Put((), (), expires_us=expires_us),))


async def test_concurrent_writes_share_commits(engine: SqliteEngine, tmp_path: Path) -> None:
    before = engine.commits
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(engine.write(token(number)))
    assert engine.commits - before < CALLERS / 8
    assert rows_in(tmp_path / "airloom.db", "revoked_token") == CALLERS


async def test_a_full_queue_refuses_at_once_and_takes_again_later(engine: SqliteEngine) -> None:
    many = [token(number) for number in range(WRITES_WAITING_MAX)]
    writing = asyncio.create_task(engine.write_all(many))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match=str(WRITES_WAITING_MAX)) as refused:
        await engine.write(token(0))
    assert not refused.value.ambiguous
    await writing
    await engine.write(token(0))


async def test_too_many_reads_are_refused(engine: SqliteEngine) -> None:
    keys = [RowKey((f"t{number}",)) for number in range(READS_WAITING_MAX)]
    reading = asyncio.create_task(engine.get(REVOKED_TOKEN, keys))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match=str(READS_WAITING_MAX)):
        await engine.get(REVOKED_TOKEN, keys[:1])
    assert await reading == [None] * READS_WAITING_MAX


async def test_a_lease_is_renewed_though_all_else_waits(engine: SqliteEngine) -> None:
    many = [token(number) for number in range(WRITES_WAITING_MAX)]
    writing = asyncio.create_task(engine.write_all(many))
    await asyncio.sleep(0)
    lease = Batch(GATEWAY_LEASE, ("vg-1",), (Put((), ("{}",), 1),), Condition((), 0))
    with pytest.raises(Unavailable):
        await engine.write(token(0))
    await engine.write(lease)
    await writing
    keys = [RowKey((f"t{number}",)) for number in range(READS_WAITING_MAX)]
    reading = asyncio.create_task(engine.get(REVOKED_TOKEN, keys))
    await asyncio.sleep(0)
    (row,) = await engine.get(GATEWAY_LEASE, [RowKey(("vg-1",))])
    assert row is not None
    await reading


@pytest.mark.parametrize("calls", [LEASES_WAITING_MAX])
async def test_calls_for_leases_are_bounded_too(engine: SqliteEngine, calls: int) -> None:
    keys = [RowKey((f"t{number}",)) for number in range(READS_WAITING_MAX)]
    reading = asyncio.create_task(engine.get(REVOKED_TOKEN, keys))
    await asyncio.sleep(0)
    asked = [RowKey((f"vg-{number}",)) for number in range(calls)]
    more = asyncio.create_task(engine.get(GATEWAY_LEASE, asked))
    await asyncio.sleep(0)
    with pytest.raises(Unavailable):
        await engine.get(GATEWAY_LEASE, [RowKey(("vg-1",))])
    await asyncio.gather(reading, more)


async def test_what_is_read_at_once_is_of_one_moment(engine: SqliteEngine) -> None:
    """Each commit writes both ends alike, so a read of both never finds them different."""
    ends, keys = [("a",), ("z",)], [RowKey((f"t{number}",), ("g",)) for number in range(200)]
    keys = [RowKey(("a",), ("g",)), *keys, RowKey(("z",), ("g",))]

    async def write(number: int) -> None:
        await engine.write(*(Batch(SIM_GROUP, end, (Put(("g",), (str(number),)),)) for end in ends))

    async def write_on() -> None:
        for number in range(1, 300):
            await write(number)

    await write(0)
    writing = asyncio.create_task(write_on())
    seen: set[str] = set()
    while not writing.done():
        first, *_, last = await engine.get(SIM_GROUP, keys)
        assert first is not None
        assert first == last
        ((one,), (other,)) = await engine.scan_each(SIM_GROUP, ends)
        assert one == other
        seen.add(str(first.values[0]))
    await writing
    assert len(seen) > 10


async def test_customers_lists_never_stand_before_an_attach(engine: SqliteEngine) -> None:
    """40 lists of 1,000 SIMs at once: before, they were refused, and so was every attach."""
    bulk = BulkEngine(engine)
    keys = [RowKey((f"t{number}",)) for number in range(1_000)]
    partitions = [(f"sim-{number}",) for number in range(1_000)]
    lists = [asyncio.ensure_future(bulk.get(REVOKED_TOKEN, keys)) for _ in range(40)]
    more = [asyncio.ensure_future(bulk.scan_each(SIM_GROUP, partitions)) for _ in range(40)]
    for _ in range(20):
        await engine.get(OPERATOR, [RowKey(("an attach reads",))])
        await engine.write(token(1))
    assert not any(each.done() for each in (*lists, *more))
    await asyncio.gather(*lists, *more)


async def test_bulk_calls_are_bounded_and_fair(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_module, "CALLS_MAX", 20)
    below = CountingEngine()
    bulk = BulkEngine(below)
    key = RowKey(("t",))
    long = asyncio.create_task(bulk.get(REVOKED_TOKEN, [key] * 100_000))
    short = [asyncio.create_task(bulk.get(REVOKED_TOKEN, [key])) for _ in range(19)]
    await asyncio.sleep(0)
    with pytest.raises(Unavailable, match="20 customer calls"):
        await bulk.write(token(0))
    await asyncio.gather(*short)
    assert not long.done(), "a long one holds up no short one"
    await bulk.write_all([token(number) for number in range(100)])
    long.cancel()
    assert (below.calls_max, below.rows_max) == (CALLS_AT_ONCE, ROWS_AT_ONCE)


class CountingEngine(MemoryEngine):
    """How many calls are before it at a time, and the rows of the largest."""

    def __init__(self) -> None:
        super().__init__(disk=Disk(), clock=SetClock())
        self.calls = self.calls_max = self.rows_max = 0

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        async with self._call(len(keys)):
            return await super().get(table, keys)

    async def write_all(self, batches: Sequence[Batch]) -> None:
        async with self._call(len(batches)):
            await super().write_all(batches)

    @asynccontextmanager
    async def _call(self, rows: int) -> AsyncIterator[None]:
        self.calls += 1
        self.calls_max, self.rows_max = max(self.calls_max, self.calls), max(self.rows_max, rows)
        await asyncio.sleep(0.001)
        yield
        self.calls -= 1


async def test_a_commit_takes_a_bounded_number_of_calls(engine: SqliteEngine) -> None:
    before = engine.commits
    async with asyncio.TaskGroup() as group:
        for number in range(2 * GROUP_REQUESTS_MAX + 1):
            group.create_task(engine.write(token(number)))
    assert engine.commits - before >= 3


async def test_one_write_that_cannot_be_stored_does_not_harm_its_neighbours(
    engine: SqliteEngine, tmp_path: Path
) -> None:
    poison = Batch(OPERATOR, ("OP1",), (Put((), ("\ud800",)),))
    results = await asyncio.gather(
        *(engine.write(token(n)) for n in range(10)),
        engine.write(token(10), poison),
        *(engine.write(token(n)) for n in range(11, 20)),
        return_exceptions=True,
    )
    assert isinstance(results[10], UnicodeEncodeError)
    assert [r for r in results if r is not None] == [results[10]]
    assert rows_in(tmp_path / "airloom.db", "revoked_token") == 19


async def test_rows_are_removed_after_their_life(tmp_path: Path) -> None:
    clock = SetClock()
    engine = await SqliteEngine.open(path=tmp_path / "airloom.db", clock=clock)
    await engine.write(token(1, expires_us=int(clock.at.timestamp() + 1) * 1_000_000))
    await engine.write(token(2))
    clock.at += timedelta(seconds=sqlite_module.PURGE_INTERVAL_S)
    await engine.write(token(3))
    await engine.aclose()
    assert rows_in(tmp_path / "airloom.db", "revoked_token") == 2


async def test_one_purge_is_bounded_and_goes_on_until_nothing_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_module, "PURGE_ROWS_MAX", 2)
    clock = SetClock()
    engine = await SqliteEngine.open(path=tmp_path / "airloom.db", clock=clock)
    await engine.write_all([token(number, expires_us=1) for number in range(5)])
    groups = [Batch(SIM_GROUP, ("OP1",), (Put((str(number),), ("",), expires_us=1),)) for number in range(4)]
    await engine.write_all(groups)
    clock.at += timedelta(seconds=sqlite_module.PURGE_INTERVAL_S)
    left = []
    for _ in range(7):
        await engine.write(token(9))
        left.append(
            rows_in(tmp_path / "airloom.db", "revoked_token") + rows_in(tmp_path / "airloom.db", "sim_group")
        )
        clock.at += timedelta(seconds=sqlite_module.PURGE_AGAIN_S)
    assert left == [8, 6, 4, 2, 1, 1, 1]
    await engine.aclose()


@pytest.mark.parametrize(
    ("code", "ambiguous"),
    [(sqlite3.SQLITE_FULL, False), (sqlite3.SQLITE_BUSY, False), (sqlite3.SQLITE_IOERR_FSYNC, True)],
)
def test_only_an_io_error_leaves_the_outcome_unknown(code: int, ambiguous: bool) -> None:
    error = sqlite3.OperationalError("refused")
    error.sqlite_errorcode = code
    assert sqlite_module._unavailable(error).ambiguous is ambiguous


async def test_a_file_that_was_damaged_is_unavailable(engine: SqliteEngine, tmp_path: Path) -> None:
    await engine.write(token(1))
    await engine.aclose()
    path = tmp_path / "airloom.db"
    size = path.stat().st_size
    damaged = await SqliteEngine.open(path=path, clock=SystemClock())
    os.truncate(path, 4_096)
    os.truncate(path, size)
    with pytest.raises(Unavailable):
        await damaged.write(token(2))
    with pytest.raises(Unavailable):
        await damaged.get(REVOKED_TOKEN, [RowKey(("t",))])
    await damaged.aclose()


# -- disks that refuse --------------------------------------------------------------------------------


async def refusal_at_open(path: Path) -> str:
    with pytest.raises(ConfigurationError) as refused:
        await SqliteEngine.open(path=path, clock=SystemClock())
    assert "\n" not in str(refused.value)
    return str(refused.value)


async def test_a_file_in_use_by_another_process_is_named(engine: SqliteEngine, tmp_path: Path) -> None:
    assert "in use by another process" in await refusal_at_open(tmp_path / "airloom.db")


async def test_a_file_of_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "airloom.db").write_bytes(b"not a database at all, " * 100)
    assert "file is not a database" in await refusal_at_open(tmp_path / "airloom.db")


async def test_a_file_of_another_schema_is_named(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "airloom.db")) as connection:
        connection.execute("PRAGMA user_version = 99")
    assert "schema 99" in await refusal_at_open(tmp_path / "airloom.db")


async def test_a_file_of_an_earlier_schema_gets_what_it_lacks(tmp_path: Path) -> None:
    session = RowKey(("vg-1", 3), ("s1",))
    engine = await SqliteEngine.open(path=tmp_path / "airloom.db", clock=SystemClock())
    await engine.write(
        Batch(
            SESSION_BY_GATEWAY,
            session.partition,
            (Put(session.clustering, ("sim-1", 7, "10.128.0.2", 1, 2)),),
        )
    )
    await engine.aclose()
    with closing(sqlite3.connect(tmp_path / "airloom.db", isolation_level=None)) as connection:
        connection.execute('ALTER TABLE session_by_gateway DROP COLUMN "indexed_us"')
        connection.execute('ALTER TABLE session_by_gateway DROP COLUMN "checksum"')
        connection.execute("DROP TABLE outbox")
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION - 1}")
    engine = await SqliteEngine.open(path=tmp_path / "airloom.db", clock=SystemClock())
    (row,) = await engine.get(SESSION_BY_GATEWAY, [session])
    assert row is not None
    assert row.values == ("sim-1", 0, "10.128.0.2", 1, 2)
    assert await engine.scan(OUTBOX, ("vg-1", 0)) == []
    await engine.aclose()


async def test_a_file_that_a_person_keeps_locked(
    engine: SqliteEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await engine.aclose()
    monkeypatch.setattr(sqlite_module, "BUSY_S", 0.05)
    made = await SqliteEngine.open(path=tmp_path / "airloom.db", clock=SystemClock())
    with closing(sqlite3.connect(tmp_path / "airloom.db", isolation_level=None)) as person:
        person.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked") as refused:
            await made.write(token(1))
        assert not refused.value.ambiguous
        person.execute("ROLLBACK")
        await made.write(token(2))
        await made.aclose()
        person.execute("BEGIN IMMEDIATE")
        assert "locked" in await refusal_at_open(tmp_path / "airloom.db")
    assert rows_in(tmp_path / "airloom.db", "revoked_token") == 1


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("not run: a small disk is mounted as root only")
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = mount("-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder))
    if mounted.returncode:
        pytest.skip(f"not run: tmpfs cannot be mounted here: {mounted.stderr.decode().strip()}")
    yield folder
    unmount(folder)


@pytest.mark.root
async def test_a_read_only_folder_is_named(small_disk: Path) -> None:
    mount("-o", "remount,ro", str(small_disk)).check_returncode()
    assert "Read-only file system" in await refusal_at_open(small_disk / "airloom.db")


@pytest.mark.root
async def test_a_disk_that_runs_full_loses_nothing_that_was_acknowledged(small_disk: Path) -> None:
    path = small_disk / "airloom.db"
    engine = await SqliteEngine.open(path=path, clock=SystemClock())
    store = WideColumnStore(engine=engine, clock=SystemClock())
    kept = 0
    with pytest.raises(Unavailable, match="full") as refused:
        for number in range(10_000):
            await store.sims.put(replace(sim_of(number), tags={"filler": "x" * 5_000}))
            kept += 1
    assert not refused.value.ambiguous
    assert kept > 10
    assert (await store.sims.get(sim_of(kept - 1).sim_id)) is not None
    assert (await store.sims.get(sim_of(kept).sim_id)) is None
    await store.aclose()
    mount("-o", "remount,size=8m", str(small_disk)).check_returncode()
    engine = await SqliteEngine.open(path=path, clock=SystemClock())
    store = WideColumnStore(engine=engine, clock=SystemClock())
    assert len((await store.sims.of_operator("", limit=1_000)).items) == kept
    await store.sims.put(sim_of(kept))
    await store.aclose()


# -- kill -9 ------------------------------------------------------------------------------------------

WRITER = """
import asyncio, sys
from pathlib import Path
from core.adapters.clock import SystemClock
from core.adapters.store.sqlite import SqliteEngine
from core.adapters.store.wide_column import WideColumnStore
from tests.contract.stores import event_of, session_of, sim_of

async def caller(store, first):
    for number in range(first, 10_000, 16):
        await store.sessions.put(session_of(sim_of(number), number), event_of(sim_of(number), number))
        sys.stdout.write(f"{number}\\n")
        sys.stdout.flush()

async def main():
    engine = await SqliteEngine.open(path=Path(sys.argv[1]), clock=SystemClock())
    store = WideColumnStore(engine=engine, clock=SystemClock())
    async with asyncio.TaskGroup() as group:
        for first in range(16):
            group.create_task(caller(store, first))

asyncio.run(main())
"""


def killed_writer(path: Path, acknowledged_min: int) -> list[int]:
    """What a child had acknowledged when it was killed in the middle of its writes."""
    command = [sys.executable, "-c", WRITER, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [child.stdout.readline() for _ in range(acknowledged_min)]
        child.send_signal(signal.SIGKILL)
        lines += child.stdout.readlines()
    assert child.returncode == -signal.SIGKILL
    return [int(line) for line in lines if line.endswith("\n")]


async def test_everything_acknowledged_survives_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "airloom.db"
    acknowledged = await asyncio.to_thread(killed_writer, path, 200)
    assert path.with_name("airloom.db-wal").stat().st_size > 0
    clock = SetClock()
    engine = await SqliteEngine.open(path=path, clock=clock)
    store = WideColumnStore(engine=engine, clock=clock)
    gateway = {session.session_id async for session in store.sessions.of_gateway("vg-1")}
    for number in acknowledged:
        sim_id = sim_of(number).sim_id
        (session,) = await store.sessions.of_sim(sim_id)
        assert session.session_id in gateway
    for sim_id in {sim_of(number).sim_id for number in range(10_000)}:
        open_now = await store.sessions.of_sim(sim_id)
        events = await store.sessions.events(sim_id, since=clock.at, until=clock.at)
        assert len(open_now) == len(events.items)  # never half a batch
    await store.aclose()


async def test_a_person_may_read_the_file_meanwhile(engine: SqliteEngine, tmp_path: Path) -> None:
    store = WideColumnStore(engine=engine, clock=SystemClock())
    await store.sims.put(sim_of(1, operator_id="OP1"))
    await store.usage.record([report_of(3)])
    with closing(sqlite3.connect(tmp_path / "airloom.db")) as person:
        tag = "SELECT json_extract(body, '$.tags.name') FROM sim"
        assert person.execute(tag).fetchall() == [("sim 1",)]
        assert person.execute("SELECT up_bytes, plmn FROM usage").fetchall() == [(3, "44010")]
