"""Packets that are larger than a tunnel takes: told, cut, or made smaller before (scapy reads it)."""

from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet import (
    ICMP,
    IP,
    TCP,
    UDP,
    IPOption_EOL,
    IPOption_NOP,
    IPOption_Router_Alert,
    IPOption_Timestamp,
)
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig, IPv6, in6_chksum
from scapy.packet import Packet, Raw

from core.domain.apn import MTU_BYTES_MAX
from core.domain.usage import Volume
from core.domain.values import replace
from gtp.userplane.forwarding import TOO_BIG_PER_S_MAX, TOO_BIG_SESSIONS_MAX
from gtp.userplane.inner import checksum, clamp_mss, fragments
from gtp.userplane.reasons import Drop, Signal
from tests.contract.test_user_plane import EDGE, POOL, PREFIXES, SERVER, SERVER_IPV6, bearer, device6, g_pdu
from tests.unit.gtp.userplane.test_forwarding import Path

ONE = replace(bearer(1), ue_prefix=PREFIXES.of(bearer(1).ue_address))
TWO = bearer(2)
DEVICE, SERVER_TEXT = str(ONE.ue_address), str(SERVER)
INSIDE, INSIDE_IPV6 = str(POOL[1]), str(PREFIXES.pools[0][1][(1 << 64) + 1])


@pytest.fixture
def path() -> Path:
    made = Path()
    made.tunnels.install(ONE, 0)
    return made


def big(size: int = MTU_BYTES_MAX + 1, *, source: str = SERVER_TEXT, flags: str = "") -> bytes:
    header = IP(src=source, dst=DEVICE, flags=flags, id=0x1234)
    return bytes(header / UDP(sport=7, dport=8) / Raw((bytes(range(256)) * 256)[: size - 28]))


def big6(size: int = MTU_BYTES_MAX + 1) -> bytes:
    return bytes(IPv6(src=str(SERVER_IPV6), dst=str(device6(ONE))) / UDP(dport=8) / Raw(bytes(size - 48)))


def whole(pieces: list[bytes]) -> bytes:
    """What a receiver makes of fragments (RFC 791 §3.2), by scapy's reading of each."""
    read = sorted((IP(piece) for piece in pieces), key=lambda one: int(one.frag))
    content = b""
    for one in read:
        assert len(content) == one.frag * 8
        assert int(one.flags.MF) == (one is not read[-1])
        content += bytes(one.payload)
    return content


def test_the_largest_packet_goes_whole(path: Path) -> None:
    for packet in (big(MTU_BYTES_MAX, flags="DF"), big6(MTU_BYTES_MAX)):
        assert path.tunnels.downlink(packet)
        assert path.sent.pop()[0][8:] == packet
    assert path.counted() == Volume(0, 2 * MTU_BYTES_MAX, 0, 2)


def test_what_may_not_be_fragmented_is_told_to_its_sender(path: Path) -> None:
    packet = big(flags="DF")
    assert not path.tunnels.downlink(packet)
    [told] = path.internet
    read = IP(told)
    assert (read.src, read.dst) == (INSIDE, SERVER_TEXT)
    assert (read[ICMP].type, read[ICMP].code, read[ICMP].nexthopmtu) == (3, 4, MTU_BYTES_MAX)
    assert told[28:] == packet[:528]
    assert (checksum(told[:20]), checksum(told[20:])) == (0, 0)
    assert path.drops == {Drop.TOO_BIG: 1}
    assert path.signals == {Signal.TOO_BIG_SENT: 1}
    assert path.counted().is_zero


def test_ipv6_that_is_too_big_is_told_to_its_sender(path: Path) -> None:
    packet = big6()
    assert not path.tunnels.downlink(packet)
    [told] = path.internet
    read = IPv6(told)
    assert (read.src, read.dst, read[ICMPv6PacketTooBig].mtu) == (
        INSIDE_IPV6,
        str(SERVER_IPV6),
        MTU_BYTES_MAX,
    )
    assert told[48:] == packet[:1_232]
    assert not in6_chksum(58, read, bytes(read.payload))  # type: ignore[no-untyped-call]  # scapy
    assert path.drops == {Drop.TOO_BIG: 1}


def test_telling_is_limited_per_session_and_second(path: Path) -> None:
    for _ in range(TOO_BIG_PER_S_MAX + 5):
        path.tunnels.downlink(big(flags="DF"))
    assert len(path.internet) == TOO_BIG_PER_S_MAX
    assert path.signals[Signal.TOO_BIG_WITHHELD] == 5
    path.now += 1
    path.tunnels.downlink(big(flags="DF"))
    assert len(path.internet) == TOO_BIG_PER_S_MAX + 1


def test_sessions_about_which_is_told_are_bounded(path: Path) -> None:
    for number in range(TOO_BIG_SESSIONS_MAX + 3):
        path.tunnels.install(replace(ONE, session_id=f"{number:032d}x"), 0)
        path.tunnels.downlink(big(flags="DF"))
    assert path.signals == {Signal.TOO_BIG_SENT: TOO_BIG_SESSIONS_MAX, Signal.TOO_BIG_WITHHELD: 3}


