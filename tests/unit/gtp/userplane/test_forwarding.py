"""The path of a packet: every reason to drop one, every message of the path itself."""

import struct
from collections.abc import Callable, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from core.domain.apn import Apn
from core.domain.usage import Volume
from core.domain.values import replace
from core.ports.network import Address
from gtp.partners import Partner
from gtp.userplane.destinations import VERDICTS_MAX
from gtp.userplane.forwarding import (
    COMPLAINT_PEERS_MAX,
    COMPLAINTS_PER_S_MAX,
    INDICATIONS_PER_S_MAX,
    Forwarding,
)
from gtp.userplane.messages import EXTENSION_HEADERS_MAX
from gtp.userplane.reasons import Drop, Signal
from gtp.userplane.sources import NO_SOURCES, PAIRS_MAX, Sources
from gtp.userplane.udp import inner_addresses
from tests.contract.test_user_plane import (
    EDGE,
    GATEWAY,
    PEER,
    PLATFORM,
    POOL,
    PREFIXES,
    SERVER,
    bearer,
    g_pdu,
    own_link,
    packet,
    packet6,
)

ONE = bearer(1)
TWO = bearer(2)


class Path:
    """Two tunnels and everything that came out of them, in order."""

    def __init__(
        self, *, is_numbered: bool = False, apns: Sequence[Apn] = (), sources: Sources = NO_SOURCES
    ) -> None:
        self.words = memoryview(bytearray(8 * 8)).cast("Q")
        self.now = 100.0
        self.internet: list[bytes] = []
        self.edge: list[tuple[str, bytes]] = []
        self.sent: list[tuple[bytes, Address]] = []
        self.lost_tunnels: list[str] = []
        self.tunnels = Forwarding(
            words=self.words,
            monotonic=lambda: self.now,
            address=GATEWAY,
            inner_addresses=inner_addresses(POOL, PREFIXES),
            devices=(POOL, *(ipv6 for _, ipv6 in PREFIXES.pools)),
            platform=PLATFORM,
            forbidden=(IPv4Network("192.0.2.0/24"), IPv6Network("fd00:c0de::/32")),
            apns=apns,
            is_numbered=is_numbered,
            sources=sources,
        )
        self.tunnels.write_internet = self.internet.append
        self.tunnels.on_edge_packet = lambda session_id, inner: self.edge.append((session_id, inner))
        self.tunnels.on_error_indication = self.lost_tunnels.append
        self.tunnels.send = self._send
        self.tunnels.install(ONE, 0)
        self.tunnels.install(TWO, 4)

    def _send(self, data: bytes, to: Address) -> bool:
        self.sent.append((data, to))
        return True

    def up(self, data: bytes, source: str = PEER, port: int = 2152) -> None:
        self.tunnels.uplink(data, (source, port))

    def counted(self, at: int = 0) -> Volume:
        up_bytes, up_packets, down_bytes, down_packets = self.words[at : at + 4]
        return Volume(up_bytes, down_bytes, up_packets, down_packets)

    @property
    def drops(self) -> dict[Drop, int]:
        return {reason: count for reason, count in self.tunnels.drops.items() if count}

    @property
    def signals(self) -> dict[Signal, int]:
        return {signal: count for signal, count in self.tunnels.signals.items() if count}


@pytest.fixture
def path() -> Path:
    return Path()


INNER = packet(ONE.ue_address, SERVER)
GOOD = g_pdu(ONE.local_teid, INNER)


def with_flags(flags: int, options: bytes, inner: bytes = INNER) -> bytes:
    return struct.pack("!BBHI", flags, 255, len(options) + len(inner), ONE.local_teid) + options + inner


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


