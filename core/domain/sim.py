"""A SIM and its life.

Rules:

- All changes of a SIM's status are in ``TRANSITIONS``; a pair that is not in it is refused.
- A SIM holds profiles (ICCID), a profile holds subscribers (IMSI); ``sim_id`` is the primary ICCID.
- IMSI, ICCID, IMEI and MSISDN are text: leading zeros matter.
"""

from collections.abc import Mapping
from datetime import datetime
from ipaddress import IPv4Address

from msgspec import Struct, field

from core.domain.machine import Table
from core.domain.reasons import AttachRefusal
from core.domain.values import KeyEnum


class SimStatus(KeyEnum):
    """The statuses of the contract's ``Sim.status``, and ``INSTOCK`` before a customer registers it."""

    INSTOCK = "instock"
    READY = "ready"
    ACTIVE = "active"
    INACTIVE = "inactive"
    STANDBY = "standby"
    SUSPENDED = "suspended"
    TERMINATED = "terminated"


class SimEvent(KeyEnum):
    """Events that change a SIM's status."""

    REGISTER = "register"
    ATTACH = "attach"
    ACTIVATE = "activate"
    DEACTIVATE = "deactivate"
    SET_TO_STANDBY = "set_to_standby"
    SUSPEND = "suspend"
    TERMINATE = "terminate"


class SimAction(KeyEnum):
    """Actions that follow a change of status."""

    END_SESSIONS = "end sessions"


_S, _E, _A = SimStatus, SimEvent, SimAction

_CUSTOMER_EVENTS: Mapping[SimEvent, tuple[SimStatus, SimAction | None]] = {
    _E.ACTIVATE: (_S.ACTIVE, None),
    _E.DEACTIVATE: (_S.INACTIVE, _A.END_SESSIONS),
    _E.SET_TO_STANDBY: (_S.STANDBY, _A.END_SESSIONS),
    _E.SUSPEND: (_S.SUSPENDED, _A.END_SESSIONS),
    _E.TERMINATE: (_S.TERMINATED, _A.END_SESSIONS),
}

TRANSITIONS: Table[SimStatus, SimEvent, SimAction] = {
    _S.INSTOCK: {_E.REGISTER: (_S.READY, None)},
    _S.READY: {**_CUSTOMER_EVENTS, _E.ATTACH: (_S.ACTIVE, None)},
    _S.ACTIVE: {**_CUSTOMER_EVENTS, _E.ATTACH: (_S.ACTIVE, None)},
    _S.INACTIVE: _CUSTOMER_EVENTS,
    _S.STANDBY: {**_CUSTOMER_EVENTS, _E.ATTACH: (_S.ACTIVE, None)},
    _S.SUSPENDED: _CUSTOMER_EVENTS,
    _S.TERMINATED: {},
}
"""``{status: {event: (next status, action)}}``. READY is never entered again; TERMINATED is final."""

ATTACH_REFUSALS: Mapping[SimStatus, AttachRefusal] = {
    _S.INSTOCK: AttachRefusal.SIM_NOT_REGISTERED,
    _S.INACTIVE: AttachRefusal.SIM_INACTIVE,
    _S.SUSPENDED: AttachRefusal.SIM_SUSPENDED,
    _S.TERMINATED: AttachRefusal.SIM_TERMINATED,
}
"""The refusal of an attach, for each status whose row has no ``ATTACH``."""

CUTS_SESSION = frozenset(
    status for row in TRANSITIONS.values() for status, action in row.values() if action is _A.END_SESSIONS
)
"""Entering one of these ends the SIM's sessions."""


class Subscriber(Struct, frozen=True, gc=False):
    """One network identity of a SIM."""

    imsi: str
    msisdn: str = ""
    subscription: str = "plan01s"
    bundles: tuple[str, ...] = ()


class Sim(Struct, frozen=True, gc=False):
    """A SIM as the registry keeps it; ``version`` rises by one with each stored change.

    ``operator_id`` is empty while the SIM is in stock. ``registration_secret_sha256`` is the hex digest of
    the secret that a customer needs to register it; the secret itself is never stored.
    """

    sim_id: str
    subscribers: tuple[Subscriber, ...]
    registration_secret_sha256: str
    created: datetime
    modified: datetime
    operator_id: str = ""
    status: SimStatus = SimStatus.INSTOCK
    group_id: str = ""
    speed_class: str = "s1.standard"
    apn: str = "soracom.io"
    module_type: str = "nano"
    sim_type: str = "uicc"
    serial_number: str = ""
    imei_lock: str = ""
    termination_enabled: bool = False
    static_address: IPv4Address | None = None
    tags: Mapping[str, str] = field(default_factory=dict)
    version: int = 0

    @property
    def imsi(self) -> str:
        """The primary IMSI."""
        return self.subscribers[0].imsi

    def has_imsi(self, imsi: str) -> bool:
        """Whether it is one of its IMSIs."""
        return self.subscribers[0].imsi == imsi or any(each.imsi == imsi for each in self.subscribers)
