"""The audit log: who did what, when, and what it may have cost.

Rules: an entry is never changed; writing it again changes nothing.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum


class AuditAction(Enum):
    """The kinds of entries."""

    TAKEN_OVER = "taken_over"  # a gateway instance whose holder had died
    COUNTS_LEFT = "counts_left"  # counters of a gateway's former node arrived after a takeover
    USAGE_QUARANTINED = "usage_quarantined"  # a NAS reported more than the line rate allows
    COUNTS_LOST = "counts_lost"  # a counter table could not be trusted
    RECORDS_SKIPPED = "records_skipped"  # a reader skipped records or rows that it can never read
    LATE_USAGE = "late_usage"  # usage arrived after its month was closed, and is in no bill
    GUESSED = "guessed"  # a credential or secret was wrong too often
    OPERATOR_CREATED = "operator_created"
    OPERATOR_CLOSED = "operator_closed"
    SIMS_IMPORTED = "sims_imported"
    SESSION_TAKEN_OVER = "session_taken_over"  # it moved to another partner, or that replaced it
    PEER_RESTARTED = "peer_restarted"  # sessions ended because their peer restarted


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One entry. ``actor`` is a node; ``subject`` a gateway instance, an operator, a RADIUS client, a source
    of records or of guesses; ``detail`` is for people.
    """

    entry_id: str
    at: datetime
    actor: str
    action: AuditAction
    subject: str
    detail: str
