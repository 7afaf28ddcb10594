"""The quality of service of both versions as one (TS 23.401 annex E).

Rules: a peer of version 1 asks by a QoS profile (TS 29.060 §7.7.34, TS 24.008 §10.5.6.5) and, if it is of
Release 9 or later, an APN-AMBR; one of version 2 by QCI, ARP and APN-AMBR; ``Qos`` is what either means.
Without an APN-AMBR the profile's maximum bit rates are it. A rate that has no code is sent as the next lower,
so that no peer is granted more than its session has. Rates are in kbit/s; 0: none is named.
"""

from core.domain.session import Qos

AMBR_OCTETS = 8
_ARP_LEVELS = {1: 1, 2: 6, 3: 11}
"""The first priority level (1 to 15) of each allocation/retention priority; the borders are ours."""
_ARP_LEVEL_LAST = 15
_CONVERSATIONAL, _STREAMING, _INTERACTIVE, _BACKGROUND = 1, 2, 3, 4
_QCI_OF_PRIORITY = {1: 6, 2: 7, 3: 8}
"""By traffic handling priority, or by delay class in a profile of Release 97 (TS 23.107 §9.1.2.3)."""
_QCI_LAST = 9
_SPEECH, _FOR_SIGNALLING = 0x01, 0x10
_SHORT_DELAYS = range(1, 15)
"""Transfer delays below 150 ms."""
_CLASS, _MBR_UP, _MBR_DOWN, _DELAY, _SIGNALLING = 4, 6, 7, 9, 12
"""Where things stand in a profile, whose first octet is the allocation/retention priority."""
_UP_OCTETS, _DOWN_OCTETS = (_MBR_UP, 15, 19), (_MBR_DOWN, 13, 17)
"""A maximum bit rate and its two extensions."""
_CODES = (
    ((1, 1, 1, 63), (64, 64, 8, 127), (128, 576, 64, 254)),
    ((1, 8_700, 100, 74), (75, 17_000, 1_000, 186), (187, 130_000, 2_000, 250)),
    ((1, 260_000, 4_000, 61), (62, 510_000, 10_000, 161), (162, 1_600_000, 100_000, 246)),
)
"""Of the octet and each extension: first code, its rate, the step, last code."""
_FULL = (0xFE, 0xFA)
"""What stands before an extension that counts."""
_NO_RATE = 0xFF
_LENGTHS = (13, 17, 21)
"""Octets of a profile that has so many extensions."""
_SHAPES = {
    1: (_CONVERSATIONAL, 0x28, 0x01),
    2: (_CONVERSATIONAL, 0x3C, 0x00),
    3: (_CONVERSATIONAL, 0x28, 0x00),
    4: (_STREAMING, 0x4C, 0x00),
    5: (_INTERACTIVE, 0x01, 0x10),
    6: (_INTERACTIVE, 0x01, 0x00),
    7: (_INTERACTIVE, 0x02, 0x00),
    8: (_INTERACTIVE, 0x03, 0x00),
}
"""By QCI: traffic class, transfer delay and handling priority, signalling and source statistics."""


def decode_qos(profile: bytes, *, apn_ambr: bytes = b"", evolved_arp: bytes = b"") -> Qos:
    """What a peer of version 1 asks for, from the values of its elements (§7.7.34, §7.7.98, §7.7.91)."""
    up, down = _rate(profile, _UP_OCTETS), _rate(profile, _DOWN_OCTETS)
    if len(apn_ambr) == AMBR_OCTETS:
        up, down = int.from_bytes(apn_ambr[:4], "big"), int.from_bytes(apn_ambr[4:], "big")
    level = _ARP_LEVELS.get(profile[0] & 3, _ARP_LEVEL_LAST)
    arp = evolved_arp[0] & 0x7D if evolved_arp else level << 2
    return Qos(qci=_qci(profile), arp=arp, ambr_up_kbps=up, ambr_down_kbps=down, profile=profile.hex())


def encode_ambr(qos: Qos) -> bytes:
    """The value of an APN-AMBR."""
    return qos.ambr_up_kbps.to_bytes(4, "big") + qos.ambr_down_kbps.to_bytes(4, "big")


