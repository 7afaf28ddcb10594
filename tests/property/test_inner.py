"""Inner packets against scapy, and against garbage."""

from collections.abc import Sequence
from ipaddress import IPv4Address

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, UDP, IPOption_NOP
from scapy.packet import Raw

from mqtt_bridge.inner import (
    UDP_PAYLOAD_BYTES_MAX,
    EchoRequest,
    Fault,
    UdpDatagram,
    build_udp,
    checksum,
    echo_reply,
    parse,
    port_unreachable,
    reply_to,
)

UE, ENTRY = "10.128.0.1", "100.127.65.43"
addresses = st.integers(0, 2**32 - 1).map(IPv4Address)
ports = st.integers(0, 65_535)
datagrams = st.builds(UdpDatagram.between, addresses, ports, addresses, ports, st.binary(max_size=300))


def scapy_udp(payload: bytes = b"hello", options: Sequence[IPOption_NOP] = ()) -> bytes:
    return bytes(
        IP(src=UE, dst=ENTRY, options=list(options)) / UDP(sport=40_000, dport=23_080) / Raw(payload)
    )


def resummed(packet: bytes) -> bytes:
    """The same with a right IPv4 header checksum."""
    size = (packet[0] & 15) * 4
    header = packet[:10] + b"\0\0" + packet[12:size]
    return header[:10] + checksum(header).to_bytes(2, "big") + packet[12:]


@given(datagrams)
def test_round_trip(datagram: UdpDatagram) -> None:
    assert parse(build_udp(datagram)) == datagram


@given(datagrams)
def test_scapy_reads_what_we_build_and_finds_the_same_checksums(datagram: UdpDatagram) -> None:
    ours = build_udp(datagram)
    theirs = IP(ours)
    assert (theirs.src, theirs.dst) == (str(datagram.source), str(datagram.destination))
    assert (theirs[UDP].sport, theirs[UDP].dport) == (datagram.source_port, datagram.destination_port)
    given_sums = theirs.chksum, theirs[UDP].chksum
    del theirs.chksum, theirs[UDP].chksum
    again = IP(bytes(theirs))
    assert (again.chksum, again[UDP].chksum) == given_sums
    assert bytes(again) == ours


@pytest.mark.parametrize("options", [[], [IPOption_NOP()] * 4, [IPOption_NOP()] * 40])
def test_we_read_what_scapy_builds(options: list[IPOption_NOP]) -> None:
    parsed = parse(scapy_udp(options=options))
    assert parsed == UdpDatagram.between(IPv4Address(UE), 40_000, IPv4Address(ENTRY), 23_080, b"hello")


def test_reply_goes_back() -> None:
    parsed = parse(scapy_udp())
    assert isinstance(parsed, UdpDatagram)
    reply = IP(reply_to(parsed, b"200"))
    assert (reply.src, reply.dst, reply[UDP].sport, reply[UDP].dport) == (ENTRY, UE, 23_080, 40_000)
    assert bytes(reply[UDP].payload) == b"200"


@given(st.binary(max_size=200), ports, ports)
def test_echo(data: bytes, number: int, sequence: int) -> None:
    request = parse(bytes(IP(src=UE, dst=ENTRY) / ICMP(type=8, id=number, seq=sequence) / Raw(data)))
    assert isinstance(request, EchoRequest)
    reply = IP(echo_reply(request))
    assert (reply.src, reply.dst, reply[ICMP].type, reply[ICMP].code) == (ENTRY, UE, 0, 0)
    assert (reply[ICMP].id, reply[ICMP].seq, bytes(reply[ICMP].payload)) == (number, sequence, data)
    whole = bytes(reply[ICMP])
    assert checksum(whole) == 0


@pytest.mark.parametrize("options", [[], [IPOption_NOP()] * 8])
def test_port_unreachable_quotes_header_and_eight_octets(options: list[IPOption_NOP]) -> None:
    packet = scapy_udp(b"x" * 100, options=options)
    answer = IP(port_unreachable(packet))
    assert (answer.src, answer.dst, answer[ICMP].type, answer[ICMP].code) == (ENTRY, UE, 3, 3)
    size = (packet[0] & 15) * 4 + 8
    assert bytes(answer)[28:] == packet[:size]
    assert checksum(bytes(answer)[20:]) == 0
    assert checksum(bytes(answer)[:20]) == 0


