"""Three readings of the standard by others (pycrate, scapy, tshark) of every GTPv2-C message that we send."""

import struct
import subprocess
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from pycrate_mobile.TS29274_GTPC import parse_GTPC
from scapy.contrib.gtp_v2 import GTPHeader

from core.domain.reasons import AttachRefusal
from core.domain.session import CloseReason, PdnType, Qos
from core.domain.values import replace
from gtp.endpoint import GtpcEndpoint
from gtp.events import (
    Accepted,
    BearersUnwanted,
    DeleteRequested,
    Done,
    Rejected,
    SessionRequested,
    UpdateRequested,
)
from gtp.transaction import Timers
from gtp.v2.wire import V2Wire
from tests.support.gtp import APN, counting
from tests.support.gtp2 import (
    SGW,
    create_elements,
    create_session,
    delete_session,
    element,
    message2,
    modify_bearer,
)
from tests.unit.gtp.v2.test_bearers import (
    IMSI,
    TFT,
    WANTED,
    delete_command,
    modify_command,
    told,
)
from tests.unit.gtp.v2.test_gateway import PGW_TEID, PREFIX, session

RAT = element(82, b"\x06")
MOVED = message2(34, PGW_TEID, 6, b"".join(element(93, element(73, bytes((ebi,)))) for ebi in (5, 9)))
SETS = (101, 179, 200)


def messages() -> dict[str, bytes]:
    """Every kind of message that the machine sends, by name."""
    machine = GtpcEndpoint(
        wires=[V2Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[APN],
        allowed_peers=(),
        random_bytes=counting(100),
        timers=Timers(back_off_s=100.0),
    )
    sent: dict[str, bytes] = {}

    def ask(name: str, data: bytes, outcome: Accepted | Rejected | Done | None = None) -> None:
        machine.receive_datagram(data, SGW, 0)
        event = machine.next_event()
        if outcome is not None:
            assert isinstance(event, SessionRequested | UpdateRequested | BearersUnwanted | DeleteRequested)
            machine.answer(event.token, outcome, 0)
        sent[name] = machine.datagrams_to_send()[-1][0]

    def begin(name: str, start: Callable[[], object]) -> None:
        start()
        sent[name] = machine.datagrams_to_send()[-1][0]

    without_apn = {name: value for name, value in create_elements().items() if name != "apn"}
    ask("echo response", message2(1, None, 1, element(3, b"\x07")))
    ask("create refused", create_session(2), Rejected(AttachRefusal.ADDRESSES_OCCUPIED))
    ask("create shed", create_session(40), Rejected(AttachRefusal.APN_CONGESTED))
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
    ask("modify accepted in part", MOVED, Accepted(session()))
    ask("change notification accepted", message2(38, PGW_TEID, 30, IMSI + RAT), Accepted(session()))
    ask("change notification of nothing", message2(38, 0, 31, IMSI + RAT))
    ask("suspended", message2(162, PGW_TEID, 32, IMSI), Accepted(session()))
    ask("resumed", message2(164, PGW_TEID, 33, IMSI), Accepted(session()))
    ask("update bearer by command", modify_command(34), Accepted(told()))
    ask("modify bearer command refused", modify_command(35, ebi=6))
    ask("delete bearer by command", delete_command(6, 7), Accepted(session()))
    ask("delete bearer command refused", message2(66, 0, 36, delete_command(6)[12:]))
    for number, aggregate in ((37, TFT), (38, TFT[:-1])):
        body = element(73, b"\x05") + element(100, b"\x09") + element(85, aggregate)
        ask(f"bearer resource command refused, {number}", message2(68, PGW_TEID, number, body))
    for kind in SETS:
        ask(f"no sets, {kind}", message2(kind, 0, kind, b""))
    ask("version not supported", bytes((0x60, 32, 0, 4)) + bytes(4))
    ask("echo request", message2(1, None, 6, element(3, b"\x09")))
    begin("create bearer request", lambda: machine.add_bearer(session(), WANTED, 0))
    begin("dedicated bearer changed", lambda: machine.change_bearer(told(), replace(WANTED, ebi=6), 0))
    begin("update bearer request", lambda: machine.changed(told(), 0))
    begin("delete dedicated bearer", lambda: machine.remove_bearer(session().session_id, 6, 0))
    ask("delete accepted", delete_session(PGW_TEID, 7), Done())
    machine.forget(session().session_id)
    ask("delete unknown", delete_session(PGW_TEID, 8))
    ask("create again", create_session(9), Accepted(session()))
    begin("delete bearer request", lambda: machine.release(session().session_id, 0, CloseReason.REACTIVATE))
    return sent


MESSAGES = messages()
REFUSED = {"create refused", "create shed", "create without APN"}
MISSING_BEARER_CONTEXT = 4
"""pycrate wants a bearer context in every Create Session Response; a refusal may carry its cause alone."""


HEADERS_BY_SCAPY = {39, 102, 180, 201}
"""Message types of which scapy dissects the header alone."""
NOT_BY_SCAPY = {69: element(100, b"\x09")}
"""Elements that scapy has no class for: PTI."""


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
    unread = bytes(parsed["Raw"]) if parsed.haslayer("Raw") else b""
    kind = MESSAGES[name][1]
    assert unread == NOT_BY_SCAPY.get(kind, MESSAGES[name][12:] if kind in HEADERS_BY_SCAPY else b"")


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
    assert {data[1] for data in MESSAGES.values()} == {
        *(1, 2, 3, 33, 35, 37, 39, 65, 67, 69, 95, 97, 99, 102, 163, 165, 180, 201)
    }
