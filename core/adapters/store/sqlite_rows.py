"""Rows of the embedded store, read and written on a connection by whichever thread has it."""

import sqlite3
from collections.abc import Callable, Sequence

from msgspec import Struct

from core.adapters.store.checksums import checksum_of, damaged_row, is_intact
from core.adapters.store.engine import Batch, Condition, Delete, Key, Put, Row, Value, expiry_us
from core.adapters.store.statements import Statements, statements_of
from core.adapters.store.tables import TABLES, Table
from core.errors import StaleVersion

STATEMENTS: dict[str, Statements] = {table.name: statements_of(table) for table in TABLES}


class Scan(Struct, frozen=True, gc=False):
    """What is read of one partition: its first rows that are not over."""

    table: Table
    partition: Key
    sql: str
    bound: Sequence[Value]
    limit: int


def select(connection: sqlite3.Connection, scan: Scan, read_now_us: Callable[[], int]) -> list[Row]:
    """The rows; one that its checksum contradicts says so, and is not known to be over."""
    table, partition, split = scan.table, scan.partition, len(scan.table.clustering)
    rows: list[Row] = []
    left, now_us = scan.limit, 0
    try:
        for found in connection.execute(scan.sql, scan.bound):
            kept = found[-4:-1]
            if not is_intact(found[-1], table, partition, found[:-4], kept):
                rows.append(damaged_row(table, partition, found[:split], found[split:-4], kept[0]))
            elif not kept[2] or kept[2] > (now_us := now_us or read_now_us()):
                rows.append(Row(found[:split], found[split:-4], kept[0]))
            else:
                continue
            left -= 1
            if not left:
                break  # the cursor is let go, and what it has read of the file
    except sqlite3.OperationalError as error:
        if "decode" not in str(error) or connection.text_factory is not str:
            raise
        return _select_undecodable(connection, scan, read_now_us)
    return rows


def _select_undecodable(
    connection: sqlite3.Connection, scan: Scan, read_now_us: Callable[[], int]
) -> list[Row]:
    """The rows, where a text of one of them is none: which one, its checksum says."""
    connection.text_factory = lambda octets: octets.decode(errors="surrogateescape")
    try:
        return select(connection, scan, read_now_us)
    finally:
        connection.text_factory = str


def apply(connection: sqlite3.Connection, batch: Batch, now_us: int) -> None:
    """Write a batch, in the transaction that there is; raises ``StaleVersion`` before any of it."""
    condition, conditional = batch.condition, None
    if condition is not None:
        for write in batch.writes:
            if write.clustering == condition.clustering:
                conditional = write
        _demand(connection, batch, condition, conditional, now_us)
    statements, partition = STATEMENTS[batch.table.name], batch.partition
    for write in batch.writes:
        if write is conditional:
            continue
        if type(write) is Put:
            sql = statements.put if write.timestamp_us is None else statements.put_newer
            kept = _kept(batch, write, now_us)
            connection.execute(sql, (*partition, *write.clustering, *write.values, *kept))
        else:
            connection.execute(statements.delete, (*partition, *write.clustering))


def _demand(
    connection: sqlite3.Connection,
    batch: Batch,
    condition: Condition,
    write: Put | Delete | None,
    now_us: int,
) -> None:
    """Write the row that the condition is about, if it holds; raises ``StaleVersion``."""
    statements = STATEMENTS[batch.table.name]
    key, version = (*batch.partition, *condition.clustering), condition.version
    if isinstance(write, Put):
        kept = _kept(batch, write, now_us)
        if version:
            bound = (*write.values, *kept, *key, version, now_us)
            is_held = connection.execute(statements.put_next, bound).rowcount == 1
        else:
            bound = (*key, *write.values, *kept, now_us)
            is_held = connection.execute(statements.put_new, bound).rowcount == 1
    elif version:
        is_held = connection.execute(statements.delete_version, (*key, version, now_us)).rowcount == 1
    else:
        is_held = connection.execute(statements.version, (*key, now_us)).fetchone() is None
    if not is_held:
        raise StaleVersion(f"{batch.table.name} {batch.partition} {condition.clustering}")


def _kept(batch: Batch, put: Put, now_us: int) -> tuple[int, int, int, int]:
    """What stands beside the values of a row."""
    expires_us = expiry_us(batch.table, put, now_us) if batch.table.ttl_s else put.expires_us
    kept = (put.version, put.timestamp_us or 0, expires_us)
    return *kept, checksum_of(batch.table, batch.partition, put.clustering + put.values, kept)