ACCEPTED = {
    "plain": GOOD,
    "S only": with_flags(0x32, b"\x12\x34\x00\x00"),
    "PN only": with_flags(0x31, b"\x00\x00\x07\x85"),  # the next type is not read without E
    "S and E, no extension": with_flags(0x36, b"\x12\x34\x00\x00"),
    "one extension": with_flags(0x34, b"\x00\x00\x00\x85" + b"\x01\x10\x09\x00"),
    "two extensions": with_flags(0x34, b"\0\0\0\x85" + b"\x01\x10\x09\xc0" + b"\x02" + bytes(6) + b"\x00"),
    "as many as are read": with_flags(
        0x34, b"\0\0\0\x85" + b"\x01\0\0\x85" * (EXTENSION_HEADERS_MAX - 1) + b"\x01\0\0\0"
    ),
    "bytes behind the message": GOOD + b"\xff" * 9,
}


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_header_form_is_read(path: Path, name: str) -> None:
    path.up(ACCEPTED[name], port=40_000)
    assert path.internet == [INNER]
    assert path.counted() == Volume(up_bytes=64, up_packets=1)
    assert path.drops == {}


def test_only_the_inner_packets_own_length_is_forwarded_and_counted(path: Path) -> None:
    path.up(g_pdu(ONE.local_teid, INNER + b"smuggled"))
    path.tunnels.downlink(packet(SERVER, ONE.ue_address) + b"padding")
    assert path.internet == [INNER]
    assert path.sent == [(g_pdu(ONE.peer_teid, packet(SERVER, ONE.ue_address)), (PEER, 2152))]
    assert path.counted() == Volume(64, 64, 1, 1)


def test_gtp_for_others_passes_as_data(path: Path) -> None:
    """UDP 2152 to a server of the internet is the customer's own traffic (facts/gateway §3 row 16)."""
    inner = changed(INNER, 22, (2152).to_bytes(2, "big"))
    path.up(g_pdu(ONE.local_teid, inner))
    assert path.internet == [inner]


@pytest.mark.parametrize("port", [2152, 2123, 3386, 8805], ids=["GTP-U", "GTP-C", "GTP'", "PFCP"])
def test_a_device_reaches_no_protocol_of_the_gateway(path: Path, port: int) -> None:
    """GTP in GTP: Echo, Create or Delete of a device's own making (row 15 of the hostile inputs)."""
    inner = packet(ONE.ue_address, GATEWAY)[:20] + struct.pack("!HHHH", 2152, port, 44, 0) + GOOD[:36]
    path.up(g_pdu(ONE.local_teid, inner))
    assert path.drops == {Drop.FORBIDDEN_DESTINATION: 1}
    assert (path.internet, path.edge, path.sent) == ([], [], [])
    assert path.counted().is_zero


def edit_inner(at: int, value: bytes) -> bytes:
    return g_pdu(ONE.local_teid, changed(INNER, at, value))


def to(address: str) -> bytes:
    return g_pdu(ONE.local_teid, packet(ONE.ue_address, IPv4Address(address)))


UNKNOWN_EXTENSION = with_flags(0x34, b"\0\0\0\xc7" + b"\x01\0\0\0")
"""Of a type that the receiver must understand (TS 29.281 §5.2.1)."""

