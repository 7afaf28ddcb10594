"""The system's clocks and its CSPRNG."""

import secrets
import time
from datetime import UTC, datetime

POOL_BYTES = 4_096


class SystemClock:
    """Implements ``Clock``."""

    def now(self) -> datetime:
        """UTC, aware."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary zero."""
        return time.monotonic()


class SystemEntropy:
    """Implements ``Entropy``: bytes of the kernel's generator, fetched ``POOL_BYTES`` at a time.

    A call into the kernel lets other threads run first: for four bytes that costs more than their use.
    """

    def __init__(self) -> None:
        self._pool = b""
        self._at = self._left = 0

    def random_bytes(self, length: int) -> bytes:
        """``length`` bytes, each given out once."""
        if length > self._left:
            self._left = max(POOL_BYTES, length)
            self._pool, self._at = secrets.token_bytes(self._left), 0
        self._left -= length
        taken = self._pool[self._at : self._at + length]
        self._at += length
        return taken
