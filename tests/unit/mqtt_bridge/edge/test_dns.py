"""The name server inside the tunnels: platform names, nothing else, and no amplifier."""

import asyncio
import struct
import sys
from ipaddress import IPv4Address
from types import FrameType
from typing import Any

import pytest
from dnslib import QTYPE, RCODE, DNSHeader, DNSLabel, DNSQuestion, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from core.config import EdgeConfig, GatewayConfig
from core.services.streaming.delivery import Delivery
from loadtest.peers.device import SimulatedDevice
from loadtest.simulation.virtual import VirtualClock, run_virtual
from mqtt_bridge import inner
from mqtt_bridge.budget import ANSWERS_BURST, ANSWERS_PER_S, SWEEP_MIN, AnswerBudget
from mqtt_bridge.edge.dns import DNS_PORT, QUESTION_BYTES_MAX, NameServer
from mqtt_bridge.edge.udp import FUNNEL
from mqtt_bridge.packets import DevicePackets, PacketCount
from tests.unit.mqtt_bridge.test_packets import World, icmp_echo, session

ADDRESS = IPv4Address("100.127.65.43")
NAME = "funnel.soracom.io"
QUESTION = bytes(DNSRecord.question(NAME).pack())


def server() -> NameServer:
    return NameServer({NAME: ADDRESS})


def ask(name: str, kind: str = "A") -> DNSRecord:
    answer = server().answer(bytes(DNSRecord.question(name, kind).pack()))
    assert answer is not None
    return DNSRecord.parse(answer)


@pytest.mark.parametrize("name", [NAME, NAME + ".", "FUNNEL.Soracom.IO"])
def test_a_platform_name_has_its_address(name: str) -> None:
    answer = ask(name)
    assert (answer.header.rcode, [str(rr.rdata) for rr in answer.rr]) == (RCODE.NOERROR, [str(ADDRESS)])


@pytest.mark.parametrize("kind", ["AAAA", "TXT", "ANY"])
def test_another_type_of_it_has_no_data(kind: str) -> None:
    answer = ask(NAME, kind)
    assert (answer.header.rcode, answer.rr) == (RCODE.NOERROR, [])


@pytest.mark.parametrize("name", ["example.com", "soracom.io", "x.funnel.soracom.io", "."])
def test_every_other_name_is_refused(name: str) -> None:
    assert ask(name).header.rcode == RCODE.REFUSED


def test_what_is_no_question_gets_no_answer() -> None:
    response = bytes(DNSRecord.parse(QUESTION).reply().pack())
    for message in (b"", QUESTION[:12], response, QUESTION + bytes(QUESTION_BYTES_MAX), b"\xff" * 40):
        assert server().answer(message) is None


def test_other_operations_and_classes_are_not_implemented() -> None:
    status = bytearray(QUESTION)
    status[2] |= 0x10
    chaos = QUESTION[:-1] + b"\x03"
    for message in (bytes(status), chaos):
        answer = server().answer(message)
        assert answer is not None
        assert DNSRecord.parse(answer).header.rcode == RCODE.NOTIMP


def question(name: bytes, *, counts: tuple[int, int, int, int] = (1, 0, 0, 0), rest: bytes = b"") -> bytes:
    """Written octet by octet (RFC 1035 §4.1)."""
    return struct.pack("!6H", 7, 0x100, *counts) + name + b"\0\1\0\1" + rest


OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
"""EDNS(0), 1,232 octets (RFC 6891 §6.1.2)."""
LABELS = st.text(st.characters(max_codepoint=127), min_size=1, max_size=63)
ON_THE_WIRE = b"\6funnel\7soracom\2io\0"


def test_the_option_record_of_edns_is_passed_over() -> None:
    answer = server().answer(question(ON_THE_WIRE, counts=(1, 0, 0, 1), rest=OPT))
    assert answer is not None
    found = DNSRecord.parse(answer)
    assert [str(rr.rdata) for rr in found.rr] == [str(ADDRESS)]
    assert found.ar == []


@pytest.mark.parametrize("message", [
    question(b"\1a" * 120 + b"\0", counts=(44, 0, 0, 0), rest=b"\xc0\x0c\0\1\0\1" * 43),
    question(ON_THE_WIRE, counts=(0, 0, 0, 0)),
    question(ON_THE_WIRE, counts=(2, 0, 0, 0)),
    question(ON_THE_WIRE, counts=(1, 1, 0, 0)),
    question(ON_THE_WIRE, counts=(1, 0, 1, 0)),
    question(ON_THE_WIRE, counts=(1, 0, 0, 2)),
    question(b"\xc0\x0c"),
    question(b"\6funnel\xc0\x0c"),
    question(b"\x40" + b"a" * 64 + b"\0"),
    question((b"\x3f" + b"a" * 63) * 4 + b"\0"),
    question(ON_THE_WIRE)[:-1],
])  # fmt: skip
def test_what_a_first_question_cannot_be_gets_no_answer(message: bytes) -> None:
    assert server().answer(message) is None


def test_a_name_of_255_octets_is_one() -> None:
    name = (b"\x3f" + b"a" * 63) * 3 + b"\x3d" + b"a" * 61 + b"\0"
    assert len(name) == 255
    answer = server().answer(question(name))
    assert answer is not None
    assert DNSRecord.parse(answer).header.rcode == RCODE.REFUSED


