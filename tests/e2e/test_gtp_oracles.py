"""Three readings of the standard by others (pycrate, scapy, tshark) of every message that we send."""

import struct
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
from pycrate_mobile.TS29060_GTP import parse_GTP_SGSN
from scapy.contrib.gtp import GTPHeader

from core.domain.reasons import AttachRefusal
from core.domain.session import Qos
from core.domain.usage import SegmentLabel
from core.ports.network import Address, DatagramSocket, Receiver
from core.ports.user_plane import Bearer
from gtp.events import Accepted, DeleteRequested, Done, Rejected, SessionRequested, UpdateRequested
from gtp.userplane.slots import over_buffer, table_bytes
from gtp.userplane.udp import UdpUserPlane
from gtp.v1.gateway import GtpV1Gateway
from loadtest.virtual import VirtualClock, run_virtual
from tests.support.gtp import APN, SGSN, create_request, delete_request, message, session, update_request

LONG_PROFILE = "0223921f7396d2fe7487ff00"
"""pycrate loses what follows a shorter one."""


def control_messages() -> dict[str, bytes]:
    """Every kind of GTPv1-C message that the machine sends, by name."""
    machine = GtpV1Gateway(
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[APN],
        allowed_peers=(),
        first_sequence=100,
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
    ask(create_request(3), Accepted(session()))
    keep("create accepted")
    ask(update_request(0xA0000001, 4), Accepted(session()))
    keep("update accepted")
    machine.receive_datagram(message(1, 0, 5, b"\x0e\x09"), SGSN, 0)
    sent["echo request"] = machine.datagrams_to_send()[1][0]
    qos = Qos(ambr_up_kbps=512, ambr_down_kbps=1_024, profile=LONG_PROFILE)
    machine.changed(replace(session(), qos=qos), 0)
    keep("update request")
    machine.release(session().session_id, 0)
    keep("delete request")
    ask(create_request(6), Accepted(session(2)))
    machine.datagrams_to_send()
    ask(delete_request(0xA0000002, 7), Done())
    keep("delete accepted")
    machine.receive_datagram(delete_request(0xA0000002, 8), SGSN, 0)
    keep("delete unknown")
    return sent


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


def user_messages() -> dict[str, bytes]:
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
        )
        await plane.start()
        plane.install(
            Bearer(
                "0" * 31 + "1", "440100000000001", "OP0000000001", IPv4Address("10.128.0.2"), 0xB0000001,
                0x1001, "127.0.1.1", 1, SegmentLabel("s1.standard"),
            )
        )  # fmt: skip
        inner = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 28, 0, 0, 64, 17, 0, bytes(4), bytes((10, 128, 0, 2)))
        plane.inject("0" * 31 + "1", inner + struct.pack("!HHHH", 1, 2, 8, 0))
        assert wire.receiver is not None
        wire.receiver(bytes.fromhex("3201000400000000 00090000".replace(" ", "")), ("127.0.1.1", 2152))
        wire.receiver(struct.pack("!BBHI", 0x30, 255, 28, 0xDEAD) + inner + bytes(8), ("127.0.1.1", 2152))
        return wire.sent

    names = ("g-pdu", "echo response", "error indication")
    return dict(zip(names, run_virtual(main), strict=True))


CONTROL, USER = control_messages(), user_messages()


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
    assert not parsed.haslayer("Raw"), parsed.show(dump=True)


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
        assert not expert, line


def test_all_kinds_are_here() -> None:
    assert {data[1] for data in CONTROL.values()} == {1, 2, 3, 17, 18, 19, 20, 21}
    assert {data[1] for data in USER.values()} == {2, 26, 255}
