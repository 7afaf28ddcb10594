"""Speeds: what is faster is dropped, counted apart and not metered; TCP's bursts pass."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.domain.usage import Volume
from core.domain.values import replace
from gtp.userplane.policing import BURST_BYTES_MIN, BURST_S, PerSecond, rate
from gtp.userplane.reasons import Drop
from tests.contract.test_user_plane import (
    EDGE,
    SERVER,
    SERVER_IPV6,
    bearer,
    device6,
    g_pdu,
    ipv6_bearer,
    packet,
    packet6,
)
from tests.unit.gtp.userplane.test_forwarding import GOOD, Path

ONE = bearer(1)
FULL_BYTES = 1_400
INITIAL_WINDOW = 10
"""Segments that TCP sends at once (RFC 6928)."""
UP, DOWN = "up", "down"


def path_at(kbps: int, direction: str) -> Path:
    path = Path()
    one = replace(ONE, up_kbps=kbps) if direction == UP else replace(ONE, down_kbps=kbps)
    path.tunnels.install(one, 0)
    return path


def go(path: Path, direction: str, size: int) -> None:
    if direction == UP:
        path.up(g_pdu(ONE.local_teid, packet(ONE.ue_address, SERVER, size)))
    else:
        path.tunnels.downlink(packet(SERVER, ONE.ue_address, size))


def octets(path: Path, direction: str) -> int:
    counted = path.counted()
    return counted.up_bytes if direction == UP else counted.down_bytes


@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("kbps", [32, 128, 512, 2_048, 40_960])
def test_a_flood_gets_its_speed_and_one_burst(kbps: int, direction: str) -> None:
    path = path_at(kbps, direction)
    seconds, per_s = 20, max(2 * kbps // 8 * 1_000 // FULL_BYTES, 8)
    for _ in range(seconds * per_s):
        go(path, direction, FULL_BYTES)
        path.now += 1 / per_s
    allowed = seconds * kbps * 125
    burst = max(BURST_BYTES_MIN, BURST_S * kbps * 125)
    assert allowed <= octets(path, direction) <= allowed + burst + FULL_BYTES
    dropped = seconds * per_s - octets(path, direction) // FULL_BYTES
    assert path.drops == {Drop.OVER_SPEED_UP if direction == UP else Drop.OVER_SPEED_DOWN: dropped}
    forwarded = path.internet if direction == UP else path.sent
    assert octets(path, direction) == FULL_BYTES * len(forwarded), "what is dropped is not metered"


@pytest.mark.parametrize("kbps", [32, 128, 2_048])
def test_tcps_first_window_passes(kbps: int) -> None:
    path = path_at(kbps, DOWN)
    for _ in range(INITIAL_WINDOW):
        go(path, DOWN, 1_500 - 36)
    assert path.drops == {}


def test_directions_and_sessions_are_apart() -> None:
    path = path_at(1, UP)
    for _ in range(100):
        go(path, UP, FULL_BYTES)
        go(path, DOWN, FULL_BYTES)
        path.up(g_pdu(bearer(2).local_teid, packet(bearer(2).ue_address, EDGE)))
    assert (path.counted().down_packets, path.counted(4).up_packets) == (100, 100)
    assert path.counted().up_packets < 20


def test_without_a_speed_nothing_is_limited() -> None:
    path = path_at(0, UP)
    for _ in range(1_000):
        go(path, UP, FULL_BYTES)
    assert path.drops == {}


def test_ipv6_and_ipv4_share_a_speed() -> None:
    path = Path()
    both = replace(ipv6_bearer(1), has_ipv4=True, up_kbps=32)
    path.tunnels.install(both, 0)
    for _ in range(100):
        path.up(GOOD)
        path.up(g_pdu(both.local_teid, packet6(device6(both), SERVER_IPV6, FULL_BYTES)))
    assert abs(path.counted().up_bytes - BURST_BYTES_MIN) <= FULL_BYTES


def test_an_update_at_the_same_speed_gives_no_new_burst() -> None:
    path = path_at(32, UP)
    for number in range(200):
        go(path, UP, FULL_BYTES)
        path.tunnels.install(replace(ONE, up_kbps=32, peer_teid=number + 1), 0)
    assert path.counted().up_bytes <= BURST_BYTES_MIN + FULL_BYTES


def test_a_new_speed_counts_at_once() -> None:
    path = path_at(32, UP)
    for _ in range(100):
        go(path, UP, FULL_BYTES)
    before = path.counted()
    path.tunnels.install(replace(ONE, up_kbps=2_048), 0)
    for _ in range(100):
        go(path, UP, FULL_BYTES)
        path.now += 0.01
    assert path.counted() == Volume(before.up_bytes + 100 * FULL_BYTES, 0, before.up_packets + 100, 0)


def test_a_clock_that_stands_or_a_long_pause_saves_up_no_more_than_the_burst() -> None:
    path = path_at(32, UP)
    path.now += 1_000_000
    for _ in range(100):
        go(path, UP, FULL_BYTES)
    assert path.counted().up_bytes <= BURST_BYTES_MIN + FULL_BYTES


@settings(deadline=None)
@given(
    kbps=st.integers(1, 100_000),
    packets=st.lists(st.tuples(st.integers(20, 1_464), st.floats(0, 3)), max_size=80),
)
def test_over_any_time_no_more_than_the_speed_and_the_burst(
    kbps: int, packets: list[tuple[int, float]]
) -> None:
    path = path_at(kbps, DOWN)
    begun = path.now
    octet_s, slack_s = rate(kbps)
    for size, pause_s in packets:
        path.now += pause_s
        go(path, DOWN, size)
        passed = path.counted().down_bytes
        assert passed * octet_s <= path.now - begun + slack_s + 1_464 * octet_s + 1e-6
    assert path.counted().down_packets + path.tunnels.drops[Drop.OVER_SPEED_DOWN] == len(packets)


def test_per_second_is_bounded_in_keys_and_takes() -> None:
    limit = PerSecond(each_max=2, keys_max=2)
    assert [limit.take(key, 5.0) for key in "aaabbbc"] == [True, True, False, True, True, False, False]
    assert limit.take("c", 6.0)
