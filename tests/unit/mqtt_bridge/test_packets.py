"""The device edge from the packet to the answer: bounds, order, hostile packets, a stream that stalls."""

import asyncio
import base64
import json
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.stream.memory import MemoryDisk
from core.domain.session import Access, Session
from core.domain.values import replace
from core.services.streaming.delivery import Delivery
from loadtest.peers.device import SimulatedDevice
from loadtest.simulation.virtual import SeededEntropy, VirtualClock, run_virtual
from mqtt_bridge import inner
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.edge.udp import FUNNEL, UdpEntryPoint
from mqtt_bridge.inner import EchoRequest, Fault, UdpDatagram, build_udp, checksum, parse
from mqtt_bridge.packets import DevicePackets, PacketCount
from tests.unit.core.services.streaming.test_delivery import FaultyStream

UNIFIED = UdpEntryPoint(IPv4Address("100.127.69.42"), 23_080)


def session(n: int) -> Session:
    return Session(
        session_id=f"session-{n}",
        sim_id=f"8981{n:015d}",
        imsi=f"44010{n:010d}",
        operator_id="OP0000000001",
        access=Access.GTPV1,
        apn="soracom.io",
        ue_address=IPv4Address("10.128.0.0") + n,
        gateway_id="vg-1",
        opened=datetime(2026, 11, 30, tzinfo=UTC),
        speed_class="s1.fast",
        imei="359206054480390",
    )


class World:
    """The edge between simulated devices and a stream that may fail."""

    def __init__(
        self,
        *,
        devices: int = 1,
        make_packets: Callable[..., DevicePackets] = DevicePackets,
        **bounds: int,
    ) -> None:
        self.clock = VirtualClock()
        self.disk = MemoryDisk()
        self.stream = FaultyStream(self.disk, self.clock)
        self.delivery = Delivery(
            stream=self.stream,
            dead_letters=MemoryObjectStore(),
            clock=self.clock,
            entropy=SeededEntropy(random.Random(1)),
            deadline_s=1e6,
        )
        self.sessions = {session(n).session_id: session(n) for n in range(1, devices + 1)}
        self.early: list[str] = []
        self.down: list[tuple[str, bytes]] = []
        self.packets = make_packets(
            delivery=self.delivery,
            session_of=self.sessions.get,
            inject=self._inject,
            clock=self.clock,
            budget=AnswerBudget(),
            entry_points=(FUNNEL, UNIFIED),
            **bounds,
        )
        self.devices = {
            item.session_id: SimulatedDevice(
                send_up=partial(self.packets.on_edge_packet, item.session_id),
                ue_address=item.ue_address,
                entry_address=FUNNEL.address,
                entry_port=FUNNEL.port,
            )
            for item in self.sessions.values()
        }
        self._answered: dict[str, int] = {}

    @property
    def device(self) -> SimulatedDevice:
        return next(iter(self.devices.values()))

    def _inject(self, session_id: str, packet: bytes) -> bool:
        """The checker stands here: the n-th 200 of a device needs n of its messages in the stream."""
        self.down.append((session_id, packet))
        parsed = parse(packet)
        if isinstance(parsed, UdpDatagram) and parsed.payload == b"200":
            self._answered[session_id] = self._answered.get(session_id, 0) + 1
            imsi = self.sessions[session_id].imsi
            if len(self.stored().get(imsi, [])) < self._answered[session_id]:
                self.early.append(session_id)
        self.devices[session_id].receive(packet)
        return True

    def stored(self) -> dict[str, list[int]]:
        """Each SIM's message numbers as the stream holds them, without what a retry stored twice."""
        seen: set[str] = set()
        by_imsi: dict[str, list[int]] = {}
        for shard in self.disk.shards:
            for record in shard:
                envelope = json.loads(record.data)
                if envelope["recordId"] in seen:
                    continue
                seen.add(envelope["recordId"])
                by_imsi.setdefault(envelope["imsi"], []).append(number_of(envelope["payloads"]))
        return by_imsi

    @asynccontextmanager
    async def running(self) -> AsyncIterator["World"]:
        async def serve() -> None:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.delivery.run())
                group.create_task(self.packets.run())

        task = asyncio.create_task(serve())
        await asyncio.sleep(0.001)
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def send_from_all(self, each: int) -> list[bytes | None]:
        return await asyncio.gather(
            *(device.send(b"x") for _ in range(each) for device in self.devices.values())
        )


