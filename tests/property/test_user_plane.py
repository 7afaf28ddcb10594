"""Whatever comes in: no exception, and every counted byte was forwarded, in one segment or another."""

import struct
from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st
from scapy.layers.inet6 import ICMPv6ND_NS, ICMPv6ND_RS
from scapy.packet import Raw

from core.domain.apn import MTU_BYTES_MAX
from core.domain.usage import SegmentLabel, Volume
from core.domain.values import replace
from gtp.userplane.counter_table import Origin, over_buffer, table_bytes
from gtp.userplane.neighbours import GATEWAY_LINK_LOCAL
from gtp.userplane.udp import inner_addresses
from tests.contract.test_user_plane import (
    EDGE,
    PEER,
    POOL,
    PREFIXES,
    SERVER,
    SERVER_IPV6,
    UdpRig,
    bearer,
    device6,
    g_pdu,
    own_link,
    packet,
    packet6,
)
from tests.unit.gtp.userplane.test_bearers import OTHER_PEER, VOICE
from tests.unit.gtp.userplane.test_forwarding import GOOD, INNER, ONE, TWO, Path
from tests.unit.gtp.userplane.test_inner_ipv6 import GATEWAY_HOST, RS_OPTION, nd
from tests.unit.gtp.userplane.test_sizes import big, big6, syn

hostile = st.one_of(
    st.binary(max_size=120),
    st.builds(
        lambda flags, kind, length, teid, rest: struct.pack("!BBHI", flags, kind, length, teid) + rest,
        st.integers(0, 255),
        st.sampled_from((1, 2, 26, 31, 254, 255, 0, 16)),
        st.integers(0, 100),
        st.sampled_from((0, ONE.local_teid, ONE.peer_teid, 0xFFFFFFFF)),
        st.binary(max_size=100),
    ),
    st.builds(
        lambda at, value: GOOD[:at] + value + GOOD[at + 1 :], st.integers(0, 71), st.binary(max_size=2)
    ),
    st.builds(lambda size: GOOD[:size], st.integers(0, 72)),
)


@settings(deadline=None)
@given(st.lists(hostile, max_size=20), st.sampled_from((PEER, "10.99.0.66")))
def test_hostile_bytes_never_raise_and_what_is_counted_was_forwarded(data: list[bytes], source: str) -> None:
    path = Path()
    for datagram in data:
        path.up(datagram, source=source)
        path.tunnels.downlink(datagram)
        path.tunnels.inject(ONE.session_id, datagram)
    forwarded = path.internet + [inner for _, inner in path.edge]
    counted = path.counted(0) + path.counted(4)
    assert counted.up_bytes == sum(map(len, forwarded))
    assert counted.up_packets == len(forwarded)
    assert all(len(inner) == int.from_bytes(inner[2:4], "big") for inner in forwarded)
    assert all(inner[12:16] == ONE.ue_address.packed for inner in forwarded)
    if source != PEER:
        assert forwarded == []


BOTH = replace(
    ONE,
    ue_prefix=PREFIXES.of(ONE.ue_address),
    closed_group="g",
    dedicated=(VOICE,),
    up_kbps=1_000,
    down_kbps=1_000,
)
FRIEND = replace(TWO, ue_prefix=PREFIXES.of(TWO.ue_address), closed_group="g")
OWN, FRIENDS = device6(BOTH), device6(FRIEND)
LINK = own_link(ONE)
REAL = [
    INNER,
    packet(ONE.ue_address, EDGE),
    packet(ONE.ue_address, TWO.ue_address),
    packet6(OWN, SERVER_IPV6),
    packet6(OWN, FRIENDS),
    packet(SERVER, ONE.ue_address),
    packet6(SERVER_IPV6, OWN),
    syn(1_460),
    syn(1_460, down=True),
    nd(ICMPv6ND_RS() / Raw(RS_OPTION)),
    nd(ICMPv6ND_NS(tgt=str(GATEWAY_HOST)) / Raw(RS_OPTION), source=OWN),
]
BIG = [big(2_000), big(4_000, flags="DF"), big6(1_500)]