def granted_profile(asked: bytes, qos: Qos) -> bytes:
    """The profile that answers ``asked``: its rates are neither above the session's nor above those asked."""
    up, down = _rate(asked, _UP_OCTETS), _rate(asked, _DOWN_OCTETS)
    return _with_rates(asked, _lower(up, qos.ambr_up_kbps), _lower(down, qos.ambr_down_kbps))


def encode_profile(qos: Qos) -> bytes:
    """The profile that says what a session has, by the one it asked for if it did: for a request of ours."""
    if qos.profile:
        return _with_rates(bytes.fromhex(qos.profile), qos.ambr_up_kbps, qos.ambr_down_kbps)
    traffic_class, delay, signalling = _SHAPES.get(qos.qci, (_BACKGROUND, 0x00, 0x00))
    level = qos.arp >> 2 & 15
    priority = max((own for own, first in _ARP_LEVELS.items() if first <= level), default=1)
    fastest = max(qos.ambr_up_kbps, qos.ambr_down_kbps)
    profile = bytearray(_LENGTHS[sum(bool(_code(fastest, segments)) for segments in _CODES[1:])])
    profile[:6] = bytes((priority, 0x0B, 0x92, 0x1F, traffic_class << 5 | 0x12, 0x96))
    profile[_MBR_UP] = profile[_MBR_DOWN] = _FULL[0]
    profile[8:12] = bytes((0x74, delay, _NO_RATE, _NO_RATE))
    profile[_SIGNALLING] = signalling
    return _with_rates(bytes(profile), qos.ambr_up_kbps, qos.ambr_down_kbps)


def encode_rate(kbps: int) -> tuple[int, int, int]:
    """A bit rate as its octet and both extensions: the highest that is not above it and has a code."""
    base, extension, second = (_code(kbps, segments) for segments in _CODES)
    if second:
        return *_FULL, second
    return (_FULL[0], extension, 0) if extension else (base, 0, 0)


def decode_rate(base: int, extension: int = 0, second: int = 0) -> int:
    """The inverse; 0 for a subscribed rate, and for none."""
    if base == _NO_RATE:
        return 0
    code, segments = next(
        ((code, _CODES[at]) for at, code in ((2, second), (1, extension)) if code), (base, _CODES[0])
    )
    for first, rate, step, last in reversed(segments):
        if code >= first:
            return rate + (min(code, last) - first) * step
    return 0


def _code(kbps: int, segments: tuple[tuple[int, int, int, int], ...]) -> int:
    for first, rate, step, last in reversed(segments):
        if kbps >= rate:
            return min(first + (kbps - rate) // step, last)
    return 0


def _rate(profile: bytes, octets: tuple[int, int, int]) -> int:
    base, extension, second = (profile[at] if at < len(profile) else 0 for at in octets)
    return decode_rate(base, extension, second)


def _lower(asked: int, granted: int) -> int:
    return min(asked, granted) if asked and granted else asked or granted


def _with_rates(profile: bytes, up: int, down: int) -> bytes:
    """The profile with other rates, as far as its length has room for them; 0 leaves one as it is."""
    changed = bytearray(profile)
    for rate, octets in ((up, _UP_OCTETS), (down, _DOWN_OCTETS)):
        places = [at for at in octets if at < len(profile)]
        if rate and places:
            codes = encode_rate(rate)
            for at, code in zip(places, codes, strict=False):
                changed[at] = code
    return bytes(changed)


def _qci(profile: bytes) -> int:
    if len(profile) <= _DELAY:  # of Release 97
        return _QCI_OF_PRIORITY.get(profile[1] >> 3 & 7, _QCI_LAST)
    signalling = profile[_SIGNALLING] if len(profile) > _SIGNALLING else 0
    traffic_class, delay = profile[_CLASS] >> 5, profile[_DELAY]
    if traffic_class == _CONVERSATIONAL:
        return 1 if signalling & 15 == _SPEECH else 3 if delay >> 2 in _SHORT_DELAYS else 2
    if traffic_class == _INTERACTIVE:
        return 5 if delay & 3 == 1 and signalling & _FOR_SIGNALLING else _QCI_OF_PRIORITY.get(delay & 3, 8)
    return 4 if traffic_class == _STREAMING else _QCI_LAST
