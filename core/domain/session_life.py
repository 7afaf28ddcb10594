"""The life of a session on the node that holds its gateway instance, as a state table.

Rules:

- All transitions are in ``LIFE``; the modules in ``core.services.sessions`` find events and carry out
  actions.
- A session is open from when its row is durable and it is held here until its end begins. A failed opening
  has no state: it is undone completely, unless its write may have arrived.
- It is ending from then on until its end is durable, over all tries: its bearer is removed, and its address
  and TEIDs stay allocated.
- After its end it is absent permanently: ids are not reused. Its address and TEIDs are in quarantine, which
  the pools keep (``core.domain.pools``).
"""

from enum import StrEnum

from core.domain.machine import Table


class LifeState(StrEnum):
    """Derived from where the session is held, so that sessions need no field for it."""

    ABSENT = "absent"  # not open yet, ended, or of another gateway instance
    OPEN = "open"
    ENDING = "ending"


class LifeEvent(StrEnum):
    """What happens to a session."""

    STORED = "stored"  # its opening is durable
    MAYBE_STORED = "maybe_stored"  # the outcome of the write that opens it is unknown
    READ_BACK = "read_back"  # read back when its gateway instance was taken
    ADDRESS_LOST = "address_lost"  # the same, but another session has its address
    READ_LATE = "read_late"  # a write of the previous holder that arrived after the sessions were read back
    CHANGED = "changed"  # a change is durable, or may be
    CLOSE = "close"  # by its peer, customer or operator; idle, without reports, or replaced
    END_STORED = "end_stored"  # its last usage and its end are durable


class LifeAction(StrEnum):
    """What a step does."""

    HOLD = "hold"
    REPLACE = "replace"
    CUT = "cut"  # remove the bearer, then begin the end
    BEGIN_END = "begin end"
    GIVE_BACK = "give back"  # release address, TEIDs and its slot in the counter table


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