def mutated(real: list[bytes]) -> st.SearchStrategy[bytes]:
    """Real packets of which a few octets were changed, cut at the end or followed by more."""

    def mutate(inner: bytes, changes: list[tuple[int, int]], cut: int, behind: bytes) -> bytes:
        octets = bytearray(inner[: len(inner) - cut])
        for at, value in changes:
            octets[at % max(len(octets), 1) : at % max(len(octets), 1) + 1] = bytes([value])
        return bytes(octets) + behind

    changes = st.lists(st.tuples(st.integers(0, 80), st.integers(0, 255)), max_size=4)
    return st.builds(mutate, st.sampled_from(real), changes, st.integers(0, 3), st.binary(max_size=4))


def full_path() -> Path:
    path = Path()
    path.tunnels.install(BOTH, 0)
    path.tunnels.install(FRIEND, 4)
    return path


def own_words(inner: bytes) -> bool:
    """Whether the gateway itself says it."""
    sources = {address.packed for address in inner_addresses(POOL, PREFIXES)} | {GATEWAY_LINK_LOCAL}
    return inner[12:16] in sources or inner[8:24] in sources


@settings(deadline=None)
@given(st.lists(st.tuples(mutated(REAL) | st.binary(max_size=120), st.booleans()), max_size=20))
def test_any_inner_packet_up_ends_in_one_drop_or_in_its_count(inners: list[tuple[bytes, bool]]) -> None:
    path = full_path()
    for inner, is_apart in inners:
        if is_apart:
            path.up(g_pdu(VOICE.local_teid_user, inner), source=OTHER_PEER)
        else:
            path.up(g_pdu(BOTH.local_teid, inner))
    across = [data[8:] for data, _ in path.sent if not own_words(data[8:])]
    forwarded = path.internet + [inner for _, inner in path.edge] + across
    one, two = path.counted(0), path.counted(4)
    assert (one.up_bytes, one.up_packets) == (sum(map(len, forwarded)), len(forwarded))
    assert one.down_bytes + two.down_bytes == sum(map(len, across))
    assert two.up_packets == 0
    for inner in forwarded:
        assert BOTH.ue_address.packed == inner[12:16] or inner[8:16] == OWN.packed[:8]
    answered = sum(path.signals.values())
    assert len(forwarded) + sum(path.drops.values()) + answered >= len(inners)


@settings(deadline=None)
@given(st.lists(mutated([*REAL, *BIG]) | st.binary(max_size=120), max_size=20))
def test_any_packet_down_is_counted_as_it_was_sent_and_to_its_device_alone(packets: list[bytes]) -> None:
    path = full_path()
    for inner in packets:
        path.tunnels.downlink(inner)
        path.tunnels.inject(BOTH.session_id, inner)
    sent = [data[8:] for data, _ in path.sent if not own_words(data[8:])]
    counted = path.counted(0) + path.counted(4)
    assert (counted.down_bytes, counted.down_packets) == (sum(map(len, sent)), len(sent))
    assert all(len(inner) <= MTU_BYTES_MAX for inner in sent)
    for data, _ in path.sent:
        is_friends = data[4:8] == FRIEND.peer_teid.to_bytes(4, "big")
        one = FRIEND if is_friends else BOTH
        inner = data[8:]
        destination = inner[16:20] if inner[0] >> 4 == 4 else inner[24:32]
        assert destination in (one.ue_address.packed, device6(one).packed[:8])


@settings(deadline=None)
@given(
    flags=st.integers(0x30, 0x37),
    extensions=st.lists(st.integers(1, 4), max_size=8),
    sequence=st.binary(min_size=3, max_size=3),
    behind=st.binary(max_size=5),
)
def test_any_well_formed_header_leads_to_the_inner_packet(
    flags: int, extensions: list[int], sequence: bytes, behind: bytes
) -> None:
    options = b""
    if flags & 7:
        kinds = [0x85] * len(extensions) + [0] if flags & 4 else [0xC0]
        options = sequence + kinds[:1][0].to_bytes(1, "big")
        for units, following in zip(extensions, kinds[1:], strict=False):
            options += bytes([units]) + bytes(4 * units - 2) + bytes([following])
    body = options + INNER
    path = Path()
    path.up(struct.pack("!BBHI", flags, 255, len(body), ONE.local_teid) + body + behind)
    assert path.internet == [INNER]