def number_of(payloads: str | int) -> int:
    """A message's own number, base64 of binary or the JSON value itself."""
    return payloads if isinstance(payloads, int) else int(base64.b64decode(payloads).split()[0])


def test_a_message_is_answered_and_stored_under_the_sessions_identity() -> None:
    async def main() -> None:
        async with World().running() as world:
            assert await world.device.send(b"hello") == b"200"
            (record,) = [record for shard in world.disk.shards for record in shard]
            envelope = json.loads(record.data)
            item = session(1)
            assert record.partition_key == item.imsi
            assert (envelope["imsi"], envelope["imei"], envelope["simId"], envelope["operatorId"]) == (
                item.imsi,
                item.imei,
                item.sim_id,
                item.operator_id,
            )
            assert envelope["sourceProtocol"] == "udp"
            assert envelope["destination"]["resourceUrl"] == "udp://100.127.65.43:23080"
            assert base64.b64decode(envelope["payloads"]) == b"0 hello"
            assert world.device.bytes_up == 28 + len(b"0 hello")
            assert world.device.bytes_down == 28 + len(b"200")
            assert world.packets.in_flight == 0

    run_virtual(main)


def faulty_run(make_packets: Callable[..., DevicePackets], seed: int) -> World:
    world: World

    async def main() -> World:
        async with World(devices=9, make_packets=make_packets).running() as world:
            world.stream._rng.seed(seed)
            world.stream.record_failure = world.stream.call_failure = world.stream.failure_after_storing = 0.2
            await world.send_from_all(20)
            await asyncio.sleep(60)
            return world

    world = run_virtual(main)
    return world


@pytest.mark.parametrize("seed", range(5))
def test_order_and_truth_under_faults(seed: int) -> None:
    world = faulty_run(DevicePackets, seed)
    assert world.early == []
    assert world.stored() == {session(n).imsi: list(range(20)) for n in range(1, 10)}
    assert world.packets.counts[PacketCount.ANSWERED] == 180


class EarlyPackets(DevicePackets):
    """The planted fault: answers before the stream accepted."""

    def _deliver(self, session: Session, url: str, datagram: inner.UdpDatagram) -> None:
        self._answer(session, inner.reply_to(datagram, b"200"))
        super()._deliver(session, url, datagram)


def test_the_checker_sees_an_answer_before_acceptance() -> None:
    assert faulty_run(EarlyPackets, 0).early


def test_stalled_stream_means_silence_and_bounded_memory_then_everything_in_order() -> None:
    async def main() -> None:
        async with World(devices=40, in_flight_max=200, sim_in_flight_max=8).running() as world:
            world.stream.is_flowing.clear()
            for _ in range(30):
                answers = await asyncio.gather(*(d.send(answer_s=0.1) for d in world.devices.values()))
                assert set(answers) == {None}
                assert world.packets.in_flight <= 200
                assert world.delivery.waiting <= 200
            assert world.down == []
            assert world.packets.in_flight == 200
            assert world.packets.counts[PacketCount.OVERLOAD] == 40 * 30 - 200
            world.stream.is_flowing.set()
            await asyncio.sleep(30)
            assert world.packets.in_flight == 0
            assert world.early == []
            assert world.stored() == {session(n).imsi: [0, 1, 2, 3, 4] for n in range(1, 41)}
            assert len(world.down) == 200
            assert set(await world.send_from_all(1)) == {b"200"}

    run_virtual(main)


