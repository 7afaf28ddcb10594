"""Three readings of the standard by others (pycrate, scapy, tshark) of every GTPv2-C message that we send."""

import struct
import subprocess
from dataclasses import replace
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pycrate_mobile.TS29274_GTPC import parse_GTPC
from scapy.contrib.gtp_v2 import GTPHeader

from core.domain.reasons import AttachRefusal
from core.domain.session import PdnType, Qos
from gtp.events import Accepted, DeleteRequested, Done, Rejected, SessionRequested, UpdateRequested
from gtp.v2.gateway import GtpV2Gateway
from tests.support.gtp import APN
from tests.support.gtp2 import (
    SGW,
    create_elements,
    create_session,
    delete_session,
    element,
    message2,
    modify_bearer,
)
from tests.unit.test_gtpv2_gateway import PGW_TEID, PREFIX, session


def messages() -> dict[str, bytes]:
    """Every kind of message that the machine sends, by name."""
    machine = GtpV2Gateway(
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[APN],
        allowed_peers=(),
        first_sequence=100,
    )
    sent: dict[str, bytes] = {}

    def ask(name: str, data: bytes, outcome: Accepted | Rejected | Done | None = None) -> None:
        machine.receive_datagram(data, SGW, 0)
        event = machine.next_event()
        if outcome is not None:
            assert isinstance(event, SessionRequested | UpdateRequested | DeleteRequested)
            machine.answer(event.token, outcome, 0)
        sent[name] = machine.datagrams_to_send()[-1][0]

    without_apn = {name: value for name, value in create_elements().items() if name != "apn"}
    ask("echo response", message2(1, None, 1, element(3, b"\x07")))
    ask("create refused", create_session(2), Rejected(AttachRefusal.ADDRESSES_OCCUPIED))
    ask("create without APN", message2(32, 0, 3, b"".join(without_apn.values())))
    ask("create accepted", create_session(4), Accepted(session()))
    for number, pdn_type in ((2, PdnType.IPV6), (3, PdnType.IPV4V6)):
        given = replace(session(), pdn_type=pdn_type, ue_prefix=PREFIX, qos=Qos(8, 0x7C, 512, 1_024))
        ask(
            f"create accepted, {pdn_type.value}",
            create_session(20 + number, pdn_type=number),
            Accepted(given),
        )
    ask("modify accepted", modify_bearer(PGW_TEID, 5), Accepted(session()))
    ask("echo request", message2(1, None, 6, element(3, b"\x09")))
    ask("delete accepted", delete_session(PGW_TEID, 7), Done())
    machine.forget(session().session_id)
    ask("delete unknown", delete_session(PGW_TEID, 8))
    ask("create again", create_session(9), Accepted(session()))
    machine.release(session().session_id, 0)
    sent["delete bearer request"] = machine.datagrams_to_send()[0][0]
    return sent


MESSAGES = messages()
REFUSED = {"create refused", "create without APN"}
MISSING_BEARER_CONTEXT = 4
"""pycrate wants a bearer context in every Create Session Response; a refusal may carry its cause alone."""


@pytest.mark.parametrize("name", MESSAGES)
def test_pycrate_reads_what_we_send(name: str) -> None:
    parsed, error = parse_GTPC(MESSAGES[name])
    assert error == (MISSING_BEARER_CONTEXT if name in REFUSED else 0), name
    assert parsed.to_bytes() == MESSAGES[name]


@pytest.mark.parametrize("name", MESSAGES)
def test_scapy_reads_what_we_send(name: str) -> None:
    parsed = GTPHeader(MESSAGES[name])
    assert parsed.version == 2
    assert parsed.length == len(MESSAGES[name]) - 4
    assert not parsed.haslayer("Raw"), parsed.show(dump=True)


def _frame(data: bytes) -> bytes:
    udp = struct.pack("!HHHH", 2123, 2123, 8 + len(data), 0) + data
    addresses = b"\x7f\0\0\1\x7f\0\2\1"
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses + udp
    frame = bytes(12) + b"\x08\0" + ip
    return struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame


@pytest.mark.e2e
@pytest.mark.program("tshark")
def test_tshark_finds_nothing_malformed(tmp_path: Path) -> None:
    capture = tmp_path / "sent.pcap"
    head = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)
    capture.write_bytes(head + b"".join(map(_frame, MESSAGES.values())))
    fields = ("gtpv2.message_type", "_ws.malformed", "_ws.expert.message")
    command = ["tshark", "-r", str(capture), "-Tfields", *(f for field in fields for f in ("-e", field))]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    found = {}
    for name, line in zip(MESSAGES, lines, strict=True):
        kind, malformed, expert = [*line.split("\t"), "", ""][:3]
        found[name] = (int(kind), malformed, expert)
    assert {name: what[1:] for name, what in found.items() if any(what[1:])} == {}
    assert {name: what[0] for name, what in found.items()} == {name: m[1] for name, m in MESSAGES.items()}


def test_all_kinds_are_here() -> None:
    assert {data[1] for data in MESSAGES.values()} == {1, 2, 33, 35, 37, 99}