NEVER_TOLD: dict[str, bytes] = {
    "an ICMP error": bytes(IP(src=SERVER_TEXT, dst=DEVICE, flags="DF") / ICMP(type=3) / Raw(bytes(1_500))),
    "a later fragment": bytes(IP(src=SERVER_TEXT, dst=DEVICE, flags="DF", frag=9) / Raw(bytes(1_500))),
    "from nowhere": big(source="0.0.0.0", flags="DF"),
    "from loopback": big(source="127.0.0.1", flags="DF"),
    "from multicast": big(source="224.0.0.1", flags="DF"),
    "an ICMPv6 error": bytes(
        IPv6(src=str(SERVER_IPV6), dst=str(device6(ONE))) / ICMPv6DestUnreach() / Raw(bytes(1_500))
    ),
    "IPv6 from nowhere": bytes(IPv6(src="::", dst=str(device6(ONE))) / UDP() / Raw(bytes(1_500))),
    "IPv6 from multicast": bytes(IPv6(src="ff02::1", dst=str(device6(ONE))) / UDP() / Raw(bytes(1_500))),
}


@pytest.mark.parametrize("name", NEVER_TOLD)
def test_nothing_is_told_about(path: Path, name: str) -> None:
    path.tunnels.downlink(NEVER_TOLD[name])
    assert (path.internet, path.sent) == ([], [])
    assert path.drops == {Drop.TOO_BIG: 1}
    assert path.signals == {Signal.TOO_BIG_WITHHELD: 1}


def test_the_edge_is_told_of_its_own(path: Path) -> None:
    assert not path.tunnels.inject(ONE.session_id, big(source=str(EDGE), flags="DF"))
    [(session_id, told)] = path.edge
    assert (session_id, IP(told)[ICMP].code, path.internet) == (ONE.session_id, 4, [])


def test_a_device_of_the_group_is_told_and_another_is_not(path: Path) -> None:
    path.tunnels.install(replace(ONE, closed_group="g"), 0)
    path.tunnels.install(replace(TWO, closed_group="g"), 4)
    packet = big(source=str(TWO.ue_address), flags="DF")
    path.up(g_pdu(TWO.local_teid, packet))
    [(data, _)] = path.sent
    assert (data[4:8], IP(data[8:])[ICMP].code) == (TWO.peer_teid.to_bytes(4, "big"), 4)
    assert path.counted(4).is_zero, "what was not forwarded is not counted, nor what the gateway says"
    path.tunnels.install(replace(TWO, closed_group="h"), 4)
    assert not path.tunnels.downlink(packet), "its source is forged: it came from the internet"
    assert (len(path.sent), path.internet) == (1, [])


def test_what_may_be_fragmented_comes_in_pieces_each_counted(path: Path) -> None:
    packet = big(4_000)
    assert path.tunnels.downlink(packet)
    pieces = [data[8:] for data, _ in path.sent]
    assert [len(piece) for piece in pieces] == [1_460, 1_460, 1_120]
    assert whole(pieces) == packet[20:]
    assert all(checksum(piece[:20]) == 0 for piece in pieces)
    assert {IP(piece).id for piece in pieces} == {0x1234}
    assert path.counted() == Volume(down_bytes=sum(map(len, pieces)), down_packets=3)


@given(size=st.integers(29, 65_535), mtu=st.integers(576, 1_464), options=st.integers(0, 9))
@settings(deadline=None)
def test_any_fragments_make_the_packet_again(size: int, mtu: int, options: int) -> None:
    header = bytes(IP(src=SERVER_TEXT, dst=DEVICE, options=[IPOption_NOP()] * 4 * options))
    packet = (
        header[:2] + size.to_bytes(2, "big") + header[4:] + (bytes(range(256)) * 256)[: size - len(header)]
    )
    if len(packet) != size:
        return
    pieces = list(fragments(packet, mtu))
    assert all(len(piece) <= mtu for piece in pieces)
    assert all(checksum(piece[: len(header)]) == 0 for piece in pieces)
    assert whole(pieces) == packet[len(header) :]


def test_fragments_are_cut_further_and_keep_their_place() -> None:
    packet = bytes(IP(src=SERVER_TEXT, dst=DEVICE, flags="MF", frag=100) / Raw(bytes(1_480)))
    pieces = [IP(piece) for piece in fragments(packet, 1_000)]
    assert [(piece.frag, piece.flags.MF) for piece in pieces] == [(100, True), (222, True)]


def test_only_options_that_are_to_be_copied_are() -> None:
    options = [IPOption_Router_Alert(), IPOption_Timestamp(), IPOption_NOP()]
    packet = bytes(IP(src=SERVER_TEXT, dst=DEVICE, options=options) / Raw(bytes(1_480)))
    first, second = (IP(piece) for piece in fragments(packet, 1_000))
    assert [type(one) for one in first.options[:2]] == [IPOption_Router_Alert, IPOption_Timestamp]
    assert isinstance(second.options[0], IPOption_Router_Alert)
    assert {type(one) for one in second.options[1:]} == {IPOption_NOP, IPOption_EOL}


