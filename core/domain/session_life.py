"""The life of a session on the node that holds its gateway: one table of what leads where.

Rules:

- Every transition stands in ``LIFE``; the parts in ``core.services.sessions`` find events and do actions.
- A session is open when its row is durable and it is held here, and until its end is begun. Before that there
  is no state: an opening that fails is undone as if it had not been, unless its write may have arrived.
- It is ending from then on until its end is durable, however often that is tried: its bearer is cut, and its
  address and TEIDs are nobody's else.
- After its end it is absent again, for ever: an id is given once. Its address and TEIDs rest in quarantine,
  which is the pools' (``core.domain.pools``), and is read back with them.
"""

from enum import StrEnum

from core.domain.machine import Table


class LifeState(StrEnum):
    """Found by where the session is held, so that a million of them need no field for it."""

    ABSENT = "absent"  # not yet, or no more, or another gateway's
    OPEN = "open"
    ENDING = "ending"


class LifeEvent(StrEnum):
    """What happens to a session."""

    STORED = "stored"  # its opening is durable
    MAYBE_STORED = "maybe_stored"  # the write of its opening has no answer
    READ_BACK = "read_back"  # when its gateway was taken
    ADDRESS_LOST = "address_lost"  # the same, and another has its address
    READ_LATE = "read_late"  # a write of the holder before that arrived after the sessions were read back
    CHANGED = "changed"  # a change is durable, or may be
    CLOSE = "close"  # by its peer, its customer, an operator, or because it is idle, silent or replaced
    END_STORED = "end_stored"  # its last usage and its end are durable


class LifeAction(StrEnum):
    """What a step does."""

    HOLD = "hold"
    REPLACE = "replace"
    CUT = "cut"  # the bearer, then begin the end
    BEGIN_END = "begin end"
    GIVE_BACK = "give back"  # address, TEIDs and the slot of its counters


_S, _E, _A = LifeState, LifeEvent, LifeAction
LIFE: Table[LifeState, LifeEvent, LifeAction] = {
    _S.ABSENT: {
        _E.STORED: (_S.OPEN, _A.HOLD),
        _E.MAYBE_STORED: (_S.ENDING, _A.BEGIN_END),
        _E.READ_BACK: (_S.OPEN, _A.HOLD),
        _E.ADDRESS_LOST: (_S.ENDING, _A.BEGIN_END),
        _E.READ_LATE: (_S.ENDING, _A.BEGIN_END),
    },
    _S.OPEN: {
        _E.READ_LATE: (_S.OPEN, None),  # it was opened here meanwhile
        _E.CHANGED: (_S.OPEN, _A.REPLACE),
        _E.CLOSE: (_S.ENDING, _A.CUT),
    },
    _S.ENDING: {
        _E.READ_LATE: (_S.ENDING, None),
        _E.END_STORED: (_S.ABSENT, _A.GIVE_BACK),
    },
}
"""``{state: {event: (next state, action)}}``."""
