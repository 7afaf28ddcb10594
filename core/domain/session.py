"""A packet session of a SIM, by any protocol.

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
    """The address families of a session (TS 29.274 §8.34; PDP type of TS 29.060 §7.7.27)."""

    IPV4 = "ipv4"
    IPV6 = "ipv6"
    IPV4V6 = "ipv4v6"


class Qos(Struct, frozen=True, gc=False):
    """The QoS of a session, for both GTP versions.

    ``qci`` as in TS 23.203 table 6.1.7; ``arp`` is the octet of TS 29.274 §8.15 (priority level in bits 6 to
    3); the APN-AMBR in kbit/s, 0: absent. ``profile`` is the QoS profile that a GTPv1 peer requested, in hex
    (TS 29.060 §7.7.34), to be sent back unchanged.
    """

    qci: int = 9
    arp: int = 0x3C
    ambr_up_kbps: int = 0
    ambr_down_kbps: int = 0
    profile: str = ""


class Tunnel(Struct, frozen=True, gc=False):
    """The GTP ends of a session (TS 29.060 §7.7.13, §7.7.14, §7.7.32).

    ``local_teid_control`` and ``local_teid_user`` are the gateway's; packets to the peer carry the peer's.
    Addresses are dotted quads. The gateway's own requests go to the standard UDP ports. ``nsapi`` is 5–15.
    ``peer_restart_counter`` is the peer's at its last message about the session (TS 23.007 §18).
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
    """A NAS's identity: NAS-Identifier and NAS-IP-Address (RFC 2866 §4.1: one is required; empty if absent),
    and its source address.
    """

    identifier: str
    ip_address: str
    source: str

    def __str__(self) -> str:
        """Its NAS-Identifier, else its NAS-IP-Address, else its source address."""
        return self.identifier or self.ip_address or self.source

    def is_same(self, other: "NasName") -> bool:
        """Compares the first of these that both have: two NASes behind one address differ by identifier."""
        if self.identifier and other.identifier:
            return self.identifier == other.identifier
        if self.ip_address and other.ip_address:
            return self.ip_address == other.ip_address
        return self.source == other.source


class Nas(Struct, frozen=True, gc=False):
    """The NAS that carries a session and counts it (RFC 2866 §4.1).

    ``network`` is its RADIUS client's subnet, ``identifier`` its NAS-Identifier, else its NAS-IP-Address,
    else ``address``, to which Disconnect-Requests go. ``before`` is the volume charged to days before ``day``
    (yyyymmdd, 0: none yet). The other fields are the NAS's names of the session, empty if absent:
    ``ip_address`` is its NAS-IP-Address, ``says_imsi`` whether it sends 3GPP-IMSI. With ``has_own_address``
    the session's address is from the NAS's own pool. ``fastest_class`` is the SIM's fastest speed class since
    the session was opened; empty: the session's own.
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
        """Its identity among the NASes of its network."""
        return NasName(self.nas_identifier, self.ip_address, self.address)


class Cell(Struct, frozen=True, gc=False):
    """The place in user location information, by the identities of TS 23.003 §4 and §19.4."""

    mcc: int
    mnc: int
    lac: int | None = None
    ci: int | None = None
    sac: int | None = None
    rac: int | None = None
    tac: int | None = None
    eci: int | None = None


class Location(Struct, frozen=True, gc=False):
    """The device's location as the network reports it; fields are empty if not reported.

    ``plmn``, of the serving network, is MCC and MNC as digits; ``user_location`` the raw IE in hex (TS 29.060
    §7.7.51, TS 29.274 §8.21) and ``cell`` its decoded value; ``time_zone`` as ``+09:00``.
    """

    plmn: str = ""
    rat: str = ""
    user_location: str = ""
    cell: Cell | None = None
    time_zone: str = ""

    def moved(self, newer: "Location") -> "Location":
        """The location updated with the fields that ``newer`` has."""
        is_new_place = bool(newer.user_location)
        return Location(
            plmn=newer.plmn or self.plmn,
            rat=newer.rat or self.rat,
            user_location=newer.user_location if is_new_place else self.user_location,
            cell=newer.cell if is_new_place else self.cell,
            time_zone=newer.time_zone or self.time_zone,
        )


NOWHERE = Location()
"""The network reported no location."""


def ipv4_text(address: IPv4Address) -> str:
    """As ``str`` writes it, at a third of the time: each session that opens is written three times."""
    number = int(address)
    return f"{number >> 24}.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"


class Session(Struct, frozen=True, gc=False):
    """One open session.

    ``ue_address`` is its number in the gateway's blocks, and its IPv4 address unless ``pdn_type`` has none;
    ``ue_prefix`` is the /64 of that number, if the session has IPv6. No downlink packets while it
    ``is_suspended`` (TS 29.274 §7.4.1). ``qos`` is the AMBR that the peer last requested (``asked_…``, 0:
    none) within the speed class. Sessions of a SIM group that ``reaches_group`` reach each other.
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
        """Whether its address is from this gateway's pools, or its SIM's static one."""
        return self.nas is None or not self.nas.has_own_address

    @property
    def closed_group(self) -> str:
        """The operator's group whose sessions it reaches; empty: none."""
        return f"{self.operator_id}/{self.group_id}" if self.reaches_group else ""

    @property
    def shown_address(self) -> str:
        """The address shown for the session: IPv4 if it has one, else its prefix."""
        return str(self.ue_prefix) if self.pdn_type is PdnType.IPV6 else ipv4_text(self.ue_address)

    @property
    def interface_identifier(self) -> int:
        """The identifier of the device's link-local address (TS 23.401 §5.3.1.2.2): unique in the gateway,
        and different from the gateway's own, 1.
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
    """The address and TEIDs of a session that ended or was never opened: not allocated for a while.

    ``unreadable``: why the stored session cannot be read.
    """

    session_id: str
    ue_address: IPv4Address
    teids: tuple[int, ...]
    unreadable: str = ""


class SessionEventKind(Enum):
    """SORACOM's ``SessionEvent.event``, and Airloom's own ``REJECTED``."""

    CREATED = "Created"
    MODIFIED = "Modified"
    DELETED = "Deleted"
    REJECTED = "Rejected"


class CloseReason(Enum):
    """Why a session ended."""

    DEVICE = "device"  # the peer's delete request
    CUSTOMER = "customer"  # its status does not permit sessions, or the SIM is locked to another device
    REACTIVATE = "reactivate"  # the device may come back at once: delete_session, a peer that is dropped
    REPLACED = "replaced"  # the SIM attached again without a detach
    PEER_LOST = "peer_lost"  # restart or path failure, Error Indication
    LATE = "late"  # decided after the peer had stopped waiting
    LOST = "lost"  # the gateway lost its state
    IDLE = "idle"  # no packets for ``idle_timeout_s``
    SILENT = "silent"  # its NAS reported nothing for several intervals


class SessionEvent(Struct, frozen=True, gc=False):
    """One entry of a SIM's session history, kept 32 days; ``cause``: why it ended or was refused.

    ``speed_class`` and ``nas``: for charging the last counters of an ended session.
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
