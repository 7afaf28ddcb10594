"""What a peer's request asks for: its elements, and the context that it names.

Rules: work is bounded before it is read. A context answers to its own peer only, or to one of the same
partner (``gtp.partners``), or to one that may take it over; to anybody else it does not exist, so that nobody
learns that a TEID is in use.
"""

from msgspec import Struct

from core.domain.session import PdnType
from core.domain.values import replace
from core.errors import RemoteProtocolError
from gtp.admission import Admission
from gtp.contexts import Context, ContextEvent, Contexts, ContextState
from gtp.events import BearersUnwanted, DeleteRequested, Request, SessionRequested, UpdateRequested
from gtp.network_initiated import NetworkInitiated
from gtp.partners import Partners
from gtp.serving import Serving
from gtp.transaction import RequestKey
from gtp.version import Sender
from gtp.wire import (
    CreateSessionParams,
    DecodedRequest,
    DeleteBearersParams,
    DeleteSessionParams,
    EncodedRequest,
    ModifySessionParams,
    NotOffered,
    PeerEndpoints,
)

NO_ENDS = PeerEndpoints()


class Pending(Struct, frozen=True):
    """A request that is being decided. ``peer_teid``: where its sender wants to be answered; ``is_newcomer``:
    the session comes from another version.
    """

    key: RequestKey
    sender: Sender
    request: EncodedRequest
    decoded: DecodedRequest
    event: Request
    peer_teid: int
    received: float
    is_newcomer: bool = False


class Rejection(Struct, frozen=True):
    """A request that is not handed out, and the fault that answers it; ``released``: the session that it
    speaks of, if we have released that.
    """

    fault: RemoteProtocolError
    released: str = ""


class RequestReader:
    """Reads new requests, of all versions."""

    def __init__(
        self,
        *,
        serving: Serving,
        contexts: Contexts,
        partners: Partners,
        admission: Admission,
        network: NetworkInitiated,
    ) -> None:
        self._serving = serving
        self._contexts = contexts
        self._partners = partners
        self._admission = admission
        self._network = network
        self._last_token = 0

    def read(
        self, key: RequestKey, sender: Sender, request: EncodedRequest, now: float
    ) -> Pending | Rejection:
        """The request with the event that it is, or why it is none."""
        wire = sender.version.wire
        if not self._admission.has_room(sender.party):
            cause = wire.causes.no_resources
            return Rejection(RemoteProtocolError("too many requests at once", cause=cause))
        decoded = wire.decode_request(request)
        if isinstance(decoded, RemoteProtocolError):
            return Rejection(decoded)
        if isinstance(decoded.body, CreateSessionParams):
            event = self._session_requested(sender, decoded.body)
            return Pending(key, sender, request, decoded, event, decoded.peer_teid or 0, now)
        context = self._context_of(sender, request, decoded)
        if isinstance(context, Rejection):
            return context
        is_newcomer = context.access is not sender.version.access
        if is_newcomer and decoded.newcomer_fault is not None:
            return Rejection(decoded.newcomer_fault)
        return Pending(
            key,
            sender,
            request,
            decoded,
            self._of_context(sender, context, decoded.body),
            decoded.peer_teid or context.peer_teid,
            now,
            is_newcomer,
        )

    def _session_requested(self, sender: Sender, params: CreateSessionParams) -> SessionRequested:
        if params.ends.restart_counter is None:
            params = replace(params, ends=_with_counter(params.ends, sender))
        if params.pdn_type is PdnType.IPV4V6 and not has_dual(sender, params):
            otherwise = sender.version.wire.dual_only_pdn_type
            params = replace(params, pdn_type=self._serving.one_family_of(params.apn, otherwise))
        return SessionRequested(self._token(), sender.version.access, sender.peer[0], params)

    def _context_of(
        self, sender: Sender, request: EncodedRequest, decoded: DecodedRequest
    ) -> Context | Rejection:
        """The context that a request names, taken through what it asks."""
        body, context = decoded.body, self._contexts.by_teid(request.teid)
        unknown = RemoteProtocolError("no such context", cause=decoded.unknown_cause)
        if context is None or decoded.nsapi not in (None, context.nsapi):
            return Rejection(unknown)
        if not self._may_have(sender, context, _ends_of(body, context)):
            return Rejection(unknown)
        if isinstance(body, NotOffered) and not body.changes_context:
            return Rejection(body.fault)
        is_delete = isinstance(body, DeleteSessionParams)
        step = ContextEvent.DELETE_REQUESTED if is_delete else ContextEvent.UPDATE_REQUESTED
        if not self._network.step(context, step, sender.version):
            is_released = context.state is ContextState.RELEASING
            return Rejection(unknown, context.session_id if is_released else "")
        return Rejection(body.fault) if isinstance(body, NotOffered) else context

    def _may_have(self, sender: Sender, context: Context, ends: PeerEndpoints | None) -> bool:
        """Whether it may speak of the context; another partner must be allowed to take it over, and name both
        ends.
        """
        address = sender.peer[0]
        if self._partners.are_one(address, context.control_address):
            return True
        if ends is None or None in (
            ends.teid_control,
            ends.control_address,
            ends.teid_user,
            ends.user_address,
        ):
            return False
        return self._partners.may_take_over(address, context.control_address)

    def _of_context(self, sender: Sender, context: Context, body: object) -> Request:
        token, session_id = self._token(), context.session_id
        if isinstance(body, DeleteBearersParams):
            return BearersUnwanted(token, session_id, body.ebis)
        if not isinstance(body, ModifySessionParams):
            return DeleteRequested(token, session_id)
        ends = _ends_of(body, context)
        return UpdateRequested(
            token,
            sender.version.access,
            session_id,
            NO_ENDS if ends is None else _with_counter(ends, sender),
            body.location,
            body.qos,
            body.qos_change,
            tuple(bearer for bearer in body.bearers if bearer.ebi != context.nsapi),
            body.removed,
            body.is_suspended,
            body.imei,
            not self._partners.are_one(sender.peer[0], context.control_address),
        )

    def _token(self) -> int:
        self._last_token += 1
        return self._last_token


def _ends_of(body: object, context: Context) -> PeerEndpoints | None:
    """The ends that a request names, with that of the default bearer, whichever way it is named."""
    if not isinstance(body, ModifySessionParams) or body.ends is None:
        return None
    default = next((bearer for bearer in body.bearers if bearer.ebi == context.nsapi), None)
    if default is None:
        return body.ends
    return replace(body.ends, teid_user=default.teid_user, user_address=default.user_address)


def _with_counter(ends: PeerEndpoints, sender: Sender) -> PeerEndpoints:
    """A peer may tell its restart counter in its first message alone."""
    if ends.restart_counter is not None:
        return ends
    return replace(ends, restart_counter=sender.version.peers.counter_of(sender.peer[0]))


def has_dual(sender: Sender, params: CreateSessionParams) -> bool:
    """Whether its bearers carry both families: where it says so, or its partner is known to have such."""
    return params.has_dual_address_bearers or sender.partner.assume_dual_address_bearers
