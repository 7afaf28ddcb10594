"""The GTPv1-C endpoint of a GGSN, without I/O (TS 29.060)."""

from collections.abc import Mapping
from typing import ClassVar

from core.domain.session import NOWHERE, Access, Session
from core.errors import RemoteProtocolError
from gtp.contexts import Context, ContextEvent
from gtp.endpoint import Asked, GtpEndpoint, Pending
from gtp.events import (
    Accepted,
    DeleteRequested,
    Outcome,
    PeerEnds,
    Rejected,
    SessionRequested,
    SessionWish,
    UpdateRequested,
)
from gtp.initiated import Reply, Verdict
from gtp.pco import answer_options
from gtp.transaction import Peer, RequestKey
from gtp.v1 import message
from gtp.v1.cause import CAUSE_OF_REFUSAL, Cause
from gtp.v1.header import Header, decode_header, version_of
from gtp.v1.ie import EndUserAddress
from gtp.v1.message import MessageType

RESPONSES: Mapping[int, MessageType] = {
    MessageType.CREATE_PDP_CONTEXT_REQUEST: MessageType.CREATE_PDP_CONTEXT_RESPONSE,
    MessageType.UPDATE_PDP_CONTEXT_REQUEST: MessageType.UPDATE_PDP_CONTEXT_RESPONSE,
    MessageType.DELETE_PDP_CONTEXT_REQUEST: MessageType.DELETE_PDP_CONTEXT_RESPONSE,
}
"""The requests that are decided, and what answers them."""

ANSWERS = frozenset(
    {
        MessageType.ECHO_RESPONSE,
        MessageType.UPDATE_PDP_CONTEXT_RESPONSE,
        MessageType.DELETE_PDP_CONTEXT_RESPONSE,
    }
)
"""What answers our own requests."""


