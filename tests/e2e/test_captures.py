"""What real networks sent, through our machines: each message is taken in, refused, or dropped by name.

The captures are not ours to ship: they are looked for in ``AIRLOOM_SHARED`` or beside the project, and where
they are not, these tests say that they were not run.
"""

import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from functools import cache
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.utils import rdpcap

from core.domain.requests import OpenSession
from gtp.endpoint import GtpcEndpoint
from gtp.events import SessionRequested
from gtp.v1 import ie
from gtp.v1.header import decode_header
from gtp.v1.message import MessageType, decode_response
from gtp.v1.wire import V1Wire
from gtp.v2.wire import V2Wire
from tests.support.gtp import APN, counting

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("AIRLOOM_SHARED", ROOT.parent / "shared")) / "pcaps"
CAPTURES = sorted(FOLDER.glob("*.pcap*"))

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not CAPTURES, reason="the captures are not there (AIRLOOM_SHARED)"),
]


@cache
def control_messages(capture: Path) -> tuple[bytes, ...]:
    packets = (packet[UDP] for packet in rdpcap(str(capture)) if UDP in packet)
    found = (bytes(udp.payload) for udp in packets if 2123 in (udp.sport, udp.dport))
    return tuple(data for data in found if data)


def machine_for(data: bytes) -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=[V1Wire(), V2Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=1,
        apns=[APN],
        allowed_peers=(),
        random_bytes=counting(1),
    )


def wishes(capture: Path) -> Iterator[OpenSession]:
    for data in control_messages(capture):
        machine = machine_for(data)
        machine.receive_datagram(data, ("127.0.1.1", 2123), 0)
        event = machine.next_event()
        if isinstance(event, SessionRequested):
            yield event.asked


@pytest.mark.parametrize("capture", CAPTURES, ids=lambda path: path.name)
def test_every_message_is_taken_in_refused_or_dropped_by_name(capture: Path) -> None:
    for data in control_messages(capture):
        machine = machine_for(data)
        machine.receive_datagram(data, ("127.0.1.1", 2123), 0)
        answers, event = machine.datagrams_to_send(), machine.next_event()
        dropped = [version.dropped for version in machine.versions.values()]
        assert sum((bool(answers), event is not None, any(dropped))) >= 1, data.hex()
        assert not any(counts["malformed_header"] for counts in dropped), data.hex()


@pytest.mark.program("tshark")
def test_each_session_is_asked_for_as_tshark_reads_it() -> None:
    fields = ("e212.imsi", "gtp.apn", "gtp.nsapi", "gtp.teid_cp", "gtp.teid_data", "e164.msisdn")
    seen = 0
    for capture in CAPTURES:
        if not any(data[:1] < b"\x40" and data[1] == 16 for data in control_messages(capture)):
            continue
        command = ["tshark", "-r", str(capture), "-Y", "gtp.message == 16 and udp.port == 2123", "-Tfields"]
        command += [argument for field in fields for argument in ("-e", field)]
        lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
        for line, wish in zip(lines, wishes(capture), strict=True):
            imsi, apn, nsapi, teid_control, teid_data, msisdn = line.split("\t")
            assert wish.peer is not None
            assert (wish.imsi, wish.apn, wish.peer.nsapi) == (imsi, apn, int(nsapi))
            assert (wish.peer.teid_control, wish.peer.teid_user) == (
                int(teid_control, 16),
                int(teid_data, 16),
            )
            assert wish.msisdn == msisdn
            seen += 1
    assert seen == 5


def test_what_other_gateways_answer_is_read() -> None:
    read = Counter[int]()
    for capture in CAPTURES:
        for data in control_messages(capture):
            if data[0] >> 5 == 1 and data[1] in (17, 19, 21):
                header = decode_header(data)
                response = decode_response(MessageType(header.message_type), header.payload)
                assert 128 <= response.cause < 256
                if header.message_type == MessageType.CREATE_PDP_CONTEXT_RESPONSE:
                    address = ie.required(response.elements, ie.END_USER_ADDRESS)
                    assert ie.decode_end_user_address(address).ipv4 is not None
                read[header.message_type] += 1
    assert read == {17: 5, 21: 1}
