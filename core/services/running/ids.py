"""Ids that rise, for what is reported in order."""

from datetime import UTC, datetime, timedelta

from core.domain.ids import time_ordered_id
from core.ports.clock import Clock, Entropy

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


class RecordIds:
    """Ids that rise: milliseconds, a count within the millisecond, and 64 random bits that are this object's.

    While the clock is behind the last id, the count goes on.
    """

    PER_MILLISECOND = 65_536

    def __init__(self, *, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._origin = entropy.random_bytes(8)
        self._at_ms = 0
        self._count = 0
        self._milliseconds, self._random = "", self._origin.hex()

    def next(self, now: datetime | None = None) -> str:
        """32 hex digits, greater than all before; ``now`` if the caller has just read the clock."""
        now_ms = ((now or self._clock.now()) - _EPOCH) // _MILLISECOND
        if now_ms > self._at_ms:
            self._begin(now_ms)
        elif self._count + 1 < self.PER_MILLISECOND:
            self._count += 1
        else:
            self._begin(self._at_ms + 1)
        return f"{self._milliseconds}{self._count:04x}{self._random}"

    def _begin(self, at_ms: int) -> None:
        self._at_ms, self._count = at_ms, 0
        first = time_ordered_id(_EPOCH + at_ms * _MILLISECOND, bytes(2) + self._origin)
        self._milliseconds = first[:12]