class GtpV1Gateway(GtpEndpoint):
    """The machine of version 1."""

    ACCESS: ClassVar[Access] = Access.GTPV1
    SEQUENCE_BITS: ClassVar[int] = 16

    def _receive(self, data: bytes, addr: Peer, now: float) -> None:
        if version_of(data) != 1:
            self._reprove(data, addr, now)
            return
        header = decode_header(data)
        if header.sequence is None:
            self.dropped["no_sequence_number"] += 1
        elif header.message_type == MessageType.ECHO_REQUEST:
            self._outgoing.append((message.encode_echo_response(header.sequence, self._recovery), addr))
            self._hear(addr, message.decode_recovery(header.payload), now)
        elif header.message_type in RESPONSES:
            self._receive_request(header, header.sequence, addr, now)
        elif header.message_type in ANSWERS:
            self._receive_response(header, header.sequence, addr, now)
        else:
            self.dropped["message_not_supported"] += 1

    def _reprove(self, data: bytes, addr: Peer, now: float) -> None:
        """Version Not Supported (§7.2.3), but never in answer to one, and rarely."""
        self.dropped["version_not_supported"] += 1
        if data[1] == MessageType.VERSION_NOT_SUPPORTED or not self._peers.may_reprove(addr[0], now):
            return
        sequence = int.from_bytes(data[8:10], "big") if len(data) >= 10 else 0
        self._outgoing.append((message.encode_version_not_supported(sequence), addr))

    # -- requests -------------------------------------------------------------------------------------

    def _receive_request(self, header: Header, sequence: int, addr: Peer, now: float) -> None:
        key = (addr[0], addr[1], header.message_type, sequence)
        if not self._arrive(key, addr, now):
            return
        try:
            self._begin(key, header, addr, now)
        except RemoteProtocolError as error:
            self.dropped["refused_by_protocol"] += 1
            cause = error.cause or Cause.INVALID_MESSAGE_FORMAT
            teid = self._peer_teid(header, addr)
            response_type = RESPONSES[header.message_type]
            self._respond(key, addr, message.encode_cause_response(response_type, teid, sequence, cause))

    def _begin(self, key: RequestKey, header: Header, addr: Peer, now: float) -> None:
        """Decode a new request and hand it out; raises ``RemoteProtocolError`` with the cause to answer."""
        if not self._has_room():
            raise RemoteProtocolError("too many requests at once", cause=Cause.NO_RESOURCES_AVAILABLE)
        token = self._token()
        if header.message_type == MessageType.CREATE_PDP_CONTEXT_REQUEST:
            asked = self._asked_create(token, addr, header)
        elif header.message_type == MessageType.UPDATE_PDP_CONTEXT_REQUEST:
            asked = self._asked_update(token, addr, header)
        else:
            delete = message.decode_delete_request(header.payload)
            context = self._named(header, addr, ContextEvent.DELETE_REQUESTED)
            asked = Asked(DeleteRequested(token, context.session_id), context.peer_teid, None, delete)
        self._hand_out(token, key, addr, asked, now)

    def _asked_create(self, token: int, addr: Peer, header: Header) -> Asked:
        create = message.decode_create_request(header.payload)
        address = create.end_user_address
        if address.organisation != EndUserAddress.IETF or address.number not in (
            EndUserAddress.IPV4,
            EndUserAddress.IPV4V6,
        ):
            raise RemoteProtocolError("only IPv4 is offered", cause=Cause.UNKNOWN_PDP_ADDRESS_OR_PDP_TYPE)
        wish = SessionWish(
            imsi=create.imsi,
            apn=create.apn,
            nsapi=create.nsapi,
            ends=PeerEnds(create.teid_control, create.control_address, create.teid_data, create.user_address),
            imei=create.imei,
            msisdn=create.msisdn,
            location=create.location,
            address=address.ipv4,
        )
        event = SessionRequested(token, addr[0], wish)
        return Asked(event, create.teid_control, create.recovery, create)

    def _asked_update(self, token: int, addr: Peer, header: Header) -> Asked:
        update = message.decode_update_request(header.payload)
        context = self._named(header, addr, ContextEvent.UPDATE_REQUESTED)
        ends = PeerEnds(update.teid_control, update.control_address, update.teid_data, update.user_address)
        location = update.location if update.location.plmn else NOWHERE
        event = UpdateRequested(token, context.session_id, ends, location)
        return Asked(event, update.teid_control or context.peer_teid, update.recovery, update)

    def _named(self, header: Header, addr: Peer, event: ContextEvent) -> Context:
        context = self._context_for(header.teid, addr, event)
        if context is None:
            raise RemoteProtocolError("no such context", cause=Cause.NON_EXISTENT)
        return context

    def _peer_teid(self, header: Header, addr: Peer) -> int:
        """The peer's control TEID for a refusal, where it can be known, so that it can be matched."""
        context = self._contexts.by_teid(header.teid)
        if context and self._speaks_for(addr[0], context):
            return context.peer_teid
        if header.message_type != MessageType.CREATE_PDP_CONTEXT_REQUEST:
            return 0
        return message.peek_control_teid(header.payload)

    # -- answers --------------------------------------------------------------------------------------

    def _encode_answer(self, pending: Pending, outcome: Outcome) -> bytes:
        wire = pending.asked.wire
        if isinstance(outcome, Accepted) and isinstance(wire, message.CreateRequest):
            return self._encode_created(pending.sequence, wire, outcome.session)
        if isinstance(outcome, Accepted) and isinstance(wire, message.UpdateRequest):
            return self._encode_updated(pending.sequence, wire, outcome.session)
        cause = Cause.REQUEST_ACCEPTED
        if isinstance(outcome, Rejected):
            cause = CAUSE_OF_REFUSAL[outcome.reason]
        return message.encode_cause_response(
            RESPONSES[pending.message_type], pending.asked.peer_teid, pending.sequence, cause
        )

    def _encode_created(self, sequence: int, request: message.CreateRequest, session: Session) -> bytes:
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        both = request.end_user_address.number == EndUserAddress.IPV4V6
        return message.encode_create_response(
            peer_teid=tunnel.peer_teid_control,
            sequence=sequence,
            cause=Cause.NEW_PDP_TYPE_DUE_TO_NETWORK_PREFERENCE if both else Cause.REQUEST_ACCEPTED,
            recovery=self._recovery,
            teid_control=tunnel.local_teid_control,
            teid_data=tunnel.local_teid_user,
            charging_id=tunnel.charging_id,
            address=session.ue_address,
            control_address=self._address,
            user_address=self._address,
            qos=request.qos,
            pco=answer_options(request.pco, self._apn_of(session)),
        )

    def _encode_updated(self, sequence: int, request: message.UpdateRequest, session: Session) -> bytes:
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        return message.encode_update_response(
            peer_teid=tunnel.peer_teid_control,
            sequence=sequence,
            recovery=self._recovery,
            teid_control=tunnel.local_teid_control,
            teid_data=tunnel.local_teid_user,
            charging_id=tunnel.charging_id,
            control_address=self._address,
            user_address=self._address,
            qos=request.qos,
        )

    def _encode_release(self, context: Context, sequence: int) -> bytes:
        """Delete PDP Context Request (§7.3.5)."""
        return message.encode_delete_request(
            peer_teid=context.peer_teid, sequence=sequence, nsapi=context.nsapi
        )

    def _encode_change(self, context: Context, session: Session, sequence: int) -> bytes:
        """Update PDP Context Request of a GGSN (§7.3.3)."""
        return message.encode_update_request(
            peer_teid=context.peer_teid, sequence=sequence, nsapi=context.nsapi, qos=session.qos
        )

    def _encode_echo_request(self, sequence: int) -> bytes:
        return message.encode_echo_request(sequence)

    def _receive_response(self, header: Header, sequence: int, addr: Peer, now: float) -> None:
        try:
            response = message.decode_response(MessageType(header.message_type), header.payload)
        except RemoteProtocolError:
            self.dropped["malformed_response"] += 1
            return
        verdict = Verdict.DONE if response.cause < Cause.NON_EXISTENT else Verdict.REFUSED
        if response.cause in (Cause.NON_EXISTENT, Cause.CONTEXT_NOT_FOUND):
            verdict = Verdict.UNKNOWN
        self._take_response(header.message_type, sequence, addr, now, Reply(verdict, response.recovery))