UPLINK_DROPS: list[tuple[str, Drop, bytes]] = [
    ("empty", Drop.MALFORMED, b""),
    ("half a header", Drop.MALFORMED, GOOD[:7]),
    ("version 2", Drop.MALFORMED, changed(GOOD, 0, b"\x50")),
    ("version 0", Drop.MALFORMED, changed(GOOD, 0, b"\x10")),
    ("GTP'", Drop.MALFORMED, changed(GOOD, 0, b"\x20")),
    ("length lies", Drop.MALFORMED, changed(GOOD, 2, b"\x00\x41")),
    ("options cut", Drop.MALFORMED, struct.pack("!BBHI", 0x32, 255, 3, ONE.local_teid) + b"abc"),
    ("extension of length 0", Drop.MALFORMED, with_flags(0x34, b"\0\0\0\x85" + b"\0\0\0\0")),
    ("extension beyond the end", Drop.MALFORMED, with_flags(0x34, b"\0\0\0\x85" + b"\xff\0\0\0")),
    ("extension missing", Drop.MALFORMED, with_flags(0x34, b"\0\0\0\x85", b"")),
    ("too many", Drop.MALFORMED, with_flags(0x34, b"\0\0\0\x85" + b"\x01\0\0\x85" * EXTENSION_HEADERS_MAX)),
    ("end marker with an unknown extension", Drop.EXTENSION_HEADER, changed(UNKNOWN_EXTENSION, 1, b"\xfe")),
    ("type 3", Drop.UNKNOWN_MESSAGE, changed(GOOD, 1, b"\x03")),
    ("GTP-C create", Drop.UNKNOWN_MESSAGE, changed(GOOD, 1, b"\x10")),
    ("no such TEID", Drop.UNKNOWN_TEID, g_pdu(0x99, INNER)),
    ("inner length 0", Drop.INNER_MALFORMED, g_pdu(ONE.local_teid, b"")),
    ("inner cut", Drop.INNER_MALFORMED, g_pdu(ONE.local_teid, INNER[:19])),
    ("inner version 0", Drop.INNER_NOT_IP, edit_inner(0, b"\x05")),
    ("header of 16 bytes", Drop.INNER_MALFORMED, edit_inner(0, b"\x44")),
    ("total above payload", Drop.INNER_MALFORMED, edit_inner(2, b"\x00\x41")),
    ("total below header", Drop.INNER_MALFORMED, edit_inner(2, b"\x00\x13")),
    ("total below long header", Drop.INNER_MALFORMED, edit_inner(0, b"\x4f\x00\x00\x20")),
    ("another's source", Drop.WRONG_SOURCE, edit_inner(12, TWO.ue_address.packed)),
    ("to the gateway", Drop.FORBIDDEN_DESTINATION, to(str(GATEWAY))),
    ("to another device", Drop.FORBIDDEN_DESTINATION, to(str(TWO.ue_address))),
    ("to the gateway's inner address", Drop.FORBIDDEN_DESTINATION, to(str(POOL[1]))),
    ("to loopback", Drop.FORBIDDEN_DESTINATION, to("127.0.0.1")),
    ("to link local", Drop.FORBIDDEN_DESTINATION, to("169.254.169.254")),
    ("to multicast", Drop.FORBIDDEN_DESTINATION, to("224.0.0.251")),
    ("to broadcast", Drop.FORBIDDEN_DESTINATION, to("255.255.255.255")),
    ("to the operator's own", Drop.FORBIDDEN_DESTINATION, to("192.0.2.1")),
    ("to nowhere", Drop.FORBIDDEN_DESTINATION, to("0.0.0.0")),
]


@pytest.mark.parametrize(("name", "reason", "data"), UPLINK_DROPS, ids=[name for name, _, _ in UPLINK_DROPS])
def test_uplink_drops(path: Path, name: str, reason: Drop, data: bytes) -> None:
    path.up(data)
    assert path.drops == {reason: 1}, name
    assert (path.internet, path.edge) == ([], [])
    assert path.counted().is_zero


def _no_internet(path: Path) -> None:
    path.tunnels.write_internet = None
    path.up(GOOD)


def _internet_full(path: Path) -> None:
    path.tunnels.write_internet = _full
    path.up(GOOD)


def _no_edge(path: Path) -> None:
    path.tunnels.on_edge_packet = None
    path.up(to(str(EDGE)))


def _peer_full(path: Path) -> None:
    path.tunnels.send = lambda _data, _to: False
    path.tunnels.downlink(packet(SERVER, ONE.ue_address))


def _link_local(path: Path) -> None:
    path.tunnels.install(replace(ONE, ue_prefix=PREFIXES.of(ONE.ue_address)), 0)
    path.up(g_pdu(ONE.local_teid, packet6(own_link(ONE), IPv6Address("ff02::fb"))))


def _too_fast(path: Path, *, up: bool) -> None:
    path.tunnels.install(replace(ONE, up_kbps=1, down_kbps=1), 0)
    tunnel = path.tunnels._by_session[ONE.session_id]
    tunnel.up_due_s = tunnel.down_due_s = path.now + 1_000
    path.up(GOOD) if up else path.tunnels.downlink(packet(SERVER, ONE.ue_address))


def _suspended(path: Path) -> None:
    path.tunnels.install(replace(ONE, is_suspended=True), 0)
    path.tunnels.downlink(packet(SERVER, ONE.ue_address))


