"""The system's clocks and its CSPRNG."""

import secrets
import time
from datetime import UTC, datetime


class SystemClock:
    """Implements ``Clock``."""

    def now(self) -> datetime:
        """UTC, aware."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """Seconds since an arbitrary zero."""
        return time.monotonic()


class SystemEntropy:
    """Implements ``Entropy``."""

    def random_bytes(self, length: int) -> bytes:
        """``length`` bytes of the kernel's generator."""
        return secrets.token_bytes(length)
