"""Speed classes: the bit rates of a SIM's sessions.

Rule: one table for both directions. A class without a published speed has no limit.
"""

from collections.abc import Mapping
from functools import lru_cache

from core.domain.session import Qos
from core.domain.values import replace

SPEEDS_KBPS: Mapping[str, int] = {
    "s1.minimum": 32,
    "s1.slow": 128,
    "s1.standard": 512,
    "s1.fast": 2_000,
    "s1.4xfast": 8_000,
    "s1.8xfast": 16_000,
    "u1.slow": 0,
    "u1.standard": 0,
    "t1.standard": 0,
    "arc.standard": 0,
}
"""Every speed class in kbit/s; 0: no limit."""


GRANTS_MAX = 4_096
"""What was granted last is remembered: sessions that ask alike share one ``Qos``."""


def faster(one: str, other: str) -> str:
    """The class with the higher speed; the first if they are equal."""
    slow, fast = SPEEDS_KBPS.get(one, 0), SPEEDS_KBPS.get(other, 0)
    return other if slow and (not fast or fast > slow) else one


@lru_cache(GRANTS_MAX)
def granted(asked: Qos, speed_class: str, *, up_kbps: int, down_kbps: int) -> Qos:
    """The QoS granted to a session of this class that requests this QoS and AMBR: the same, with the AMBR
    limited to the class.
    """
    most = SPEEDS_KBPS.get(speed_class, 0)
    return replace(asked, ambr_up_kbps=_lower(up_kbps, most), ambr_down_kbps=_lower(down_kbps, most))


def _lower(one: int, other: int) -> int:
    """The lower of two limits, each 0 for none."""
    return min(one, other) if one and other else one or other
