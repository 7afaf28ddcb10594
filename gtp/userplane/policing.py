"""Policing: bit rates of sessions, and rate limits of the gateway's own messages.

Rules: a session's packets are policed by a virtual queue (the generic cell rate algorithm, ITU-T I.371): what
was let through keeps the line busy until ``due``; while that is further off than the slack, what comes is
dropped. So the state is one number for each direction, and the caller's.
"""

from functools import lru_cache

BURST_S = 0.5
BURST_BYTES_MIN = 24_000
"""Slack: half a second, and no less than sixteen full packets: above TCP's first window (RFC 6928)."""
RATES_MAX = 1_024


@lru_cache(maxsize=RATES_MAX)
def rate(kbps: int) -> tuple[float, float]:
    """Seconds that an octet takes at this rate, and the slack in seconds; 0 and 0 when nothing is limited."""
    if not kbps:
        return 0.0, 0.0
    octet_s = 8 / (kbps * 1_000)
    return octet_s, max(BURST_S, BURST_BYTES_MIN * octet_s)


class PerSecond:
    """At most ``each_max`` a second for each key, and at most ``keys_max`` keys in that second."""

    def __init__(self, *, each_max: int, keys_max: int) -> None:
        self._each_max = each_max
        self._keys_max = keys_max
        self._taken: dict[str, int] = {}
        self._second = 0

    def take(self, key: str, now: float) -> bool:
        """Whether this one may be."""
        if int(now) != self._second:
            self._second = int(now)
            self._taken.clear()
        taken = self._taken.get(key, 0)
        if taken >= self._each_max or (not taken and len(self._taken) >= self._keys_max):
            return False
        self._taken[key] = taken + 1
        return True
