"""Consumers in virtual time: fair shares, leases that change hands, a shard's children after its end."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta

from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.domain.consumer import SHARD_END
from core.domain.message import StreamRecord
from core.domain.usage import day_of
from core.domain.values import replace
from core.errors import PositionLost, SourceGone, Unavailable, Unreadable
from core.ports.stream import IteratorType, PutResult, ReadResult, Shard, StoredRecord
from core.services.running.audit import AuditTrail
from core.services.running.faults import Faults
from core.services.streaming.consumer import LEASE_S, PASSED_OVER_MAX, Consumer
from loadtest.simulation.virtual import SeededEntropy, SkewedClock, VirtualClock, run_virtual

APPLICATION = "test"


@dataclass
class ScriptedStream:
    """Implements the reading half of ``Stream``: shards as a test makes them."""

    clock: VirtualClock
    layout: dict[str, Shard] = field(default_factory=dict)
    stored: dict[str, list[bytes]] = field(default_factory=dict)
    is_away: bool = False
    is_gone: bool = False
    lost_checkpoints: set[str] = field(default_factory=set)
    """Which ``iterator`` refuses."""
    lost: int = 0
    """Damaged records that the next read passes over."""

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
        if self.is_gone:
            raise SourceGone("Stream devices not found.")
        return list(self.layout.values())

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        if shard_id not in self.layout:
            raise SourceGone(f"Shard {shard_id} not found.")
        if sequence_number in self.lost_checkpoints:
            raise PositionLost(f"{sequence_number} did not come from this stream")
        return f"{shard_id}:{int(sequence_number or 0)}"

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        if self.is_away:
            raise Unavailable("away")
        shard_id, _, at = iterator.partition(":")
        if shard_id not in self.layout:
            raise SourceGone(f"Shard {shard_id} not found.")
        found = self.stored[shard_id][int(at) : int(at) + 2]
        records = tuple(
            StoredRecord(shard_id, str(int(at) + n + 1), "key", data, self.clock.now())
            for n, data in enumerate(found)
        )
        following = int(at) + len(found)
        is_over = not self.layout[shard_id].is_open and following == len(self.stored[shard_id])
        lost, self.lost = self.lost, 0
        return ReadResult(records, "" if is_over else f"{shard_id}:{following}", lost)

    async def aclose(self) -> None:
        pass


class Stage:
    """A stream, a store, workers, and what they did."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.node_clock = SkewedClock(self.clock)
        self.stream = ScriptedStream(self.clock)
        self.store = WideColumnStore(engine=MemoryEngine(disk=Disk(), clock=self.clock), clock=self.clock)
        self.seen: list[tuple[str, bytes]] = []
        self.failing = 0
        self.stuck_s = 0.0
        self.poison: dict[bytes, Exception] = {}
        """What the effect raises for a record."""
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.told: list[str] = []
        self.faults = Faults(clock=self.clock, log=self.told.append)

    def worker(self, owner: str) -> Consumer:
        async def effect(records: Sequence[StoredRecord]) -> None:
            await asyncio.sleep(self.stuck_s)
            if self.failing:
                self.failing -= 1
                raise Unavailable("not now")
            for record in records:
                if record.data in self.poison:
                    raise self.poison[record.data]
            self.seen += [(owner, record.data) for record in records]

        consumer = Consumer(
            stream=self.stream,
            leases=self.store.shard_leases,
            clock=self.node_clock,
            application=APPLICATION,
            owner=owner,
            effect=effect,
            faults=self.faults,
            audit=AuditTrail(
                audit=self.store.audit, clock=self.clock, entropy=SeededEntropy(random.Random(0)), actor=owner
            ),
        )
        self.tasks[owner] = asyncio.create_task(consumer.run())
        return consumer

    async def kill(self, owner: str) -> None:
        self.tasks[owner].cancel()
        await asyncio.wait([self.tasks.pop(owner)])

    async def checkpoints(self) -> dict[str, str]:
        leases = await self.store.shard_leases.of_application(APPLICATION)
        return {lease.shard_id: lease.checkpoint for lease in leases}

    async def audited(self) -> list[str]:
        day = day_of(self.clock.now())
        return [f"{entry.subject}: {entry.detail}" for entry in (await self.store.audit.of_day(day)).items]

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


@played
async def test_a_record_that_can_never_be_handled_is_passed_over_alone(stage: Stage) -> None:
    stage.poison = {b"2": ValueError("no IMSI"), b"5": Unreadable("table message_count, key (k): damaged")}
    stage.stream.add("a")
    stage.stream.stored["a"] += [b"%d" % n for n in range(8)]
    stage.worker("one")
    await asyncio.sleep(20)
    assert stage.data == [b"0", b"1", b"3", b"4", b"6", b"7"]
    assert await stage.checkpoints() == {"a": "8"}
    assert stage.faults.counts == {(APPLICATION, "item"): 2}
    assert await stage.audited() == [
        "test a: record 3: ValueError: no IMSI",
        "test a: record 6: table message_count, key (k): damaged",
    ]
    assert not stage.faults.standing


