"""What a version of GTP-C is to the endpoint: a stateless codec, and the values that it decodes to and
encodes.

Rules:

- A wire keeps nothing and calls nothing back; it raises nothing for what a peer sent: faults are values.
- What differs between versions is data of the wire (``CauseTable``, ``sequence_bits``, ``bearers``), or how
  it reads and writes a message; who may do what, and when, is the endpoint's.
- A datagram is decoded in two steps: headers first (``decode``), so that a repeated request is answered from
  the cache unread; then the elements of a request that is new (``decode_request``).
- Addresses of ends are dotted quads; a wire alone reads and writes them as octets.
- NSAPI and EPS bearer identity are one number space (TS 23.401 §5.2.1).
"""

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from msgspec import Struct

from core.domain.apn import Apn
from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.requests import OpenSession
from core.domain.session import NOWHERE, Access, CloseReason, Location, PdnType, Qos, Session
from core.errors import RemoteProtocolError
from gtp.pco import Credentials

# -- what a peer asks for -------------------------------------------------------------------------------


class PeerEndpoints(Struct, frozen=True):
    """The peer's F-TEIDs, ``None`` leaves that one as it is; and its restart counter now."""

    teid_control: int | None = None
    control_address: str | None = None
    teid_user: int | None = None
    user_address: str | None = None
    restart_counter: int | None = None


class BearerEndpoints(Struct, frozen=True):
    """A bearer, and the F-TEID of the peer's user plane for it."""

    ebi: int
    teid_user: int
    user_address: str


class QosChange(Struct, frozen=True):
    """What a peer changes of a session's QoS; what is ``None`` stays."""

    qci: int | None = None
    arp: int | None = None
    ambr_kbps: tuple[int, int] | None = None


class CreateSessionParams(Struct, frozen=True):
    """A session that a peer asks for, with all of the peer's ends. ``credentials`` are what the device showed
    in its protocol configuration options; ``is_low_priority``: it said that it can wait (TS 23.401
    §4.3.17.4); ``has_dual_address_bearers``: its bearers carry both families (TS 23.401 §5.3.1.1).
    """

    asked: OpenSession
    credentials: Credentials | None = None
    is_low_priority: bool = False
    has_dual_address_bearers: bool = False


class ModifySessionParams(Struct, frozen=True):
    """What a peer moves or changes of a session. ``ends`` is ``None`` when it speaks of none; ``bearers``
    names the default bearer too, where it does not stand in ``ends``.

    ``qos`` is the whole of it, ``qos_change`` a part; ``removed`` are the EBIs of dedicated bearers that are
    over; ``is_suspended`` is ``None`` when nothing was said of it.
    """

    ends: PeerEndpoints | None = None
    location: Location = NOWHERE
    qos: Qos | None = None
    qos_change: QosChange | None = None
    bearers: tuple[BearerEndpoints, ...] = ()
    removed: tuple[int, ...] = ()
    is_suspended: bool | None = None
    imei: str = ""


class DeleteSessionParams(Struct, frozen=True):
    """A peer ends a session."""


class DeleteBearersParams(Struct, frozen=True):
    """A peer wants dedicated bearers away."""

    ebis: tuple[int, ...]


class NotOffered(Struct, frozen=True):
    """A peer asks of a session what is not offered, or wrongly: ``fault`` answers it once the context is
    found. ``changes_context``: it is refused as a change where the context's state allows none.
    """

    fault: RemoteProtocolError
    changes_context: bool = True


RequestBody = (
    CreateSessionParams | ModifySessionParams | DeleteSessionParams | DeleteBearersParams | NotOffered
)


class DecodedRequest(Struct, frozen=True):
    """A request with its elements. ``response_type`` answers it; a command is answered by a request of ours
    with its number (TS 29.274 §7.6), and refused by ``response_type``.

    ``peer_teid`` is the control TEID that it names, ``nsapi`` the context's own where it must name that;
    ``unknown_cause`` answers it where there is no such context, ``newcomer_fault`` where the context is of
    another version. ``repeated`` is the wire's own: what its answer needs of it.
    """

    body: RequestBody
    response_type: int
    unknown_cause: int
    recovery: int | None = None
    peer_teid: int | None = None
    nsapi: int | None = None
    newcomer_fault: RemoteProtocolError | None = None
    is_command: bool = False
    repeated: object = None


# -- what a datagram is ---------------------------------------------------------------------------------


class EncodedRequest(Struct, frozen=True):
    """A request of which the header alone is read; ``teid`` 0: it is addressed to no context. ``notice`` is
    to be sent to its peer, but rarely.
    """

    message_type: int
    sequence: int
    teid: int
    payload: bytes
    extensions: tuple[int, ...] = ()
    notice: bytes = b""


class Verdict(Enum):
    """What an answer to a request of ours says, in whichever version."""

    DONE = "done"
    LATER = "later"  # a handover is going on
    ASLEEP = "asleep"  # the device saves power, and cannot be reached until it wakes
    UNKNOWN = "unknown"  # the peer knows no such context
    REFUSED = "refused"