def _too_big(path: Path) -> None:
    path.tunnels.downlink(changed(packet(IPv4Address(0), ONE.ue_address, 1_465), 6, b"\x40"))


OTHER_DROPS: dict[Drop, Callable[[Path], object]] = {
    Drop.WRONG_PEER: lambda path: path.up(GOOD, source="10.99.0.66"),
    Drop.NO_INTERNET: _no_internet,
    Drop.NO_EDGE: _no_edge,
    Drop.INTERNET_FULL: _internet_full,
    Drop.PEER_FULL: _peer_full,
    Drop.UNKNOWN_DEVICE: lambda path: path.tunnels.downlink(packet(SERVER, POOL[77])),
    Drop.WRONG_DEVICE: lambda path: path.tunnels.inject(ONE.session_id, packet(EDGE, TWO.ue_address)),
    Drop.LINK_LOCAL: _link_local,
    Drop.OVER_SPEED_UP: lambda path: _too_fast(path, up=True),
    Drop.OVER_SPEED_DOWN: lambda path: _too_fast(path, up=False),
    Drop.SUSPENDED: _suspended,
    Drop.TOO_BIG: _too_big,
    Drop.INNER_MALFORMED: lambda path: path.tunnels.downlink(INNER[:19]),
    Drop.INNER_NOT_IP: lambda path: path.tunnels.downlink(b"\x70" + INNER[1:]),
}


def _full(_packet: bytes) -> None:
    raise BlockingIOError


@pytest.mark.parametrize("reason", OTHER_DROPS)
def test_other_drops(path: Path, reason: Drop) -> None:
    OTHER_DROPS[reason](path)
    assert path.drops == {reason: 1}
    assert (path.internet, path.edge, path.sent) == ([], [], [])
    assert path.counted().is_zero


def test_every_reason_has_a_test() -> None:
    assert {reason for _, reason, _ in UPLINK_DROPS} | OTHER_DROPS.keys() == set(Drop)


def test_forward_comes_before_count(path: Path) -> None:
    """A kill between the two loses a count, never invents one (facts/records §2)."""
    seen: list[Volume] = []

    def send(_data: bytes, _to: Address) -> bool:
        seen.append(path.counted())
        return True

    path.tunnels.write_internet = lambda _packet: seen.append(path.counted())
    path.tunnels.on_edge_packet = lambda _session, _packet: seen.append(path.counted())
    path.tunnels.send = send
    path.up(GOOD)
    path.up(to(str(EDGE)))
    path.tunnels.downlink(packet(SERVER, ONE.ue_address))
    assert seen == [Volume(), Volume(64, 0, 1, 0), Volume(128, 0, 2, 0)]
    assert path.counted() == Volume(128, 64, 2, 1)


# -- messages of the path -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_", "sequence"),
    [
        (b"\x32\x01\x00\x04\0\0\0\0\x12\x34\0\0", b"\x12\x34"),
        (b"\x32\x01\x00\x08\0\0\0\0\xff\xff\0\0\xff\x00\x01x", b"\xff\xff"),  # with a private extension
        (b"\x30\x01\x00\x00\0\0\0\0", b"\0\0"),
    ],
)
def test_an_echo_is_answered_to_the_port_that_asked(path: Path, request_: bytes, sequence: bytes) -> None:
    path.up(request_, port=40_000)
    answer = b"\x32\x02\x00\x06\0\0\0\0" + sequence + b"\0\0\x0e\x00"
    assert path.sent == [(answer, (PEER, 40_000))]
    assert path.signals == {Signal.ECHO_ANSWERED: 1}


def test_an_unknown_teid_is_told_to_the_gtp_u_port(path: Path) -> None:
    path.up(g_pdu(0xAABBCCDD, INNER), port=40_000)
    elements = b"\x10\xaa\xbb\xcc\xdd" + b"\x85\x00\x04" + GATEWAY.packed
    assert path.sent == [(b"\x32\x1a\x00\x10\0\0\0\0\0\0\0\0" + elements, (PEER, 2152))]
    assert path.drops == {Drop.UNKNOWN_TEID: 1}


