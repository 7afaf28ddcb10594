"""What is known of each peer: its restart counter (TS 23.007 §18) and how often it was told off.

Rules: a changed counter alone clears nothing, for one forged datagram could then end every session; it
makes us ask, and only an answer to our own Echo Request that agrees confirms the restart. Tables are
bounded; a peer beyond the bound is served but not watched.
"""

from dataclasses import dataclass

PEERS_MAX = 4_096
REPROOF_INTERVAL_S = 1.0
"""At most one Version Not Supported to a peer in this time (TS 29.060 §11.1.1 sets no limit; floods do)."""

_DISAGREED = -1
"""No counter: sessions that were read back name several."""


@dataclass(slots=True)
class _PeerState:
    confirmed: int | None = None
    suspected: int | None = None
    reproved_at: float = float("-inf")


class Peers:
    """Restart counters of peers, by address."""

    def __init__(self, *, capacity: int = PEERS_MAX) -> None:
        self._capacity = capacity
        self._states: dict[str, _PeerState] = {}

    def learn(self, peer: str, recovery: int | None) -> None:
        """What a session that was read back says of its peer. When they disagree, whatever the peer says
        next is a sign of a restart.
        """
        state = self._state(peer)
        if state is not None and recovery is not None:
            state.confirmed = recovery if state.confirmed in (None, recovery) else _DISAGREED

    def latest(self, peer: str) -> int | None:
        """The counter that the peer said last, confirmed or not."""
        state = self._states.get(peer)
        if state is None:
            return None
        latest = state.confirmed if state.suspected is None else state.suspected
        return None if latest == _DISAGREED else latest

    def hear(self, peer: str, recovery: int | None) -> bool:
        """A request carried this counter; true when the peer must be asked to confirm it."""
        state = self._state(peer)
        if state is None or recovery is None:
            return False
        if state.confirmed is None:
            state.confirmed = recovery
            return False
        if recovery in (state.confirmed, state.suspected):
            return False
        state.suspected = recovery
        return True

    def hear_answer(self, peer: str, recovery: int | None) -> int | None:
        """The answer to our Echo Request; the new counter when it confirms a restart."""
        state = self._states.get(peer)
        if state is None or recovery is None or state.suspected is None:
            return None
        suspected, state.suspected = state.suspected, None
        if recovery != suspected:
            return None
        state.confirmed = recovery
        return recovery

    def unanswered(self, peer: str) -> None:
        """Our Echo Request was not answered: nothing is confirmed, the next sign asks again."""
        if state := self._states.get(peer):
            state.suspected = None

    def may_reprove(self, peer: str, now: float) -> bool:
        """Whether this peer may be told now that it sent nonsense."""
        state = self._state(peer)
        if state is None or now - state.reproved_at < REPROOF_INTERVAL_S:
            return False
        state.reproved_at = now
        return True

    def _state(self, peer: str) -> _PeerState | None:
        if peer not in self._states:
            if len(self._states) >= self._capacity:
                return None
            self._states[peer] = _PeerState()
        return self._states[peer]