def test_a_packet_beyond_the_end_of_all_fragments_is_not_cut() -> None:
    packet = bytes(IP(src=SERVER_TEXT, dst=DEVICE, frag=0x1FFF) / Raw(bytes(1_480)))
    assert list(fragments(packet, 1_000)) == []


@given(st.binary(min_size=40, max_size=40), st.integers(5, 15))
def test_any_options_end(options: bytes, words: int) -> None:
    packet = bytes(IP(src=SERVER_TEXT, dst=DEVICE))
    packet = bytes([0x40 | words]) + packet[1:20] + options[: words * 4 - 20] + bytes(2_000)
    assert whole(list(fragments(packet, 1_000))) == bytes(2_000)


# -- TCP's segments -----------------------------------------------------------------------------------

MSS = MTU_BYTES_MAX - 40
MSS_IPV6 = MTU_BYTES_MAX - 60


def syn(mss: int | None, *, flags: str = "S", before: int = 0, down: bool = False, frag: int = 0) -> bytes:
    options: list[tuple[str, object]] = [("NOP", None)] * before
    options += [] if mss is None else [("MSS", mss)]
    source, destination = (SERVER_TEXT, DEVICE) if down else (DEVICE, SERVER_TEXT)
    tcp = TCP(sport=1, dport=2, flags=flags, options=options)
    return bytes(IP(src=source, dst=destination, frag=frag) / tcp / Raw(b"data"))


def syn6(mss: int) -> bytes:
    tcp = TCP(sport=1, dport=2, flags="S", options=[("MSS", mss)])
    return bytes(IPv6(src=str(device6(ONE)), dst=str(SERVER_IPV6)) / tcp)


def is_summed(packet: Packet) -> bool:
    sums = packet[TCP].chksum
    del packet[TCP].chksum
    again = type(packet)(bytes(packet))
    return bool(again[TCP].chksum == sums)


def mss_of(packet: Packet) -> object:
    return dict(packet[TCP].options).get("MSS")


@pytest.mark.parametrize("flags", ["S", "SA"])
@pytest.mark.parametrize("before", range(5))
def test_a_segment_size_too_large_is_made_smaller_both_ways(path: Path, flags: str, before: int) -> None:
    path.up(g_pdu(ONE.local_teid, syn(1_460, flags=flags, before=before)))
    assert path.tunnels.downlink(syn(65_535, flags=flags, before=before, down=True))
    for packet in (IP(path.internet[0]), IP(path.sent[0][0][8:])):
        assert mss_of(packet) == MSS
        assert is_summed(packet)
        assert bytes(packet[TCP].payload) == b"data"


def test_a_segment_size_of_ipv6_is_made_smaller(path: Path) -> None:
    path.tunnels.install(replace(ONE, has_ipv4=False), 0)
    path.up(g_pdu(ONE.local_teid, syn6(1_440)))
    packet = IPv6(path.internet[0])
    assert mss_of(packet) == MSS_IPV6
    assert is_summed(packet)


@pytest.mark.parametrize(
    "packet",
    [syn(MSS), syn(536), syn(None), syn(1_460, flags="A"), syn(1_460, frag=5)],
    ids=["fits", "small", "none", "no SYN", "later fragment"],
)
def test_any_other_segment_goes_as_it_is(path: Path, packet: bytes) -> None:
    path.up(g_pdu(ONE.local_teid, packet))
    assert path.internet == [packet]


@given(
    mss=st.integers(0, 65_535),
    data=st.binary(max_size=64),
    before=st.integers(0, 5),
    mtu=st.integers(576, 1_464),
)
@settings(deadline=None)
def test_an_incremental_checksum_is_the_one_of_the_whole(
    mss: int, data: bytes, before: int, mtu: int
) -> None:
    options: list[tuple[str, object]] = [("NOP", None)] * before + [("MSS", mss)]
    packet = bytes(IP(src=DEVICE, dst=SERVER_TEXT) / TCP(flags="S", options=options) / Raw(data))
    changed = clamp_mss(packet, 20, mtu)
    assert mss_of(IP(changed)) == min(mss, mtu - 40)
    assert is_summed(IP(changed))


@given(options=st.binary(max_size=40), words=st.integers(0, 15), version=st.sampled_from((4, 6)))
def test_any_tcp_options_end_and_nothing_but_mss_changes(options: bytes, words: int, version: int) -> None:
    header = (b"\x45" + bytes(19)) if version == 4 else (b"\x60" + bytes(39))
    packet = header + bytes(12) + bytes([words << 4, 2]) + bytes(6) + options
    changed = clamp_mss(packet, len(header), 1_280)
    assert len(changed) == len(packet)
    assert IPv4Address(packet[12:16]) == IPv4Address(changed[12:16])
    differing = [at for at, (old, new) in enumerate(zip(packet, changed, strict=True)) if old != new]
    assert len(differing) <= 4
