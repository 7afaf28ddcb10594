"""The one rule for loops that read what others wrote, and a whole node under it."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from itertools import pairwise

import pytest

from airloom.app.gateway_runtime import GatewayRuntime
from airloom.app.node import Node
from core.adapters.store.engine import Batch, Condition, Put
from core.adapters.store.memory import MemoryEngine
from core.adapters.store.tables import SIM
from core.domain.message import StreamRecord
from core.domain.usage import day_of
from core.errors import ConfigurationError, LeaseLost, SourceGone, Unavailable, Unreadable
from core.services.metering.message_meter import MessageMeter
from core.services.running.faults import ITEMS_LOGGED_S, RESTART_S_MAX, Fault, Faults, fault_of
from core.services.streaming.outbox_relay import OutboxRelay
from loadtest.peers.sgsn import Sgsn
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import VirtualClock, run_virtual
from loadtest.simulation.world import APN, World

POISON = [
    b'{"imsi": "", "operatorId": "OP0000000001", "recordId": "x", "timestamp": 1796000000000, "payloads": 1}',
    b'{"imsi": "440\\u0000", "operatorId": "O", "recordId": "x", "timestamp": 1, "payloads": 1}',
    b'{"imsi": "440100000000001", "operatorId": "O", "recordId": "", "timestamp": 1, "payloads": 1}',
    b'{"imsi": "440100000000001", "operatorId": "O", "recordId": "x", "timestamp": 1%s, "payloads": 1}'
    % (b"0" * 400),
    b'{"imsi": "440100000000001", "payloads": %s' % (b"[" * 100_000),
    b"\xff\xfe\x00\x01",
    b"\xf3\x89\x9a\xc2\x0a\x04dev1\x12\x02\x0a\x00",
    b"cpu,host=a value=1 1465839830100400200",
    b"[1,2,3]",
    b"17",
    b"",
]


def in_virtual_time(script: Callable[[Faults, VirtualClock, list[str]], Awaitable[None]]) -> None:
    async def main() -> None:
        clock, told = VirtualClock(), list[str]()
        await script(Faults(clock=clock, log=told.append), clock, told)

    run_virtual(main)


@pytest.mark.parametrize(("error", "fault"), [
    (Unavailable("x"), Fault.TRANSIENT),
    (Unreadable("x"), Fault.ITEM),
    (SourceGone("x"), Fault.SOURCE),
    (KeyError("x"), Fault.CRASH),
])  # fmt: skip
def test_how_final_a_fault_is(error: Exception, fault: Fault) -> None:
    assert fault_of(error) is fault


def test_a_loop_that_a_fault_of_ours_ends_begins_again_ever_more_slowly() -> None:
    async def script(faults: Faults, clock: VirtualClock, told: list[str]) -> None:
        begun: list[float] = []

        async def run() -> None:
            begun.append(clock.monotonic())
            if len(begun) < 10:
                raise ValueError("a bug")
            await asyncio.Event().wait()

        task = asyncio.create_task(faults.supervise("a-loop", run, "vg-1"))
        await asyncio.sleep(600)
        pauses = [later - earlier for earlier, later in pairwise(begun)]
        assert pauses == sorted(pauses)
        assert (pauses[0], pauses[-1]) == (1.0, RESTART_S_MAX)
        assert faults.counts == {("a-loop", "crash"): 1}, "one standstill"
        assert [line.split("\n")[0] for line in told] == [
            "a-loop vg-1: internal error:", "a-loop vg-1: stalled: ValueError: a bug",
            "a-loop vg-1: resumed",
        ]  # fmt: skip
        task.cancel()

    in_virtual_time(script)


def test_what_was_done_in_the_end_stands_still_no_more() -> None:
    async def script(faults: Faults, _: VirtualClock, told: list[str]) -> None:
        tries = iter([Unavailable("away"), Unavailable("away"), None])

        async def run() -> None:
            if (error := next(tries)) is not None:
                raise error

        await faults.supervise("once", run)
        assert not faults.standing
        assert not told, "it did not last"

    in_virtual_time(script)


def test_what_a_loop_says_of_itself_stands_until_it_says_otherwise() -> None:
    async def script(faults: Faults, _: VirtualClock, told: list[str]) -> None:
        async def run() -> None:
            for _ in range(300):
                faults.stands("a-loop", Unavailable("away"))
                await asyncio.sleep(1)
            faults.goes_on("a-loop")
            await asyncio.Event().wait()

        task = asyncio.create_task(faults.supervise("a-loop", run))
        await asyncio.sleep(400)
        assert told == ["a-loop: stalled: away", "a-loop: resumed"]
        assert faults.counts == {("a-loop", "transient"): 1}
        task.cancel()

    in_virtual_time(script)


def test_what_nobody_runs_any_more_does_not_stand_still() -> None:
    async def script(faults: Faults, _: VirtualClock, __: list[str]) -> None:
        async def run() -> None:
            faults.stands("a-loop", Unavailable("away"), "vg-1")
            await asyncio.Event().wait()

        task = asyncio.create_task(faults.supervise("a-loop", run, "vg-1"))
        await asyncio.sleep(20)
        assert faults.standing
        task.cancel()
        await asyncio.wait([task])
        assert not faults.standing, "the gateway was handed over"

    in_virtual_time(script)


@pytest.mark.parametrize("end", [LeaseLost("gone"), ConfigurationError("wrong")])
def test_what_ends_a_gateway_or_a_node_goes_further_up(end: Exception) -> None:
    async def script(faults: Faults, _: VirtualClock, told: list[str]) -> None:
        async def run() -> None:
            async with asyncio.TaskGroup():
                raise end

        with pytest.raises(ExceptionGroup) as raised:
            await faults.supervise("a-loop", run)
        assert raised.value.exceptions == (end,)
        assert not told

    in_virtual_time(script)


def test_a_loop_that_is_cancelled_while_it_fails_ends() -> None:
    async def script(faults: Faults, _: VirtualClock, __: list[str]) -> None:
        async def run() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                raise ValueError("beside the cancellation")

        task = asyncio.create_task(faults.supervise("a-loop", run))
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task], timeout=5)
        assert task.cancelled()

    in_virtual_time(script)


def test_lines_about_items_are_bounded_and_count_all() -> None:
    async def script(faults: Faults, _: VirtualClock, told: list[str]) -> None:
        for number in range(1_000):
            faults.passed_over("a-loop", Fault.ITEM, f"record {number}")
            await asyncio.sleep(ITEMS_LOGGED_S / 500)
        assert faults.counts == {("a-loop", "item"): 1_000}
        assert len(told) <= 3
        assert "and 499 more since" in told[1] or "and 500 more since" in told[1]

    in_virtual_time(script)


# -- a whole node --------------------------------------------------------------------------------------


class BrokenMeter(MessageMeter):
    async def count(self, records: object) -> None:
        raise KeyError("a bug of ours")


class BrokenRelay(OutboxRelay):
    async def _relay(self) -> bool:
        raise KeyError("a bug of ours")


class BrokenGateway(GatewayRuntime):
    def make_relay(self) -> OutboxRelay:
        relay = super().make_relay()
        relay.__class__ = BrokenRelay
        return relay


class BrokenNode(Node):
    held_type = BrokenGateway

    def make_message_meter(self) -> MessageMeter:
        return BrokenMeter(counts=self._world.store.message_counts)


def on_a_node(script: Callable[[World, Sgsn], Awaitable[None]], node_type: type[Node] = Node) -> World:
    world = World(0, Plan(sims=2), node_type)

    async def main() -> None:
        await world.start_node()
        await world._make_sims()
        peer = world._peer(Sgsn, "127.0.1.1")
        assert isinstance(peer, Sgsn)
        async with peer.running():
            await script(world, peer)
        await world.finish()

    run_virtual(main)
    return world


def test_what_another_producer_put_into_the_stream_is_passed_over_and_counted() -> None:
    """By itself and after a restart; messages behind it are counted, whatever it is."""

    async def script(world: World, sgsn: Sgsn) -> None:
        await world.node._world.stream.put([StreamRecord("other", data) for data in POISON])
        await sgsn.attach(imsi=world.sims[0].imsi, apn=APN)
        sim = world.sims[0]
        good = {"imsi": sim.imsi, "operatorId": "OP0000000001", "recordId": "r1", "payloads": "AA=="}
        record = json.dumps({**good, "timestamp": 1_796_000_000_000}).encode()
        await world.node._world.stream.put([StreamRecord("other", record)])
        await asyncio.sleep(5)
        assert world.node.messages.counted == 1
        assert world.node.messages.passed_over == {"foreign": len(POISON), "event": 1}
        assert not world.node.faults.counts
        await world.crash()
        await world.start_node()
        await asyncio.sleep(30)
        assert world.node.messages.passed_over["foreign"] == 0, "the checkpoint is behind them"

    world = on_a_node(script)
    assert not world.findings


def test_readers_that_a_bug_of_ours_ends_end_no_session_and_no_gateway() -> None:
    async def script(world: World, sgsn: Sgsn) -> None:
        await world.node._world.stream.put([StreamRecord("k", b"%d" % n) for n in range(500)])
        first = await sgsn.attach(imsi=world.sims[0].imsi, apn=APN)
        await asyncio.sleep(300)
        held = world.node.held["vg-1"]
        assert len(held.sessions.open_sessions) == 1
        await sgsn.attach(imsi=world.sims[1].imsi, apn=APN)
        await sgsn.detach(first)
        assert len(held.sessions.open_sessions) == 1
        assert world.node.held["vg-1"] is held, "it was never begun again"
        standing = world.node.faults.standing
        assert standing["outbox-relay vg-1"] == "crash: KeyError: 'a bug of ours'"
        assert any(loop.startswith("message-meter shardId-") for loop in standing)

    on_a_node(script, BrokenNode)


def test_a_session_that_cannot_be_read_back_keeps_no_gateway_from_its_others() -> None:
    async def script(world: World, sgsn: Sgsn) -> None:
        for sim in world.sims:
            await sgsn.attach(imsi=sim.imsi, apn=APN)
        await world.crash()
        engine, sim_id = MemoryEngine(disk=world.disk, clock=world.clock), world.sims[0].sim.sim_id
        (row,) = await engine.scan(SIM, (sim_id,), prefix=("session",))
        put = Put(row.clustering, ("{}",), row.version + 1)
        await engine.write(Batch(SIM, (sim_id,), (put,), Condition(row.clustering, row.version)))
        await world.start_node()
        held = await world.holding()
        assert [each.sim_id for each in held.sessions.open_sessions.values()] == [world.sims[1].sim.sim_id]
        page = await world.node._world.store.audit.of_day(day_of(world.node_clock.now()))
        assert [sim_id in entry.detail for entry in page.items if entry.subject == "vg-1"] == [True]
        assert world.node.faults.counts["sessions", "item"] == 1

    on_a_node(script)


class FailingFrontEndGateway(GatewayRuntime):
    fails = 3

    async def run(self) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(super().run())
            if FailingFrontEndGateway.fails:
                FailingFrontEndGateway.fails -= 1
                await asyncio.sleep(5)
                raise KeyError("a bug of a front end")


class FailingFrontEndNode(Node):
    held_type = FailingFrontEndGateway


def test_a_gateway_that_a_bug_ends_begins_again_with_its_sessions_and_the_node_goes_on() -> None:
    async def script(world: World, sgsn: Sgsn) -> None:
        await sgsn.attach(imsi=world.sims[0].imsi, apn=APN)
        counter = world.node.held["vg-1"].gateway.restart_counter
        await asyncio.sleep(60)
        assert not FailingFrontEndGateway.fails
        held = await world.holding()
        assert len(held.sessions.open_sessions) == 1
        assert held.gateway.restart_counter == counter
        await sgsn.attach(imsi=world.sims[1].imsi, apn=APN)
        await asyncio.sleep(RESTART_S_MAX)
        assert not world.node.faults.standing

    world = on_a_node(script, FailingFrontEndNode)
    assert [finding.split(":")[0] for finding in world.findings] == ["gateway ended by itself 1 times"]
