"""A packet session of a SIM, whatever protocol opened it.

Rules: a session is durable before its opening is answered; it belongs to one gateway instance, which owns
its address and its TEIDs; its id is time-ordered, so that a SIM's sessions sort by age.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from ipaddress import IPv4Address, IPv6Network

from msgspec import Struct

from core.domain.flow import DedicatedBearer
from core.domain.usage import Volume
from core.domain.values import KeyEnum


class Access(KeyEnum):
    """The protocol by which a session is controlled."""

    GTPV1 = "gtpv1"
    GTPV2 = "gtpv2"
    RADIUS = "radius"


class PdnType(KeyEnum):
    """What addresses a session has (TS 29.274 §8.34; PDP type of TS 29.060 §7.7.27)."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    IPV4V6 = "ipv4v6"


class Qos(Struct, frozen=True, gc=False):
    """What a session was granted, whichever version spoke of it.

    ``qci`` as in TS 23.203 table 6.1.7; ``arp`` is the octet of TS 29.274 §8.15 (priority level in bits 6 to
    3); the APN-AMBR in kbit/s, 0: none was named. ``profile`` is the QoS profile that a GTPv1 peer asked for,
    in hex (TS 29.060 §7.7.34), to be sent back unchanged.
    """

    qci: int = 9
    arp: int = 0x3C
    ambr_up_kbps: int = 0
    ambr_down_kbps: int = 0
    profile: str = ""


class Tunnel(Struct, frozen=True, gc=False):
    """The GTP ends of a session (TS 29.060 §7.7.13, §7.7.14, §7.7.32).

    ``local_teid_control`` and ``local_teid_user`` are ours, the peer's are what we send to. Addresses are
    dotted quads; the peer's UDP ports are the standard ones for requests that we start. ``nsapi`` is 5–15.
    ``peer_restart_counter`` is what the peer's was when it last spoke of the session (TS 23.007 §18).
    """

    local_teid_control: int
    local_teid_user: int
    peer_teid_control: int
    peer_teid_user: int
    peer_control_address: str
    peer_user_address: str
    nsapi: int
    charging_id: int
    peer_restart_counter: int | None = None


class NasName(Struct, frozen=True, gc=False):
    """Who a NAS says it is: NAS-Identifier, NAS-IP-Address (RFC 2866 §4.1: one is enough; empty without),
    and the address that it sends from.
    """

    identifier: str
    ip_address: str
    source: str

    def __str__(self) -> str:
        """What it calls itself."""
        return self.identifier or self.ip_address or self.source

    def is_same(self, other: "NasName") -> bool:
        """By the first of these that both say: two behind one address are apart by their identifiers."""
        if self.identifier and other.identifier:
            return self.identifier == other.identifier
        if self.ip_address and other.ip_address:
            return self.ip_address == other.ip_address
        return self.source == other.source


class Nas(Struct, frozen=True, gc=False):
    """The RADIUS client that holds a session and counts it (RFC 2866 §4.1).

    ``network`` is the subnet as which it is known here, ``identifier`` its NAS-Identifier, else its
    NAS-IP-Address, else ``address``, where it takes Disconnect-Requests. Of its counters, ``before`` was
    charged to days before ``day`` (yyyymmdd, 0: none yet). The rest is the session as the NAS names it, empty
    where it did not: ``ip_address`` is its NAS-IP-Address, ``says_imsi`` whether it sends 3GPP-IMSI. With
    ``has_own_address`` the session's address is of a pool of the NAS's, not ours. ``fastest_class`` is the
    fastest speed class that the SIM had since the session was opened; empty: the session's own.
    """

    network: str
    identifier: str
    address: str
    acct_session_id: str
    day: int = 0
    before: Volume = Volume()
    ip_address: str = ""
    user_name: str = ""
    framed_address: str = ""
    says_imsi: bool = False
    has_own_address: bool = False
    fastest_class: str = ""

    @property
    def nas_identifier(self) -> str:
        """NAS-Identifier; empty when it has none."""
        return "" if self.identifier in (self.ip_address, self.address) else self.identifier

    @property
    def name(self) -> NasName:
        """Who it is among the NASes of its network."""
        return NasName(self.nas_identifier, self.ip_address, self.address)


class Cell(Struct, frozen=True, gc=False):
    """The place that user location information names, by the identities of TS 23.003 §4 and §19.4."""

    mcc: int
    mnc: int
    lac: int | None = None
    ci: int | None = None
    sac: int | None = None
    rac: int | None = None
    tac: int | None = None
    eci: int | None = None


