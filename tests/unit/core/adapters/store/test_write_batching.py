"""Writes of one turn of the loop go together, and each has its own outcome."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from cassandra.cqltypes import LongType, UTF8Type
from cassandra.protocol import ColumnMetadata
from cassandra.query import BoundStatement, PreparedStatement

from core.adapters.store.write_batching import BATCHED_MAX, BatchedWrites
from core.errors import Unavailable

EVEN, ODD = ["even", "odd"], ["odd", "even"]
INSERT = PreparedStatement(
    [ColumnMetadata("k", "t", "imsi", UTF8Type), ColumnMetadata("k", "t", "value", LongType)],
    b"id",
    [0],
    "INSERT INTO t (imsi, value) VALUES (?, ?)",
    "k",
    4,
    [],
    None,
)


class Ring:
    """Two ranges, by the last digit of the key; none for a key that is ``lost``."""

    def get_replicas(self, keyspace: str, key: bytes) -> list[str]:
        if key == b"lost":
            raise KeyError(key)
        return ODD if key[-1] % 2 else EVEN


class First:
    """A row's own replicas in their order."""

    def make_query_plan(self, working_keyspace: str | None = None, query: Any = None) -> Iterator[str]:
        yield from Ring().get_replicas("k", query.routing_key)


class Coordinator:
    """Takes batches; keys that are ``refused`` or ``unanswered`` make theirs fail."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.refused: set[str] = set()
        self.unanswered: set[str] = set()
        self.joined = BatchedWrites(metadata=Ring(), policy=First(), execute=self._execute)

    async def write(self, key: str) -> None:
        await self.joined.add(INSERT, (key, 7))

    async def _execute(self, statements: Sequence[BoundStatement]) -> None:
        assert {statement.values[1] for statement in statements} == {(7).to_bytes(8, "big")}
        keys = [statement.values[0].decode() for statement in statements]
        self.batches.append(keys)
        await asyncio.sleep(0)
        if self.unanswered & set(keys):
            raise Unavailable("no answer", ambiguous=True)
        if self.refused & set(keys):
            raise Unavailable("refused")


async def outcomes(coordinator: Coordinator, *keys: str) -> dict[str, BaseException | None]:
    found = await asyncio.gather(*map(coordinator.write, keys), return_exceptions=True)
    return dict(zip(keys, found, strict=True))


async def test_what_has_the_same_first_replica_goes_together_in_bounded_batches() -> None:
    coordinator = Coordinator()
    keys = [str(number) for number in range(2 * BATCHED_MAX + 6)]
    assert set((await outcomes(coordinator, *keys)).values()) == {None}
    assert [len(batch) for batch in coordinator.batches] == [BATCHED_MAX, 3, BATCHED_MAX, 3]
    assert sorted(key for batch in coordinator.batches for key in batch) == sorted(keys)
    for batch in coordinator.batches:
        assert len({int(key) % 2 for key in batch}) == 1


async def test_writes_of_another_turn_go_alone() -> None:
    coordinator = Coordinator()
    for key in ("1", "2", "3"):
        await coordinator.write(key)
    assert coordinator.batches == [["1"], ["2"], ["3"]]


async def test_of_a_refused_batch_each_is_asked_alone() -> None:
    coordinator = Coordinator()
    coordinator.refused = {"3"}
    found = await outcomes(coordinator, "1", "3", "5")
    assert coordinator.batches == [["1", "3", "5"], ["1"], ["3"], ["5"]]
    assert [key for key, error in found.items() if error is not None] == ["3"]
    error = found["3"]
    assert isinstance(error, Unavailable)
    assert not error.ambiguous


async def test_a_batch_whose_answer_is_lost_is_not_sent_again() -> None:
    coordinator = Coordinator()
    coordinator.unanswered = {"3"}
    found = await outcomes(coordinator, "1", "3", "2")
    assert coordinator.batches == [["1", "3"], ["2"]]
    for key in ("1", "3"):
        error = found[key]
        assert isinstance(error, Unavailable)
        assert error.ambiguous
    assert found["2"] is None


async def test_a_cancelled_caller_leaves_the_others_alone() -> None:
    coordinator = Coordinator()
    one, other = (asyncio.create_task(coordinator.write(key)) for key in ("1", "3"))
    await asyncio.sleep(0)
    one.cancel()
    await other
    with pytest.raises(asyncio.CancelledError):
        await one


async def test_nobody_waits_for_ever_where_no_replica_is_known() -> None:
    coordinator = Coordinator()
    found = await outcomes(coordinator, "1", "lost")
    assert coordinator.batches == []
    assert [type(error) for error in found.values()] == [Unavailable, Unavailable]
