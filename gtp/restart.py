"""Whether a peer has restarted, by its restart counter (TS 23.007 §18): one table, without I/O.

Rules:

- A message that carries another counter than the known one proves nothing, newer or older: it may be forged,
  or have been under way since before a restart. It is served, and makes us ask by an Echo Request.
- Two answers to two Echo Requests of ours, ``PROOF_S`` apart, prove a restart. One that carries the known
  counter ends the matter. Within ``FLAP_S`` of a restart no other is proved.
- A counter that is older, modulo 256, is discarded as §18 asks until it is proved likewise: no race between
  datagrams answers two fresh requests. The peer lost its counter, was replaced, or another took its place.
- What ends, ends in batches, each after one more answer that agrees.
- Every transition stands in ``RESTARTS``; ``RestartCounter`` finds the event of an answer, and does what the
  table says. What cannot be (say ``CLEARED`` while nothing was being cleared) is refused and counted.
"""

from collections import Counter
from dataclasses import dataclass, field
from enum import Enum

from core.domain.machine import Table, step

PROOF_S = 5.0
"""Between the first answer that carries another counter and the second Echo Request; and between batches."""
FLAP_S = 60.0
COUNTERS = 256


class RestartState(Enum):
    """What is thought of a peer's restart counter."""

    AGREED = "agreed"
    ASKED = "asked"  # a message carried another: an Echo Request is under way
    PROVED_ONCE = "proved_once"  # an answer carried it: the second is waited for
    CLEARING = "clearing"  # it is proved; what the peer held before ends


class RestartEvent(Enum):
    """What an Echo Response says of the counter, or what else happens to it."""

    SIGN = "sign"  # a message that answers nothing carried another than the known one
    AGREES = "agrees"  # an answer carried the one in question
    EARLY = "early"  # the same, but it was asked for before the second proof was due
    OTHER = "other"  # an answer carried yet another
    CONTRADICTS = "contradicts"  # an answer carried the known one
    UNANSWERED = "unanswered"
    CLEARED = "cleared"  # nothing is left to end


class RestartAction(Enum):
    """What a step does with the counter that was heard."""

    SUSPECT = "suspect"  # it is in question: ask
    AWAIT_PROOF = "await proof"  # it is in question, proved once now: ask again after PROOF_S
    BELIEVE = "believe"  # it is the known one; what was begun under others ends
    REFUTE = "refute"  # nothing is in question, and what requests are of is the known one again
    DROP = "drop"  # nothing is in question


_S, _E, _A = RestartState, RestartEvent, RestartAction
RESTARTS: Table[RestartState, RestartEvent, RestartAction] = {
    _S.AGREED: {
        _E.SIGN: (_S.ASKED, _A.SUSPECT),
        _E.OTHER: (_S.PROVED_ONCE, _A.AWAIT_PROOF),
        _E.CONTRADICTS: (_S.AGREED, None),
        _E.UNANSWERED: (_S.AGREED, None),
    },
    _S.ASKED: {
        _E.SIGN: (_S.ASKED, None),
        _E.AGREES: (_S.PROVED_ONCE, _A.AWAIT_PROOF),
        _E.OTHER: (_S.PROVED_ONCE, _A.AWAIT_PROOF),
        _E.CONTRADICTS: (_S.AGREED, _A.REFUTE),
        _E.UNANSWERED: (_S.AGREED, _A.DROP),
    },
    _S.PROVED_ONCE: {
        _E.SIGN: (_S.PROVED_ONCE, None),
        _E.AGREES: (_S.CLEARING, _A.BELIEVE),
        _E.EARLY: (_S.PROVED_ONCE, None),
        _E.OTHER: (_S.PROVED_ONCE, _A.AWAIT_PROOF),
        _E.CONTRADICTS: (_S.AGREED, _A.REFUTE),
        _E.UNANSWERED: (_S.AGREED, _A.DROP),
    },
    _S.CLEARING: {
        _E.SIGN: (_S.CLEARING, None),
        _E.AGREES: (_S.CLEARING, None),
        _E.OTHER: (_S.PROVED_ONCE, _A.AWAIT_PROOF),
        _E.UNANSWERED: (_S.CLEARING, None),
        _E.CLEARED: (_S.AGREED, None),
    },
}
"""``{state: {event: (next state, action)}}``."""


