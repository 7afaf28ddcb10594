"""What every user plane keeps, whatever forwards its packets.

A plane joins by one ``Rig`` in ``RIGS``: how to build it over a table that survives it, how to let a peer and
the internet send, and what came out at the far sides.
"""

import struct
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Protocol

import pytest

from core.domain.pools import UePrefixes
from core.domain.reasons import AttachRefusal
from core.domain.usage import SegmentLabel, Volume
from core.domain.values import replace
from core.errors import Refused
from core.ports.network import Address, DatagramSocket, Receiver
from core.ports.user_plane import Bearer, UserPlane
from gtp.userplane.counter_table import over_buffer, table_bytes
from gtp.userplane.udp import UdpUserPlane

GATEWAY = IPv4Address("10.99.0.1")
POOL = IPv4Network("10.128.0.0/9")
PREFIXES = UePrefixes(((POOL, IPv6Network("2001:db8::/41")),))
PLATFORM = IPv4Network("100.127.0.0/16")
PEER = "10.99.0.100"
SERVER = IPv4Address("198.51.100.7")
SERVER_IPV6 = IPv6Address("2606:4700::7")
EDGE = IPv4Address("100.127.65.43")
CAPACITY = 4
MTU_BYTES = 1_400
STANDARD = SegmentLabel("s1.standard", "44010")
FAST = SegmentLabel("s1.fast", "44010")


def packet(source: IPv4Address, destination: IPv4Address, size: int = 64) -> bytes:
    header = struct.pack("!BBHHHBBH", 0x45, 0, size, 0, 0, 64, 17, 0) + source.packed + destination.packed
    return header + bytes(size - 20)


def packet6(source: IPv6Address, destination: IPv6Address, size: int = 64, protocol: int = 17) -> bytes:
    header = struct.pack("!IHBB", 6 << 28, size - 40, protocol, 64) + source.packed + destination.packed
    return header + bytes(size - 40)


def g_pdu(teid: int, inner: bytes) -> bytes:
    return struct.pack("!BBHI", 0x30, 255, len(inner), teid) + inner


def bearer(number: int = 1, *, peer: str = PEER, peer_teid: int = 0) -> Bearer:
    return Bearer(
        session_id=f"{number:032x}",
        imsi=f"44010{number:010d}",
        operator_id="OP0000000001",
        ue_address=POOL[number + 1],
        local_teid=0x1000 + number,
        peer_teid=peer_teid or 0x2000 + number,
        peer_address=peer,
        epoch=3,
        label=STANDARD,
    )


def ipv6_bearer(number: int = 1) -> Bearer:
    one = bearer(number)
    return replace(one, has_ipv4=False, ue_prefix=PREFIXES.of(one.ue_address))


def device6(of: Bearer, interface: int = 1) -> IPv6Address:
    assert of.ue_prefix is not None
    return of.ue_prefix[interface]


def own_link(of: Bearer) -> IPv6Address:
    """The link-local address of the identifier that the session was given."""
    return IPv6Address("fe80::") + int(of.ue_address)


class ManualClock:
    """Implements ``Clock``; stands still unless moved."""

    def __init__(self) -> None:
        self.at = datetime(2026, 11, 30, 12, tzinfo=UTC)

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return self.at.timestamp()


class Wire:
    """Implements ``Network`` for one socket; what is sent is kept in order."""

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, Address]] = []
        self.takes = True
        self.receiver: Receiver = lambda _data, _source: None

    async def open_datagram(self, address: Address, receiver: Receiver) -> DatagramSocket:
        self.receiver = receiver
        self.address = address
        return self

    def send(self, data: bytes, to: Address) -> bool:
        if self.takes:
            self.sent.append((data, to))
        return self.takes

    def close(self) -> None:
        self.receiver = lambda _data, _source: None

    address: Address = ("", 0)


class Rig(Protocol):
    """One plane between a peer and a device edge."""

    clock: ManualClock
    delivered: list[tuple[str, bytes]]

    @property
    def plane(self) -> UserPlane: ...

    async def start(self) -> None: ...
    async def crash_and_restart(self) -> None: ...
    async def aclose(self) -> None: ...
    def from_peer(self, data: bytes, source: str = PEER) -> None: ...
    def to_peers(self) -> list[tuple[bytes, str]]: ...