def test_one_sim_over_its_bound_does_not_touch_another() -> None:
    async def main() -> None:
        async with World(devices=2, sim_in_flight_max=3).running() as world:
            loud, quiet = world.devices.values()
            answers = await asyncio.gather(*(loud.send(answer_s=1) for _ in range(10)), quiet.send())
            assert answers == [b"200"] * 3 + [None] * 7 + [b"200"]
            assert world.packets.counts[PacketCount.OVERLOAD] == 7

    run_virtual(main)


@pytest.mark.parametrize("change", ["closed", "reused"])
def test_no_answer_into_another_session(change: str) -> None:
    async def main() -> None:
        async with World().running() as world:
            world.stream.is_flowing.clear()
            sending = asyncio.create_task(world.device.send(answer_s=2))
            await asyncio.sleep(0.1)
            item = world.sessions.pop("session-1")
            if change == "reused":
                world.sessions["session-1"] = replace(item, imsi="440109999999999")
            world.stream.is_flowing.set()
            assert await sending is None
            assert world.down == []
            assert world.packets.counts[PacketCount.SESSION_GONE] == 1
            assert world.packets.counts[PacketCount.ACCEPTED] == 1

    run_virtual(main)


def test_session_that_was_only_modified_is_the_same() -> None:
    async def main() -> None:
        async with World().running() as world:
            world.stream.is_flowing.clear()
            sending = asyncio.create_task(world.device.send())
            await asyncio.sleep(0.1)
            world.sessions["session-1"] = replace(session(1), version=2)
            world.stream.is_flowing.set()
            assert await sending == b"200"

    run_virtual(main)


def test_refusals_are_answered_and_stored_nowhere() -> None:
    async def main() -> None:
        async with World().running() as world:
            world.stream.poison = base64.b64encode(b"poison")
            assert await world.device.send_raw(b"poison") == b"400"
            assert await world.device.send_raw(b"7") == b"200"
            assert world.disk.record_count == 1
            assert world.packets.counts[PacketCount.REFUSED] == world.delivery.dead_letters == 1

    run_virtual(main)


def test_queue_that_is_full_means_silence() -> None:
    async def main() -> None:
        async with World(sim_in_flight_max=1_000).running() as world:
            world.stream.is_flowing.clear()
            await asyncio.gather(*(world.device.send(answer_s=0.1) for _ in range(300)))
            assert world.down == []
            assert world.packets.counts[PacketCount.REFUSED] == 300 - 256

    run_virtual(main)


def test_echo_and_unreachable() -> None:
    async def main() -> None:
        world = World()
        ue = session(1).ue_address
        content = b"\0\1\0\2ping"
        echo = icmp_echo(ue, FUNNEL.address, content)
        world.packets.on_edge_packet("session-1", echo)
        assert checksum(world.down[0][1][20:]) == 0
        assert world.down[0][1][20:22] == b"\0\0"
        assert world.down[0][1][24:] == content
        world.packets.on_edge_packet("session-1", icmp_echo(ue, IPv4Address("100.127.9.9"), content))
        assert len(world.down) == 1
        for address, port in ((FUNNEL.address, 1), (IPv4Address("100.127.9.9"), 23_080)):
            world.packets.on_edge_packet(
                "session-1", build_udp(UdpDatagram.between(ue, 5, address, port, b"x"))
            )
        assert [packet[20:22] for _, packet in world.down[1:]] == [b"\3\3", b"\3\3"]
        assert world.packets.counts[PacketCount.NO_ENTRY_POINT] == 3

    run_virtual(main)


def icmp_echo(source: IPv4Address, destination: IPv4Address, rest: bytes) -> bytes:
    message = b"\x08\0" + checksum(b"\x08\0\0\0" + rest).to_bytes(2, "big") + rest
    header = b"\x45\0" + (20 + len(message)).to_bytes(2, "big") + bytes(4) + b"\x40\x01"
    ends = source.packed + destination.packed
    packet = header + checksum(header + b"\0\0" + ends).to_bytes(2, "big") + ends + message
    assert isinstance(parse(packet), EchoRequest)
    return packet


