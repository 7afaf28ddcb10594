"""Contexts of a gateway instance: TEID to session, and context state transitions.

Rules:

- One table serves both versions, so that a device may come by one and go on by the other (TS 23.401 annex D).
- A peer's contexts are found without looking at the others: each names the next, by TEID.
- Whatever a context may go through stands in ``TRANSITIONS``; what is not there is refused.
"""

from collections.abc import Iterator
from enum import Enum

from msgspec import Struct

from core.domain.machine import Table
from core.domain.session import Access, Session
from gtp.restart import is_newer

ENDED_BATCH = 5_000
"""Contexts of a restarted peer that end at once; the next end after one more answer that agrees."""
ASKED_BATCH = 500
"""Contexts that their peer is asked about at once."""


class ContextState(Enum):
    """The life of a context, from the answer that created it on."""

    ACTIVE = "active"
    DELETING = "deleting"  # the peer asked; the session service is closing it
    RELEASING = "releasing"  # we asked; the peer has not answered yet
    GONE = "gone"


class ContextEvent(Enum):
    """What happens to a context."""

    UPDATE_REQUESTED = "update_requested"
    DELETE_REQUESTED = "delete_requested"
    RELEASE = "release"
    FORGET = "forget"
    RELEASE_ENDED = "release_ended"


class ContextAction(Enum):
    """What a step does."""

    DROP = "drop"


_S, _E, _A = ContextState, ContextEvent, ContextAction
TRANSITIONS: Table[ContextState, ContextEvent, ContextAction] = {
    _S.ACTIVE: {
        _E.UPDATE_REQUESTED: (_S.ACTIVE, None),
        _E.DELETE_REQUESTED: (_S.DELETING, None),
        _E.RELEASE: (_S.RELEASING, None),
        _E.FORGET: (_S.GONE, _A.DROP),
    },
    _S.DELETING: {
        _E.RELEASE: (_S.GONE, _A.DROP),  # the peer is deleting it by itself: no request of ours is needed
        _E.FORGET: (_S.GONE, _A.DROP),
    },
    _S.RELEASING: {
        _E.DELETE_REQUESTED: (_S.RELEASING, None),  # both asked at once: each is answered
        _E.FORGET: (_S.RELEASING, None),
        _E.RELEASE_ENDED: (_S.GONE, _A.DROP),
    },
    _S.GONE: {},
}
"""``{state: {event: (next state, action)}}``."""


class Context(Struct, gc=False):
    """A PDP context or PDN connection. ``peer_restart_counter``: what its peer sent when it asked; ``before``
    and ``after``: the peer's contexts next to it, by our TEID.
    """

    session_id: str
    access: Access
    local_teid: int
    peer_teid: int
    control_address: str
    nsapi: int
    peer_restart_counter: int | None
    state: ContextState = ContextState.ACTIVE
    before: int | None = None
    after: int | None = None


class OlderContexts(Struct):
    """What a restart leaves of a peer's contexts. ``lost`` are over, of ``older`` in all; ``doubted`` were
    begun under a counter that is newer than the proved one: the peer is to be asked whether it knows them.
    """

    lost: list[Context] = []
    doubted: list[Context] = []
    older: int = 0


class _OfPeer(Struct):
    """A peer's contexts: the first one's TEID, and how many there are."""

    first: int | None = None
    count: int = 0


class Contexts:
    """The table, by our control TEID and by session."""

    def __init__(self) -> None:
        self._by_teid: dict[int, Context] = {}
        self._by_session: dict[str, Context] = {}
        self._of_peer: dict[tuple[Access, str], _OfPeer] = {}

    def __len__(self) -> int:
        """How many are held."""
        return len(self._by_teid)

    def by_teid(self, teid: int) -> Context | None:
        """What our control TEID names."""
        return self._by_teid.get(teid)

    def by_session(self, session_id: str) -> Context | None:
        """The session's context."""
        return self._by_session.get(session_id)

    def of_peer(self, access: Access, address: str) -> Iterator[Context]:
        """The contexts that this peer controls by this protocol, which must not change meanwhile."""
        peer = self._of_peer.get((access, address))
        teid = peer.first if peer is not None else None
        while teid is not None:
            context = self._by_teid[teid]
            yield context
            teid = context.after

    def of_other_counters(self, access: Access, address: str, counter: int) -> "OlderContexts":
        """The contexts that this peer did not begin under this restart counter: a batch of them."""
        found = OlderContexts()
        for context in self.of_peer(access, address):
            before = context.peer_restart_counter
            if before == counter:
                continue
            if before is None or is_newer(counter, before):
                found.older += 1
                if len(found.lost) < ENDED_BATCH:
                    found.lost.append(context)
            elif len(found.doubted) < ASKED_BATCH:
                found.doubted.append(context)
        return found

    def count_of_peer(self, access: Access, address: str) -> int:
        """How many this peer controls by this protocol."""
        peer = self._of_peer.get((access, address))
        return peer.count if peer is not None else 0

    def hold(self, session: Session) -> Context:
        """Hold the session's context, as it is now."""
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        context = Context(
            session_id=session.session_id,
            access=session.access,
            local_teid=tunnel.local_teid_control,
            peer_teid=tunnel.peer_teid_control,
            control_address=tunnel.peer_control_address,
            nsapi=tunnel.nsapi,
            peer_restart_counter=tunnel.peer_restart_counter,
        )
        if context.session_id in self._by_session:
            self._drop(self._by_session[context.session_id])
        if context.local_teid in self._by_teid:
            self._drop(self._by_teid[context.local_teid])
        self._by_teid[context.local_teid] = context
        self._by_session[context.session_id] = context
        self._index(context)
        return context

    def move(self, session: Session) -> Context | None:
        """The session has another peer, or another protocol, or both; a context that is ending stays so."""
        tunnel, context = session.tunnel, self._by_session.get(session.session_id)
        if tunnel is None or context is None:
            return None
        self._unindex(context)
        context.access = session.access
        context.peer_teid = tunnel.peer_teid_control
        context.control_address = tunnel.peer_control_address
        context.peer_restart_counter = tunnel.peer_restart_counter
        self._index(context)
        return context

    def step(self, context: Context, event: ContextEvent) -> bool:
        """Take a context through an event; false when its state does not allow it."""
        found = TRANSITIONS[context.state].get(event)
        if found is None:
            return False
        context.state, action = found
        if action is ContextAction.DROP:
            self._drop(context)
        return True

    def _drop(self, context: Context) -> None:
        if self._by_session.get(context.session_id) is context:
            del self._by_session[context.session_id]
            self._unindex(context)
            del self._by_teid[context.local_teid]

    def _index(self, context: Context) -> None:
        peer = self._of_peer.setdefault((context.access, context.control_address), _OfPeer())
        context.before, context.after = None, peer.first
        if peer.first is not None:
            self._by_teid[peer.first].before = context.local_teid
        peer.first = context.local_teid
        peer.count += 1

    def _unindex(self, context: Context) -> None:
        key = (context.access, context.control_address)
        peer = self._of_peer[key]
        if context.before is None:
            peer.first = context.after
        else:
            self._by_teid[context.before].after = context.after
        if context.after is not None:
            self._by_teid[context.after].before = context.before
        peer.count -= 1
        if not peer.count:
            del self._of_peer[key]