@settings(deadline=None)
@given(size=st.integers(0, 71))
def test_a_truncated_packet_is_dropped_and_counted_once(size: int) -> None:
    path = Path()
    path.up(GOOD[:size])
    assert path.internet == []
    assert sum(path.drops.values()) == 1


events = st.one_of(
    st.tuples(st.just("up"), st.integers(0, 1), st.integers(20, 1_400)),
    st.tuples(st.just("down"), st.integers(0, 1), st.integers(20, 1_400)),
    st.tuples(st.just("segment"), st.integers(0, 1), st.integers(0, 9)),
    st.tuples(st.just("crash"), st.just(0), st.just(0)),
    st.tuples(st.just("close"), st.integers(0, 1), st.just(0)),
    st.tuples(st.just("install"), st.integers(0, 1), st.just(0)),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(events, max_size=60))
async def test_segments_add_up_to_what_was_forwarded_over_any_crash(
    history: list[tuple[str, int, int]],
) -> None:
    """Last value wins by (session, segment), as the store keeps it; forwarded is counted at the far sides."""
    rig = UdpRig()
    await rig.start()
    bearers = [bearer(1), bearer(2)]
    kept: dict[tuple[str, int], Volume] = {}
    stamps = dict.fromkeys((b.session_id for b in bearers), 0)

    def report() -> None:
        for counters in rig.plane.all_counters():
            assert counters.timestamp_us > stamps[counters.session_id]
            stamps[counters.session_id] = counters.timestamp_us
            for segment in filter(None, (counters.previous, counters.current)):
                kept[counters.session_id, segment.number] = segment.volume

    for one in bearers:
        rig.plane.install(one)
    for kind, which, number in history:
        one = bearers[which]
        rig.clock.at += timedelta(seconds=number % 3 - 1)
        if kind == "up":
            rig.from_peer(g_pdu(one.local_teid, packet(one.ue_address, EDGE, number)))
        elif kind == "down":
            rig.plane.inject(one.session_id, packet(EDGE, one.ue_address, number))
        elif kind == "segment":
            report()
            rig.plane.begin_segment(one.session_id, SegmentLabel(f"s{number}"), rig.clock.now())
        elif kind == "crash":
            await rig.crash_and_restart()
            for again in bearers:
                rig.plane.install(again)
        elif kind == "close":
            rig.plane.close(one.session_id)
        else:
            rig.plane.install(one)
    report()
    for one in bearers:
        went_up = [inner for session_id, inner in rig.delivered if session_id == one.session_id]
        went_down = [data[8:] for data, _ in rig.to_peers() if data[24:28] == one.ue_address.packed]
        total = sum((v for (session_id, _), v in kept.items() if session_id == one.session_id), Volume())
        assert total == Volume(sum(map(len, went_up)), sum(map(len, went_down)), len(went_up), len(went_down))
    await rig.aclose()


@settings(deadline=None)
@given(st.data())
def test_any_damage_to_a_table_is_lost_or_reads_without_raising(data: st.DataObject) -> None:
    rig = UdpRig()
    rig.plane.install(ONE)
    rig.from_peer(GOOD)
    at = data.draw(st.integers(0, table_bytes(1) - 1))
    rig.table[at] ^= data.draw(st.integers(1, 255))
    table = over_buffer(rig.table)
    for session_id in table.session_ids():
        slot = table.find(session_id)
        assert slot is not None
        if table.opening.origin is Origin.RESUMED:
            table.read(slot, rig.clock.now())
    assert INNER[16:20] == SERVER.packed
