"""A changed octet anywhere in a stored row is reported, and the row is never used."""

import sqlite3
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from core.adapters.store.checksums import CorruptRow, is_damaged
from core.adapters.store.engine import Batch, Condition, Key, Put, Row, RowKey, Value
from core.adapters.store.sqlite import SqliteEngine
from core.adapters.store.statements import add_column
from core.adapters.store.tables import (
    OPERATOR,
    OUTBOX,
    SCHEMA_VERSION,
    SIM,
    SIM_BY_IMSI,
    TABLES,
    Column,
    ColumnType,
    Table,
)
from core.adapters.store.wide_column import WideColumnStore
from core.domain.account import Operator
from core.domain.session import QuarantinedResources
from core.domain.values import replace
from core.errors import StaleVersion
from core.ports.store import DamagedEvent
from tests.contract.stores import NOW, SetClock, event_of, report_of, session_of, sim_of

EXPIRES_US = 2**51 + 12_345


class Stage:
    """An embedded store, and the octets of its rows."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "airloom.db"
        self.clock = SetClock()

    async def open(self) -> None:
        self.engine = await SqliteEngine.open(path=self.path, clock=self.clock)
        self.store = WideColumnStore(engine=self.engine, clock=self.clock)

    def execute(self, sql: str, bound: Sequence[Value] = ()) -> list[tuple[Value, ...]]:
        with closing(sqlite3.connect(self.path, isolation_level=None)) as connection:
            return connection.execute(sql, bound).fetchall()

    async def first(self, table: Table, partition: Key, clustering: Key) -> Row:
        """Of a partition, though its key be another than it was, as the file has it."""
        if table.clustering:
            (row,) = await self.engine.scan(table, partition)
            return row
        (found,) = await self.engine.get(table, [RowKey(partition, clustering)])
        assert found is not None
        return found

    def damage(self, table: Table, column: str) -> None:
        """Change the last octet of a column of every row."""
        for (value,) in self.execute(f'SELECT "{column}" FROM "{table.name}"'):  # noqa: S608 - our own names
            changed = str(value)[:-1] + chr(ord(str(value)[-1]) ^ 1)
            self.execute(
                f'UPDATE "{table.name}" SET "{column}" = ? WHERE "{column}" = ?',  # noqa: S608 - the same
                (int(changed) if isinstance(value, int) else changed, value),
            )


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    await made.open()
    yield made
    await made.engine.aclose()


def key_of(columns: Sequence[Column]) -> Key:
    filled: dict[ColumnType, Value] = {ColumnType.TEXT: "é7", ColumnType.BIGINT: 70_000}
    return tuple(filled[column.type] for column in columns)


def flips(value: Value) -> Iterator[tuple[str, Value]]:
    """SQL literals of each value that differs in one octet."""
    if isinstance(value, int):
        for bit in range(0, 63, 5):
            yield "?", value ^ 1 << bit
        return
    octets = value.encode() if isinstance(value, str) else value
    for at in range(len(octets)):
        for bit in (0, 7):
            yield "CAST(? AS TEXT)", octets[:at] + bytes((octets[at] ^ 1 << bit,)) + octets[at + 1 :]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
async def test_each_octet_of_each_column_is_watched(stage: Stage, table: Table) -> None:
    partition, clustering, values = map(key_of, (table.partition, table.clustering, table.values))
    put = Put(clustering, values, 3, expires_us=EXPIRES_US)
    await stage.engine.write(Batch(table, partition, (put,)))
    kept = [Column(name, ColumnType.BIGINT) for name in ("version", "written_us", "expires_us", "checksum")]
    columns = [*table.clustering, *table.values, *kept]
    names = ", ".join(f'"{column.name}"' for column in columns)
    (stored,) = stage.execute(f'SELECT {names} FROM "{table.name}"')  # noqa: S608 - the same
    whole = await stage.first(table, partition, clustering)
    assert whole == Row(clustering, values, 3)
    for column, value in zip(columns, stored, strict=True):
        set_to = f'UPDATE "{table.name}" SET "{column.name}" = '  # noqa: S608 - our own names
        for how, flipped in flips(value):
            stage.execute(set_to + how, (flipped,))
            row = await stage.first(table, partition, clustering)
            assert is_damaged(row), (column.name, flipped)
            with pytest.raises(CorruptRow, match=f"table {table.name}"):
                list(row.clustering)
            with pytest.raises(CorruptRow, match=f"table {table.name}"):
                _ = row.values[0]
            stage.execute(set_to + "?", (value,))
    assert await stage.first(table, partition, clustering) == whole


async def test_a_damaged_entity_is_named_and_its_neighbours_are_read(stage: Stage) -> None:
    for operator_id in ("OP1", "OP2"):
        await stage.store.accounts.put_operator(Operator(operator_id, f"{operator_id}@example.com", NOW, NOW))
    stage.execute("UPDATE operator SET body = replace(body, 'OP1@', 'OP3@')")
    with pytest.raises(CorruptRow, match=r"table operator, key \(OP1\): what is stored contradicts"):
        await stage.store.accounts.operator("OP1")
    assert await stage.store.accounts.operator("OP2") is not None


async def test_a_damaged_row_is_not_kept_in_memory(stage: Stage) -> None:
    await stage.store.accounts.put_operator(Operator("OP1", "owner@example.com", NOW, NOW))
    ((body,),) = stage.execute("SELECT body FROM operator")
    stage.damage(OPERATOR, "body")
    with pytest.raises(CorruptRow):
        await stage.store.accounts.operator("OP1")
    stage.execute("UPDATE operator SET body = ?", (body,))
    assert await stage.store.accounts.operator("OP1") is not None


async def test_a_binding_a_report_and_an_event_that_are_damaged_are_told(stage: Stage) -> None:
    sim = sim_of(1)
    await stage.store.sims.put(sim)
    await stage.store.usage.record([report_of(5)])
    await stage.store.sessions.record(event_of(sim))
    stage.damage(SIM_BY_IMSI, "owner")
    stage.execute("UPDATE usage SET up_bytes = up_bytes + 1")
    stage.execute("UPDATE sim SET body = body || ' ' WHERE kind = 'event'")
    with pytest.raises(CorruptRow, match="table sim_by_imsi"):
        await stage.store.sims.sim_id_of_imsi(sim.imsi)
    with pytest.raises(CorruptRow, match="table usage"):
        await stage.store.usage.of_day("001010000000001", 20261130)
    with pytest.raises(CorruptRow, match="table sim"):
        await stage.store.sessions.events(sim.sim_id, since=NOW, until=NOW)


@pytest.mark.parametrize("column", ["event_id", "sim_id", "at_us"])
async def test_a_damaged_row_of_the_outbox_is_told_and_can_be_removed(stage: Stage, column: str) -> None:
    sessions = stage.store.sessions
    for number in (1, 2):
        await sessions.put(session_of(sim_of(number), number), event_of(sim_of(number), number))
    ((event_id,),) = stage.execute("SELECT event_id FROM outbox ORDER BY bucket LIMIT 1")
    changed = {"event_id": "'f' || substr(event_id, 2)", "sim_id": "'8' || sim_id", "at_us": "at_us + 1"}
    stage.execute(f"UPDATE outbox SET {column} = {changed[column]} WHERE event_id = ?", (event_id,))  # noqa: S608 - ours
    found = await sessions.outbox("vg-1", limit=10)
    damaged = [each for each in found if isinstance(each, DamagedEvent)]
    assert len(found) == 2
    assert "table outbox" in damaged[0].why
    await sessions.sent("vg-1", found)
    assert await sessions.outbox("vg-1", limit=10) == []
    assert not stage.execute("SELECT * FROM outbox")


async def test_what_a_damaged_index_row_seems_to_name_is_in_quarantine_and_told(stage: Stage) -> None:
    stored = [
        await stage.store.sessions.put(session_of(sim_of(number), number), event_of(sim_of(number), number))
        for number in (1, 2)
    ]
    stage.execute("UPDATE session_by_gateway SET teid_user = 9 WHERE session_id = ?", (stored[0].session_id,))
    found = [each async for each in stage.store.sessions.of_gateway("vg-1")]
    assert [each for each in found if not isinstance(each, QuarantinedResources)] == stored[1:]
    (resting,) = [each for each in found if isinstance(each, QuarantinedResources)]
    assert (resting.session_id, resting.ue_address) == (stored[0].session_id, stored[0].ue_address)
    assert "table session_by_gateway" in resting.unreadable


async def test_rows_without_a_checksum_are_read_and_get_one_when_they_are_written(stage: Stage) -> None:
    """As 0.2.0 left them: its tables have no such column."""
    await stage.store.accounts.put_operator(Operator("OP1", "owner@example.com", NOW, NOW))
    session = await stage.store.sessions.put(session_of(sim_of(1)), event_of(sim_of(1)))
    await stage.engine.aclose()
    for table in TABLES:
        stage.execute(f'ALTER TABLE "{table.name}" DROP COLUMN checksum')
    stage.execute("PRAGMA user_version = 4")
    await stage.open()
    assert stage.execute("PRAGMA user_version") == [(SCHEMA_VERSION,)]
    operator = await stage.store.accounts.operator("OP1")
    assert operator is not None
    assert await stage.store.sessions.of_sim(session.sim_id) == [session]
    assert await stage.store.sessions.outbox("vg-1", limit=10) == [event_of(sim_of(1))]
    assert stage.execute("SELECT checksum FROM operator") == [(0,)]
    await stage.store.accounts.put_operator(operator)
    ((checksum,),) = stage.execute("SELECT checksum FROM operator")
    assert checksum
    stage.damage(OPERATOR, "body")
    with pytest.raises(CorruptRow):
        await stage.store.accounts.operator("OP1")


async def test_a_column_that_a_later_version_adds_leaves_older_rows_intact(stage: Stage) -> None:
    await stage.store.sessions.put(session_of(sim_of(1)), event_of(sim_of(1)))
    stage.execute(add_column(OUTBOX, Column("later", ColumnType.TEXT)))
    later = replace(OUTBOX, values=(*OUTBOX.values, Column("later", ColumnType.TEXT)))
    (row,) = [row for bucket in range(4) for row in await stage.engine.scan(later, ("vg-1", bucket))]
    assert not is_damaged(row)
    assert row.values[-1] == ""


async def test_a_condition_is_about_the_row_and_tried_before_anything_is_written(stage: Stage) -> None:
    def batch(version: int) -> Batch:
        puts = (Put(("event", "a"), ("x",)), Put(("sim", "sim"), ("x",), version + 1))
        return Batch(SIM, ("s1",), puts, Condition(("sim", "sim"), version))

    for failing in (1, 7):
        with pytest.raises(StaleVersion):
            await stage.engine.write(batch(failing))
        assert await stage.engine.scan(SIM, ("s1",)) == []
    await stage.engine.write(batch(0))
    with pytest.raises(StaleVersion):
        await stage.engine.write(batch(0))
    await stage.engine.write(batch(1))
    (row,) = await stage.engine.get(SIM, [RowKey(("s1",), ("sim", "sim"))])
    assert row == Row(("sim", "sim"), ("x",), 2)
