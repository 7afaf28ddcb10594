"""Time and randomness: all that makes one run differ from another.

Rule: nothing above the adapters reads a clock or draws a random number except through these ports. Waiting
is ``asyncio.sleep``: in a simulation the event loop's own time is virtual.
"""

from datetime import datetime
from typing import Protocol


class Clock(Protocol):
    """Wall time for records, monotonic time for intervals."""

    def now(self) -> datetime:
        """UTC, aware."""
        ...

    def monotonic(self) -> float:
        """Seconds, never going back; the zero is arbitrary."""
        ...


class Entropy(Protocol):
    """Unpredictable bytes (a CSPRNG in production, a seeded generator in simulation)."""

    def random_bytes(self, length: int) -> bytes:
        """``length`` fresh bytes."""
        ...