class UdpRig:
    """The ``udp`` plane over a buffer that stands for its slot file."""

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.clock = ManualClock()
        self.wire = Wire()
        self.table = bytearray(table_bytes(capacity))
        self.delivered: list[tuple[str, bytes]] = []
        self.plane: UdpUserPlane = self._build()

    def _build(self) -> UdpUserPlane:
        plane = UdpUserPlane(
            counter_table=over_buffer(self.table),
            clock=self.clock,
            network=self.wire,
            address=GATEWAY,
            ue_pool=POOL,
            platform_network=PLATFORM,
            prefixes=PREFIXES,
            mtu_bytes=MTU_BYTES,
        )
        plane.on_edge_packet(lambda session_id, inner: self.delivered.append((session_id, inner)))
        return plane

    async def start(self) -> None:
        await self.plane.start()

    async def crash_and_restart(self) -> None:
        """Nothing is closed: the table alone goes over."""
        self.plane = self._build()
        await self.plane.start()

    async def aclose(self) -> None:
        await self.plane.aclose()

    def from_peer(self, data: bytes, source: str = PEER) -> None:
        self.wire.receiver(data, (source, 2152))

    def to_peers(self) -> list[tuple[bytes, str]]:
        return [(data, to[0]) for data, to in self.wire.sent]


RIGS: dict[str, Callable[[], Rig]] = {"udp": UdpRig}


@pytest.fixture(params=RIGS)
async def rig(request: pytest.FixtureRequest) -> AsyncIterator[Rig]:
    made = RIGS[request.param]()
    await made.start()
    yield made
    await made.aclose()


def up(rig: Rig, of: Bearer, size: int = 64) -> None:
    rig.from_peer(g_pdu(of.local_teid, packet(of.ue_address, EDGE, size)))


def volume(rig: Rig, of: Bearer) -> Volume:
    counters = rig.plane.counters(of.session_id)
    assert counters is not None
    return counters.current.volume


async def test_a_packet_goes_up_to_the_edge_and_is_counted(rig: Rig) -> None:
    one = bearer()
    rig.plane.install(one)
    up(rig, one, 100)
    assert rig.delivered == [(one.session_id, packet(one.ue_address, EDGE, 100))]
    assert volume(rig, one) == Volume(up_bytes=100, up_packets=1)


async def test_an_injected_packet_goes_down_into_the_tunnel_and_is_counted(rig: Rig) -> None:
    one = bearer()
    rig.plane.install(one)
    inner = packet(EDGE, one.ue_address, 80)
    assert rig.plane.inject(one.session_id, inner)
    assert rig.to_peers() == [(g_pdu(one.peer_teid, inner), PEER)]
    assert volume(rig, one) == Volume(down_bytes=80, down_packets=1)


async def test_ipv6_goes_down_by_the_64_and_only_to_who_has_it(rig: Rig) -> None:
    one, two = ipv6_bearer(1), ipv6_bearer(2)
    rig.plane.install(one)
    rig.plane.install(two)
    inner = packet6(SERVER_IPV6, device6(one, 0xABCD), 90)
    assert rig.plane.inject(one.session_id, inner)
    assert not rig.plane.inject(two.session_id, inner)
    assert not rig.plane.inject(one.session_id, packet(EDGE, one.ue_address)), "it has no IPv4"
    assert rig.to_peers() == [(g_pdu(one.peer_teid, inner), PEER)]
    assert volume(rig, one) == Volume(down_bytes=90, down_packets=1)
    assert volume(rig, two).is_zero


async def test_a_session_without_ipv4_sends_none(rig: Rig) -> None:
    one = ipv6_bearer()
    rig.plane.install(one)
    up(rig, one)
    assert rig.delivered == []
    assert volume(rig, one).is_zero


async def test_a_speed_is_kept_at_once_and_counters_go_on(rig: Rig) -> None:
    one = bearer()
    rig.plane.install(one)
    up(rig, one, 1_000)
    slow = replace(one, up_kbps=32, down_kbps=32)
    rig.plane.update(slow)
    for _ in range(100):
        up(rig, one, 1_000)
        rig.plane.inject(one.session_id, packet(EDGE, one.ue_address, 1_000))
    passed = volume(rig, one)
    assert passed == Volume(1_000 * len(rig.delivered), 1_000 * len(rig.to_peers()), 26, 25)
    rig.clock.at += timedelta(seconds=10)  # 320 kbit
    for _ in range(100):
        up(rig, one, 1_000)
    assert volume(rig, one).up_packets - passed.up_packets == 25, "no more is saved up than the burst"
    rig.plane.update(one)
    for _ in range(100):
        up(rig, one, 1_000)
    assert volume(rig, one).up_packets == 151


