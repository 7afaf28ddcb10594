"""A packet session of a SIM, whatever protocol opened it.

Rules: a session is durable before its opening is answered; it belongs to one virtual gateway, which owns
its address and its TEIDs; its id is time-ordered, so that a SIM's sessions sort by age.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from ipaddress import IPv4Address

from core.domain.usage import Volume


class Access(Enum):
    """The protocol by which a session is controlled."""

    GTPV1 = "gtpv1"
    GTPV2 = "gtpv2"
    RADIUS = "radius"


@dataclass(frozen=True, slots=True)
class Tunnel:
    """The GTP ends of a session (TS 29.060 §7.7.13, §7.7.14, §7.7.32).

    ``local_teid_control`` and ``local_teid_user`` are ours, the peer's are what we send to. Addresses are
    dotted quads; the peer's UDP ports are the standard ones for requests that we start. ``nsapi`` is 5–15.
    """

    local_teid_control: int
    local_teid_user: int
    peer_teid_control: int
    peer_teid_user: int
    peer_control_address: str
    peer_user_address: str
    nsapi: int
    charging_id: int


@dataclass(frozen=True, slots=True)
class Nas:
    """The RADIUS client that holds a session and counts it (RFC 2866 §4.1).

    ``network`` is the subnet as which it is known here, ``identifier`` what it calls itself, ``address``
    where it takes Disconnect-Requests. Of its counters, ``before`` was charged to days before ``day``
    (yyyymmdd, 0: none yet).
    """

    network: str
    identifier: str
    address: str
    acct_session_id: str
    day: int = 0
    before: Volume = Volume()  # noqa: RUF009 - frozen


@dataclass(frozen=True, slots=True)
class Location:
    """Where the network says that the device is; each field empty when it did not say.

    ``plmn`` is MCC and MNC as digits; ``user_location`` the raw IE in hex (TS 29.060 §7.7.51).
    """

    plmn: str = ""
    rat: str = ""
    user_location: str = ""


NOWHERE = Location()
"""The network said nothing."""


@dataclass(frozen=True, slots=True)
class Session:
    """One open session."""

    session_id: str
    sim_id: str
    imsi: str
    operator_id: str
    access: Access
    apn: str
    ue_address: IPv4Address
    gateway_id: str
    opened: datetime
    speed_class: str
    imei: str = ""
    msisdn: str = ""
    location: Location = NOWHERE
    dns: tuple[str, ...] = ()
    tunnel: Tunnel | None = None
    nas: Nas | None = None
    version: int = 0

    @property
    def teids(self) -> tuple[int, ...]:
        """Ours."""
        if self.tunnel is None:
            return ()
        return (self.tunnel.local_teid_control, self.tunnel.local_teid_user)


@dataclass(frozen=True, slots=True)
class Resting:
    """What a session leaves that is over, or that never came to be: nobody may have it for a while."""

    session_id: str
    ue_address: IPv4Address
    teids: tuple[int, ...]


class SessionEventKind(Enum):
    """The contract's ``SessionEvent.event``, and ``REJECTED``, which is ours."""

    CREATED = "Created"
    MODIFIED = "Modified"
    DELETED = "Deleted"
    REJECTED = "Rejected"


class CloseReason(Enum):
    """Why a session ended."""

    DEVICE = "device"  # the peer's delete request
    CUSTOMER = "customer"  # delete_session, or a status that may not be connected
    REPLACED = "replaced"  # the SIM attached again without a detach
    PEER_LOST = "peer_lost"  # restart or path failure, Error Indication
    LATE = "late"  # the outcome came after the peer had given up waiting
    LOST = "lost"  # state was lost on our side
    SILENT = "silent"  # its NAS reported nothing for several intervals


@dataclass(frozen=True, slots=True)
class SessionEvent:
    """One line of a SIM's session history, kept 32 days; ``cause`` says why it ended or was refused.

    ``speed_class`` and ``nas`` are what the last counters of an ended session are charged by.
    """

    event_id: str
    kind: SessionEventKind
    at: datetime
    sim_id: str
    imsi: str
    operator_id: str
    session_id: str = ""
    apn: str = ""
    ue_address: str = ""
    imei: str = ""
    location: Location = NOWHERE
    dns: tuple[str, ...] = ()
    opened: datetime | None = None
    speed_class: str = ""
    nas: Nas | None = None
    cause: str = ""
