"""What a peer asks of a session that is open: the context that it names, and whether it may.

Rule: a context answers to its own peer only, or to one of the same partner (``gtp.partners``), or to one that
may take it over; to any other peer it does not exist, so that none learns that a TEID is in use.
"""

from msgspec import Struct

from core.domain.values import replace
from core.errors import RemoteProtocolError
from gtp.contexts import Context, ContextEvent, Contexts, ContextState
from gtp.events import BearersUnwanted, ContextRequest, DeleteRequested, UpdateRequested
from gtp.network_initiated import NetworkInitiated
from gtp.partners import Partners
from gtp.version import Sender
from gtp.wire import (
    DecodedRequest,
    DeleteBearersParams,
    DeleteSessionParams,
    EncodedRequest,
    ModifySessionParams,
    NotOffered,
    PeerEndpoints,
)

NO_ENDS = PeerEndpoints()


class Rejection(Struct, frozen=True):
    """A request that is not handed out, and the fault that answers it; ``released``: the session that it
    speaks of, if we have released that.
    """

    fault: RemoteProtocolError
    released: str = ""


class RequestReader:
    """Reads requests about contexts, of all versions."""

    def __init__(self, *, contexts: Contexts, partners: Partners, network: NetworkInitiated) -> None:
        self._contexts = contexts
        self._partners = partners
        self._network = network

    def read(
        self, sender: Sender, request: EncodedRequest, decoded: DecodedRequest, token: int
    ) -> tuple[Context, ContextRequest] | Rejection:
        """The context and the event with this token, or why there is none."""
        context = self._context_of(sender, request, decoded)
        if isinstance(context, Rejection):
            return context
        if decoded.newcomer_fault is not None and context.access is not sender.version.access:
            return Rejection(decoded.newcomer_fault)
        return context, self._event(sender, context, decoded.body, token)

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

    def _event(self, sender: Sender, context: Context, body: object, token: int) -> ContextRequest:
        session_id = context.session_id
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


def _ends_of(body: object, context: Context) -> PeerEndpoints | None:
    """The ends that a request names, with that of the default bearer, whichever way it is named."""
    if not isinstance(body, ModifySessionParams) or body.ends is None:
        return None
    default = next((bearer for bearer in body.bearers if bearer.ebi == context.nsapi), None)
    if default is None:
        return body.ends
    return replace(body.ends, teid_user=default.teid_user, user_address=default.user_address)


def _with_counter(ends: PeerEndpoints, sender: Sender) -> PeerEndpoints:
    """A peer may send its restart counter in its first message alone."""
    if ends.restart_counter is not None:
        return ends
    return replace(ends, restart_counter=sender.version.peers.counter_of(sender.peer[0]))
