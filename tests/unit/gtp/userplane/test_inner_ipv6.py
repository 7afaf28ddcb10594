"""IPv6 inside a tunnel: whose it is, where it may go, and what is said on the device's link (by scapy)."""

from ipaddress import IPv6Address

import pytest
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_RS,
    ICMPv6NDOptMTU,
    ICMPv6NDOptPrefixInfo,
    ICMPv6NDOptRDNSS,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6PacketTooBig,
    IPv6,
    in6_chksum,
)
from scapy.packet import Packet, Raw

from core.domain.apn import Apn
from core.domain.usage import Volume
from core.domain.values import replace
from gtp.userplane.neighbours import ADVERTISE_AGAIN_S, GATEWAY_LINK_LOCAL
from gtp.userplane.reasons import Drop, Signal
from tests.contract.test_user_plane import (
    PREFIXES,
    SERVER_IPV6,
    bearer,
    device6,
    g_pdu,
    ipv6_bearer,
    own_link,
    packet6,
)
from tests.unit.gtp.userplane.test_forwarding import INNER, Path, changed

ONE = ipv6_bearer(1)
TWO = ipv6_bearer(2)
BOTH = replace(bearer(1), ue_prefix=ONE.ue_prefix)
OWN = device6(ONE, 0xABCD)
HOST = own_link(ONE)
OTHER_HOST = IPv6Address("fe80::1")
GATEWAY_HOST = IPv6Address(GATEWAY_LINK_LOCAL)
NOBODY = IPv6Address("::")
GOOD = packet6(OWN, SERVER_IPV6)


def nd(message: Packet, *, source: IPv6Address = HOST, to: str = "ff02::2", hop_limit: int = 255) -> bytes:
    return bytes(IPv6(src=str(source), dst=to, hlim=hop_limit) / message)


@pytest.fixture
def path() -> Path:
    """Two sessions of IPv6 alone, whose devices were told their prefixes."""
    made = Path()
    for place, one in ((0, ONE), (4, TWO)):
        made.tunnels.install(one, place)
        made.up(g_pdu(one.local_teid, nd(ICMPv6ND_RS(), source=own_link(one))))
    made.sent.clear()
    made.tunnels.signals[Signal.ROUTER_ADVERTISED] = 0
    return made


def up(path: Path, inner: bytes) -> None:
    path.up(g_pdu(ONE.local_teid, inner))


def said(path: Path) -> Packet:
    """The one packet that was sent down to the device."""
    [(data, to)] = path.sent
    assert (data[:2], data[4:8], to) == (
        b"\x30\xff",
        ONE.peer_teid.to_bytes(4, "big"),
        (ONE.peer_address, 2152),
    )
    return IPv6(data[8:])


def is_summed(packet: Packet) -> bool:
    message = bytes(packet.payload)
    return not in6_chksum(58, packet, message)  # type: ignore[no-untyped-call]  # scapy


def test_ipv6_goes_up_and_is_counted_by_its_own_length(path: Path) -> None:
    up(path, GOOD + b"smuggled")
    assert path.internet == [GOOD]
    assert path.counted() == Volume(up_bytes=64, up_packets=1)


def test_ipv6_comes_down_to_any_address_of_the_64(path: Path) -> None:
    for interface in (1, 2, 2**64 - 1):
        assert path.tunnels.downlink(packet6(SERVER_IPV6, device6(ONE, interface)) + b"padding")
    assert not path.tunnels.downlink(packet6(SERVER_IPV6, device6(ipv6_bearer(3))))
    assert {data[4:8] for data, _ in path.sent} == {ONE.peer_teid.to_bytes(4, "big")}
    assert path.counted() == Volume(down_bytes=192, down_packets=3)
    assert path.drops == {Drop.UNKNOWN_DEVICE: 1}


def test_a_session_of_both_families_sends_both(path: Path) -> None:
    path.tunnels.install(BOTH, 0)
    up(path, GOOD)
    up(path, INNER)
    assert path.internet == [GOOD, INNER]


def test_ipv4_of_a_session_of_ipv6_alone_goes_nowhere(path: Path) -> None:
    up(path, INNER)
    assert not path.tunnels.downlink(changed(INNER, 16, ONE.ue_address.packed))
    assert path.drops == {Drop.WRONG_SOURCE: 1, Drop.UNKNOWN_DEVICE: 1}