class Reply(Struct, frozen=True):
    """A peer's answer to a request of ours; ``ends``: of the bearer that it made."""

    verdict: Verdict
    recovery: int | None = None
    ends: BearerEndpoints | None = None


class Response(Struct, frozen=True):
    """An answer to a request of ours."""

    message_type: int
    sequence: int
    reply: Reply


class EchoRequest(Struct, frozen=True):
    """A peer asks whether we are there."""

    sequence: int
    recovery: int | None


class Discarded(Struct, frozen=True):
    """What is dropped, and counted by ``reason``; ``notice`` is to be sent to its peer, but rarely."""

    reason: str
    notice: bytes = b""


class Malformed(Struct, frozen=True):
    """What has no header that can be read."""


Message = EncodedRequest | Response | EchoRequest | Discarded | Malformed


# -- what we answer and ask -----------------------------------------------------------------------------


class GatewayEnd(Struct, frozen=True):
    """Our end: where we speak, where tunnels end, and our restart counter."""

    address: str
    user_address: str
    recovery: int


class PdnTypeChange(Enum):
    """Why a device that asked for both families has one (TS 29.274 §8.4, TS 29.060 §7.7.1)."""

    NETWORK_PREFERENCE = "network_preference"
    SINGLE_ADDRESS_BEARER_ONLY = "single_address_bearer_only"


class AcceptedRequest(Struct, frozen=True):
    """What an accepting answer is made of beside its request: the session as it stands, its access point, our
    end. ``ipcp_ack`` is as in ``gtp.pco``; ``is_newcomer``: the session comes from another version.
    """

    session: Session
    apn: Apn
    gateway: GatewayEnd
    pdn_type_change: PdnTypeChange | None = None
    ipcp_ack: bool = False
    is_newcomer: bool = False


class CauseTable(Struct, frozen=True):
    """A version's causes. ``of_refusal`` is total; ``malformed`` answers a fault that has none; ``element``
    is the type of that element, ``value_at`` where its value is when it is the first of a response.
    """

    of_refusal: Mapping[AttachRefusal, int]
    no_resources: int
    malformed: int
    element: int
    value_at: int


class BearerWire(Protocol):
    """Requests for dedicated bearers, of a version that has them."""

    def encode_create(
        self, peer_teid: int, sequence: int, linked_ebi: int, bearer: DedicatedBearer, gateway: GatewayEnd
    ) -> bytes:
        """Ask for one."""

    def encode_update(self, peer_teid: int, sequence: int, bearer: DedicatedBearer, qos: Qos) -> bytes:
        """Ask that one be this from now on; ``qos`` is its session's."""

    def encode_delete(self, peer_teid: int, sequence: int, ebi: int) -> bytes:
        """Tell that one is over."""


class Wire(Protocol):
    """One version of GTP-C."""

    @property
    def access(self) -> Access:
        """What sessions are of that come by it."""

    @property
    def version(self) -> int:
        """As it stands in the header."""

    @property
    def sequence_bits(self) -> int:
        """Of the sequence numbers of our requests."""

    @property
    def dual_only_pdn_type(self) -> PdnType:
        """What is asked for over bearers of one address, under an APN that offers both families alone."""

    @property
    def causes(self) -> CauseTable:
        """Its causes."""

    @property
    def bearers(self) -> BearerWire | None:
        """Where the version has dedicated bearers."""

    def procedure_of(self, response_type: int) -> str:
        """The name of what a response answers: ``create_session``."""

    def decode(self, data: bytes) -> tuple[Message, ...]:
        """The messages of a datagram: one, or two where one rides on another (TS 29.274 §5.5.1)."""

    def decode_request(self, request: EncodedRequest) -> DecodedRequest | RemoteProtocolError:
        """The elements of a request, or the fault with the cause to answer."""

    def peek_control_teid(self, request: EncodedRequest) -> int:
        """The control TEID that a request names, even one that cannot be decoded, or 0."""

    def encode_accepted(
        self, request: DecodedRequest, accepted: AcceptedRequest, peer_teid: int, sequence: int
    ) -> bytes:
        """The answer to a request that was carried out; to a command it is a request of ours."""

    def encode_deleted(
        self, request: DecodedRequest, gateway: GatewayEnd, peer_teid: int, sequence: int
    ) -> bytes:
        """The answer to a request that ended its session."""

    def encode_refused(
        self,
        request: EncodedRequest,
        peer_teid: int,
        cause: int,
        *,
        fault: RemoteProtocolError | None = None,
        back_off_s: float = 0.0,
    ) -> bytes:
        """A refusal, which names the element at fault where it must; ``back_off_s``: for so long the peer
        should stay away from the APN, where the cause says so.
        """

    def encode_echo_request(self, sequence: int, recovery: int) -> bytes:
        """An Echo Request."""

    def encode_echo_response(self, sequence: int, recovery: int) -> bytes:
        """An Echo Response."""

    def encode_release(self, peer_teid: int, sequence: int, nsapi: int, reason: CloseReason) -> bytes:
        """The request by which the network ends a context; it says why where the device should know."""

    def encode_change(self, peer_teid: int, sequence: int, nsapi: int, qos: Qos) -> bytes:
        """The request that states what a session is granted now."""
