"""What the RADIUS machines ask to be decided or tell, and what they are answered."""

from ipaddress import IPv4Address

from msgspec import Struct

from core.domain.reasons import AttachRefusal
from core.domain.session import Nas, Session
from radius.mapping import AccessRequest, AccountingReport
from radius.networks import NasNetwork


class AccessRequested(Struct, frozen=True):
    """Somebody asks for access; answer with ``Granted`` or ``Denied``."""

    token: int
    client: NasNetwork
    request: AccessRequest


class AccountingRequested(Struct, frozen=True):
    """A NAS reports; answer with ``Recorded`` once it is durable, or ``NotRecorded``. ``received``: when."""

    token: int
    client: NasNetwork
    report: AccountingReport
    received: float


class StrangerHeard(Struct, frozen=True):
    """A datagram came from an address that is no client's, and got silence."""

    address: str


ServerEvent = AccessRequested | AccountingRequested | StrangerHeard


class Granted(Struct, frozen=True):
    """Access-Accept: the address (``None``: the NAS shall choose, RFC 2865 §5.8), the session's key (Class),
    and how often to report.
    """

    address: IPv4Address | None
    class_: bytes
    interim_interval_s: int


class Denied(Struct, frozen=True):
    """Access-Reject."""

    reason: AttachRefusal


class Recorded(Struct, frozen=True):
    """Accounting-Response: what was reported is durable."""


class NotRecorded(Struct, frozen=True):
    """Silence: the NAS asks again."""


Outcome = Granted | Denied | Recorded | NotRecorded


class Ending(Struct, frozen=True):
    """A session that its NAS shall end, as the NAS named it; ``session`` when it was one of ours, ``client``
    is whose NAS it is.
    """

    imsi: str
    nas: Nas
    client: str = ""
    session: Session | None = None


class DisconnectFailed(Struct, frozen=True):
    """A NAS did not end a session: why, in a word; ``error_cause`` as in RFC 5176 §3.5, 0: none."""

    ending: Ending
    outcome: str
    error_cause: int = 0
