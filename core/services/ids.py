"""Ids that rise, for what is told in order."""

from datetime import UTC, datetime, timedelta

from core.domain.ids import time_ordered_id
from core.ports.clock import Clock, Entropy


class RecordIds:
    """Ids that rise: milliseconds, a count within the millisecond, and 64 random bits that are this object's.

    While the clock is behind the last id, the count goes on.
    """

    PER_MILLISECOND = 65_536

    def __init__(self, *, clock: Clock, entropy: Entropy) -> None:
        self._clock = clock
        self._origin = entropy.random_bytes(8)
        self._at = datetime(1970, 1, 1, tzinfo=UTC)
        self._count = 0

    def next(self) -> str:
        """32 hex digits, greater than all before."""
        now = self._clock.now()
        now = now.replace(microsecond=now.microsecond // 1_000 * 1_000)
        if now > self._at:
            self._at, self._count = now, 0
        elif self._count + 1 < self.PER_MILLISECOND:
            self._count += 1
        else:
            self._at, self._count = self._at + timedelta(milliseconds=1), 0
        return time_ordered_id(self._at, self._count.to_bytes(2, "big") + self._origin)
