"""Sessions that their peer may not know, to be asked about once the answer that made them must have arrived.

Rule: all wait equally long, so whoever is due first stands first; the table is bounded. Pure.
"""

from collections import deque

DOUBTS_MAX = 65_536
"""Beyond it a session is not asked about: its next restart, Error Indication or attach tells."""


class Doubts:
    """Session ids, each for ``wait_s``."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._waiting: deque[tuple[float, str]] = deque()

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, session_id: str, now: float) -> bool:
        """Have it asked about; false when there is no room."""
        if len(self._waiting) >= DOUBTS_MAX:
            return False
        self._waiting.append((now + self._wait_s, session_id))
        return True

    def timer(self) -> float | None:
        """When ``due`` has something to tell."""
        return self._waiting[0][0] if self._waiting else None

    def due(self, now: float) -> list[str]:
        """What is to be asked about now."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            found.append(self._waiting.popleft()[1])
        return found
