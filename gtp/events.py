"""What a GTP-C machine asks to be decided, and what it may be told: the same for both versions.

Rule: nothing here is a wire format; NSAPI and EPS bearer identity are one number space (TS 23.401 §5.2.1).
"""

from ipaddress import IPv4Address, IPv6Network

from msgspec import Struct

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import NOWHERE, Location, PdnType, Qos, Session
from gtp.contexts import Context
from gtp.pco import Credentials


class PeerEnds(Struct, frozen=True):
    """Where the peer wants to be sent to, ``None`` leaves that end as it is; and its restart counter now."""

    teid_control: int | None = None
    control_address: IPv4Address | None = None
    teid_user: int | None = None
    user_address: IPv4Address | None = None
    restart_counter: int | None = None


class BearerEnds(Struct, frozen=True):
    """A dedicated bearer, and where the peer wants to be sent what goes by it."""

    ebi: int
    teid_user: int
    user_address: IPv4Address


class QosChange(Struct, frozen=True):
    """What a peer changes of a session's QoS; what is ``None`` stays."""

    qci: int | None = None
    arp: int | None = None
    ambr_kbps: tuple[int, int] | None = None


class SessionWish(Struct, frozen=True):
    """A session as a peer asks for it, all of ``ends`` given; ``address`` and ``prefix``: what the device
    wants.

    ``credentials`` are what the device showed in its protocol configuration options; ``is_low_priority``: it
    said that it can wait (TS 23.401 §4.3.17.4).
    """

    imsi: str
    apn: str
    nsapi: int
    ends: PeerEnds
    imei: str = ""
    msisdn: str = ""
    location: Location = NOWHERE
    address: IPv4Address | None = None
    pdn_type: PdnType = PdnType.IPV4
    qos: Qos = Qos()
    credentials: Credentials | None = None
    prefix: IPv6Network | None = None
    is_low_priority: bool = False
    is_handover: bool = False


class SessionRequested(Struct, frozen=True):
    """A peer asks for a session; answer with ``Accepted`` or ``Rejected``."""

    token: int
    peer: str
    wish: SessionWish


class UpdateRequested(Struct, frozen=True):
    """A peer moves or changes a session; answer with ``Accepted`` or ``Rejected``.

    ``qos`` is the whole of it, ``qos_change`` a part. Of the dedicated bearers ``bearers`` have moved and
    ``removed`` (their EBIs) are over; ``is_suspended`` is ``None`` when nothing was said of it. ``imei``: of
    the device that the SIM is in now, if it was told. When it ``is_taken_over`` by another partner, dedicated
    bearers that it does not name are over.
    """

    token: int
    session_id: str
    ends: PeerEnds = PeerEnds()
    location: Location = NOWHERE
    qos: Qos | None = None
    qos_change: QosChange | None = None
    bearers: tuple[BearerEnds, ...] = ()
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
    is seen here, or by a packet, which is not (``GtpEndpoint.wake``).
    """

    session_id: str


class OutcomeTooLate(Struct, frozen=True):
    """A session was opened after its peer had given up waiting: close it again."""

    session_id: str


Event = (
    SessionRequested
    | UpdateRequested
    | BearersUnwanted
    | DeleteRequested
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
