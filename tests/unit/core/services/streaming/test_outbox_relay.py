"""The relay of events: from memory, from the outbox if memory may lack one, in order, within bounds."""

import asyncio
import json
import random
from collections.abc import Awaitable, Callable, Sequence

import pytest

from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.domain.message import StreamRecord
from core.domain.session import SessionEvent
from core.errors import StaleVersion, Unavailable
from core.ports.stream import RECORDS_PER_PUT_MAX, PutResult
from core.services.running.audit import AuditTrail
from core.services.running.faults import Faults
from core.services.sessions.history import announced
from core.services.streaming import outbox_relay as relay_module
from core.services.streaming.outbox_relay import DOUBT_S, SWEEP_S, OutboxRelay
from loadtest.simulation.virtual import SeededEntropy, VirtualClock, run_virtual
from tests.contract.stores import event_of, session_of, sim_of


class PickyStream(MemoryStream):
    """Fails whole, or refuses each record that has one of ``refused`` in it."""

    is_away = False
    refused: tuple[bytes, ...] = ()

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        if self.is_away:
            raise Unavailable("away")
        taken = [r for r in records if not any(each in r.data for each in self.refused)]
        if taken:
            await super().put(taken)
        return [PutResult("shard-0", "1") if r in taken else PutResult(error="throttled") for r in records]


class Stage:
    """A store, a stream and the relay between them."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.store = WideColumnStore(engine=MemoryEngine(disk=Disk(), clock=self.clock), clock=self.clock)
        self.stream_disk = MemoryDisk()
        self.stream = PickyStream(disk=self.stream_disk, clock=self.clock, shards=1)
        self.faults = Faults(clock=self.clock, log=lambda _: None)
        audit = AuditTrail(
            audit=self.store.audit, clock=self.clock, entropy=SeededEntropy(random.Random(1)), actor="a-node"
        )
        self.relay = OutboxRelay(
            sessions=self.store.sessions,
            stream=self.stream,
            gateway_id="vg-1",
            clock=self.clock,
            faults=self.faults,
            audit=audit,
        )

    async def store_event(self, sim: int, number: int) -> SessionEvent:
        event = event_of(sim_of(sim), number)
        await self.store.sessions.close(session_of(sim_of(sim), number), event)
        return event

    async def happen(self, sim: int, number: int) -> SessionEvent:
        event = await self.store_event(sim, number)
        self.relay.handle(event)
        return event

    def relayed(self) -> list[int]:
        return [int(json.loads(record.data)["recordId"], 16) for record in self.stream_disk.shards[0]]

    async def left(self) -> int:
        return len(await self.store.sessions.outbox("vg-1", limit=1_000))


def staged(script: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main() -> None:
            stage = Stage()
            running = asyncio.create_task(stage.relay.run())
            await asyncio.sleep(0.1)
            await script(stage)
            running.cancel()

        run_virtual(main)

    test.__name__ = script.__name__
    return test


@staged
async def test_what_it_is_given_is_told_and_leaves_the_outbox_which_is_not_read(stage: Stage) -> None:
    for number in range(1, 101):
        await stage.happen(number % 10, number)
        await asyncio.sleep(0.01)
    await asyncio.sleep(1)
    assert sorted(stage.relayed()) == list(range(1, 101))
    assert await stage.left() == 0
    assert (stage.relay.reads, stage.relay.relayed) == (1, 100)


@staged
async def test_what_nobody_gave_it_is_found_by_the_sweep(stage: Stage) -> None:
    await stage.store_event(1, 1)
    await asyncio.sleep(SWEEP_S + 1)
    assert stage.relayed() == [1]


@staged
async def test_events_of_one_sim_keep_their_order_and_hold_up_no_other(stage: Stage) -> None:
    stage.stream.refused = (b"%032x" % 1,)
    for sim, number in ((1, 1), (1, 2), (2, 3), (1, 4)):
        await stage.happen(sim, number)
    await asyncio.sleep(1)
    assert stage.relayed() == [3]
    stage.stream.refused = ()
    await asyncio.sleep(10)
    assert stage.relayed() == [3, 1, 2, 4]
    assert await stage.left() == 0


@staged
async def test_an_earlier_event_whose_write_was_ambiguous_is_told_first(stage: Stage) -> None:
    """Also when it arrives after the outbox was read for it."""
    stage.relay.handle(None)
    await asyncio.sleep(1)
    await stage.store_event(1, 1)
    await stage.happen(1, 2)
    await asyncio.sleep(1)
    assert stage.relayed() == [1, 2]


@staged
async def test_doubt_ends(stage: Stage) -> None:
    stage.relay.handle(None)
    await asyncio.sleep(DOUBT_S + 5)
    reads = stage.relay.reads
    for number in range(1, 11):
        await stage.happen(number, number)
        await asyncio.sleep(1)
    assert len(stage.relayed()) == 10
    assert stage.relay.reads == reads


@staged
async def test_after_a_fault_it_reads_again_and_loses_nothing(stage: Stage) -> None:
    stage.stream.is_away = True
    for number in range(1, 51):
        await stage.happen(number % 5, number)
    await asyncio.sleep(30)
    stage.stream.is_away = False
    await asyncio.sleep(10)
    assert sorted(stage.relayed()) == list(range(1, 51))
    of_sims = [[each for each in stage.relayed() if each % 5 == sim] for sim in range(5)]
    assert of_sims == [sorted(each) for each in of_sims]


@staged
async def test_what_waits_in_memory_is_bounded_and_the_rest_read_back_in_order(stage: Stage) -> None:
    more = RECORDS_PER_PUT_MAX + 200
    vars(relay_module)["EVENTS_MAX"], kept = 100, relay_module.EVENTS_MAX
    try:
        for number in range(1, more + 1):
            await stage.happen(number % 70, number)
            assert len(stage.relay._events) <= RECORDS_PER_PUT_MAX
        await asyncio.sleep(30)
    finally:
        vars(relay_module)["EVENTS_MAX"] = kept
    assert sorted(set(stage.relayed())) == list(range(1, more + 1))
    for sim in range(70):
        of_sim = [each for each in stage.relayed() if each % 70 == sim]
        assert of_sim == sorted(of_sim)
    assert await stage.left() == 0


@pytest.mark.parametrize(
    ("error", "is_doubted"),
    [
        (Unavailable("lost", ambiguous=True), True),
        (asyncio.CancelledError(), True),
        (Unavailable("refused"), False),
        (StaleVersion("another"), False),
    ],
)
async def test_a_write_tells_its_event_or_that_nobody_knows(error: BaseException, is_doubted: bool) -> None:
    heard: list[SessionEvent | None] = []
    event = event_of(sim_of(1))

    async def write(error: BaseException | None) -> str:
        if error:
            raise error
        return "written"

    assert await announced(write(None), event, heard.append) == "written"
    with pytest.raises(type(error)):
        await announced(write(error), event, heard.append)
    assert heard == ([event, None] if is_doubted else [event])