def test_teid_0_is_never_told(path: Path) -> None:
    path.up(g_pdu(0, INNER))
    assert path.sent == []
    assert path.signals == {Signal.ERROR_INDICATION_WITHHELD: 1}


def test_error_indications_are_limited_per_peer_and_second(path: Path) -> None:
    for _ in range(COMPLAINTS_PER_S_MAX + 5):
        path.up(g_pdu(0x99, INNER))
    path.up(g_pdu(0x99, INNER), source="10.99.0.66")
    assert [address for _, (address, _) in path.sent].count(PEER) == COMPLAINTS_PER_S_MAX
    assert path.sent[-1][1] == ("10.99.0.66", 2152)
    assert path.signals[Signal.ERROR_INDICATION_WITHHELD] == 5
    path.now += 1
    path.up(g_pdu(0x99, INNER))
    assert path.signals[Signal.ERROR_INDICATION_SENT] == COMPLAINTS_PER_S_MAX + 2


def test_an_extension_header_that_must_be_understood_and_is_not_is_told(path: Path) -> None:
    path.up(UNKNOWN_EXTENSION, port=40_000)
    listed = b"\x8d\x07\x40\x81\x82\x83\x84\x85\xc0"
    assert path.sent == [(b"\x32\x1f\x00\x0d\0\0\0\0\0\0\0\0" + listed, (PEER, 2152))]
    assert path.drops == {Drop.EXTENSION_HEADER: 1}
    assert path.signals == {Signal.EXTENSION_HEADERS_NOTIFIED: 1}
    assert path.internet == []
    for _ in range(COMPLAINTS_PER_S_MAX + 5):
        path.up(UNKNOWN_EXTENSION)
    assert len(path.sent) == COMPLAINTS_PER_S_MAX
    path.now += 1
    for kind in (2, 26, 31, 254):
        path.up(changed(UNKNOWN_EXTENSION, 1, bytes([kind])))
    assert len(path.sent) == COMPLAINTS_PER_S_MAX, "no answer answers an answer"


def test_an_extension_header_that_need_not_be_understood_is_passed_over(path: Path) -> None:
    for kind in (0x03, 0x20, 0x40, 0x7F):
        path.up(with_flags(0x34, bytes((0, 0, 0, kind)) + b"\x01\0\0\0"))
    assert path.internet == [INNER] * 4


def test_peers_that_are_told_are_bounded(path: Path) -> None:
    for number in range(COMPLAINT_PEERS_MAX + 5):
        path.up(g_pdu(0x99, INNER), source=str(IPv4Address("10.0.0.0") + number))
    assert path.signals == {
        Signal.ERROR_INDICATION_SENT: COMPLAINT_PEERS_MAX,
        Signal.ERROR_INDICATION_WITHHELD: 5,
    }


def error_indication(teid: int) -> bytes:
    elements = b"\x10" + teid.to_bytes(4, "big") + b"\x85\x00\x04" + IPv4Address(PEER).packed
    return b"\x32\x1a\x00\x10\0\0\0\0\0\0\0\0" + elements


def test_an_error_indication_of_the_sessions_peer_is_heeded_once_for_each_packet_down(path: Path) -> None:
    """The port proves nothing, so any is good."""
    path.up(error_indication(ONE.peer_teid), port=40_000)
    assert path.lost_tunnels == [], "it answers nothing"
    for number in (1, 2):
        assert path.tunnels.downlink(packet(SERVER, ONE.ue_address))
        for _ in range(3):
            path.up(error_indication(ONE.peer_teid), port=40_000)
        assert path.lost_tunnels == [ONE.session_id] * number
    assert path.signals == {Signal.ERROR_INDICATION_ACCEPTED: 2, Signal.ERROR_INDICATION_IGNORED: 5}
    path.up(GOOD)
    assert path.internet == [INNER], "what becomes of the session is for others to say"


