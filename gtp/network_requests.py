"""Tables of network-initiated procedures: requests, changes of sessions, and what a peer put off.

Rules: of a session one change is sent at a time, the newest last, so that none overtakes another. What its
peer puts off is not refused: because of a handover it is asked again when the session has moved or after a
while, a few times; because the device sleeps (power saving, TS 23.682 §4.5.4) when it is heard of, however
late, and as long as the session lasts. Pure.
"""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from msgspec import Struct

from core.domain.flow import DedicatedBearer
from core.domain.session import Access, Session
from core.domain.shares import Kept
from gtp.contexts import Context
from gtp.transaction import PartyOf, itself
from gtp.wire import Verdict

CHANGE_AGAIN_S = 10.0
"""After this a change that was put off is sent again (TS 29.274 §7.2.16 leaves the time to us)."""
CHANGE_TRIES_MAX = 4
PUT_OFF_MAX = 4_096
"""Sessions of which requests are put off; beyond it, or a party's share, those of the oldest are given up."""
PUT_OFF_EACH_MAX = 32
"""Requests of one session that are put off; one more is refused. A peer's own commands may set them off."""


class Procedure(Enum):
    """What a request of ours is for."""

    ECHO = "echo"
    RELEASE = "release"
    CHANGE = "change"
    ADD_BEARER = "add_bearer"
    CHANGE_BEARER = "change_bearer"
    REMOVE_BEARER = "remove_bearer"
    COMMANDED = "commanded"  # the peer's own command set it off
    RELEASE_FORMER = "release_former"  # another partner has the session now


Encode = Callable[[Context, int], bytes]
"""Makes a request for the peer of a context, under a sequence number."""


class NetworkRequest(Struct, frozen=True):
    """A request of ours. ``about``: a session's id, of an Echo Request the peer's address; ``access``: of the
    version by which it is asked. ``address`` and ``teid``: the control end of the session's peer that is
    asked, for the ``tries``-th time.
    """

    procedure: Procedure
    about: str
    access: Access | None = None
    token: int = 0
    bearer: DedicatedBearer | None = None
    address: str = ""
    teid: int = 0
    tries: int = 1
    encode: Encode | None = None


@dataclass(slots=True)
class _Change:
    session: Session
    following: Session | None = None
    tries: int = 1
    again_at: float | None = None


class Changes:
    """The changes that are being sent to peers, by session: no more than there are contexts."""

    def __init__(self) -> None:
        self._by_session: dict[str, _Change] = {}
        self._put_off: deque[tuple[float, str]] = deque()

    def __len__(self) -> int:
        """How many sessions' changes are under way."""
        return len(self._by_session)

    def begin(self, session: Session) -> bool:
        """Whether to send it now; else it is sent when the one under way has ended."""
        change = self._by_session.get(session.session_id)
        if change is None:
            self._by_session[session.session_id] = _Change(session)
            return True
        change.following = session
        return False

    def end(self, session_id: str, verdict: Verdict, now: float) -> Session | None:
        """The change was answered or given up; what to send now, if anything."""
        change = self._by_session.get(session_id)
        if change is None:
            return None
        if verdict is Verdict.ASLEEP:
            change.again_at = math.inf
            return None
        if verdict is Verdict.LATER and change.tries < CHANGE_TRIES_MAX:
            change.again_at = now + CHANGE_AGAIN_S
            self._put_off.append((change.again_at, session_id))
            return None
        del self._by_session[session_id]
        if change.following is not None:
            self._by_session[session_id] = _Change(change.following)
        return change.following

    def again(self, session_id: str) -> Session | None:
        """The session has moved, or its device woke: what of it was put off is to be sent now."""
        change = self._by_session.get(session_id)
        if change is None or change.again_at is None:
            return None
        change.again_at = None
        change.tries += 1
        change.session, change.following = change.following or change.session, None
        return change.session

    def forget(self, session_id: str) -> None:
        """The session is over, or is spoken of by another version."""
        self._by_session.pop(session_id, None)

    def timer(self) -> float | None:
        """When ``due`` has something to return."""
        while self._put_off:
            again_at, session_id = self._put_off[0]
            change = self._by_session.get(session_id)
            if change is not None and change.again_at == again_at:
                return again_at
            self._put_off.popleft()
        return None

    def due(self, now: float) -> list[Session]:
        """What was put off until now."""
        found: list[Session] = []
        while (again_at := self.timer()) is not None and again_at <= now:
            if (session := self.again(self._put_off.popleft()[1])) is not None:
                found.append(session)
        return found


class PutOff:
    """Requests but changes that their peers put off, by session."""

    def __init__(self, capacity: int = PUT_OFF_MAX, party_of: PartyOf = itself) -> None:
        self._party_of = party_of
        self._kept: Kept[str, list[NetworkRequest]] = Kept(capacity)
        self._due: deque[tuple[float, NetworkRequest]] = deque()

    def __len__(self) -> int:
        """Of how many sessions."""
        return len(self._kept)

    def count_of(self, access: Access) -> int:
        """Of how many sessions that are of this access."""
        return sum(of_session[0].access is access for of_session in self._kept.values())

    def keep(self, request: NetworkRequest, verdict: Verdict, now: float) -> list[NetworkRequest] | None:
        """Have it asked again, when ``due`` or when its session is heard of; what is given up for it.
        ``None``: it is not put off.
        """
        of_session = self._kept.get(request.about) or []
        if len(of_session) >= PUT_OFF_EACH_MAX:
            return None
        if verdict is Verdict.LATER and request.tries < CHANGE_TRIES_MAX:
            self._due.append((now + CHANGE_AGAIN_S, request))
        elif verdict is not Verdict.ASLEEP:
            return None
        of_session.append(request)
        if len(of_session) > 1:
            return []
        return self._kept.put(request.about, self._party_of(request.address), of_session) or []

    def take(self, session_id: str) -> list[NetworkRequest]:
        """What was put off of this session is no more: it is asked now, or given up."""
        return self._kept.pop(session_id) or []

    def timer(self) -> float | None:
        """When ``due`` has something to ask."""
        while self._due:
            again_at, request = self._due[0]
            if any(each is request for each in self._kept.get(request.about) or ()):
                return again_at
            self._due.popleft()
        return None

    def due(self, now: float) -> list[NetworkRequest]:
        """What was put off until now."""
        found: list[NetworkRequest] = []
        while (again_at := self.timer()) is not None and again_at <= now:
            request = self._due.popleft()[1]
            of_session = self._kept.get(request.about) or []
            of_session[:] = [each for each in of_session if each is not request]
            if not of_session:
                self._kept.pop(request.about)
            found.append(request)
        return found
