"""What opening, changing, closing and taking back the sessions of one gateway have in common.

Rules: a change of a SIM's sessions holds the SIM's lock, so that changes of one SIM run one after another and
different SIMs do not wait for each other. ``core.domain.session_life`` has what may happen to a session, and
when. Listeners are called at once and must not raise.
"""

from collections import Counter
from collections.abc import Callable

from core.domain.machine import step
from core.domain.session import Access, CloseReason, Session, SessionEvent
from core.domain.session_life import LIFE, LifeAction, LifeEvent, LifeState
from core.ports.sessions import AccessFrontEnd
from core.ports.store import Store
from core.ports.user_plane import UserPlane
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.metering.usage import UsageMeter
from core.services.running.locks import KeyedLocks
from core.services.sessions.history import SessionHistory
from core.services.sessions.index import SessionIndex
from core.services.sessions.interning import Interning
from core.services.sessions.static_addresses import StaticAddresses


class Common:
    """The services that sessions need; which sessions are open or ending; the locks by SIM id; listeners."""

    def __init__(
        self,
        *,
        store: Store,
        gateway: GatewayInstance,
        user_plane: UserPlane,
        usage: UsageMeter,
        static_addresses: StaticAddresses,
        history: SessionHistory,
    ) -> None:
        self.store = store
        self.gateway = gateway
        self.user_plane = user_plane
        self.usage = usage
        self.static_addresses = static_addresses
        self.history = history
        self.index = SessionIndex()
        self.unfinished: dict[str, tuple[Session, SessionEvent]] = {}
        """By id: sessions whose end is not durable yet, and the event of it."""
        self.refused_events: Counter[str] = Counter()
        """What the table of a session's life refused, as ``EVENT_while_STATE``."""
        self.locks = KeyedLocks()
        self.interning = Interning()
        self.front_ends: dict[Access, AccessFrontEnd] = {}
        """Who holds the sessions of an access."""
        self.handle_end: Callable[[str], None] = lambda _: None
        """``(session_id)``: a session's bearer is cut."""
        self.handle_close: Callable[[Session, CloseReason], None] = lambda _session, _reason: None
        """A session ends from now on, and why."""
        self.handle_event: Callable[[SessionEvent | None], None] = lambda _: None
        """An event became durable; ``None``: the outcome of its write is unknown."""

    def state_of(self, session_id: str) -> LifeState:
        """Where the session is in its life here."""
        if session_id in self.index.by_id:
            return LifeState.OPEN
        return LifeState.ENDING if session_id in self.unfinished else LifeState.ABSENT

    def step(self, session: Session, event: LifeEvent) -> LifeAction | None:
        """What the table says is to be done, by which the session comes into its next state."""
        found = step(LIFE, self.state_of(session.session_id), event, self.refused_events)
        return None if found is None else found[1]

    def front_end_of(self, session: Session) -> AccessFrontEnd | None:
        """The front end that holds a session."""
        return self.front_ends.get(session.access)