def test_who_guesses_teids_is_looked_at_so_often_a_second(path: Path) -> None:
    assert path.tunnels.downlink(packet(SERVER, ONE.ue_address))
    for guess in range(1_000):
        path.up(error_indication(0x70000000 + guess))
    path.up(error_indication(ONE.peer_teid))
    assert path.lost_tunnels == []
    assert path.signals[Signal.ERROR_INDICATION_EXCESS] == 1_001 - INDICATIONS_PER_S_MAX
    path.up(error_indication(TWO.peer_teid), source="10.99.0.66")
    assert path.signals[Signal.ERROR_INDICATION_IGNORED] == INDICATIONS_PER_S_MAX + 1, "another is looked at"
    path.now += 1
    path.up(error_indication(ONE.peer_teid))
    assert path.lost_tunnels == [ONE.session_id]


@pytest.mark.parametrize(
    ("data", "source"),
    [
        (error_indication(ONE.peer_teid), "10.99.0.66"),
        (error_indication(ONE.local_teid), PEER),
        (error_indication(0), PEER),
        (b"\x32\x1a\x00\x04\0\0\0\0\0\0\0\0", PEER),
        (b"\x30\x1a\x00\x04\0\0\0\0\x10\x00\x00\x20", PEER),
        (b"\x30\x1a\x00\x05\0\0\0\0\x85" + ONE.peer_teid.to_bytes(4, "big"), PEER),
    ],
)
def test_any_other_error_indication_is_ignored(path: Path, data: bytes, source: str) -> None:
    assert path.tunnels.downlink(packet(SERVER, ONE.ue_address))
    path.sent.clear()
    path.up(data, source=source)
    assert path.lost_tunnels == []
    assert path.sent == [], "an Error Indication is never answered"
    assert path.signals == {Signal.ERROR_INDICATION_IGNORED: 1}


@pytest.mark.parametrize(
    ("kind", "signal"),
    [
        (2, Signal.ECHO_RESPONSE),
        (31, Signal.SUPPORTED_EXTENSION_HEADERS),
        (254, Signal.END_MARKER),
    ],
)
def test_other_messages_are_counted_and_not_answered(path: Path, kind: int, signal: Signal) -> None:
    path.up(changed(GOOD, 1, bytes([kind])))
    assert path.signals == {signal: 1}
    assert (path.sent, path.internet) == ([], [])


# -- who may send by a tunnel ---------------------------------------------------------------------------

BOARD, RNC, STRANGER = str(IPv4Address(PEER) + 1), "198.51.100.70", "203.0.113.9"
PARTNERS = [
    Partner(
        "one", (IPv4Network(f"{PEER}/28", strict=False),), user_networks=(IPv4Network("198.51.100.64/26"),)
    ),
    Partner("other", (IPv4Network("203.0.113.0/24"),)),
]


def test_a_tunnels_other_end_may_send_by_any_address_of_its_partner() -> None:
    """Its boards, and where its user plane is; what goes down goes to the peer."""
    path = Path(sources=Sources(PARTNERS))
    for source in (BOARD, RNC, BOARD):
        path.up(GOOD, source=source)
    assert path.internet == [INNER] * 3
    assert path.counted() == Volume(up_bytes=192, up_packets=3)
    path.tunnels.downlink(packet(SERVER, ONE.ue_address))
    assert path.sent.pop()[1] == (PEER, 2152)
    path.up(edit_inner(12, TWO.ue_address.packed), source=BOARD)
    path.up(GOOD, source=STRANGER)
    path.up(GOOD, source="198.51.100.1")
    assert path.drops == {Drop.WRONG_SOURCE: 1, Drop.WRONG_PEER: 2}
    assert path.sent == []


def test_a_peer_where_the_partners_user_plane_is_has_others_too() -> None:
    path = Path(sources=Sources(PARTNERS))
    path.tunnels.install(replace(ONE, peer_address=RNC), 0)
    for source in (PEER, "198.51.100.71", STRANGER):
        path.up(GOOD, source=source)
    assert (len(path.internet), path.drops) == (2, {Drop.WRONG_PEER: 1})


def test_a_network_without_a_name_is_one_partner_and_with_no_table_there_is_the_peer_alone() -> None:
    network = IPv4Network(f"{PEER}/28", strict=False)
    path = Path(sources=Sources(allowed=[network, IPv4Network("203.0.113.0/24")]))
    path.up(GOOD, source=BOARD)
    path.up(GOOD, source=STRANGER)
    assert (path.internet, path.drops) == ([INNER], {Drop.WRONG_PEER: 1})
    path.tunnels.serve([], 1_464)
    path.up(GOOD, source=BOARD)
    assert path.drops == {Drop.WRONG_PEER: 2}


