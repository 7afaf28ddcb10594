"""What the endpoint asks to be decided, and the answers that it takes: the same for every version.

Rule: nothing here is a wire format.
"""

from msgspec import Struct

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.requests import OpenSession, Proof
from core.domain.session import NOWHERE, Access, Location, Qos, Session
from gtp.contexts import Context
from gtp.wire import BearerEndpoints, PeerEndpoints, QosChange


class SessionRequested(Struct, frozen=True):
    """The peer at this address asks for a session; answer with ``Accepted`` or ``Rejected``. ``proof`` is of
    what the device showed in its protocol configuration options.
    """

    token: int
    peer: str
    asked: OpenSession
    proof: Proof | None = None


class UpdateRequested(Struct, frozen=True):
    """A peer moves or changes a session, which is of this access then; answer with ``Accepted`` or
    ``Rejected``.

    ``qos`` is the whole of it, ``qos_change`` a part. Of the dedicated bearers ``bearers`` have moved and
    ``removed`` (their EBIs) are over; ``is_suspended`` is ``None`` when nothing was said of it. ``imei``: of
    the device that the SIM is in now, if it was named. When it ``is_taken_over`` by another partner,
    dedicated bearers that it does not name are over.
    """

    token: int
    access: Access
    session_id: str
    ends: PeerEndpoints = PeerEndpoints()
    location: Location = NOWHERE
    qos: Qos | None = None
    qos_change: QosChange | None = None
    bearers: tuple[BearerEndpoints, ...] = ()
    removed: tuple[int, ...] = ()
    is_suspended: bool | None = None
    imei: str = ""
    is_taken_over: bool = False


class BearersUnwanted(Struct, frozen=True):
    """A peer wants dedicated bearers away; answer with ``Accepted`` or ``Rejected``."""

    token: int
    session_id: str
    ebis: tuple[int, ...]


class DeleteRequested(Struct, frozen=True):
    """A peer ends a session; answer with ``Done`` or ``Rejected``."""

    token: int
    session_id: str


class PeerRestarted(Struct, frozen=True):
    """A peer lost its state, its restart counter is proved to be another: these sessions of it are over, of
    ``older`` that are; the others end in later batches.
    """

    peer: str
    counter: int
    session_ids: tuple[str, ...]
    older: int = 1


class SessionsDoubted(Struct, frozen=True):
    """A peer may not know these sessions, or never have known them: it is to be asked."""

    session_ids: tuple[str, ...]


class FormerPeer(Struct, frozen=True):
    """A session is another partner's now, that of ``asker``: its former peer, at this control end, is to be
    sent a delete request.
    """

    context: Context
    asker: str


class PathLost(Struct, frozen=True):
    """A peer was silent for longer than its sessions are kept; these of it are over (TS 23.007 §20)."""

    peer: str
    session_ids: tuple[str, ...]


class SessionUnknown(Struct, frozen=True):
    """The peer at this control end, which we asked for something, knows nothing of this session: it is over,
    unless it has another peer meanwhile.
    """

    session_id: str
    address: str
    teid: int


class BearerAnswered(Struct, frozen=True):
    """The peer made or changed (then it is not new) the bearer as we asked it to, or ``None``: it did not."""

    token: int
    session_id: str
    bearer: DedicatedBearer | None
    is_new: bool = True


class DeviceAsleep(Struct, frozen=True):
    """What we asked of this session is put off until its device is heard of: by a request of its peer, which
    is seen here, or by a packet, which is not (``GtpcEndpoint.wake``).
    """

    session_id: str


class OutcomeTooLate(Struct, frozen=True):
    """A session was opened after its peer had given up waiting: close it again."""

    session_id: str


ContextRequest = UpdateRequested | BearersUnwanted | DeleteRequested
"""What is asked of a session that is open."""
Request = SessionRequested | ContextRequest
"""What is to be answered."""
Event = (
    Request
    | PeerRestarted
    | SessionsDoubted
    | FormerPeer
    | PathLost
    | SessionUnknown
    | BearerAnswered
    | DeviceAsleep
    | OutcomeTooLate
)


class Accepted(Struct, frozen=True):
    """The session is open, or changed, as it stands here."""

    session: Session


class Done(Struct, frozen=True):
    """The session is over."""


class Rejected(Struct, frozen=True):
    """The answer is no; each version has its own word for the reason."""

    reason: AttachRefusal


Outcome = Accepted | Done | Rejected