def is_newer(counter: int, than: int) -> bool:
    """Ahead by less than half a turn (TS 23.007 §18: the roll-over counts)."""
    return 0 < (counter - than) % COUNTERS < COUNTERS // 2


@dataclass(slots=True)
class RestartCounter:
    """One peer's. ``known`` is believed, ``suspected`` in question, ``heard`` what any message carried last.

    ``assumed`` is the counter of a request that carries none: a peer may send it in its first message alone.
    ``is_mixed``: sessions that were read back were begun under several, so the known one is to be proved too.
    ``refused`` counts what the table refused, of all counters that share it.
    """

    state: RestartState = RestartState.AGREED
    known: int | None = None
    suspected: int | None = None
    heard: int | None = None
    assumed: int | None = None
    is_mixed: bool = False
    proved_at: float = float("-inf")
    restarted_at: float = float("-inf")
    refused: Counter[str] = field(default_factory=Counter)

    def learn(self, counter: int) -> None:
        """A session that was read back was begun under it. Where they disagree the oldest is believed, so
        that the peer's next message is a sign of a restart.
        """
        self.is_mixed = self.is_mixed or self.known not in (None, counter)
        if self.known is None or is_newer(self.known, counter):
            self.known = counter
        if self.assumed is None or is_newer(counter, self.assumed):
            self.assumed = counter

    def sign(self, counter: int) -> bool:
        """A message carried it; whether it is news that is to be asked about."""
        self.heard = counter
        if self.known is None:
            self.known = self.assumed = counter
        if counter == self.known or self._step(_E.SIGN) is not _A.SUSPECT:
            return False
        self.suspected = counter
        if is_newer(counter, self.known):
            self.assumed = counter
        return True

    def answer(self, counter: int, asked_at: float, now: float) -> RestartEvent | None:
        """An Echo Response carried it, of a request that was sent at ``asked_at``; what came of it, ``None``
        when nothing did.
        """
        self.heard = counter
        if self.known is None:
            self.known = self.assumed = counter
        event = self._event_of(counter, asked_at)
        action = self._step(event)
        if action is _A.REFUTE:
            self.suspected, self.assumed = None, self.known
        elif action is _A.AWAIT_PROOF:
            self.suspected = self.assumed = counter
            self.proved_at = now
        elif action is _A.BELIEVE:
            self.known, self.suspected, self.restarted_at = counter, None, now
            self.is_mixed = False
        return event if action is not None else None

    def unanswered(self) -> None:
        """Nothing is proved: the next sign asks again."""
        if self._step(_E.UNANSWERED) is _A.DROP:
            self.suspected = None

    def cleared(self) -> None:
        """Nothing of before is left."""
        self._step(_E.CLEARED)

    @property
    def proof_due(self) -> float:
        """When the second Echo Request is to be sent."""
        return max(self.proved_at + PROOF_S, self.restarted_at + FLAP_S)

    def _event_of(self, counter: int, asked_at: float) -> RestartEvent:
        """What an Echo Response says that carries this counter."""
        if self.state is _S.CLEARING:
            return _E.AGREES if counter == self.known else _E.OTHER
        if counter == self.known and not self.is_mixed:
            return _E.CONTRADICTS
        if counter != self.suspected:
            return _E.OTHER
        is_early = self.state is _S.PROVED_ONCE and asked_at < self.proof_due
        return _E.EARLY if is_early else _E.AGREES

    def _step(self, event: RestartEvent) -> RestartAction | None:
        self.state, action = step(RESTARTS, self.state, event, self.refused) or (self.state, None)
        return action
