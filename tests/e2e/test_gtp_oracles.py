"""Three readings of the standard by others (pycrate, scapy, tshark) of every message that we send."""

import re
import struct
import subprocess
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path

import pytest
from pycrate_mobile.TS29060_GTP import parse_GTP_SGSN
from scapy.contrib.gtp import GTPHeader
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6

from core.domain.apn import Apn
from core.domain.reasons import AttachRefusal
from core.domain.session import CloseReason, PdnType, Qos, Session
from core.domain.usage import SegmentLabel
from core.domain.values import replace
from core.ports.network import Address, DatagramSocket, Receiver
from core.ports.user_plane import Bearer
from gtp.endpoint import GtpcEndpoint
from gtp.events import Accepted, DeleteRequested, Done, Rejected, SessionRequested, UpdateRequested
from gtp.transaction import Timers
from gtp.userplane.slots import over_buffer, table_bytes
from gtp.userplane.udp import UdpUserPlane
from gtp.v1.wire import V1Wire
from loadtest.simulation.virtual import VirtualClock, run_virtual
from tests.support.gtp import (
    APN,
    SGSN,
    counting,
    create_elements,
    create_request,
    delete_request,
    message,
    session,
    tlv,
    update_request,
)
from tests.unit.gtp.v1.test_messages import NOTIFICATION, with_extensions

IPV6 = (IPv6Address("2001:db8::35"),)

LONG_PROFILE = "0223921f7396d2fe7487ff00"
"""pycrate loses what follows a shorter one."""


