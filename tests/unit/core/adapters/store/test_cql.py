"""The CQL stays within what Amazon Keyspaces documents as supported."""

import re

import pytest

from core.adapters.store import cql
from core.adapters.store.engine import BATCH_WRITES_MAX
from core.adapters.store.tables import TABLES, USAGE, USAGE_DAY, Table

FORBIDDEN = (
    "ALLOW FILTERING",
    "BEGIN",
    "COUNTER",
    "CREATE INDEX",
    "CREATE MATERIALIZED",
    "CREATE TYPE",
    "CREATE FUNCTION",
    "GROUP BY",
    "PER PARTITION",
    "TRUNCATE",
    "TOKEN(",
    "COUNT(",
)
KEYSPACE = "airloom"
CQL_BATCH_BYTES = 50_000
"""Cassandra refuses batches above it (batch_size_fail_threshold)."""


def statements(table: Table) -> list[str]:
    columns = len(table.clustering)
    scans = [
        cql.select_rows(KEYSPACE, table, prefix, above, below, reverse=reverse)
        for prefix in range(columns + 1)
        for above in range(columns - prefix + 1)
        for below in range(columns - prefix + 1)
        for reverse in (False, True)
    ]
    writes = [
        cql.insert(KEYSPACE, table, is_stamped=True),
        cql.insert(KEYSPACE, table, is_new=True),
        cql.update(KEYSPACE, table),
        cql.update(KEYSPACE, table, is_over=True),
        cql.delete(KEYSPACE, table),
        cql.delete(KEYSPACE, table, is_conditional=True),
        cql.demand_absent(KEYSPACE, table),
    ]
    return [cql.create_table(KEYSPACE, table), cql.select_row(KEYSPACE, table), *scans, *writes]


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_every_statement_is_one_that_keyspaces_takes(table: Table) -> None:
    for text in statements(table):
        assert not [word for word in FORBIDDEN if word in text.upper()], text
        assert not re.search(r"'[^']*'", text.partition(" WITH ")[0]), f"a value is not bound: {text}"
        if not text.startswith(("CREATE", "INSERT")):
            assert f'"{KEYSPACE}"."{table.name}"' in text
            where = text.partition(" WHERE ")[2]
            assert all(f'"{column.name}" = ?' in where for column in table.partition), text


def test_a_condition_and_a_timestamp_never_meet() -> None:
    for table in TABLES:
        for text in statements(table):
            assert not (" IF " in text.removeprefix("CREATE TABLE IF NOT EXISTS") and "TIMESTAMP" in text), (
                text
            )


@pytest.mark.parametrize("table", [USAGE, USAGE_DAY], ids=lambda table: table.name)
def test_usage_rows_fill_a_bounded_number_of_windows(table: Table) -> None:
    """TimeWindowCompactionStrategy wants fewer than 50 windows in the life of a row."""
    (days,) = re.findall(r"'compaction_window_size': (\d+)", cql.create_table(KEYSPACE, table))
    assert table.ttl_s / 86_400 / int(days) < 50


def test_the_largest_batch_of_usage_is_one_that_cassandra_takes() -> None:
    row_bytes = 8 * 13 + 32 + 15 + 3 * 12
    assert BATCH_WRITES_MAX * row_bytes < CQL_BATCH_BYTES
