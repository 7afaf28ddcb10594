"""The store's tables and batches as CQL, within what Amazon Keyspaces accepts.

Rules: no secondary index, no view, no counter, no logged batch, no aggregate, no ALLOW FILTERING; every
statement names its whole partition key. Names are the tables' own, values are always bound. ``expires_us``
is the time from which readers skip the row; the TTL removes it later. A node of 0.2.0 that writes a row
leaves the former checksum, so the write times of both are read: the checksum of another write is ignored.
"""

# ruff: noqa: S608 - names come from the tables, values are bound

from functools import cache

from core.adapters.store.checksums import CHECKSUM
from core.adapters.store.tables import USAGE, USAGE_DAY, Column, Table

NEVER_US = 2**63 - 1
"""``expires_us`` of a row without expiry: comparable, so that a condition can demand "not expired"."""
SCHEMA_TABLE, SCHEMA_NAME, READABLE_NAME = "schema_version", "airloom", "readable_from"
_KEPT = ("version", "expires_us", _CHECKSUM := f'"{CHECKSUM.name}"')
_WINDOW_DAYS = {USAGE: 2, USAGE_DAY: 15}
"""80 days in windows of 2 are 40, 580 in windows of 15 are 39: TimeWindowCompactionStrategy wants fewer
than 50."""


def create_table(keyspace: str, table: Table) -> str:
    """The table, if it is not there."""
    columns = [f"{_name(c)} {c.type.cql}" for c in table.partition + table.clustering + table.values]
    partition = ", ".join(_names(table.partition))
    key = ", ".join([f"({partition})", *_names(table.clustering)])
    columns += [*(f"{name} bigint" for name in _KEPT), f"PRIMARY KEY ({key})"]
    options = (
        " WITH compaction = {'class': 'TimeWindowCompactionStrategy', 'compaction_window_unit': 'DAYS',"
        f" 'compaction_window_size': {_WINDOW_DAYS[table]}}}"
        if table in _WINDOW_DAYS
        else ""
    )
    return f'CREATE TABLE IF NOT EXISTS "{keyspace}"."{table.name}" ({", ".join(columns)}){options}'


def add_column(keyspace: str, table: Table, column: Column) -> str:
    """A value column that a table of an earlier version has not."""
    return f'ALTER TABLE "{keyspace}"."{table.name}" ADD {_name(column)} {column.type.cql}'


def create_schema_table(keyspace: str) -> str:
    """Where the schema's version stands."""
    return f'CREATE TABLE IF NOT EXISTS "{keyspace}".{SCHEMA_TABLE} (name text PRIMARY KEY, version bigint)'


def select_schema(keyspace: str) -> str:
    """Which version the tables have, and from which on a node may work on them. Bound: name."""
    return f'SELECT version FROM "{keyspace}".{SCHEMA_TABLE} WHERE name = %s'


def put_schema(keyspace: str) -> str:
    """Bound: name, version."""
    return f'INSERT INTO "{keyspace}".{SCHEMA_TABLE} (name, version) VALUES (%s, %s)'


def create_keyspace(keyspace: str, datacenter: str, replication_factor: int) -> str:
    """The keyspace, if it is not there."""
    replication = f"{{'class': 'NetworkTopologyStrategy', '{datacenter}': {replication_factor:d}}}"
    return f'CREATE KEYSPACE IF NOT EXISTS "{keyspace}" WITH replication = {replication}'


@cache
def select_row(keyspace: str, table: Table) -> str:
    """Bound: partition, clustering."""
    return f'SELECT {_selected(table)} FROM "{keyspace}"."{table.name}" WHERE {_where(table)}'


@cache
def select_rows(keyspace: str, table: Table, prefix: int, above: int, below: int, *, reverse: bool) -> str:
    """Bound: partition, so many clustering columns, so many of either bound, limit."""
    clustering = _names(table.clustering)
    terms = [f"{name} = ?" for name in [*_names(table.partition), *clustering[:prefix]]]
    for sign, count in ((">", above), ("<", below)):
        if count == 1:
            terms.append(f"{clustering[prefix]} {sign} ?")
        elif count:
            names = ", ".join(clustering[prefix : prefix + count])
            terms.append(f"({names}) {sign} ({', '.join('?' * count)})")
    order = ", ".join(f"{name} DESC" for name in clustering) if reverse else ""
    ordered = f" ORDER BY {order}" if order else ""
    where = " AND ".join(terms) + ordered
    return f'SELECT {_selected(table)} FROM "{keyspace}"."{table.name}" WHERE {where} LIMIT ?'


@cache
def insert(keyspace: str, table: Table, *, is_stamped: bool = False, is_new: bool = False) -> str:
    """Bound: partition, clustering, values, version, expires_us, checksum, the timestamp if stamped, TTL."""
    columns = [*_names(table.partition + table.clustering + table.values), *_KEPT]
    absent = " IF NOT EXISTS" if is_new else ""
    stamp = "TIMESTAMP ? AND " if is_stamped else ""
    values = ", ".join("?" * len(columns))
    return (
        f'INSERT INTO "{keyspace}"."{table.name}" ({", ".join(columns)}) VALUES ({values}){absent}'
        f" USING {stamp}TTL ?"
    )


@cache
def update(keyspace: str, table: Table, *, is_over: bool = False) -> str:
    """Bound: TTL, values, version, expires_us, checksum, partition, clustering, the stored version and now.

    The row that is there must be alive, or over.
    """
    assignments = ", ".join(f"{name} = ?" for name in [*_names(table.values), *_KEPT])
    where = _where(table) + _condition(is_over)
    return f'UPDATE "{keyspace}"."{table.name}" USING TTL ? SET {assignments} WHERE {where}'


@cache
def delete(keyspace: str, table: Table, *, is_conditional: bool = False, is_over: bool = False) -> str:
    """Bound: partition, clustering, then the stored version and now if conditional."""
    condition = _condition(is_over) if is_conditional else ""
    return f'DELETE FROM "{keyspace}"."{table.name}" WHERE {_where(table)}{condition}'


@cache
def demand_absent(keyspace: str, table: Table) -> str:
    """Change nothing, if there is no such row. Bound: partition, clustering."""
    return f'DELETE expires_us FROM "{keyspace}"."{table.name}" WHERE {_where(table)} IF version = null'


def _condition(is_over: bool) -> str:
    return f" IF version = ? AND expires_us {'<=' if is_over else '>'} ?"


def _where(table: Table) -> str:
    return " AND ".join(f"{name} = ?" for name in _names(table.partition + table.clustering))


def _selected(table: Table) -> str:
    written = [f"WRITETIME({name})" for name in (_CHECKSUM, "version")]
    return ", ".join([*_names(table.clustering + table.values), *_KEPT, *written])


def _names(columns: tuple[Column, ...]) -> list[str]:
    return [_name(column) for column in columns]


def _name(column: Column) -> str:
    return f'"{column.name}"'