def test_second_entry_point() -> None:
    async def main() -> None:
        async with World().running() as world:
            packet = build_udp(
                UdpDatagram.between(session(1).ue_address, 7, UNIFIED.address, UNIFIED.port, b"5")
            )
            world.packets.on_edge_packet("session-1", packet)
            await asyncio.sleep(1)
            reply = parse(world.down[0][1])
            assert isinstance(reply, UdpDatagram)
            assert (reply.source, reply.destination_port, reply.payload) == (UNIFIED.address, 7, b"200")

    run_virtual(main)


def test_what_is_dropped_is_counted() -> None:
    async def main() -> None:
        world = World(devices=2)
        good = build_udp(UdpDatagram.between(session(1).ue_address, 7, FUNNEL.address, FUNNEL.port, b"5"))
        world.packets.on_edge_packet("session-1", good)
        world.packets.on_edge_packet("session-2", good)
        world.packets.on_edge_packet("session-3", good)
        async with world.running():
            pass
        world.packets.on_edge_packet("session-1", good)
        assert world.packets.counts == {
            PacketCount.NOT_SERVING: 2,
            PacketCount.FOREIGN_SOURCE: 1,
            PacketCount.NO_SESSION: 1,
        }
        assert world.down == []

    run_virtual(main)


def test_ending_with_messages_under_way() -> None:
    async def main() -> None:
        async with World().running() as world:
            world.stream.is_flowing.clear()
            await world.device.send(answer_s=0.1)
        assert world.down == []

    run_virtual(main)


HOSTILE = build_udp(UdpDatagram.between(session(1).ue_address, 7, FUNNEL.address, FUNNEL.port, b"payload"))


@settings(deadline=None, max_examples=40)
@given(st.lists(st.binary(max_size=60) | st.tuples(st.integers(0, 34), st.integers(0, 255)), max_size=40))
def test_hostile_packets_never_raise_and_never_store(packets: list[bytes | tuple[int, int]]) -> None:
    """Garbage, and a good packet with one octet changed (lying and zero lengths among them)."""

    async def main() -> None:
        async with World().running() as world:
            for item in packets:
                if isinstance(item, bytes):
                    packet = item
                else:
                    at, change = item
                    packet = HOSTILE[:at] + bytes([HOSTILE[at] ^ change]) + HOSTILE[at + 1 :]
                if packet != HOSTILE:
                    world.packets.on_edge_packet("session-1", packet)
            await asyncio.sleep(1)
            assert world.disk.record_count == 0
            assert world.down == []

    run_virtual(main)


@pytest.mark.parametrize(("at", "value", "fault"), [
    (2, b"\0\0", Fault.TOTAL_LENGTH),
    (2, b"\xff\xff", Fault.TOTAL_LENGTH),
    (24, b"\0\0", Fault.UDP_LENGTH),
    (24, b"\xff\xff", Fault.UDP_LENGTH),
])  # fmt: skip
def test_lying_and_zero_lengths(at: int, value: bytes, fault: Fault) -> None:
    world: World = run_virtual(_make_world)
    world.packets.on_edge_packet("session-1", HOSTILE[:at] + value + HOSTILE[at + len(value) :])
    assert world.packets.counts == {fault: 1}


async def _make_world() -> World:
    return World()


def test_device_sends_again_only_when_told_and_ignores_what_is_not_for_it() -> None:
    async def main() -> None:
        sent: list[bytes] = []
        device = SimulatedDevice(
            send_up=sent.append,
            ue_address=session(1).ue_address,
            entry_address=FUNNEL.address,
            entry_port=FUNNEL.port,
        )
        assert await device.send(answer_s=1) is None
        assert len(sent) == 1
        assert await device.send(answer_s=1, retries=2) is None
        assert sent[1:] == [sent[1]] * 3
        device.receive(b"garbage")
        device.receive(
            build_udp(UdpDatagram.between(FUNNEL.address, FUNNEL.port, session(2).ue_address, 40_002, b""))
        )
        assert (device.unexpected, device.answered, device.bytes_up) == (2, 0, sum(map(len, sent)))

    run_virtual(main)