def test_ipv6_of_a_session_of_ipv4_alone_goes_nowhere(path: Path) -> None:
    path.tunnels.install(bearer(1), 0)
    up(path, GOOD)
    up(path, nd(ICMPv6ND_RS()))
    assert path.drops == {Drop.WRONG_SOURCE: 2}
    assert path.sent == []


DROPS: list[tuple[str, Drop, bytes]] = [
    ("payload length 0", Drop.INNER_MALFORMED, changed(GOOD, 4, b"\0\0")),
    ("payload beyond the packet", Drop.INNER_MALFORMED, changed(GOOD, 4, b"\0\x19")),
    ("header cut", Drop.INNER_MALFORMED, GOOD[:39]),
    ("header alone", Drop.INNER_MALFORMED, GOOD[:40]),
    ("another's prefix", Drop.WRONG_SOURCE, packet6(device6(TWO), SERVER_IPV6)),
    ("an address of the internet", Drop.WRONG_SOURCE, packet6(SERVER_IPV6, SERVER_IPV6)),
    ("a link local address that is not its own", Drop.WRONG_SOURCE, nd(ICMPv6ND_RS(), source=OTHER_HOST)),
    ("a neighbour's question from there", Drop.WRONG_SOURCE,
     nd(ICMPv6ND_NS(tgt=str(GATEWAY_HOST)), source=OTHER_HOST, to=str(GATEWAY_HOST))),
    ("another's link local address", Drop.WRONG_SOURCE, nd(ICMPv6ND_RS(), source=own_link(TWO))),
    ("multicast as source", Drop.WRONG_SOURCE, packet6(IPv6Address("ff02::1"), SERVER_IPV6)),
    ("link local to the internet", Drop.LINK_LOCAL, packet6(HOST, SERVER_IPV6)),
    ("unspecified to the internet", Drop.LINK_LOCAL, packet6(NOBODY, SERVER_IPV6)),
    ("to link local", Drop.LINK_LOCAL, packet6(OWN, IPv6Address("fe80::2"))),
    ("to multicast", Drop.LINK_LOCAL, packet6(OWN, IPv6Address("ff02::fb"))),
    ("to wide multicast", Drop.LINK_LOCAL, packet6(OWN, IPv6Address("ff0e::1"))),
    ("multicast listener report", Drop.LINK_LOCAL, nd(ICMPv6MLReport2(), to="ff02::16", hop_limit=1)),
    ("echo to the gateway", Drop.LINK_LOCAL, nd(ICMPv6EchoRequest(), to=str(GATEWAY_HOST))),
    ("router advertisement of a device", Drop.LINK_LOCAL, nd(ICMPv6ND_RA(), to="ff02::1")),
    ("to the gateway inside", Drop.FORBIDDEN_DESTINATION, packet6(OWN, PREFIXES.pools[0][1][(1 << 64) + 1])),
    ("to another device", Drop.FORBIDDEN_DESTINATION, packet6(OWN, device6(TWO))),
    ("to the operator's own", Drop.FORBIDDEN_DESTINATION, packet6(OWN, IPv6Address("fd00:c0de::1"))),
    ("to loopback", Drop.FORBIDDEN_DESTINATION, packet6(OWN, IPv6Address("::1"))),
    ("to unspecified", Drop.FORBIDDEN_DESTINATION, packet6(OWN, NOBODY)),
    ("to mapped IPv4", Drop.FORBIDDEN_DESTINATION, packet6(OWN, IPv6Address("::ffff:198.51.100.7"))),
    ("to compatible IPv4", Drop.FORBIDDEN_DESTINATION, packet6(OWN, IPv6Address("::198.51.100.7"))),
    ("to site local", Drop.FORBIDDEN_DESTINATION, packet6(OWN, IPv6Address("fec0::1"))),
    ("to the gateway by NAT64", Drop.FORBIDDEN_DESTINATION, packet6(OWN, IPv6Address("64:ff9b::10.99.0.1"))),
    ("to the edge by NAT64", Drop.FORBIDDEN_DESTINATION, packet6(OWN, IPv6Address("64:ff9b::100.127.0.1"))),
]  # fmt: skip