def control_messages() -> dict[str, bytes]:
    """Every kind of GTPv1-C message that the machine sends, by name."""
    machine = GtpcEndpoint(
        wires=[V1Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[replace(APN, dns_ipv6=IPV6, p_cscf=(*APN.dns, *IPV6))],
        allowed_peers=(),
        random_bytes=counting(100),
        timers=Timers(back_off_s=100.0),
    )
    sent: dict[str, bytes] = {}

    def keep(name: str) -> None:
        (sent[name],) = (data for data, _ in machine.datagrams_to_send()[:1])

    def ask(data: bytes, outcome: Accepted | Rejected | Done) -> None:
        machine.receive_datagram(data, SGSN, 0)
        event = machine.next_event()
        assert isinstance(event, SessionRequested | UpdateRequested | DeleteRequested)
        if isinstance(event, DeleteRequested):
            machine.forget(event.session_id)
        machine.answer(event.token, outcome, 0)

    machine.receive_datagram(message(1, 0, 1, b""), SGSN, 0)
    keep("echo response")
    machine.receive_datagram(b"\x48\x20\0\x08" + bytes(8), SGSN, 0)
    keep("version not supported")
    ask(create_request(2), Rejected(AttachRefusal.ADDRESSES_OCCUPIED))
    keep("create refused")
    ask(create_request(20), Rejected(AttachRefusal.APN_CONGESTED))
    keep("create shed")
    ask(create_request(3), Accepted(session()))
    keep("create accepted")
    ask(update_request(0xA0000001, 4), Accepted(session()))
    keep("update accepted")
    machine.receive_datagram(message(1, 0, 5, b"\x0e\x09"), SGSN, 0)
    sent["echo request"] = machine.datagrams_to_send()[1][0]
    qos = Qos(ambr_up_kbps=512, ambr_down_kbps=1_024, profile=LONG_PROFILE)
    machine.changed(replace(session(), qos=qos), 0)
    keep("update request")
    machine.release(session().session_id, 0, CloseReason.REACTIVATE)
    keep("delete request")
    ask(create_request(6), Accepted(session(2)))
    machine.datagrams_to_send()
    ask(delete_request(0xA0000002, 7), Done())
    keep("delete accepted")
    machine.receive_datagram(delete_request(0xA0000002, 8), SGSN, 0)
    keep("delete unknown")
    machine.receive_datagram(with_extensions(create_request(9), (0xC5, b"\0\0")), SGSN, 5)
    (sent["supported extension headers"], _), (sent["create with an unknown extension header"], _) = (
        machine.datagrams_to_send()
    )
    for number, pdn_type in enumerate(PdnType, 10):
        ask(full_create(number, pdn_type), Accepted(full_session(number, pdn_type)))
        keep(f"create accepted, {pdn_type.value}")
    ask(message(128, 0xA000000A, 20, NOTIFICATION), Accepted(session(10)))
    keep("change notification accepted")
    machine.receive_datagram(message(128, 1, 21, NOTIFICATION), SGSN, 0)
    keep("change notification unknown")
    return sent


def full_create(number: int, pdn_type: PdnType) -> bytes:
    """A request that asks for whatever there is."""
    ipcp = bytes.fromhex("80211001010010 810600000000830600000000".replace(" ", ""))
    pap = bytes.fromhex("c0230c0101000c0361626303646566")
    asks = b"".join(identifier.to_bytes(2, "big") + b"\0" for identifier in (1, 3, 12, 13, 16))
    elements = create_elements(pdp_type=bytes((0xF1, {"ipv4": 0x21, "ipv6": 0x57}.get(pdn_type.value, 0x8D))))
    elements[8] = tlv(0x84, b"\x80" + ipcp + pap + asks)
    elements[12] = tlv(0x87, bytes.fromhex("020b921f72967f7f74fb0000000000"))
    elements += [tlv(0xBF, b"\x65"), tlv(0xC6, (64).to_bytes(4, "big") * 2), tlv(0x94, b"\x80")]
    return with_extensions(message(16, 0, number, b"".join(elements)), (0x02, b"\0\0"))


def full_session(number: int, pdn_type: PdnType) -> Session:
    prefix = None if pdn_type is PdnType.IPV4 else IPv6Network("2001:db8:0:2::/64")
    qos = Qos(8, 0x65, 64, 300_000)
    return replace(session(number), pdn_type=pdn_type, ue_prefix=prefix, qos=qos)


class Wire:
    """A network that keeps what is sent."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self.receiver: Receiver | None = None
        self.address: Address = ("127.0.0.1", 2152)

    async def open_datagram(self, address: Address, receiver: Receiver) -> DatagramSocket:
        self.receiver = receiver
        return self

    def send(self, data: bytes, to: Address) -> bool:
        self.sent.append(data)
        return True

    def close(self) -> None:
        self.receiver = None


def user_messages(*, is_numbered: bool = False) -> dict[str, bytes]:
    """Every kind of GTP-U message that the user plane sends, by name."""

    async def main() -> list[bytes]:
        wire = Wire()
        plane = UdpUserPlane(
            slots=over_buffer(bytearray(table_bytes(4))),
            clock=VirtualClock(),
            network=wire,
            address=IPv4Address("127.0.0.1"),
            ue_pool=IPv4Network("10.128.0.0/9"),
            platform_network=IPv4Network("100.127.0.0/16"),
            apns=[Apn("meters", dns_ipv6=(IPv6Address("2001:db8::35"),))],
            is_numbered=is_numbered,
        )
        await plane.start()
        bearer = Bearer(
            "0" * 31 + "1", "440100000000001", "OP0000000001", IPv4Address("10.128.0.2"), 0xB0000001,
            0x1001, "127.0.1.1", 1, SegmentLabel("s1.standard"), ue_prefix=IPv6Network("2001:db8::/64"),
            apn="meters",
        )  # fmt: skip
        plane.install(bearer)
        inner = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, bytes(4), bytes((10, 128, 0, 2)))
        plane.inject("0" * 31 + "1", inner + struct.pack("!HHHH", 1, 2, 8, 0))
        assert wire.receiver is not None
        wire.receiver(bytes.fromhex("3201000400000000 00090000".replace(" ", "")), ("127.0.1.1", 2152))
        wire.receiver(struct.pack("!BBHI", 0x30, 255, 28, 0xDEAD) + inner + bytes(8), ("127.0.1.1", 2152))
        asked = bytes(IPv6(src="fe80::a80:2", dst="ff02::2", hlim=255) / ICMPv6ND_RS())
        wire.receiver(struct.pack("!BBHI", 0x30, 255, len(asked), 0xB0000001) + asked, ("127.0.1.1", 2152))
        plane.update(replace(bearer, peer_address="127.0.1.2"))
        unknown = struct.pack("!BBHI", 0x34, 255, 8, 0xB0000001) + b"\0\0\0\xc7\x01\0\0\0"
        wire.receiver(unknown, ("127.0.1.1", 2152))
        return wire.sent

    names = (
        "g-pdu",
        "echo response",
        "error indication",
        "router advertisement",
        "end marker",
        "extension headers",
    )
    return dict(zip(names, run_virtual(main), strict=True))


UNKNOWN_TO_SCAPY = {129}
"""Messages of which it reads the header alone."""
CONTROL = control_messages()
USER = user_messages() | {f"{name}, numbered": each for name, each in user_messages(is_numbered=True).items()}


@pytest.mark.parametrize("name", CONTROL)
def test_pycrate_reads_what_we_send(name: str) -> None:
    parsed, error = parse_GTP_SGSN(CONTROL[name])
    assert error == 0, name
    assert parsed.to_bytes() == CONTROL[name]


@pytest.mark.parametrize("name", CONTROL)
def test_scapy_reads_what_we_send(name: str) -> None:
    parsed = GTPHeader(CONTROL[name])
    assert parsed.version == 1
    assert parsed.length == len(CONTROL[name]) - 8
    assert bytes(parsed) == CONTROL[name]
    assert parsed.haslayer("Raw") == (CONTROL[name][1] in UNKNOWN_TO_SCAPY), parsed.show(dump=True)


def _frames() -> Iterator[bytes]:
    for port, messages in ((2123, CONTROL), (2152, USER)):
        for data in messages.values():
            udp = struct.pack("!HHHH", port, port, 8 + len(data), 0) + data
            yield (
                bytes(12)
                + b"\x08\0"
                + struct.pack(
                    "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\1\1"
                )
                + udp
            )


@pytest.mark.e2e
@pytest.mark.program("tshark")
def test_tshark_finds_nothing_malformed(tmp_path: Path) -> None:
    capture = tmp_path / "sent.pcap"
    frames = list(_frames())
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)
    capture.write_bytes(
        head + b"".join(struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame for frame in frames)
    )
    fields = subprocess.run(
        [
            "tshark",
            "-r",
            str(capture),
            "-Tfields",
            "-e",
            "gtp.message",
            "-e",
            "_ws.malformed",
            "-e",
            "_ws.expert",
        ],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert len(fields) == len(frames)
    for line in fields:
        kind, malformed, expert = [*line.split("\t"), "", ""][:3]
        assert kind, line
        assert not malformed, line
        assert set(re.findall(r"Expert Info \((\w+)/", expert)) <= {"Note"}, line


def test_all_kinds_are_here() -> None:
    assert {data[1] for data in CONTROL.values()} == {1, 2, 3, 17, 18, 19, 20, 21, 31, 129}
    assert {data[1] for data in USER.values()} == {2, 26, 31, 254, 255}
