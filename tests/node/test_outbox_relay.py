"""Session events of a whole node into the stream, in virtual time: late, repeated, in order."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress

from core.adapters.store.engine import Batch, Put
from core.adapters.store.memory import MemoryEngine
from core.adapters.store.tables import SIM
from core.domain.message import StreamRecord
from core.domain.session import Session, SessionEvent
from core.domain.usage import day_of
from core.errors import Unavailable
from core.ports.stream import PutResult
from core.services.running.faults import Fault
from core.services.streaming.outbox_relay import LOOP
from loadtest.peers.gtp import NotAnswered, PdpContext, Refusal
from loadtest.peers.sgsn import Sgsn
from loadtest.simulation.faults import FaultRates
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import run_virtual
from loadtest.simulation.world import APN, World

AWAY = FaultRates(before=1.0)


class Stage(World):
    """A node, one SIM and one SGSN."""

    sgsn: Sgsn

    async def attach(self) -> PdpContext:
        return await self.sgsn.attach(imsi=self.sims[0].imsi, apn=APN)

    def relayed(self) -> list[str]:
        """What the stream has of sessions, in order, by record id once."""
        seen: dict[str, str] = {}
        for shard in self.stream_disk.shards:
            for record in shard:
                envelope = json.loads(record.data)
                seen.setdefault(envelope["recordId"], envelope["sessionEvent"]["event"])
        return list(seen.values())


def played(script: Callable[[Stage], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main() -> None:
            stage = Stage(0, Plan(sims=1))
            await stage.start_node()
            await stage._make_sims()
            peer = stage._peer(Sgsn, "127.0.1.1")
            assert isinstance(peer, Sgsn)
            stage.sgsn = peer
            async with peer.running():
                await script(stage)
            await stage.finish()

        run_virtual(main)

    test.__name__ = script.__name__
    return test


@played
async def test_a_session_is_told_from_its_beginning_to_its_end(stage: Stage) -> None:
    context = await stage.attach()
    await stage.sgsn.detach(context)
    await asyncio.sleep(1)
    assert stage.relayed() == ["Created", "Deleted"]
    assert stage.node.held["vg-1"].relay.relayed == 2


@played
async def test_a_stream_that_is_away_refuses_nobody_and_is_told_later(stage: Stage) -> None:
    stage._set_faults(FaultRates(), AWAY)
    for _ in range(20):
        await stage.sgsn.detach(await stage.attach())
    assert stage.relayed() == []
    await asyncio.sleep(120)
    stage._set_faults(FaultRates(), FaultRates())
    await asyncio.sleep(10)
    assert stage.relayed() == ["Created", "Deleted"] * 20


@played
async def test_what_was_not_told_before_a_kill_is_told_after_it(stage: Stage) -> None:
    stage._set_faults(FaultRates(), AWAY)
    await stage.attach()
    await stage.crash()
    stage._set_faults(FaultRates(), FaultRates())
    await stage.start_node()
    await asyncio.sleep(10)
    assert stage.relayed() == ["Created"]


@played
async def test_what_was_stored_and_not_yet_told_when_it_was_killed_is_told_after_it(stage: Stage) -> None:
    """Killed between the store and the stream, whose every record was gathered in memory alone."""
    await stage.attach()
    assert stage.relayed() == []
    await stage.crash()
    await stage.start_node()
    await asyncio.sleep(10)
    assert stage.relayed() == ["Created"]


@played
async def test_a_beginning_whose_write_was_ambiguous_is_told_before_its_end(stage: Stage) -> None:
    sessions = stage.node._world.store.sessions
    put = sessions.put

    async def put_unheard(session: Session, event: SessionEvent) -> Session:
        await put(session, event)
        raise Unavailable("the answer was lost", ambiguous=True)

    sessions.put = put_unheard  # type: ignore[method-assign]  # a store that never answers
    with suppress(Refusal, NotAnswered):
        await stage.attach()
    sessions.put = put  # type: ignore[method-assign]  # and one that does
    await asyncio.sleep(10)
    assert stage.relayed()[:2] == ["Created", "Deleted"]


@played
async def test_after_a_kill_writes_that_were_under_way_may_still_arrive(stage: Stage) -> None:
    assert stage.node.held["vg-1"].relay._doubted_at is None
    await stage.crash()
    await stage.start_node()
    assert stage.node.held["vg-1"].relay._doubted_at is not None


@played
async def test_the_outbox_is_not_read_for_what_this_process_knows(stage: Stage) -> None:
    await asyncio.sleep(1)
    before = stage.node.held["vg-1"].relay.reads
    for _ in range(10):
        await stage.sgsn.detach(await stage.attach())
    await asyncio.sleep(1)
    assert stage.relayed() == ["Created", "Deleted"] * 10
    assert stage.node.held["vg-1"].relay.reads == before


@played
async def test_what_was_stored_unheard_is_told_again_under_the_same_id(stage: Stage) -> None:
    stage._set_faults(FaultRates(), FaultRates(after=1.0))
    await stage.attach()
    await asyncio.sleep(3)
    stage._set_faults(FaultRates(), FaultRates())
    await asyncio.sleep(10)
    assert stage.relayed() == ["Created"]
    assert sum(map(len, stage.stream_disk.shards)) > 1


async def passed_over(stage: Stage) -> list[str]:
    """What the audit and the count say of it."""
    page = await stage.node._world.store.audit.of_day(day_of(stage.node_clock.now()))
    skipped = [entry.detail for entry in page.items if entry.subject == f"{LOOP} vg-1"]
    assert stage.node.faults.counts[LOOP, Fault.ITEM.value] == len(skipped)
    return skipped


@played
async def test_an_event_that_cannot_be_read_keeps_no_other_waiting(stage: Stage) -> None:
    stage.stream_rates.before = 1.0  # the stream is away: the events wait in the outbox
    context = await stage.attach()
    await asyncio.sleep(1)
    engine, sim_id = MemoryEngine(disk=stage.disk, clock=stage.clock), stage.sims[0].sim.sim_id
    row = (await engine.scan(SIM, (sim_id,), prefix=("event",)))[0]
    await engine.write(Batch(SIM, (sim_id,), (Put(row.clustering, ("not a body",)),)))
    await stage.sgsn.detach(context)
    stage.stream_rates.before = 0.0
    await asyncio.sleep(30)
    assert stage.relayed() == ["Deleted"]
    (skipped,) = await passed_over(stage)
    assert "table sim" in skipped
    assert not await stage.node._world.store.sessions.outbox("vg-1", limit=10)
    assert not stage.node.faults.standing


@played
async def test_an_event_that_the_stream_will_never_take_keeps_no_other_waiting(stage: Stage) -> None:
    put, refused = stage.node._world.stream.put, []

    async def picky(records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        if any(b'"Created"' in record.data for record in records):
            refused.append(len(records))
            raise ValueError("a record of too many bytes")
        return await put(records)

    stage.node._world.stream.put = picky  # type: ignore[method-assign]  # a stream that refuses
    await stage.sgsn.detach(await stage.attach())
    await asyncio.sleep(30)
    assert refused
    assert stage.relayed() == ["Deleted"]
    (skipped,) = await passed_over(stage)
    assert "too many bytes" in skipped