@pytest.mark.parametrize(("name", "reason", "inner"), DROPS, ids=[name for name, _, _ in DROPS])
def test_ipv6_drops(path: Path, name: str, reason: Drop, inner: bytes) -> None:
    up(path, inner)
    assert path.drops == {reason: 1}, name
    assert (path.internet, path.edge, path.sent) == ([], [], [])
    assert path.counted().is_zero


@pytest.mark.parametrize("to", ["2a00::1", "fd12:3456::1", "64:ff9b::198.51.100.7"])
def test_ipv6_destinations_of_the_internet(path: Path, to: str) -> None:
    up(path, packet6(OWN, IPv6Address(to)))
    assert len(path.internet) == 1


# -- the link (RFC 4861) ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "told"), [(HOST, str(HOST)), (OWN, str(OWN)), (NOBODY, "ff02::1")], ids=["link", "own", "none"]
)
def test_a_router_solicitation_is_answered_with_the_64(path: Path, source: IPv6Address, told: str) -> None:
    up(path, nd(ICMPv6ND_RS(), source=source))
    answer = said(path)
    assert (answer.src, answer.dst, answer.hlim) == (str(GATEWAY_HOST), told, 255)
    assert is_summed(answer)
    advertisement = answer[ICMPv6ND_RA]
    assert (advertisement.M, advertisement.O, advertisement.routerlifetime) == (0, 0, 65_535)
    assert ICMPv6NDOptRDNSS not in answer
    prefix = answer[ICMPv6NDOptPrefixInfo]
    assert (prefix.prefix, prefix.prefixlen, prefix.A, prefix.L) == (str(device6(ONE, 0)), 64, 1, 0)
    assert (prefix.validlifetime, prefix.preferredlifetime) == (2**32 - 1, 2**32 - 1)
    assert answer[ICMPv6NDOptMTU].mtu == 1_464
    assert path.signals == {Signal.ROUTER_ADVERTISED: 1}
    assert path.counted().is_zero, "what the gateway says is not the customer's traffic"


def test_an_advertisement_has_its_access_points_own_mtu_and_name_servers() -> None:
    servers = tuple(IPv6Address("2001:db8::35") + n for n in range(4))
    path = Path(apns=[Apn("meters", mtu_bytes=1_280, dns_ipv6=servers), Apn("cameras", mtu_bytes=1_400)])
    path.tunnels.install(replace(ONE, apn="meters"), 0)
    up(path, nd(ICMPv6ND_RS()))
    answer = said(path)
    assert is_summed(answer)
    assert answer[ICMPv6NDOptMTU].mtu == 1_280
    told = answer[ICMPv6NDOptRDNSS]
    assert (told.len, told.lifetime, tuple(map(IPv6Address, told.dns))) == (7, 65_535, servers[:3])
    path.tunnels.install(replace(ONE, apn="cameras"), 0)
    path.sent.clear()
    up(path, nd(ICMPv6ND_RS()))
    assert said(path)[ICMPv6NDOptMTU].mtu == 1_400


def test_an_mtu_that_changes_is_advertised_with_the_next_packet_and_kept_to_at_once() -> None:
    path = Path(apns=[Apn("meters", mtu_bytes=1_400)])
    path.tunnels.install(replace(ONE, apn="meters"), 0)
    path.tunnels.install(replace(TWO, apn="other"), 4)
    for one in (ONE, TWO):
        path.up(g_pdu(one.local_teid, nd(ICMPv6ND_RS(), source=own_link(one))))
    path.sent.clear()
    path.now += 1
    path.tunnels.serve([Apn("meters", mtu_bytes=1_300), Apn("new", mtu_bytes=1_290)], 1_464)
    path.up(g_pdu(TWO.local_teid, packet6(device6(TWO), SERVER_IPV6)))
    assert path.sent == [], "its access point's is as it was"
    path.now += 1
    up(path, GOOD)
    assert said(path)[ICMPv6NDOptMTU].mtu == 1_300
    path.sent.clear()
    up(path, GOOD)
    assert path.sent == []
    big = packet6(SERVER_IPV6, OWN, 1_301)
    assert not path.tunnels.downlink(big)
    assert path.tunnels.downlink(packet6(SERVER_IPV6, OWN, 1_300))
    assert IPv6(path.internet[-1])[ICMPv6PacketTooBig].mtu == 1_300


