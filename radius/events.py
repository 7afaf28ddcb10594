"""What the RADIUS machines give out to be decided or reported, and the decisions that they take."""

from ipaddress import IPv4Address

from msgspec import Struct

from core.domain.reasons import AttachRefusal
from core.domain.session import Nas, Session
from radius.mapping import AccessRequest, AccountingReport
from radius.networks import NasNetwork

Token = tuple[str, int, int, int, bytes]
"""Which request: its sender's address and port, its Code, Identifier and Request Authenticator. A repeat has
the same (RFC 5080 §2.2.2)."""


class AccessRequested(Struct, frozen=True):
    """An Access-Request (RFC 2865 §4.1); answer with ``Granted`` or ``Denied``, or ``NotRecorded``."""

    token: Token
    client: NasNetwork
    request: AccessRequest


class AccountingRequested(Struct, frozen=True):
    """An Accounting-Request (RFC 2866 §4.1); answer with ``Recorded`` once it is durable, or ``NotRecorded``.
    ``received``: when, by ``Clock.monotonic``.
    """

    token: Token
    client: NasNetwork
    report: AccountingReport
    received: float


class StrangerHeard(Struct, frozen=True):
    """A datagram came from an address that is no client's; it gets silence."""

    address: str


ServerEvent = AccessRequested | AccountingRequested | StrangerHeard


class Granted(Struct, frozen=True):
    """Access-Accept: the address (``None``: the NAS chooses, RFC 2865 §5.8), the session's id as Class
    (RFC 2865 §5.25), and Acct-Interim-Interval (RFC 2869 §5.16).
    """

    address: IPv4Address | None
    class_: bytes
    interim_interval_s: int


class Denied(Struct, frozen=True):
    """Access-Reject (RFC 2865 §4.3)."""

    reason: AttachRefusal


class Recorded(Struct, frozen=True):
    """Accounting-Response (RFC 2866 §4.2): what was reported is durable."""


class NotRecorded(Struct, frozen=True):
    """Silence: the NAS repeats its request."""


Outcome = Granted | Denied | Recorded | NotRecorded


class Ending(Struct, frozen=True):
    """A session that its NAS is to end, as the NAS named it (RFC 5176 §3); ``session`` if it is one of ours,
    ``client`` is the name of the client whose NAS it is.
    """

    imsi: str
    nas: Nas
    client: str = ""
    session: Session | None = None


class DisconnectFailed(Struct, frozen=True):
    """A NAS did not end a session: ``refused``, ``not_answered`` or ``not_asked``; ``error_cause`` as in
    RFC 5176 §3.5, 0: none.
    """

    ending: Ending
    outcome: str
    error_cause: int = 0