async def test_nothing_is_sent_down_while_suspended(rig: Rig) -> None:
    one = bearer()
    rig.plane.install(one)
    rig.plane.update(replace(one, is_suspended=True))
    up(rig, one)
    assert not rig.plane.inject(one.session_id, packet(EDGE, one.ue_address))
    assert volume(rig, one) == Volume(up_bytes=64, up_packets=1)
    rig.plane.update(one)
    assert rig.plane.inject(one.session_id, packet(EDGE, one.ue_address))
    assert volume(rig, one) == Volume(64, 64, 1, 1)


async def test_a_tunnel_takes_no_more_than_its_mtu(rig: Rig) -> None:
    """What may be cut comes in pieces, each counted as it was sent; what may not goes nowhere."""
    one = bearer()
    rig.plane.install(one)
    assert rig.plane.inject(one.session_id, packet(EDGE, one.ue_address, MTU_BYTES + 1))
    sizes = [len(data) - 8 for data, _ in rig.to_peers()]
    assert max(sizes) <= MTU_BYTES
    assert volume(rig, one) == Volume(down_bytes=sum(sizes), down_packets=2)
    whole = packet(EDGE, one.ue_address, MTU_BYTES + 1)
    assert not rig.plane.inject(one.session_id, whole[:6] + b"\x40" + whole[7:])
    assert len(rig.to_peers()) == 2


async def test_sims_reach_each_other_only_within_a_closed_group(rig: Rig) -> None:
    one, two, other, alone, lonely = (
        replace(bearer(number), closed_group=group) for number, group in enumerate(("g", "g", "h", "", ""))
    )
    for each in (one, two, other, alone):
        rig.plane.install(each)
    for sender, receiver in ((one, other), (one, alone), (alone, one), (alone, lonely), (one, lonely)):
        rig.from_peer(g_pdu(sender.local_teid, packet(sender.ue_address, receiver.ue_address)))
    assert rig.to_peers() == []
    inner = packet(one.ue_address, two.ue_address, 100)
    rig.from_peer(g_pdu(one.local_teid, inner))
    assert rig.to_peers() == [(g_pdu(two.peer_teid, inner), PEER)]
    assert volume(rig, one) == Volume(up_bytes=100, up_packets=1)
    assert volume(rig, two) == Volume(down_bytes=100, down_packets=1)
    assert volume(rig, other).is_zero
    assert volume(rig, alone).is_zero


async def test_one_devices_packet_never_goes_to_another(rig: Rig) -> None:
    one, two = bearer(1), bearer(2)
    rig.plane.install(one)
    rig.plane.install(two)
    assert not rig.plane.inject(one.session_id, packet(EDGE, two.ue_address))
    assert not rig.plane.inject(bearer(3).session_id, packet(EDGE, bearer(3).ue_address))
    assert rig.to_peers() == []


async def test_a_forged_source_or_peer_goes_nowhere_and_is_not_counted(rig: Rig) -> None:
    one, two = bearer(1), bearer(2)
    rig.plane.install(one)
    rig.plane.install(two)
    rig.from_peer(g_pdu(one.local_teid, packet(two.ue_address, EDGE)))
    rig.from_peer(g_pdu(one.local_teid, packet(one.ue_address, EDGE)), source="10.99.0.66")
    assert rig.delivered == []
    assert volume(rig, one).is_zero
    assert volume(rig, two).is_zero


async def test_update_moves_a_session_at_once_and_counting_goes_on(rig: Rig) -> None:
    one = bearer()
    rig.plane.install(one)
    up(rig, one)
    rig.plane.update(bearer(peer="10.99.0.101", peer_teid=0x77))
    up(rig, one)
    rig.from_peer(g_pdu(one.local_teid, packet(one.ue_address, EDGE)), source="10.99.0.101")
    inner = packet(EDGE, one.ue_address)
    assert rig.plane.inject(one.session_id, inner)
    end_marker = struct.pack("!BBHI", 0x30, 254, 0, one.peer_teid)
    assert rig.to_peers() == [(end_marker, PEER), (g_pdu(0x77, inner), "10.99.0.101")]
    assert volume(rig, one) == Volume(128, 64, 2, 1)


