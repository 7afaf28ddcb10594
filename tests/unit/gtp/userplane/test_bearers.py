"""What a session is besides its default tunnel: dedicated bearers, suspension, moves from peer to peer."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from core.domain.flow import DedicatedBearer, PacketFilter
from core.domain.usage import Volume
from core.domain.values import replace
from core.ports.user_plane import Bearer
from gtp.userplane.filters import bearer_paths, choose
from gtp.userplane.reasons import Drop, Signal
from tests.contract.test_user_plane import (
    PEER,
    PREFIXES,
    SERVER,
    SERVER_IPV6,
    bearer,
    device6,
    g_pdu,
    own_link,
    packet,
    packet6,
)
from tests.unit.gtp.userplane.test_forwarding import GOOD, INNER, Path, error_indication

OTHER_PEER = "10.99.0.101"
ANYTHING = PacketFilter(identifier=1, precedence=200)


def dedicated(*filters: PacketFilter, ebi: int = 6, peer: str = OTHER_PEER) -> DedicatedBearer:
    return DedicatedBearer(
        ebi=ebi,
        qci=1,
        arp=0x3C,
        filters=filters,
        local_teid_user=0x3000 + ebi,
        peer_teid_user=0x4000 + ebi,
        peer_user_address=peer,
        charging_id=ebi,
    )


SIP = PacketFilter(
    identifier=2, precedence=10, protocol=17, remote="198.51.100.0/24", remote_ports=(5_060, 5_061)
)
VOICE = dedicated(SIP)
PLAIN = replace(bearer(1), ue_prefix=PREFIXES.of(bearer(1).ue_address))
ONE = replace(PLAIN, dedicated=(VOICE,))


@pytest.fixture
def path() -> Path:
    made = Path()
    made.tunnels.install(ONE, 0)
    return made


def down(message: Packet, source: str = str(SERVER), *, frag: int = 0) -> bytes:
    return bytes(IP(src=source, dst=str(ONE.ue_address), frag=frag) / message)


def teids(path: Path) -> list[tuple[int, str]]:
    return [(int.from_bytes(data[4:8], "big"), to[0]) for data, to in path.sent]


DEFAULT, APART = (ONE.peer_teid, PEER), (VOICE.peer_teid_user, OTHER_PEER)


def test_downlink_goes_by_the_bearer_whose_filter_takes_it(path: Path) -> None:
    taken, other = down(UDP(sport=5_060, dport=9)), down(UDP(sport=53, dport=9))
    assert path.tunnels.downlink(taken)
    assert path.tunnels.downlink(other)
    assert teids(path) == [APART, DEFAULT]
    assert path.counted() == Volume(0, len(taken) + len(other), 0, 2), "one session, one count"


def test_uplink_is_taken_by_any_of_the_sessions_teids_from_its_peer(path: Path) -> None:
    apart = g_pdu(VOICE.local_teid_user, INNER)
    path.up(apart, source=OTHER_PEER)
    path.up(GOOD)
    assert path.internet == [INNER, INNER]
    assert path.counted() == Volume(up_bytes=128, up_packets=2)
    path.up(apart, source="10.99.0.66")
    path.up(GOOD, source=OTHER_PEER)
    assert path.drops == {Drop.WRONG_PEER: 2}
    assert len(path.internet) == 2


def test_a_bearer_that_is_gone_takes_nothing_more(path: Path) -> None:
    path.tunnels.install(PLAIN, 0)
    path.tunnels.downlink(down(UDP(sport=5_060)))
    path.up(g_pdu(VOICE.local_teid_user, INNER), source=OTHER_PEER)
    assert teids(path)[0] == DEFAULT
    assert path.drops == {Drop.UNKNOWN_TEID: 1}
    path.tunnels.remove(ONE.session_id)
    path.up(GOOD)
    assert path.drops == {Drop.UNKNOWN_TEID: 2}


def test_an_error_indication_for_a_dedicated_bearer_leaves_the_session(path: Path) -> None:
    path.tunnels.downlink(down(UDP(sport=5_060)))
    path.sent.clear()
    path.up(error_indication(VOICE.peer_teid_user), source=PEER)
    path.up(error_indication(VOICE.peer_teid_user), source=OTHER_PEER)
    path.tunnels.downlink(down(UDP(sport=5_060)))
    assert path.lost_tunnels == []
    assert teids(path) == [DEFAULT]
    assert path.signals == {Signal.ERROR_INDICATION_IGNORED: 1, Signal.ERROR_INDICATION_ACCEPTED: 1}


def test_filters_are_asked_in_ascending_precedence() -> None:
    late, early = dedicated(ANYTHING, ebi=6), dedicated(replace(ANYTHING, precedence=3), ebi=7)
    middle = dedicated(replace(ANYTHING, precedence=4), replace(ANYTHING, precedence=5), ebi=8)
    found = bearer_paths((late, middle, early))
    assert [bearer_path.precedence for bearer_path in found] == [3, 4, 5, 200]
    chosen = choose(found, INNER)
    assert chosen is not None
    assert chosen.peer_teid == early.peer_teid_user


def test_a_filter_of_uplink_alone_takes_nothing_down() -> None:
    assert bearer_paths((dedicated(replace(ANYTHING, is_downlink=False)),)) == ()


REMOTE_IPV6 = replace(ANYTHING, remote="2606:4700::/32")
TCP_TO_80 = replace(ANYTHING, protocol=6, local_ports=(80, 80))


def down6(message: Packet) -> bytes:
    return bytes(IPv6(src=str(SERVER_IPV6), dst=str(device6(ONE))) / message)


@pytest.mark.parametrize(
    ("one", "inner", "is_taken"),
    [
        (ANYTHING, down(ICMP()), True),
        (ANYTHING, down6(UDP()), True),
        (SIP, down(UDP(sport=5_061)), True),
        (SIP, down(UDP(sport=5_062)), False),
        (SIP, down(UDP(sport=5_060), source="203.0.113.7"), False),
        (SIP, down(TCP(sport=5_060)), False),
        (SIP, down6(UDP(sport=5_060)), False),
        (SIP, down(UDP(sport=5_060), frag=7), False),
        (SIP, down(Raw(b"")), False),
        (replace(SIP, remote_ports=None), down(UDP(), frag=7), True),
        (TCP_TO_80, down(TCP(dport=80)), True),
        (TCP_TO_80, down(TCP(dport=81)), False),
        (TCP_TO_80, down6(TCP(dport=80)), True),
        (TCP_TO_80, down6(IPv6ExtHdrFragment(nh=6) / TCP(dport=80)), False),
        (REMOTE_IPV6, down6(UDP()), True),
        (REMOTE_IPV6, down(UDP()), False),
        (replace(ANYTHING, remote="2606:4701::/32"), down6(UDP()), False),
        (replace(ANYTHING, protocol=1, local_ports=(0, 65_535)), down(ICMP()), False),
    ],
)
def test_what_a_filter_takes(one: PacketFilter, inner: bytes, is_taken: bool) -> None:
    assert (choose(bearer_paths((dedicated(one),)), inner) is not None) is is_taken


@given(st.binary(min_size=20, max_size=80).map(lambda data: b"\x45" + data[1:]))
def test_any_packet_is_chosen_for_without_raising(inner: bytes) -> None:
    chosen = choose(bearer_paths((dedicated(SIP, TCP_TO_80),)), inner)
    assert chosen is None or inner[9] in (6, 17)


# -- suspension and moves -----------------------------------------------------------------------------


def test_downlink_of_a_suspended_session_is_dropped_and_uplink_passes(path: Path) -> None:
    path.tunnels.install(replace(ONE, is_suspended=True), 0)
    assert not path.tunnels.downlink(packet(SERVER, ONE.ue_address))
    assert not path.tunnels.downlink(packet(SERVER, ONE.ue_address, 2_000))
    path.up(GOOD)
    assert path.sent == []
    assert path.drops == {Drop.SUSPENDED: 2}
    assert path.counted() == Volume(up_bytes=64, up_packets=1)


GROUP = replace(PLAIN, closed_group="g")
FRIEND = replace(bearer(2), ue_prefix=PREFIXES.of(bearer(2).ue_address), closed_group="g")


def test_devices_of_a_closed_group_reach_each_other_by_ipv6(path: Path) -> None:
    path.tunnels.install(GROUP, 0)
    path.tunnels.install(FRIEND, 4)
    inner = packet6(device6(GROUP, 5), device6(FRIEND, 9), 100)
    path.up(g_pdu(GROUP.local_teid, inner))
    assert path.sent[-1] == (g_pdu(FRIEND.peer_teid, inner), (PEER, 2152))
    assert path.counted() == Volume(up_bytes=100, up_packets=1)
    assert path.counted(4) == Volume(down_bytes=100, down_packets=1)


@pytest.mark.parametrize(
    "friend",
    [replace(FRIEND, is_suspended=True), replace(FRIEND, down_kbps=1)],
    ids=["suspended", "over its speed"],
)
def test_what_a_friend_is_not_sent_is_counted_for_neither(path: Path, friend: Bearer) -> None:
    path.tunnels.install(GROUP, 0)
    path.tunnels.install(friend, 4)
    for _ in range(100):
        path.up(g_pdu(GROUP.local_teid, packet(GROUP.ue_address, FRIEND.ue_address, 1_000)))
    one, two = path.counted(), path.counted(4)
    assert (one.up_bytes, one.up_packets) == (two.down_bytes, two.down_packets)
    assert two.down_packets == len(path.sent) < 30
    assert sum(path.drops.values()) == 100 - len(path.sent)


def test_a_senders_speed_holds_within_the_group_too(path: Path) -> None:
    path.tunnels.install(replace(GROUP, up_kbps=1), 0)
    path.tunnels.install(FRIEND, 4)
    for _ in range(100):
        path.up(g_pdu(GROUP.local_teid, packet(GROUP.ue_address, FRIEND.ue_address, 1_000)))
    assert path.counted(4).down_packets == len(path.sent) < 30


def end_marker(teid: int) -> bytes:
    return struct.pack("!BBHI", 0x30, 254, 0, teid)


def test_the_old_peer_is_told_the_end_of_its_tunnels(path: Path) -> None:
    moved = replace(VOICE, peer_teid_user=0x77)
    path.tunnels.install(replace(ONE, peer_address="10.99.0.102", dedicated=(moved,)), 0)
    assert path.sent == [
        (end_marker(ONE.peer_teid), (PEER, 2152)),
        (end_marker(VOICE.peer_teid_user), (OTHER_PEER, 2152)),
    ]
    assert path.signals == {Signal.END_MARKER_SENT: 2}
    assert path.counted().is_zero


@pytest.mark.parametrize(
    "changed", [ONE, PLAIN, replace(ONE, is_suspended=True), replace(ONE, up_kbps=5, local_teid=0x99)]
)
def test_no_end_is_told_where_no_tunnel_moved(path: Path, changed: Bearer) -> None:
    path.tunnels.install(changed, 0)
    path.tunnels.remove(ONE.session_id)
    path.tunnels.install(replace(ONE, peer_teid=0x78), 0)
    assert path.sent == []


def numbers(path: Path) -> list[tuple[int, int]]:
    """By which tunnel, and under which number, what was sent goes; the rest of the header is as it must."""
    found = []
    for data, _ in path.sent:
        flags, kind, length, teid, number, rest = struct.unpack_from("!BBHIHH", data)
        assert (flags, kind, length, rest) == (0x32, 255, len(data) - 8, 0)
        assert data[12] >> 4 in (4, 6), "the inner packet follows"
        found.append((teid, number))
    return found


def test_packets_are_numbered_by_tunnel_where_it_is_configured() -> None:
    path = Path(is_numbered=True)
    path.tunnels.install(ONE, 0)
    voice, other = down(UDP(sport=5_060, dport=9)), down(UDP(sport=53, dport=9))
    for each in (other, voice, other, other, voice):
        assert path.tunnels.downlink(each)
    default, apart = ONE.peer_teid, VOICE.peer_teid_user
    assert numbers(path) == [(default, 0), (apart, 0), (default, 1), (default, 2), (apart, 1)]
    assert path.counted().down_bytes == 3 * len(other) + 2 * len(voice), "the number is nobody's traffic"
    path.sent.clear()
    asked = bytes(IPv6(src=str(own_link(ONE)), dst="ff02::2", hlim=255) / ICMPv6ND_RS())
    path.up(g_pdu(ONE.local_teid, asked))
    assert numbers(path) == [(default, 3)], "also what the gateway itself says"
    path.sent.clear()
    path.tunnels.install(replace(ONE, down_kbps=64_000, dedicated=()), 0)
    assert path.tunnels.downlink(other)
    assert numbers(path) == [(default, 4)], "a change of the session is none of the tunnel"
    path.tunnels.install(replace(ONE, peer_address=OTHER_PEER), 0)
    path.sent.clear()
    for each in (other, voice):
        assert path.tunnels.downlink(each)
    assert numbers(path) == [(default, 0), (apart, 0)], "new tunnels begin anew"


def test_numbers_wrap() -> None:
    path = Path(is_numbered=True)
    path.tunnels.install(PLAIN, 0)
    other = down(UDP(sport=53, dport=9))
    for _ in range(0x10000):
        path.tunnels.downlink(other)
    path.sent.clear()
    path.tunnels.downlink(other)
    assert numbers(path) == [(PLAIN.peer_teid, 0)]


def test_packets_have_no_number_unless_it_is_configured(path: Path) -> None:
    assert path.tunnels.downlink(down(UDP(sport=53, dport=9)))
    assert [data[0] for data, _ in path.sent] == [0x30]
