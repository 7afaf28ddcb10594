"""Consumers in virtual time: fair shares, leases that change hands, a shard's children after its end."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide import WideStore
from core.domain.consumer import SHARD_END
from core.domain.message import StreamRecord
from core.domain.values import replace
from core.errors import Unavailable
from core.ports.stream import IteratorType, PutResult, ReadResult, Shard, StoredRecord
from core.services.consumer import LEASE_S, Consumer
from loadtest.virtual import SkewedClock, VirtualClock, run_virtual

APPLICATION = "test"


@dataclass
class ScriptedStream:
    """Implements the reading half of ``Stream``: shards as a test makes them."""

    clock: VirtualClock
    layout: dict[str, Shard] = field(default_factory=dict)
    stored: dict[str, list[bytes]] = field(default_factory=dict)
    is_away: bool = False

    def add(self, shard_id: str, *parents: str) -> None:
        self.layout[shard_id] = Shard(shard_id, 0, 1, parents)
        self.stored[shard_id] = []

    def end(self, shard_id: str) -> None:
        self.layout[shard_id] = replace(self.layout[shard_id], is_open=False)

    keeps_order = False

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        raise NotImplementedError

    async def shards(self) -> Sequence[Shard]:
        if self.is_away:
            raise Unavailable("away")
        return list(self.layout.values())

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        return f"{shard_id}:{int(sequence_number or 0)}"

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        if self.is_away:
            raise Unavailable("away")
        shard_id, _, at = iterator.partition(":")
        found = self.stored[shard_id][int(at) : int(at) + 2]
        records = tuple(
            StoredRecord(shard_id, str(int(at) + n + 1), "key", data, self.clock.now())
            for n, data in enumerate(found)
        )
        following = int(at) + len(found)
        is_over = not self.layout[shard_id].is_open and following == len(self.stored[shard_id])
        return ReadResult(records, "" if is_over else f"{shard_id}:{following}")

    async def aclose(self) -> None:
        pass


class Stage:
    """A stream, a store, workers, and what they did."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.node_clock = SkewedClock(self.clock)
        self.stream = ScriptedStream(self.clock)
        self.store = WideStore(engine=MemoryEngine(disk=Disk(), clock=self.clock), clock=self.clock)
        self.seen: list[tuple[str, bytes]] = []
        self.failing = 0
        self.stuck_s = 0.0
        self.tasks: dict[str, asyncio.Task[None]] = {}

    def worker(self, owner: str) -> Consumer:
        async def effect(records: Sequence[StoredRecord]) -> None:
            await asyncio.sleep(self.stuck_s)
            if self.failing:
                self.failing -= 1
                raise Unavailable("not now")
            self.seen += [(owner, record.data) for record in records]

        consumer = Consumer(
            stream=self.stream,
            leases=self.store.shard_leases,
            clock=self.node_clock,
            application=APPLICATION,
            owner=owner,
            effect=effect,
        )
        self.tasks[owner] = asyncio.create_task(consumer.run())
        return consumer

    async def kill(self, owner: str) -> None:
        self.tasks[owner].cancel()
        await asyncio.wait([self.tasks.pop(owner)])

    async def checkpoints(self) -> dict[str, str]:
        leases = await self.store.shard_leases.of_application(APPLICATION)
        return {lease.shard_id: lease.checkpoint for lease in leases}

    @property
    def data(self) -> list[bytes]:
        return [data for _, data in self.seen]


