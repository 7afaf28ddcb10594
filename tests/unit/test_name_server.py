"""The name server inside the tunnels: platform names, nothing else, and no amplifier."""

from ipaddress import IPv4Address

import pytest
from dnslib import QTYPE, RCODE, DNSRecord
from hypothesis import given
from hypothesis import strategies as st

from core.config import EdgeConfig, GatewayConfig
from core.services.delivery import Delivery
from loadtest.peers.device import SimulatedDevice
from loadtest.virtual import VirtualClock, run_virtual
from mqtt_bridge.edge.dns import DNS_PORT, QUESTION_BYTES_MAX, NameServer
from mqtt_bridge.service import DeviceEdge, EdgeCount
from tests.unit.test_device_edge import World, session

ADDRESS = IPv4Address("100.127.65.43")
NAME = "funnel.soracom.io"
QUESTION = DNSRecord.question(NAME).pack()


def server() -> NameServer:
    return NameServer({NAME: ADDRESS})


def ask(name: str, kind: str = "A") -> DNSRecord:
    answer = server().answer(DNSRecord.question(name, kind).pack())
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
    response = DNSRecord.parse(QUESTION).reply().pack()
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
        world = World(make_edge=with_names)
        device = SimulatedDevice(
            send_up=lambda packet: world.edge.on_edge_packet(session(1).session_id, packet),
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
        assert world.edge.counts[EdgeCount.QUESTION] == world.edge.counts[EdgeCount.NO_QUESTION] == 1

    run_virtual(main)


def with_names(*, delivery: Delivery, clock: VirtualClock, **rest: object) -> DeviceEdge:
    names = NameServer(dict.fromkeys(EdgeConfig().message_names, EdgeConfig().message_address))
    responders = {(GatewayConfig().dns[0], DNS_PORT): names.answer}
    return DeviceEdge(delivery=delivery, clock=clock, responders=responders, **rest)  # type: ignore[arg-type]  # passed on
