"""The version after this one, for the test of a rolling upgrade: newer tables, a new column, new fields.

`python -m tests.e2e.next_version …` is `airloom …` of that version.
"""

from typing import Any

from airloom.cli.program import main
from core.adapters.store import cassandra, rows, tables
from core.adapters.store.tables import SCHEMA_VERSION, Column, ColumnType, Table

NEW_FIELD, NEW_COLUMN, NEW_TABLE = "of_the_next_version", "of_the_next_version", "next_table"


class _Encoder:
    """Each body has a field that this version does not know."""

    def __init__(self, encoder: Any) -> None:
        self._encoder = encoder

    def encode(self, entity: Any) -> bytes:
        body: bytes = self._encoder.encode(entity)
        return body[:-1] + f',"{NEW_FIELD}":1}}'.encode()


def become() -> None:
    """Change this process into the next version."""
    added = Table(NEW_TABLE, (Column("id", ColumnType.TEXT),), (), (Column("body", ColumnType.TEXT),))
    new = vars(cassandra)
    new["SCHEMA_VERSION"] = vars(tables)["SCHEMA_VERSION"] = SCHEMA_VERSION + 1
    new["TABLES"] += (added,)
    vars(rows)["_ENCODER"] = _Encoder(vars(rows)["_ENCODER"])
    missing = new["_missing"]

    def with_new(session: Any, keyspace: str, table: Table) -> list[Column]:
        column = Column(NEW_COLUMN, ColumnType.TEXT)
        there = session.cluster.metadata.keyspaces[keyspace].tables[table.name].columns
        return [*missing(session, keyspace, table), *([] if column.name in there else [column])]

    new["_missing"] = with_new


if __name__ == "__main__":
    become()
    main()