class Location(Struct, frozen=True, gc=False):
    """Where the network says that the device is; each field empty when it did not say.

    ``plmn``, of the serving network, is MCC and MNC as digits; ``user_location`` the raw IE in hex (TS 29.060
    §7.7.51, TS 29.274 §8.21) and ``cell`` what it says; ``time_zone`` as ``+09:00``.
    """

    plmn: str = ""
    rat: str = ""
    user_location: str = ""
    cell: Cell | None = None
    time_zone: str = ""

    def moved(self, told: "Location") -> "Location":
        """Where the device is when ``told`` is what is new."""
        is_new_place = bool(told.user_location)
        return Location(
            plmn=told.plmn or self.plmn,
            rat=told.rat or self.rat,
            user_location=told.user_location if is_new_place else self.user_location,
            cell=told.cell if is_new_place else self.cell,
            time_zone=told.time_zone or self.time_zone,
        )


NOWHERE = Location()
"""The network said nothing."""


class Session(Struct, frozen=True, gc=False):
    """One open session.

    ``ue_address`` is its number in the gateway's blocks, and its IPv4 address unless ``pdn_type`` has none;
    ``ue_prefix`` is the /64 that goes with that number, if the session has IPv6. Nothing is sent down while
    it ``is_suspended`` (TS 29.274 §7.4.1). Of the AMBR that the peer asked for last (``asked_…``, 0: none)
    ``qos`` has what the speed class allows. If it ``reaches_group`` it reaches the sessions of its SIM's
    group that do so too.
    """

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
    pdn_type: PdnType = PdnType.IPV4
    ue_prefix: IPv6Network | None = None
    qos: Qos = Qos()
    dedicated: tuple[DedicatedBearer, ...] = ()
    is_suspended: bool = False
    asked_up_kbps: int = 0
    asked_down_kbps: int = 0
    group_id: str = ""
    reaches_group: bool = False
    version: int = 0

    @property
    def has_allocated_address(self) -> bool:
        """Whether its address is of this gateway's pools, or its SIM's own."""
        return self.nas is None or not self.nas.has_own_address

    @property
    def closed_group(self) -> str:
        """Whose sessions it reaches, an operator's group; empty: no device's."""
        return f"{self.operator_id}/{self.group_id}" if self.reaches_group else ""

    @property
    def shown_address(self) -> str:
        """The address by which people know the session: IPv4 where it has one, else its prefix."""
        return str(self.ue_prefix if self.pdn_type is PdnType.IPV6 else self.ue_address)

    @property
    def interface_identifier(self) -> int:
        """What the device is given to make its link-local address of (TS 23.401 §5.3.1.2.2): unlike any other
        of the gateway's, its own 1 included.
        """
        return int(self.ue_address)

    @property
    def teids(self) -> tuple[int, ...]:
        """Ours."""
        if self.tunnel is None:
            return ()
        own = (self.tunnel.local_teid_control, self.tunnel.local_teid_user)
        return own + tuple(bearer.local_teid_user for bearer in self.dedicated) if self.dedicated else own


@dataclass(frozen=True, slots=True)
class QuarantinedResources:
    """What a session leaves that is over, or that never came to be: nobody may have it for a while.

    ``unreadable``: why the session, though stored, cannot be read.
    """

    session_id: str
    ue_address: IPv4Address
    teids: tuple[int, ...]
    unreadable: str = ""


class SessionEventKind(Enum):
    """The contract's ``SessionEvent.event``, and ``REJECTED``, which is ours."""

    CREATED = "Created"
    MODIFIED = "Modified"
    DELETED = "Deleted"
    REJECTED = "Rejected"


class CloseReason(Enum):
    """Why a session ended."""

    DEVICE = "device"  # the peer's delete request
    CUSTOMER = "customer"  # a status that may not be connected, or another device than the SIM is locked to
    REACTIVATE = "reactivate"  # the device may come back at once: delete_session, a peer that is dropped
    REPLACED = "replaced"  # the SIM attached again without a detach
    PEER_LOST = "peer_lost"  # restart or path failure, Error Indication
    LATE = "late"  # the outcome came after the peer had given up waiting
    LOST = "lost"  # state was lost on our side
    IDLE = "idle"  # nothing went through it for longer than sessions are kept
    SILENT = "silent"  # its NAS reported nothing for several intervals


class SessionEvent(Struct, frozen=True, gc=False):
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
