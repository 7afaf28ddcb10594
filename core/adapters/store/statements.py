"""The store's tables and batches as SQLite's SQL.

Rules: every table is a primary-key tree (WITHOUT ROWID), so a partition is contiguous in clustering order.
Table and column names are constants and values are always bound. A read also finds expired rows: their
checksum is checked before their expiry.
"""

# ruff: noqa: S608 - names come from the tables, values are bound

from dataclasses import dataclass
from functools import cache

from core.adapters.store.checksums import CHECKSUM
from core.adapters.store.tables import Column, ColumnType, Table

_SQL_TYPES = {ColumnType.TEXT: "TEXT", ColumnType.BIGINT: "INTEGER", ColumnType.BLOB: "BLOB"}
_KEPT = ("version", "written_us", "expires_us", CHECKSUM.name)


def _quoted(columns: tuple[Column, ...]) -> list[str]:
    return [f'"{column.name}"' for column in columns]


@dataclass(frozen=True, slots=True)
class Statements:
    """One table's statements; the comments name what is bound, in order."""

    create: tuple[str, ...]
    get: str  # partition, clustering
    version: str  # partition, clustering, now_us
    put: str  # partition, clustering, values, version, written_us, expires_us, checksum
    put_newer: str  # the same
    put_new: str  # the same, now_us: if there is none that lives
    put_next: str  # values and what is kept, partition, clustering, the version that must be there, now_us
    delete: str  # partition, clustering
    delete_version: str  # partition, clustering, the version that must be there, now_us
    purge: str  # now_us, limit, now_us


def statements_of(table: Table) -> Statements:
    """Compile a table's statements."""
    keys = _quoted(table.partition + table.clustering)
    values = _quoted(table.values)
    columns = [*keys, *values, *_KEPT]
    where = " AND ".join(f"{key} = ?" for key in keys)
    alive = "(expires_us = 0 OR expires_us > ?)"
    over = "expires_us > 0 AND expires_us <= ?"
    key_list = ", ".join(keys)
    replaced = ", ".join(f"{column} = ?" for column in [*values, *_KEPT])
    assignments = ", ".join(f"{column} = excluded.{column}" for column in [*values, *_KEPT])
    insert = f'INSERT INTO "{table.name}" ({", ".join(columns)})'
    bound = ", ".join("?" * len(columns))
    update = f"ON CONFLICT ({key_list}) DO UPDATE SET {assignments}"
    put = f"{insert} VALUES ({bound}) {update}"
    due = f'SELECT {key_list} FROM "{table.name}" WHERE {over} LIMIT ?'
    return Statements(
        create=(_create(table), _create_expiry_index(table)),
        get=f'SELECT {_selected(table)} FROM "{table.name}" WHERE {where}',
        version=f'SELECT version FROM "{table.name}" WHERE {where} AND {alive}',
        put=put,
        put_newer=f"{put} WHERE excluded.written_us > written_us",
        put_new=f"{put} WHERE {over}",
        put_next=f'UPDATE "{table.name}" SET {replaced} WHERE {where} AND version = ? AND {alive}',
        delete=f'DELETE FROM "{table.name}" WHERE {where}',
        delete_version=f'DELETE FROM "{table.name}" WHERE {where} AND version = ? AND {alive}',
        purge=f'DELETE FROM "{table.name}" WHERE ({key_list}) IN ({due}) AND expires_us <= ?',
    )


@cache
def scan_sql(table: Table, prefix: int, above: int, below: int, *, reverse: bool) -> str:
    """A scan of a partition, of which so many columns are bound: partition, prefix, above, below, in this
    order. It finds also rows that are over.
    """
    clustering = _quoted(table.clustering)
    terms = [f"{name} = ?" for name in [*_quoted(table.partition), *clustering[:prefix]]]
    for sign, bounds in ((">", above), ("<", below)):
        if bounds:
            names = clustering[prefix : prefix + bounds]
            terms.append(f"({', '.join(names)}) {sign} ({', '.join('?' * bounds)})")
    direction = " DESC" if reverse else ""
    order = ", ".join(f"{name}{direction}" for name in clustering)
    return f'SELECT {_selected(table)} FROM "{table.name}" WHERE {" AND ".join(terms)} ORDER BY {order}'


def _selected(table: Table) -> str:
    return ", ".join([*_quoted(table.clustering + table.values), *_KEPT])


def _create(table: Table) -> str:
    columns = [
        f'"{column.name}" {_SQL_TYPES[column.type]} NOT NULL'
        for column in table.partition + table.clustering + table.values
    ]
    columns += [f"{name} INTEGER NOT NULL" for name in _KEPT[:-1]]
    columns.append(f"{CHECKSUM.name} INTEGER NOT NULL DEFAULT 0")
    keys = ", ".join(_quoted(table.partition + table.clustering))
    columns.append(f"PRIMARY KEY ({keys})")
    return f'CREATE TABLE IF NOT EXISTS "{table.name}" ({", ".join(columns)}) WITHOUT ROWID'


def add_column(table: Table, column: Column) -> str:
    """A value column that a table of an earlier version has not."""
    empty = {ColumnType.TEXT: "''", ColumnType.BIGINT: "0", ColumnType.BLOB: "x''"}[column.type]
    return (
        f'ALTER TABLE "{table.name}" ADD COLUMN "{column.name}" {_SQL_TYPES[column.type]}'
        f" NOT NULL DEFAULT {empty}"
    )


def _create_expiry_index(table: Table) -> str:
    name = f"{table.name}_expiry"
    return f'CREATE INDEX IF NOT EXISTS "{name}" ON "{table.name}" (expires_us) WHERE expires_us > 0'