@pytest.mark.parametrize("message", [
    question(b"\1a" * 120 + b"\0", counts=(44, 0, 0, 0), rest=b"\xc0\x0c\0\1\0\1" * 43),
    question(b"\1a" * 127 + b"\0"),
    question(b"\1a" * 240),
])  # fmt: skip
def test_no_message_costs_more_than_a_long_name(message: bytes) -> None:
    asked = server()
    lines = 0

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    sys.settrace(trace)
    try:
        asked.answer(message)
    finally:
        sys.settrace(None)
    assert lines <= 128 * 6, "a name has 127 labels at most"


@given(
    st.lists(LABELS, max_size=8).filter(lambda labels: sum(map(len, labels)) < 240),
    st.sampled_from([1, 28, 16, 255]),
    st.integers(0, 65_535),
    st.booleans(),
)
def test_dnslib_reads_the_answer_to_any_name(
    labels: list[str], kind: int, number: int, is_recursion_desired: bool
) -> None:
    asked = DNSRecord(
        DNSHeader(id=number, rd=is_recursion_desired),
        q=DNSQuestion(DNSLabel([label.encode() for label in labels]), kind),
    )
    answer = server().answer(bytes(asked.pack()))
    assert answer is not None
    read = DNSRecord.parse(answer)
    assert (read.header.id, read.header.qr, read.header.rd) == (number, 1, int(is_recursion_desired))
    assert (read.q.qname, read.q.qtype, read.header.rcode) == (asked.q.qname, kind, RCODE.REFUSED)


def test_the_budget_of_a_sim_is_for_everything_that_is_answered_at_once() -> None:
    async def main() -> None:
        world = World(devices=2, make_packets=with_names)
        ue = session(1).ue_address
        dns, nowhere = GatewayConfig().dns[0], IPv4Address("100.127.9.9")
        asked = inner.build_udp(inner.UdpDatagram.between(ue, 5, dns, DNS_PORT, QUESTION))
        lost = inner.build_udp(inner.UdpDatagram.between(ue, 5, nowhere, 9, b"x"))
        ping = icmp_echo(ue, FUNNEL.address, b"\0\1\0\2ping")
        for packet in (asked, lost, ping) * ANSWERS_BURST:
            world.packets.on_edge_packet("session-1", packet)
        assert len(world.down) == ANSWERS_BURST
        assert world.packets.counts[PacketCount.OVER_BUDGET] == 2 * ANSWERS_BURST
        other = inner.build_udp(inner.UdpDatagram.between(session(2).ue_address, 5, dns, DNS_PORT, QUESTION))
        world.packets.on_edge_packet("session-2", other)
        assert world.down[-1][0] == "session-2", "another SIM has its own"
        await asyncio.sleep(1)
        for _ in range(ANSWERS_BURST):
            world.packets.on_edge_packet("session-1", asked)
        assert len(world.down) == ANSWERS_BURST + 1 + ANSWERS_PER_S

    run_virtual(main)


def test_what_is_kept_of_budgets_is_bounded_by_those_that_used_them_lately() -> None:
    budget, most = AnswerBudget(), 0
    for number in range(20 * SWEEP_MIN):
        assert budget.take(f"{number:015d}", now=number / 100)
        most = max(most, len(budget))
    assert SWEEP_MIN / 2 < most <= SWEEP_MIN


@given(st.binary(max_size=600))
def test_random_messages_never_raise(message: bytes) -> None:
    server().answer(message)


@given(st.data())
def test_mutated_questions_never_raise_nor_swell(data: st.DataObject) -> None:
    message = bytearray(QUESTION)
    for _ in range(data.draw(st.integers(1, 5))):
        message[data.draw(st.integers(0, len(message) - 1))] = data.draw(st.integers(0, 255))
    answer = server().answer(bytes(message))
    assert answer is None or len(answer) <= len(message) + 32


def test_a_device_asks_through_its_tunnel() -> None:
    async def main() -> None:
        world = World(make_packets=with_names)
        device = SimulatedDevice(
            send_up=lambda packet: world.packets.on_edge_packet(session(1).session_id, packet),
            ue_address=session(1).ue_address,
            entry_address=GatewayConfig().dns[0],
            entry_port=DNS_PORT,
        )
        world.devices[session(1).session_id] = device
        answer = await device.send_raw(QUESTION)
        assert answer is not None
        (found,) = DNSRecord.parse(answer).rr
        assert (found.rtype, str(found.rdata)) == (QTYPE.A, str(EdgeConfig().message_address))
        assert await device.send_raw(b"no question", answer_s=0.1) is None
        assert (
            world.packets.counts[PacketCount.QUESTION] == world.packets.counts[PacketCount.NO_QUESTION] == 1
        )

    run_virtual(main)


def with_names(*, delivery: Delivery, clock: VirtualClock, **rest: object) -> DevicePackets:
    names = NameServer(dict.fromkeys(EdgeConfig().message_names, EdgeConfig().message_address))
    responders = {(GatewayConfig().dns[0], DNS_PORT): names.answer}
    return DevicePackets(delivery=delivery, clock=clock, responders=responders, **rest)  # type: ignore[arg-type]  # passed on