def test_an_advertisement_is_repeated_with_the_first_packet_after_hours(path: Path) -> None:
    path.now += ADVERTISE_AGAIN_S
    up(path, GOOD)
    assert path.sent == []
    path.now += 1
    up(path, GOOD)
    up(path, GOOD)
    assert said(path)[ICMPv6ND_RA].O == 0
    path.tunnels.install(replace(ONE, peer_teid=ONE.peer_teid), 0)
    up(path, GOOD)
    assert path.signals == {Signal.ROUTER_ADVERTISED: 1}, "an update of the session asks for none"
    assert path.counted() == Volume(up_bytes=256, up_packets=4)


@pytest.mark.parametrize(
    ("source", "to", "told", "is_solicited"),
    [(HOST, str(GATEWAY_HOST), str(HOST), 1), (OWN, "ff02::1:ff00:5213", str(OWN), 1),
     (NOBODY, "ff02::1:ff00:5213", "ff02::1", 0)],
    ids=["reachable", "resolution", "duplicate"],
)  # fmt: skip
def test_who_asks_for_the_gateway_is_answered(
    path: Path, source: IPv6Address, to: str, told: str, is_solicited: int
) -> None:
    up(path, nd(ICMPv6ND_NS(tgt=str(GATEWAY_HOST)), source=source, to=to))
    answer = said(path)
    assert (answer.src, answer.dst, answer.hlim) == (str(GATEWAY_HOST), told, 255)
    assert is_summed(answer)
    assert answer[ICMPv6ND_NA].tgt == str(GATEWAY_HOST)
    assert (answer[ICMPv6ND_NA].R, answer[ICMPv6ND_NA].S) == (1, is_solicited)
    assert path.signals == {Signal.NEIGHBOUR_ADVERTISED: 1}


@pytest.mark.parametrize("target", [str(HOST), str(OWN), str(device6(TWO)), "fe80::2"])
def test_duplicate_address_detection_finds_none(path: Path, target: str) -> None:
    up(path, nd(ICMPv6ND_NS(tgt=target), source=NOBODY, to="ff02::1:ff00:1"))
    assert path.sent == []
    assert path.drops == {Drop.LINK_LOCAL: 1}


RS_OPTION = bytes(ICMPv6NDOptSrcLLAddr(lladdr="02:00:00:00:00:01"))
MALFORMED = {
    "option of length 0": nd(ICMPv6ND_RS() / Raw(b"\x01\0" + bytes(6))),
    "option of length 0 behind another": nd(ICMPv6ND_RS() / Raw(RS_OPTION + b"\x05\0" + bytes(6))),
    "option beyond the end": nd(ICMPv6ND_RS() / Raw(b"\x01\x02" + bytes(6))),
    "half an option": nd(ICMPv6ND_RS() / Raw(b"\x01")),
    "hop limit 254": nd(ICMPv6ND_RS(), hop_limit=254),
    "code 1": nd(ICMPv6ND_RS(code=1)),
    "wrong sum": nd(ICMPv6ND_RS(cksum=1)),
    "cut": changed(nd(Raw(b"\x85\0\0\0")), 6, b"\x3a"),
    "one octet": changed(nd(Raw(b"\x85")), 6, b"\x3a"),
    "a link layer address of nobody": nd(ICMPv6ND_RS() / Raw(RS_OPTION), source=NOBODY),
    "not ICMPv6": changed(nd(ICMPv6ND_RS()), 6, b"\x11"),
    "duplicate detection by unicast": nd(
        ICMPv6ND_NS(tgt=str(GATEWAY_HOST)), source=NOBODY, to=str(GATEWAY_HOST)
    ),
    "neighbour solicitation cut": changed(nd(Raw(b"\x87" + bytes(22))), 6, b"\x3a"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_solicitation_is_dropped_and_never_loops(path: Path, name: str) -> None:
    """Row 25 of the hostile inputs."""
    up(path, MALFORMED[name])
    assert path.sent == []
    assert path.drops == {Drop.LINK_LOCAL: 1}


def test_options_that_nobody_knows_are_passed_over(path: Path) -> None:
    up(path, nd(ICMPv6ND_RS() / Raw(RS_OPTION + b"\x7f\x02" + bytes(14))))
    assert said(path)[ICMPv6ND_RA].O == 0


def test_nothing_is_said_to_a_suspended_device(path: Path) -> None:
    path.tunnels.install(replace(ONE, is_suspended=True), 0)
    up(path, nd(ICMPv6ND_RS()))
    assert path.sent == []
