"""What a node has to do with a lease that it could hold: the states, and one table of what leads where.

Rules:

- Every transition stands in ``LEASES``; ``core.services.cluster.lease_coordinator`` and
  ``core.services.cluster.lease_seeking`` find the events and do the actions, and add no transition.
- A term begins with ``TAKEN`` and ends with ``CLOSED``: between them the lease is renewed, and a worker that
  fails to start is tried again. Whatever ends a term goes by ``ENDING``, in which nothing is served any more
  and the worker is closed; only then is the lease sought again.
- An event of a term that is over (a worker that has started too late, a hand-over that was asked for too
  late) is not in the row of ``ENDING``: it is refused, and counted.
"""

from enum import Enum

from core.domain.machine import Table


class LeaseState(Enum):
    """Of one lease, on one node."""

    SEEKING = "seeking"  # another node holds it, or none does yet
    TAKING = "taking"  # it is being written, or its holder was asked to hand it over
    STARTING = "starting"  # it is held, the worker starts
    FAILING = "failing"  # it is held, the worker could not start and is tried again
    SERVING = "serving"
    RELEASING = "releasing"  # what was counted is made durable, then the lease is released
    ENDING = "ending"  # the worker is being closed


class LeaseEvent(Enum):
    """What happens to a lease, or to the worker that holds it."""

    CLAIMED = "claimed"  # it may be taken and it is this node's turn, or its holder was asked for it
    NOT_YET = "not_yet"  # it was looked at, and may not be taken, or another node was faster
    TAKEN = "taken"  # it was written: the term begins
    STARTED = "started"
    START_FAILED = "start_failed"
    HAND_OVER = "hand_over"  # another node asks for it, or this one drains
    LOST = "lost"  # it could not be renewed in time, or another node has it
    STOPPED = "stopped"  # released, ended by a fault of ours, or cancelled
    CLOSED = "closed"  # the worker let go of everything


class LeaseAction(Enum):
    """What a step does."""

    SERVE = "serve"
    REPORT_TROUBLE = "report trouble"
    FENCE = "fence"
    FORGET_TERM = "forget term"


_S, _E, _A = LeaseState, LeaseEvent, LeaseAction
LEASES: Table[LeaseState, LeaseEvent, LeaseAction] = {
    _S.SEEKING: {
        _E.CLAIMED: (_S.TAKING, None),
        _E.NOT_YET: (_S.SEEKING, None),
    },
    _S.TAKING: {
        _E.CLAIMED: (_S.TAKING, None),  # its holder, who was asked for it, has released it
        _E.NOT_YET: (_S.SEEKING, None),
        _E.TAKEN: (_S.STARTING, None),
    },
    _S.STARTING: {
        _E.STARTED: (_S.SERVING, _A.SERVE),
        _E.START_FAILED: (_S.FAILING, _A.REPORT_TROUBLE),
        _E.LOST: (_S.ENDING, _A.FENCE),
        _E.STOPPED: (_S.ENDING, _A.FENCE),
    },
    _S.FAILING: {
        _E.STARTED: (_S.SERVING, _A.SERVE),
        _E.START_FAILED: (_S.FAILING, _A.REPORT_TROUBLE),
        _E.HAND_OVER: (_S.RELEASING, None),
        _E.LOST: (_S.ENDING, _A.FENCE),
        _E.STOPPED: (_S.ENDING, _A.FENCE),
    },
    _S.SERVING: {
        _E.HAND_OVER: (_S.RELEASING, _A.FENCE),
        _E.LOST: (_S.ENDING, _A.FENCE),
        _E.STOPPED: (_S.ENDING, _A.FENCE),
    },
    _S.RELEASING: {
        _E.LOST: (_S.ENDING, _A.FENCE),
        _E.STOPPED: (_S.ENDING, _A.FENCE),
    },
    _S.ENDING: {
        _E.LOST: (_S.ENDING, None),
        _E.STOPPED: (_S.ENDING, None),
        _E.CLOSED: (_S.SEEKING, _A.FORGET_TERM),
    },
}
"""``{state: {event: (next state, action)}}``."""