def played(script: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main() -> None:
            stage = Stage()
            await script(stage)
            for owner in list(stage.tasks):
                await stage.kill(owner)

        run_virtual(main)

    test.__name__ = script.__name__
    return test


@played
async def test_records_in_order_and_the_checkpoint_after_them(stage: Stage) -> None:
    stage.stream.add("a")
    stage.stream.stored["a"] += [b"1", b"2", b"3"]
    stage.worker("one")
    await asyncio.sleep(3)
    assert stage.data == [b"1", b"2", b"3"]
    assert await stage.checkpoints() == {"a": "3"}
    stage.stream.stored["a"].append(b"4")
    await asyncio.sleep(3)
    assert stage.data[-1] == b"4"


@played
async def test_an_effect_that_fails_is_asked_again_and_nothing_is_passed_over(stage: Stage) -> None:
    stage.stream.add("a")
    stage.stream.stored["a"] += [b"1", b"2", b"3"]
    stage.failing = 3
    stage.worker("one")
    await asyncio.sleep(20)
    assert stage.data == [b"1", b"2", b"3"]


@played
async def test_a_stream_that_is_away_comes_back(stage: Stage) -> None:
    stage.stream.add("a")
    stage.worker("one")
    await asyncio.sleep(3)
    stage.stream.is_away = True
    stage.stream.stored["a"] += [b"1"]
    await asyncio.sleep(60)
    stage.stream.is_away = False
    await asyncio.sleep(5)
    assert stage.data == [b"1"]


@played
async def test_children_are_read_after_their_parents_end(stage: Stage) -> None:
    """A split, then a merge of its halves; everything stands there before it is looked at."""
    for shard_id, parents in (("d", ("b", "c")), ("b", ("a",)), ("c", ("a",)), ("a", ())):
        stage.stream.add(shard_id, *parents)
        stage.stream.stored[shard_id] += [b"%s%d" % (shard_id.encode(), n) for n in range(5)]
    for shard_id in ("a", "b", "c"):
        stage.stream.end(shard_id)
    stage.worker("one")
    await asyncio.sleep(30)
    assert len(stage.data) == 20
    first = {data[:1]: n for n, data in reversed(list(enumerate(stage.data)))}
    last = {data[:1]: n for n, data in enumerate(stage.data)}
    assert last[b"a"] < min(first[b"b"], first[b"c"])
    assert max(last[b"b"], last[b"c"]) < first[b"d"]
    assert await stage.checkpoints() == {"a": SHARD_END, "b": SHARD_END, "c": SHARD_END, "d": "5"}


@played
async def test_a_parent_that_is_gone_holds_nothing_up(stage: Stage) -> None:
    stage.stream.add("b", "a-that-was-trimmed")
    stage.stream.stored["b"] += [b"1"]
    stage.worker("one")
    await asyncio.sleep(3)
    assert stage.data == [b"1"]


@played
async def test_workers_share_and_take_over(stage: Stage) -> None:
    for name in "abcd":
        stage.stream.add(name)
    one = stage.worker("one")
    await asyncio.sleep(5)
    assert one.reading == set("abcd")
    two = stage.worker("two")
    await asyncio.sleep(4 * LEASE_S)
    assert (len(one.reading), len(two.reading)) == (2, 2)
    assert one.reading | two.reading == set("abcd")
    await stage.kill("one")
    await asyncio.sleep(2 * LEASE_S)
    assert two.reading == set("abcd")
    stage.stream.stored["a"].append(b"x")
    await asyncio.sleep(5)
    assert stage.seen == [("two", b"x")]


@played
async def test_who_lost_its_lease_moves_no_checkpoint(stage: Stage) -> None:
    """An effect outlasts the lease: it is cut off, another worker reads on, nothing is lost."""
    stage.stream.add("a")
    stage.stream.stored["a"] += [b"1"]
    stage.stuck_s = 10 * LEASE_S
    one = stage.worker("one")
    await asyncio.sleep(3)
    assert one.reading == {"a"}
    two = stage.worker("two")
    await asyncio.sleep(LEASE_S)
    assert stage.data == []
    stage.stuck_s = 0.0
    await asyncio.sleep(3 * LEASE_S)
    assert stage.data == [b"1"]
    assert len(one.reading) + len(two.reading) == 1


@played
async def test_a_clock_that_was_set_back_keeps_nobody_waiting(stage: Stage) -> None:
    stage.stream.add("a")
    stage.node_clock.skew = timedelta(hours=1)
    stage.worker("one")
    await asyncio.sleep(3)
    await stage.kill("one")
    stage.node_clock.skew = timedelta()
    stage.stream.stored["a"] += [b"1"]
    stage.worker("two")
    await asyncio.sleep(2 * LEASE_S)
    assert stage.seen == [("two", b"1")]


@played
async def test_a_clock_that_runs_ahead_takes_no_shard_from_a_living_worker(stage: Stage) -> None:
    stage.stream.add("a")
    one = stage.worker("one")
    await asyncio.sleep(3)
    stage.node_clock.skew = timedelta(hours=1)
    two = stage.worker("two")
    await asyncio.sleep(3 * LEASE_S)
    assert (sorted(one.reading), sorted(two.reading)) == (["a"], [])


@played
async def test_the_same_owner_begins_again_at_once(stage: Stage) -> None:
    stage.stream.add("a")
    stage.worker("one")
    await asyncio.sleep(3)
    await stage.kill("one")
    stage.stream.stored["a"] += [b"1"]
    stage.worker("one")
    await asyncio.sleep(1)
    assert stage.data == [b"1"]