@played
async def test_an_effect_that_is_at_fault_passes_over_no_more_than_so_many(stage: Stage) -> None:
    """It stalls and reports it; another shard continues, and so does this one when the fault is repaired."""
    records = [b"bad %d" % n for n in range(PASSED_OVER_MAX + 10)]
    stage.poison = dict.fromkeys(records, RuntimeError("a bug"))
    for name in "ab":
        stage.stream.add(name)
    stage.stream.stored["a"] += records
    stage.worker("one")
    await asyncio.sleep(300)
    assert stage.faults.counts[APPLICATION, "item"] == PASSED_OVER_MAX
    assert stage.faults.standing == {"test a": "crash: RuntimeError: a bug"}
    assert len([line for line in stage.told if "Traceback" in line]) == 1, "logged once, not at each try"
    stage.stream.stored["b"] += [b"good"]
    await asyncio.sleep(5)
    assert stage.data == [b"good"]
    stage.poison.clear()
    await asyncio.sleep(20)
    assert stage.data == [b"good", *records[PASSED_OVER_MAX:]]
    assert not stage.faults.standing
    assert stage.told[-1] == "test a: resumed"


@played
async def test_a_checkpoint_that_is_worth_nothing_is_given_up_for_the_oldest_record(stage: Stage) -> None:
    stage.stream.add("a")
    stage.stream.stored["a"] += [b"1", b"2", b"3"]
    stage.worker("one")
    await asyncio.sleep(3)
    await stage.kill("one")
    stage.stream.stored["a"] = [b"new"]
    stage.stream.lost_checkpoints = {"3"}
    stage.worker("one")
    await asyncio.sleep(3)
    assert stage.data == [b"1", b"2", b"3", b"new"]
    assert await stage.checkpoints() == {"a": "1"}
    assert await stage.audited() == [
        "test a: checkpoint 3: 3 did not come from this stream; read on from the oldest record"
    ]
    assert stage.faults.counts == {(APPLICATION, "position"): 1}


@played
async def test_a_stream_that_is_gone_is_said_once_and_read_when_it_is_back(stage: Stage) -> None:
    stage.stream.add("a")
    stage.worker("one")
    await asyncio.sleep(3)
    stage.stream.is_gone = True
    shard = stage.stream.layout.pop("a")
    await asyncio.sleep(600)
    assert stage.faults.standing[APPLICATION] == "source: Stream devices not found."
    assert stage.told == [
        "test a: stalled: Shard a not found.", "test: stalled: Stream devices not found."
    ]  # fmt: skip
    stage.stream.is_gone = False
    stage.stream.layout["a"] = shard
    stage.stream.stored["a"] += [b"1"]
    await asyncio.sleep(20)
    assert stage.data == [b"1"]
    assert not stage.faults.standing


@played
async def test_a_shard_that_went_with_what_was_not_read_is_audited_once(stage: Stage) -> None:
    stage.stream.add("a")
    stage.stream.stored["a"] += [b"1"]
    stage.stream.add("b", "a")
    stage.stream.end("a")
    stage.stream.is_away = True
    stage.worker("one")
    stage.stream.is_away = False
    await asyncio.sleep(0.1)
    del stage.stream.layout["a"]
    stage.stream.stored["b"] += [b"2"]
    await asyncio.sleep(60)
    assert stage.data[-1] == b"2"
    await stage.kill("one")
    leases = {lease.shard_id: lease for lease in await stage.store.shard_leases.of_application(APPLICATION)}
    await stage.store.shard_leases.put(replace(leases["a"], checkpoint="1"))
    stage.worker("one")
    await asyncio.sleep(60)
    assert (await stage.checkpoints())["a"] == SHARD_END
    assert await stage.audited() == ["test a: the shard no longer exists; its records after 1 are lost"]


@played
async def test_a_stream_made_anew_is_read_though_its_shard_was_at_its_end(stage: Stage) -> None:
    for shard_id, parents in (("a", ()), ("b", ("a",))):
        stage.stream.add(shard_id, *parents)
        stage.stream.stored[shard_id] += [shard_id.encode()]
    stage.stream.end("a")
    stage.worker("one")
    await asyncio.sleep(10)
    assert (await stage.checkpoints())["a"] == SHARD_END
    await stage.kill("one")
    del stage.stream.layout["b"]
    stage.stream.add("a")
    stage.stream.stored["a"] += [b"new"]
    stage.worker("one")
    await asyncio.sleep(10)
    assert stage.data == [b"a", b"b", b"new"]
    assert any("recreated" in line for line in await stage.audited())


@played
async def test_damage_that_the_stream_passed_over_is_audited_and_counted(stage: Stage) -> None:
    stage.stream.add("a")
    stage.stream.lost = 3
    stage.stream.stored["a"] += [b"4"]
    stage.worker("one")
    await asyncio.sleep(3)
    assert stage.data == [b"4"]
    assert stage.faults.counts == {(APPLICATION, "item"): 3}
    assert await stage.audited() == ["test a: 3 damaged records between the beginning and 1 or later"]


@played
async def test_a_fault_of_the_store_is_said_once_it_lasts(stage: Stage) -> None:
    stage.stream.add("a")
    stage.worker("one")
    await asyncio.sleep(3)
    stage.stream.is_away = True
    await asyncio.sleep(3)
    assert not stage.told
    await asyncio.sleep(60)
    assert sorted(stage.told) == ["test a: stalled: away", "test: stalled: away"]
    stage.stream.is_away = False
    await asyncio.sleep(5)
    assert sorted(stage.told)[0] == "test a: resumed"
    assert not stage.faults.standing
