"""Sessions that the peer may not know, and that are verified with it.

Rule: every table is bounded, and no party fills it for the others. Pure.
"""

from collections import deque
from enum import Enum
from typing import Generic, TypeVar

from core.domain.shares import Kept, Places

DOUBTS_MAX = 65_536
"""Beyond it a session is not asked about: its next restart, Error Indication or attach shows it."""


Item = TypeVar("Item")


class Doubts(Generic[Item]):
    """Those that wait until the answer that made them must have arrived, each for ``wait_s``, in order."""

    def __init__(self, wait_s: float) -> None:
        self._wait_s = wait_s
        self._waiting: deque[tuple[float, Item, str]] = deque()
        self._places = Places(DOUBTS_MAX)

    def __len__(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def add(self, item: Item, party: str, now: float) -> bool:
        """Have a session of this party's, named so, asked about; false when there is no room."""
        if not self._places.take(party):
            return False
        self._waiting.append((now + self._wait_s, item, party))
        return True

    def timer(self) -> float | None:
        """When ``due`` has something to return."""
        return self._waiting[0][0] if self._waiting else None

    def due(self, now: float) -> list[Item]:
        """What is to be asked about now."""
        found = []
        while self._waiting and self._waiting[0][0] <= now:
            _, item, party = self._waiting.popleft()
            self._places.give_back(party)
            found.append(item)
        return found


INDICATED_MAX = 4_096
"""Sessions whose Error Indications are remembered; the oldest is forgotten for the newest."""
INDICATED_AGAIN_S = 10.0
"""A peer is asked about one session so often at most."""
INDICATED_TIMES = 4
"""So often it is asked, while nothing comes up the tunnel; then the session ends and its peer is sent
a delete request."""


class IndicationAction(Enum):
    """What an Error Indication brings about."""

    NOTHING = "nothing"
    ASK = "ask"
    END = "end"


class Indications:
    """What Error Indications (TS 29.281 §7.3.1) say of sessions. Anybody may forge one, so the peer is asked
    by GTP-C; one that knows the session, but whose user plane goes on to say otherwise, lost the tunnel.
    """

    def __init__(self) -> None:
        self._of: Kept[str, tuple[int, float, int]] = Kept(INDICATED_MAX)
        """How often the peer was asked about a session, when last, and what had come up by then."""

    def __len__(self) -> int:
        """How many sessions are remembered."""
        return len(self._of)

    def on_indication(self, session_id: str, party: str, up_packets: int, now: float) -> IndicationAction:
        """An Error Indication for a session of this party's by whose tunnel ``up_packets`` have come."""
        times, asked_at, up_before = self._of.pop(session_id) or (0, float("-inf"), up_packets)
        if up_packets != up_before:
            times = 0  # the tunnel lives
        if now - asked_at < INDICATED_AGAIN_S:
            self._of.put(session_id, party, (times, asked_at, up_packets))
            return IndicationAction.NOTHING
        if times >= INDICATED_TIMES:
            return IndicationAction.END
        self._of.put(session_id, party, (times + 1, now, up_packets))
        return IndicationAction.ASK
