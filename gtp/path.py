"""State of each peer: restart counter (``gtp.restart``) and path (TS 23.007 §20).

Rules:

- One Echo Request to a peer is under way at a time. A peer that left one unanswered, and of which nothing
  was heard meanwhile, is suspect: nothing is cleared until it was so for ``path_keep_s``.
- A peer of sessions that were read back is asked once, also where no Echo Requests are sent else: it may have
  restarted while we were away, or we amid ending its sessions, and it need not say so again.
- The table is bounded: peers without sessions are forgotten first, those heard longest ago before others.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import Enum, IntEnum
from heapq import heappop, heappush

from core.domain.machine import Table, step
from gtp.restart import PROOF_S, RestartCounter, RestartEvent, RestartState
from gtp.transaction import Timers

PEERS_MAX = 4_096
LOOKED_AT_MAX = 64
"""Peers that are looked at for one to forget; where all have sessions, the new one is not known."""
NOTICE_INTERVAL_S = 1.0
"""At most one Version Not Supported, or the like, to a peer in this time (TS 29.060 §11.1.1 sets no limit;
floods do)."""
RECALLED_WITHIN_S = 10.0
"""So soon after a start each peer of sessions that were read back is asked whether it restarted meanwhile."""
SPREAD = 0.618
"""By this part of the echo interval the first Echo Requests of peers lie apart: not all fall together."""


class PathState(Enum):
    """Whether a peer can be reached."""

    UP = "up"
    SUSPECT = "suspect"  # it does not answer; its sessions are kept
    DOWN = "down"  # it was silent too long; its sessions are over


class PathEvent(Enum):
    """What happens to a path."""

    HEARD = "heard"
    UNANSWERED = "unanswered"
    KEPT_LONG_ENOUGH = "kept_long_enough"


class PathAction(Enum):
    """What a step does."""

    COUNT_BACK = "count back"
    KEEP_SESSIONS = "keep sessions"  # for path_keep_s, counted from now on
    END_SESSIONS = "end sessions"


_S, _E, _A = PathState, PathEvent, PathAction
PATHS: Table[PathState, PathEvent, PathAction] = {
    _S.UP: {
        _E.HEARD: (_S.UP, None),
        _E.UNANSWERED: (_S.SUSPECT, _A.KEEP_SESSIONS),
        _E.KEPT_LONG_ENOUGH: (_S.UP, None),  # it came back meanwhile
    },
    _S.SUSPECT: {
        _E.HEARD: (_S.UP, _A.COUNT_BACK),
        _E.UNANSWERED: (_S.SUSPECT, None),
        _E.KEPT_LONG_ENOUGH: (_S.DOWN, _A.END_SESSIONS),
    },
    _S.DOWN: {
        _E.HEARD: (_S.UP, _A.COUNT_BACK),
        _E.UNANSWERED: (_S.DOWN, None),
    },
}
"""``{state: {event: (next state, action)}}``; what is not there is refused and counted."""


class _Due(IntEnum):
    """What is queued of a peer."""

    ECHO = 0  # it is to be asked
    PROOF = 1  # it is to be asked once more whether it restarted
    KEEP = 2  # it is to be looked at whether it was kept long enough


@dataclass(slots=True)
class PeerPath:
    """One peer; ``asked_at`` is when its open Echo Request was sent."""

    path: PathState = PathState.UP
    restart: RestartCounter = field(default_factory=RestartCounter)
    notified_at: float = float("-inf")
    heard_at: float | None = None
    asked_at: float | None = None
    suspect_since: float = 0.0
    is_keep_queued: bool = False
    """Whether a check is due whether it was kept long enough."""
    rtt_s: float | None = None
    echo_due: float | None = None
    """When it is asked next; nothing while it has no sessions, or is not to be asked."""
    proof_due: float | None = None


@dataclass(slots=True)
class DueNow:
    """Peers that are to be asked now, and those whose sessions are over."""

    ask: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)


class Peers:
    """What one version's machine knows of its peers, by address. ``asks``: whether an address is sent Echo
    Requests.
    """

    def __init__(
        self,
        *,
        timers: Timers,
        asks: Callable[[str], bool] = lambda _: True,
        capacity: int = PEERS_MAX,
    ) -> None:
        self._timers = timers
        self._asks = asks
        self._capacity = capacity
        self._states: OrderedDict[str, PeerPath] = OrderedDict()
        self._due: list[tuple[float, str, _Due]] = []
        self._watched = 0
        self.counts: Counter[str] = Counter()
        """Restarts confirmed and refuted, other counters heard; paths that failed, were lost, came back; and
        what the tables of either refused.
        """

    def items(self) -> Iterator[tuple[str, PeerPath]]:
        """Everybody who is known."""
        return iter(self._states.items())

    # -- what is heard --------------------------------------------------------------------------------

    def on_message(self, peer: str, now: float) -> None:
        """It sent something that could be read."""
        if (state := self._state(peer)) is not None:
            state.heard_at = now
            if state.path is not PathState.UP and self._step(state, _E.HEARD) is _A.COUNT_BACK:
                self.counts["path_back"] += 1

    def on_recovery(self, peer: str, recovery: int | None, now: float) -> bool:
        """A message carried this counter; true when the peer must be asked whether it is its own."""
        if recovery is None:
            return False
        state = self._states.get(peer) or self._state(peer)
        if state is None or not state.restart.sign(recovery):
            return False
        self.counts["recovery_changed"] += 1
        return state.asked_at is None

    def on_echo_response(self, peer: str, recovery: int | None, now: float) -> int | None:
        """The answer to our Echo Request; the new counter when what the peer held under others is over. It is
        to be informed then whether that was all (``cleared``) or not (``prove_again``).
        """
        state = self._states.get(peer)
        if state is None:
            return None
        asked_at, state.asked_at = state.asked_at, None
        if asked_at is not None:
            state.rtt_s = now - asked_at
        if recovery is None or asked_at is None:
            state.restart.unanswered()
            return None
        before = state.restart.state
        event = state.restart.answer(recovery, asked_at, now)
        if event is RestartEvent.CONTRADICTS:
            self.counts["restart_refuted"] += 1
        if state.restart.state is RestartState.PROVED_ONCE:
            self._queue_proof(peer, state, max(now, state.restart.proof_due))
        if state.restart.state is not RestartState.CLEARING:
            return None
        self.counts["restart_confirmed"] += before is not RestartState.CLEARING
        return recovery

    def prove_again(self, peer: str, now: float) -> None:
        """There is more to end, after one more answer that agrees."""
        if state := self._states.get(peer):
            self._queue_proof(peer, state, now + PROOF_S)

    def cleared(self, peer: str) -> None:
        """All that the peer held under other counters is over."""
        if state := self._states.get(peer):
            state.restart.cleared()

    def learn(self, peer: str, recovery: int) -> None:
        """What a session that was read back says of its peer."""
        if (state := self._state(peer)) is not None:
            state.restart.learn(recovery)

    def forget(self, peer: str) -> None:
        """Drop its state, restart counter included."""
        self._states.pop(peer, None)

    def counter_of(self, peer: str) -> int | None:
        """The counter of a request without Recovery: the one that the peer sent last."""
        state = self._states.get(peer)
        return None if state is None else state.restart.assumed

    def known_of(self, peer: str) -> int | None:
        """The peer's counter, so far as it is known."""
        state = self._states.get(peer)
        return None if state is None else state.restart.known

    # -- asking ---------------------------------------------------------------------------------------

    def on_echo_sent(self, peer: str, now: float) -> None:
        """An Echo Request was sent for the first time."""
        if state := self._states.get(peer):
            state.asked_at = now

    def on_echo_timeout(self, peer: str, now: float) -> None:
        """Our Echo Request was given up, or there was no room for it: nothing is confirmed, the next sign
        asks again. A peer that was not asked is not suspect.
        """
        state = self._states.get(peer)
        if state is None:
            return
        asked_at, state.asked_at = state.asked_at, None
        state.restart.unanswered()
        if state.restart.state is RestartState.CLEARING:
            self._queue_proof(peer, state, now + PROOF_S)
        if asked_at is None or (state.heard_at is not None and state.heard_at >= asked_at):
            return
        if not self._interval_s(peer):
            return  # it may be one that never answers
        if self._step(state, _E.UNANSWERED) is _A.KEEP_SESSIONS:
            state.suspect_since = now
            self.counts["path_suspect"] += 1
            self._queue_keep(peer, state)

    def watch(self, peer: str, now: float, *, is_recalled: bool = False) -> None:
        """It has sessions: ask it every interval from now on; first of all if they were read back."""
        state = self._states.get(peer)
        if state is not None and state.echo_due is not None:
            return
        within_s = RECALLED_WITHIN_S if is_recalled else self._interval_s(peer)
        if not within_s:
            return
        if (state := self._state(peer)) is not None:
            self._watched += 1
            state.echo_due = now + within_s * (self._watched * SPREAD % 1)
            heappush(self._due, (state.echo_due, peer, _Due.ECHO))

    def _interval_s(self, peer: str) -> float:
        """Between two Echo Requests to it; 0: it is not asked."""
        return self._timers.echo_interval_s if self._asks(peer) else 0.0

    def timer(self) -> float | None:
        """When ``due`` has something to return."""
        return self._due[0][0] if self._due else None

    def due(self, now: float, has_sessions: Callable[[str], bool]) -> DueNow:
        """What is to be done now; a peer without sessions is watched no longer."""
        found = DueNow()
        while self._due and self._due[0][0] <= now:
            at, peer, kind = heappop(self._due)
            state = self._states.get(peer)
            if state is None:
                continue
            if kind is _Due.KEEP:
                state.is_keep_queued = False
                if has_sessions(peer) and self._is_lost(peer, state, now):
                    found.lost.append(peer)
            elif kind is _Due.PROOF and state.proof_due == at:
                state.proof_due = None
                self._ask_if_idle(peer, state, found)
            elif kind is _Due.ECHO and state.echo_due == at:
                state.echo_due = None
                if has_sessions(peer):
                    self._ask_if_idle(peer, state, found)
                    if interval_s := self._interval_s(peer):
                        state.echo_due = now + interval_s
                        heappush(self._due, (state.echo_due, peer, _Due.ECHO))
        return found

    def _ask_if_idle(self, peer: str, state: PeerPath, found: DueNow) -> None:
        if state.asked_at is None and peer not in found.ask:
            found.ask.append(peer)

    def _queue_proof(self, peer: str, state: PeerPath, due: float) -> None:
        if state.proof_due is None:
            state.proof_due = due
            heappush(self._due, (due, peer, _Due.PROOF))

    def _queue_keep(self, peer: str, state: PeerPath) -> None:
        if not state.is_keep_queued:
            state.is_keep_queued = True
            heappush(self._due, (state.suspect_since + self._timers.path_keep_s, peer, _Due.KEEP))

    def _is_lost(self, peer: str, state: PeerPath, now: float) -> bool:
        """It may have come back meanwhile, and be suspect again."""
        if state.path is PathState.SUSPECT and state.suspect_since + self._timers.path_keep_s > now:
            self._queue_keep(peer, state)
            return False
        if self._step(state, _E.KEPT_LONG_ENOUGH) is not _A.END_SESSIONS:
            return False
        self.counts["path_lost"] += 1
        return True

    def _step(self, state: PeerPath, event: PathEvent) -> PathAction | None:
        state.path, action = step(PATHS, state.path, event, self.counts) or (state.path, None)
        return action

    # -- small parts ----------------------------------------------------------------------------------

    def may_notify(self, peer: str, now: float) -> bool:
        """Whether this peer may be sent a notice now of what is not understood."""
        state = self._state(peer)
        if state is None or now - state.notified_at < NOTICE_INTERVAL_S:
            return False
        state.notified_at = now
        return True

    def _state(self, peer: str) -> PeerPath | None:
        """Who was heard longest ago stands first."""
        if (state := self._states.get(peer)) is not None:
            self._states.move_to_end(peer)
            return state
        if len(self._states) >= self._capacity and not self._forget_one():
            return None
        state = self._states[peer] = PeerPath(restart=RestartCounter(refused=self.counts))
        return state

    def _forget_one(self) -> bool:
        for _ in range(min(LOOKED_AT_MAX, len(self._states))):
            peer, state = next(iter(self._states.items()))
            if state.echo_due is None and state.asked_at is None and state.proof_due is None:
                del self._states[peer]
                return True
            self._states.move_to_end(peer)
        return False
