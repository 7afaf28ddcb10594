"""The sessions that NASes hold, and those that ended of which a last report may come; without I/O.

Rules:

- A session is held until it ends; one that its NAS does not report for ``silent_s`` is silent.
- One that ended is kept for ``ENDED_KEPT_S``: its last counters may still come.
- A NAS may name its session otherwise than by its id. Such names begin anew when the NAS restarts, so that
  one name may be that of several sessions.
"""

from collections import OrderedDict, deque
from collections.abc import Iterator

from msgspec import Struct

from core.domain.session import Session
from core.domain.shares import Kept

ENDED_KEPT_S = 300.0
"""How long the last counters of an ended session are waited for."""
ENDED_MAX = 65_536
"""Such sessions; beyond it, or a client's share, the oldest is waited for no longer."""

Name = tuple[str, str, str]
"""Network, IMSI and Acct-Session-Id."""


class SessionSilent(Struct, frozen=True):
    """An open session was not reported for ``silent_s``."""

    session_id: str


class SessionSettled(Struct, frozen=True):
    """A session is over, and its last counters are no longer waited for."""

    session_id: str


class NasSessions:
    """The machine: it takes in what happens to sessions, and gives out by ``next_event`` which are silent or
    settled.
    """

    def __init__(self, *, silent_s: float) -> None:
        self._silent_s = silent_s
        self._heard: OrderedDict[str, float] = OrderedDict()
        """The open ones, by when their NAS last spoke of them."""
        self._by_name: dict[Name, tuple[str, ...]] = {}
        self._ended: Kept[str, tuple[float, Session]] = Kept(ENDED_MAX)
        self._events: deque[SessionSilent | SessionSettled] = deque()

    def __len__(self) -> int:
        """Open sessions, without those whose last counters may still come."""
        return len(self._heard)

    @property
    def shortest_s(self) -> float:
        """From now no time begins that is due sooner."""
        return min(ENDED_KEPT_S, self._silent_s)

    def hold(self, session: Session, now: float) -> None:
        """A session has begun, or was read back."""
        self.heard(session.session_id, now)
        name = _name_of(session)
        if name[2] and session.session_id not in (known := self._by_name.get(name, ())):
            self._by_name[name] = (*known, session.session_id)

    def heard(self, session_id: str, now: float) -> None:
        """Its NAS spoke of an open session."""
        self._heard[session_id] = now
        self._heard.move_to_end(session_id)

    def forget(self, session: Session, now: float) -> None:
        """The session is over; reports of it may still be on their way."""
        self._heard.pop(session.session_id, None)
        ended = (now + ENDED_KEPT_S, session)
        if (surplus := self._ended.put(session.session_id, _name_of(session)[0], ended)) is not None:
            self._settle(surplus[1])

    def ended(self, session_id: str) -> Session | None:
        """A session that is over and of which a report may come."""
        kept = self._ended.get(session_id)
        return None if kept is None else kept[1]

    def named(self, name: Name) -> Iterator[str]:
        """The sessions that a NAS calls so, the newest first."""
        return reversed(self._by_name.get(name, ()))

    def next_event(self) -> SessionSilent | SessionSettled | None:
        """The next session that is silent or settled; ``None`` without."""
        return self._events.popleft() if self._events else None

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due."""
        ended, heard = self._ended.oldest(), next(iter(self._heard.values()), None)
        times = (None if ended is None else ended[0], None if heard is None else heard + self._silent_s)
        return min((time for time in times if time is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Settle ended sessions that were kept long enough; report silent ones."""
        while (oldest := self._ended.oldest()) is not None and oldest[0] <= now:
            self._ended.pop_oldest()
            self._settle(oldest[1])
        while self._heard and (oldest_id := next(iter(self._heard))):
            if self._heard[oldest_id] + self._silent_s > now:
                break
            self.heard(oldest_id, now)  # if it does not end, it is reported again
            self._events.append(SessionSilent(oldest_id))

    def _settle(self, session: Session) -> None:
        session_id = session.session_id
        if session_id in (known := self._by_name.get(name := _name_of(session), ())):
            if others := tuple(each for each in known if each != session_id):
                self._by_name[name] = others
            else:
                del self._by_name[name]
        self._events.append(SessionSettled(session_id))


def _name_of(session: Session) -> Name:
    """Its NAS's name for it, whichever NAS of the network that is."""
    nas = session.nas
    return (nas.network, session.imsi, nas.acct_session_id) if nas else ("", session.imsi, "")