def test_the_next_packet_of_a_device_that_is_waited_for_is_told_of_once() -> None:
    path, heard = Path(sources=Sources(PARTNERS)), list[str]()
    path.tunnels.on_heard = heard.append
    path.tunnels.watch(ONE.session_id)
    path.tunnels.watch("a session that is over")
    path.up(GOOD, source=STRANGER)
    assert path.tunnels.downlink(packet(SERVER, ONE.ue_address))
    path.tunnels.install(replace(ONE, up_kbps=1_000), 0)
    assert (heard, path.drops) == ([], {Drop.WRONG_PEER: 1})
    for source in (BOARD, PEER, PEER):
        path.up(GOOD, source=source)
    assert (heard, path.internet) == ([ONE.session_id], [INNER] * 3)


def test_only_the_peer_itself_ends_a_tunnel() -> None:
    path = Path(sources=Sources(PARTNERS))
    path.up(error_indication(ONE.peer_teid), source=BOARD)
    assert (path.lost_tunnels, path.signals) == ([], {Signal.ERROR_INDICATION_IGNORED: 1})


def test_remembered_sources_are_bounded() -> None:
    sources = Sources(PARTNERS)
    for number in range(PAIRS_MAX + 5):
        assert not sources.are_one(PEER, str(IPv4Address("203.0.0.0") + number))
    assert len(sources) == 5
    assert sources.are_one(PEER, BOARD)


# -- tables -------------------------------------------------------------------------------------------


def test_remembered_destinations_are_bounded(path: Path) -> None:
    verdicts = path.tunnels._verdicts
    verdicts.update((bytes([1]) + n.to_bytes(3, "big"), "internet") for n in range(VERDICTS_MAX))
    path.up(GOOD)
    assert len(verdicts) == 1
    assert path.internet == [INNER]


def test_what_another_session_took_over_stays_its_own(path: Path) -> None:
    """Session three has one's TEID, address and peer TEID: removing one must not cut it."""
    path.tunnels.install(
        type(ONE)(
            session_id="3" * 32,
            imsi="1",
            operator_id="OP",
            ue_address=ONE.ue_address,
            local_teid=ONE.local_teid,
            peer_teid=ONE.peer_teid,
            peer_address=PEER,
            epoch=1,
            label=ONE.label,
        ),
        4,
    )
    path.tunnels.remove(ONE.session_id)
    path.up(GOOD)
    assert path.tunnels.downlink(packet(SERVER, ONE.ue_address))
    path.up(error_indication(ONE.peer_teid))
    assert path.counted(4) == Volume(64, 64, 1, 1)
    assert path.lost_tunnels == ["3" * 32]
    path.tunnels.remove("3" * 32)
    path.tunnels.install(ONE, 0)
    path.tunnels.remove(ONE.session_id)
    path.tunnels.remove(ONE.session_id)
    path.up(GOOD)
    assert path.drops == {Drop.UNKNOWN_TEID: 1}


def test_an_access_point_with_a_way_of_its_own_leaves_by_it_and_by_no_other(path: Path) -> None:
    own: list[bytes] = []
    path.tunnels.write_internet_of = {"meters": own.append}
    path.tunnels.install(replace(ONE, apn="meters"), 0)
    for each in (ONE, TWO):
        path.up(g_pdu(each.local_teid, packet(each.ue_address, SERVER)))
    assert (own, path.internet) == ([packet(ONE.ue_address, SERVER)], [packet(TWO.ue_address, SERVER)])
    path.tunnels.write_internet = None
    for each in (ONE, TWO):
        path.up(g_pdu(each.local_teid, packet(each.ue_address, SERVER)))
    assert (len(own), path.counted(0).up_packets, path.counted(4).up_packets) == (2, 2, 1)
    assert path.drops == {Drop.NO_INTERNET: 1}
