"""tshark's reading of every RADIUS message that we send."""

import struct
import subprocess
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from core.domain.reasons import AttachRefusal
from core.domain.session import Nas
from radius import attributes as a
from radius.client import DisconnectClient
from radius.codec import Code, encode_access_request, encode_signed_request
from radius.events import AccessRequested, AccountingRequested, Denied, Ending, Granted, Recorded
from radius.networks import NasNetwork, NasNetworks
from radius.server import RadiusServer, ServerPort

SECRET = b"a shared secret"
NAS = ("127.0.3.1", 40_000)
IMSI = (a.USER_NAME, b"440100000000001")


def messages() -> dict[str, tuple[int, bytes]]:
    """Each kind by name, with the port it is sent from."""
    networks = NasNetworks([NasNetwork(IPv4Network("127.0.0.0/8"), SECRET)])
    servers = {port: RadiusServer(port, networks) for port in ServerPort}
    ports = {ServerPort.AUTHENTICATION: 1812, ServerPort.ACCOUNTING: 1813}
    sent: dict[str, tuple[int, bytes]] = {}

    def ask(name: str, port: ServerPort, data: bytes, outcome: Granted | Denied | Recorded | None) -> None:
        server = servers[port]
        server.receive_datagram(data, NAS, 0)
        if outcome is not None:
            event = server.next_event()
            assert isinstance(event, AccessRequested | AccountingRequested)
            server.answer(event.token, outcome, 0)
        ((answer, _),) = server.datagrams_to_send()
        sent[name] = (ports[port], answer)

    def access(number: int) -> bytes:
        return encode_access_request(number, bytes((number,)) * 16, [IMSI, (a.PROXY_STATE, b"p")], SECRET)

    granted = Granted(IPv4Address("10.128.0.2"), b"0" * 32, 600)
    ask("accept", ServerPort.AUTHENTICATION, access(1), granted)
    ask("reject", ServerPort.AUTHENTICATION, access(2), Denied(AttachRefusal.SIM_SUSPENDED))
    interim = [IMSI, (a.ACCT_STATUS_TYPE, (3).to_bytes(4, "big"))]
    accounting = encode_signed_request(Code.ACCOUNTING_REQUEST, 3, interim, SECRET)
    ask("accounting response", ServerPort.ACCOUNTING, accounting, Recorded())
    client = DisconnectClient()
    nas = Nas("127.0.3.0/24", "bras-1", "127.0.3.1", "A1", user_name="meter", framed_address="10.128.0.2")
    ending = Ending("440100000000001", nas)
    client.disconnect(ending, ("127.0.3.1", 3799), SECRET, 0, datetime(2026, 11, 24, tzinfo=UTC))
    sent["disconnect request"] = (3799, client.datagrams_to_send()[0][0])
    return sent


@pytest.mark.e2e
@pytest.mark.program("tshark")
def test_tshark_finds_nothing_malformed(tmp_path: Path) -> None:
    sent = messages()
    capture = tmp_path / "sent.pcap"
    content = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 65_535, 1)
    for port, data in sent.values():
        udp = struct.pack("!HHHH", port, port, 8 + len(data), 0) + data
        head = struct.pack(
            "!BBHHHBBH4s4s", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, b"\x7f\0\0\1", b"\x7f\0\3\1"
        )
        frame = bytes(12) + b"\x08\0" + head + udp
        content += struct.pack("<IIII", 0, 0, len(frame), len(frame)) + frame
    capture.write_bytes(content)
    fields = ["radius.code", "radius.User_Name", "radius.Framed-IP-Address", "_ws.malformed", "_ws.expert"]
    printed = subprocess.run(
        ["tshark", "-r", str(capture), "-Tfields", *(word for field in fields for word in ("-e", field))],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    rows = [[*line.split("\t"), "", "", "", "", ""][: len(fields)] for line in printed]
    assert [row[0] for row in rows] == ["2", "3", "5", "40"]
    assert (rows[0][2], rows[3][1], rows[3][2]) == ("10.128.0.2", "meter", "10.128.0.2")
    assert all(not malformed and not expert for *_, malformed, expert in rows), rows