async def test_what_is_not_installed_cannot_be_updated(rig: Rig) -> None:
    with pytest.raises(Refused) as refused:
        rig.plane.update(bearer())
    assert refused.value.reason is AttachRefusal.UNKNOWN_SESSION


async def test_close_cuts_at_once_and_keeps_the_counters_until_free(rig: Rig) -> None:
    one = bearer()
    rig.plane.install(one)
    up(rig, one)
    rig.plane.close(one.session_id)
    rig.plane.close(one.session_id)
    up(rig, one)
    assert not rig.plane.inject(one.session_id, packet(EDGE, one.ue_address))
    counters = rig.plane.counters(one.session_id)
    assert counters is not None
    assert not counters.is_open
    assert counters.current.volume == Volume(up_bytes=64, up_packets=1)
    rig.plane.free(one.session_id)
    rig.plane.free(one.session_id)
    assert rig.plane.counters(one.session_id) is None
    assert list(rig.plane.all_counters()) == []


async def test_a_full_table_refuses_and_free_makes_room_from_zero(rig: Rig) -> None:
    for number in range(CAPACITY):
        rig.plane.install(bearer(number))
    up(rig, bearer(0))
    with pytest.raises(Refused) as refused:
        rig.plane.install(bearer(CAPACITY))
    assert refused.value.reason is AttachRefusal.NO_RESOURCES
    rig.plane.close(bearer(0).session_id)
    rig.plane.free(bearer(0).session_id)
    rig.plane.install(bearer(CAPACITY))
    assert volume(rig, bearer(CAPACITY)).is_zero


async def test_segments_split_the_count_without_remainder(rig: Rig) -> None:
    one = bearer()
    rig.plane.install(one)
    up(rig, one, 100)
    rig.clock.at += timedelta(hours=12)
    rig.plane.begin_segment(one.session_id, FAST, rig.clock.now())
    up(rig, one, 30)
    up(rig, one, 40)
    counters = rig.plane.counters(one.session_id)
    assert counters is not None
    assert counters.previous is not None
    assert counters.previous.volume == Volume(up_bytes=100, up_packets=1)
    assert counters.previous.label == STANDARD
    assert counters.current.volume == Volume(up_bytes=70, up_packets=2)
    assert counters.current.label == FAST
    assert counters.current.begun == rig.clock.now()
    assert counters.current.number == counters.previous.number + 1


async def test_timestamps_strictly_rise_while_the_clock_stands_or_goes_back(rig: Rig) -> None:
    one = bearer()
    rig.plane.install(one)
    stamps = []
    for step_s in (0, 0, -3_600, 0, 7_200):
        rig.clock.at += timedelta(seconds=step_s)
        counters = rig.plane.counters(one.session_id)
        assert counters is not None
        stamps.append(counters.timestamp_us)
    assert stamps == sorted(set(stamps))


async def test_after_a_crash_everything_counted_is_there_and_counting_goes_on(rig: Rig) -> None:
    one, gone = bearer(1), bearer(2)
    rig.plane.install(one)
    rig.plane.install(gone)
    up(rig, one, 100)
    up(rig, gone, 50)
    rig.plane.begin_segment(one.session_id, FAST, rig.clock.now())
    up(rig, one, 30)
    before = rig.plane.counters(one.session_id)
    rig.plane.close(gone.session_id)
    await rig.crash_and_restart()
    found = {counters.session_id: counters for counters in rig.plane.all_counters()}
    assert found.keys() == {one.session_id, gone.session_id}
    (other,) = rig.plane.all_counters(apart_from={one.session_id})
    assert other.session_id == gone.session_id
    assert before is not None
    after = found[one.session_id]
    assert (after.current, after.previous, after.epoch) == (before.current, before.previous, 3)
    assert (after.imsi, after.operator_id) == (one.imsi, one.operator_id)
    assert after.timestamp_us > before.timestamp_us
    assert not found[gone.session_id].is_open
    rig.plane.install(one)
    up(rig, one, 25)
    assert volume(rig, one) == Volume(up_bytes=55, up_packets=2)
