"""Quality of service between the versions: what comes back, and no peer gets more than the session has."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.domain.session import Qos
from core.domain.values import replace
from gtp.qos import decode_qos, decode_rate, encode_ambr, encode_profile, encode_rate, granted_profile

KBPS = st.integers(1, 10_000_000)
PROFILES = st.binary(min_size=4, max_size=30)
QOSES = st.builds(
    Qos,
    qci=st.integers(1, 9),
    arp=st.sampled_from([level << 2 for level in range(1, 16)]),
    ambr_up_kbps=st.integers(0, 10_000_000),
    ambr_down_kbps=st.integers(0, 10_000_000),
)


def step(kbps: int) -> int:
    """How far apart codes are at this rate (TS 24.008 table 10.5.156)."""
    steps = (
        (63, 1), (568, 8), (8_640, 64), (16_000, 100), (128_000, 1_000), (256_000, 2_000), (500_000, 4_000),
        (1_500_000, 10_000), (10_000_000, 100_000),
    )  # fmt: skip
    return next(apart for most, apart in steps if kbps <= most)


@given(KBPS)
def test_a_rate_is_told_as_the_next_lower_that_has_a_code(kbps: int) -> None:
    told = decode_rate(*encode_rate(kbps))
    assert told <= kbps < told + step(min(told + 1, 10_000_000)) + (kbps == 10_000_000)


@pytest.mark.parametrize(
    ("codes", "kbps"),
    [
        ((1, 0, 0), 1),
        ((0x3F, 0, 0), 63),
        ((0x40, 0, 0), 64),
        ((0x7F, 0, 0), 568),
        ((0x80, 0, 0), 576),
        ((0xFE, 0, 0), 8_640),
        ((0xFE, 0x01, 0), 8_700),
        ((0xFE, 0x4A, 0), 16_000),
        ((0xFE, 0x4B, 0), 17_000),
        ((0xFE, 0xBA, 0), 128_000),
        ((0xFE, 0xBB, 0), 130_000),
        ((0xFE, 0xFA, 0), 256_000),
        ((0xFE, 0xFA, 0x01), 260_000),
        ((0xFE, 0xFA, 0x3D), 500_000),
        ((0xFE, 0xFA, 0x3E), 510_000),
        ((0xFE, 0xFA, 0xA1), 1_500_000),
        ((0xFE, 0xFA, 0xA2), 1_600_000),
        ((0xFE, 0xFA, 0xF6), 10_000_000),
    ],
)
def test_rates_have_the_codes_of_the_standard(codes: tuple[int, int, int], kbps: int) -> None:
    assert encode_rate(kbps) == codes
    assert decode_rate(*codes) == kbps


def test_a_subscribed_rate_and_none_are_not_named() -> None:
    assert (decode_rate(0), decode_rate(0xFF), encode_rate(0)) == (0, 0, (0, 0, 0))


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_any_code_is_a_rate_within_the_standards(codes: tuple[int, int, int]) -> None:
    assert 0 <= decode_rate(*codes) <= 10_000_000


@given(PROFILES, st.binary(max_size=10), st.binary(max_size=2))
def test_any_profile_means_something(profile: bytes, ambr: bytes, arp: bytes) -> None:
    qos = decode_qos(profile, apn_ambr=ambr, evolved_arp=arp)
    assert 1 <= qos.qci <= 9
    assert bytes.fromhex(qos.profile) == profile
    if len(ambr) == 8:
        assert encode_ambr(qos) == ambr


@given(PROFILES, QOSES)
def test_what_is_granted_is_neither_above_the_session_nor_above_what_was_asked(
    profile: bytes, session: Qos
) -> None:
    asked = decode_qos(profile)
    granted = decode_qos(granted_profile(profile, session))
    assert len(granted.profile) == len(asked.profile)
    assert (granted.qci, granted.arp) == (asked.qci, asked.arp)
    for told, own, wanted in (
        (granted.ambr_up_kbps, session.ambr_up_kbps, asked.ambr_up_kbps),
        (granted.ambr_down_kbps, session.ambr_down_kbps, asked.ambr_down_kbps),
    ):
        assert not own or told <= own
        assert not wanted or told <= wanted
        assert own or told == wanted


@given(PROFILES)
def test_a_profile_that_fits_is_granted_as_it_stands(profile: bytes) -> None:
    once = granted_profile(profile, decode_qos(profile))
    assert granted_profile(once, decode_qos(once)) == once
    assert decode_qos(once) == replace(decode_qos(profile), profile=once.hex())


@given(QOSES)
def test_a_session_of_version_2_comes_back_through_a_profile(qos: Qos) -> None:
    told = decode_qos(encode_profile(qos))
    assert told.qci == qos.qci
    assert told.arp >> 2 == (1 if qos.arp >> 2 < 6 else 6 if qos.arp >> 2 < 11 else 11)
    for rate, own in ((told.ambr_up_kbps, qos.ambr_up_kbps), (told.ambr_down_kbps, qos.ambr_down_kbps)):
        assert rate == (decode_rate(*encode_rate(own)) if own else 8_640)
    assert decode_qos(encode_profile(told)).qci == qos.qci


@pytest.mark.parametrize(
    ("profile", "qci"),
    [
        ("02230000", 9),
        ("02230000" + "32967f7f74280000" + "01", 1),  # conversational, speech
        ("02230000" + "32967f7f743c0000", 2),  # conversational, 150 ms
        ("02230000" + "32967f7f74280000", 3),  # conversational, 100 ms
        ("02230000" + "52967f7f74280000", 4),  # streaming
        ("02230000" + "72967f7f74290000" + "10", 5),  # interactive 1, signalling
        ("02230000" + "72967f7f74290000", 6),
        ("02230000" + "72967f7f742a0000", 7),
        ("02230000" + "72967f7f742b0000", 8),
        ("02230000" + "92967f7f74000000", 9),  # background
        ("020b0000", 6),  # Release 97: delay class 1
        ("02130000", 7),
        ("021b0000", 8),
    ],
)
def test_traffic_classes_are_qcis(profile: str, qci: int) -> None:
    assert decode_qos(bytes.fromhex(profile)).qci == qci


@pytest.mark.parametrize(("octet", "arp"), [(1, 0x04), (2, 0x18), (3, 0x2C), (0, 0x3C), (0xFF, 0x2C)])
def test_allocation_priorities_are_priority_levels(octet: int, arp: int) -> None:
    assert decode_qos(bytes((octet, 0x23, 0, 0))).arp == arp


def test_an_apn_ambr_counts_before_the_profiles_rates() -> None:
    profile = bytes.fromhex("0223000092967f7f74000000")
    assert (decode_qos(profile).ambr_up_kbps, decode_qos(profile).ambr_down_kbps) == (568, 568)
    both = decode_qos(profile, apn_ambr=b"\0\0\0\1\0\0\0\2")
    assert (both.ambr_up_kbps, both.ambr_down_kbps) == (1, 2)


def test_a_request_of_ours_keeps_the_profile_that_was_asked_for_and_tells_the_rates_of_now() -> None:
    asked = bytes.fromhex("0223000092967f7f74000000")
    now = replace(decode_qos(asked), ambr_up_kbps=64, ambr_down_kbps=8_640)
    assert encode_profile(now) == bytes.fromhex("02230000929640fe74000000")