GOOD = scapy_udp()


def changed(at: int, value: bytes) -> bytes:
    return GOOD[:at] + value + GOOD[at + len(value) :]


@pytest.mark.parametrize(("packet", "fault"), [
    (b"", Fault.NOT_IPV4),
    (GOOD[:19], Fault.NOT_IPV4),
    (b"\x60" + GOOD[1:], Fault.NOT_IPV4),
    (b"\x60" + bytes(39), Fault.NOT_IPV4),  # IPv6 with payload length 0
    (b"\x44" + GOOD[1:], Fault.HEADER_LENGTH),
    (b"\x40" + GOOD[1:], Fault.HEADER_LENGTH),
    (b"\x4f" + GOOD[1:30], Fault.TOTAL_LENGTH),
    (changed(2, b"\0\0"), Fault.TOTAL_LENGTH),
    (changed(2, b"\0\x13"), Fault.TOTAL_LENGTH),
    (changed(2, b"\xff\xff"), Fault.TOTAL_LENGTH),
    (GOOD[:-1], Fault.TOTAL_LENGTH),
    (changed(8, b"\1"), Fault.HEADER_CHECKSUM),
    (resummed(changed(6, b"\x20\0")), Fault.FRAGMENT),
    (resummed(changed(6, b"\0\1")), Fault.FRAGMENT),
    (resummed(changed(9, b"\x2f")), Fault.PROTOCOL),
    (resummed(changed(2, b"\0\x14")), Fault.UDP_LENGTH),
    (resummed(changed(2, b"\0\x1b")), Fault.UDP_LENGTH),
    (changed(24, b"\0\0"), Fault.UDP_LENGTH),
    (changed(24, b"\0\7"), Fault.UDP_LENGTH),
    (changed(24, b"\0\xff"), Fault.UDP_LENGTH),
    (changed(28, b"H"), Fault.UDP_CHECKSUM),
    (bytes(IP(src=UE, dst=ENTRY) / ICMP(type=0)), Fault.ICMP_TYPE),
    (bytes(IP(src=UE, dst=ENTRY) / ICMP(type=8, chksum=1)), Fault.ICMP_CHECKSUM),
    (bytes(IP(src=UE, dst=ENTRY, proto=1) / Raw(b"\x08\0\0\0")), Fault.ICMP_LENGTH),
])  # fmt: skip
def test_each_fault(packet: bytes, fault: Fault) -> None:
    assert parse(packet) is fault


def test_octets_behind_the_total_length_and_no_udp_checksum() -> None:
    assert parse(GOOD + b"padding") == parse(GOOD)
    assert parse(changed(26, b"\0\0")) == parse(GOOD)


@given(st.binary(max_size=100))
@example(GOOD)
def test_garbage_never_raises(packet: bytes) -> None:
    assert parse(packet) is not None


@given(st.integers(0, len(GOOD) - 1), st.integers(1, 255))
def test_one_changed_octet_is_never_taken_for_the_same(at: int, change: int) -> None:
    packet = GOOD[:at] + bytes([GOOD[at] ^ change]) + GOOD[at + 1 :]
    assert parse(packet) != parse(GOOD)


def test_largest_datagram() -> None:
    datagram = UdpDatagram.between(IPv4Address(UE), 1, IPv4Address(ENTRY), 2, bytes(UDP_PAYLOAD_BYTES_MAX))
    assert parse(build_udp(datagram)) == datagram
    with pytest.raises(ValueError):
        build_udp(
            UdpDatagram.between(IPv4Address(UE), 1, IPv4Address(ENTRY), 2, bytes(UDP_PAYLOAD_BYTES_MAX + 1))
        )


@given(st.binary(max_size=101))
def test_checksum_as_in_rfc_1071(data: bytes) -> None:
    total = 0
    padded = data + b"\0" * (len(data) % 2)
    for at in range(0, len(padded), 2):
        total += padded[at] << 8 | padded[at + 1]
        total = (total & 0xFFFF) + (total >> 16)
    assert checksum(data) == total ^ 0xFFFF
