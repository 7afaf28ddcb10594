"""The GTPv2-C endpoint of a PGW on S5/S8, without I/O (TS 29.274)."""

from collections.abc import Mapping
from ipaddress import IPv6Network
from typing import ClassVar

from core.domain.session import Access, PdnType, Session
from core.errors import RemoteProtocolError
from gtp.contexts import Context, ContextEvent
from gtp.endpoint import Asked, GtpEndpoint, Pending
from gtp.events import (
    Accepted,
    DeleteRequested,
    Done,
    Outcome,
    PeerEnds,
    Rejected,
    SessionRequested,
    SessionWish,
    UpdateRequested,
)
from gtp.pco import answer_options, credentials
from gtp.transaction import Peer, RequestKey
from gtp.v2 import ie, message
from gtp.v2.cause import CAUSE_OF_REFUSAL, Cause
from gtp.v2.header import Header, decode_header
from gtp.v2.message import MessageType

RESPONSES: Mapping[int, MessageType] = {
    MessageType.CREATE_SESSION_REQUEST: MessageType.CREATE_SESSION_RESPONSE,
    MessageType.MODIFY_BEARER_REQUEST: MessageType.MODIFY_BEARER_RESPONSE,
    MessageType.DELETE_SESSION_REQUEST: MessageType.DELETE_SESSION_RESPONSE,
}
"""The requests that are decided, and what answers them."""


class GtpV2Gateway(GtpEndpoint):
    """The machine of version 2."""

    ACCESS: ClassVar[Access] = Access.GTPV2
    SEQUENCE_BITS: ClassVar[int] = 23
    """The topmost bit marks what a command set off (§7.6); nothing of ours is."""
    CAUSE: ClassVar[tuple[int, int]] = (ie.CAUSE, 16)

    def procedure_of(self, response_type: int) -> str:
        """By its name in §6.1, table 6.1-1."""
        return MessageType(response_type).name.lower().removesuffix("_response")

    def _receive(self, data: bytes, addr: Peer, now: float) -> None:
        header = decode_header(data)
        self._dispatch(header, addr, now)
        if header.following:  # one message may ride on another, not a chain of them (§5.5.1)
            self._dispatch(decode_header(header.following), addr, now)

    def _dispatch(self, header: Header, addr: Peer, now: float) -> None:
        if header.message_type == MessageType.ECHO_REQUEST:
            self._outgoing.append((message.encode_echo_response(header.sequence, self._recovery), addr))
            self._hear(addr, message.decode_recovery(header.payload), now)
        elif header.message_type in (MessageType.ECHO_RESPONSE, MessageType.DELETE_BEARER_RESPONSE):
            is_echo = header.message_type == MessageType.ECHO_RESPONSE
            recovery = message.decode_recovery(header.payload)
            self._take_response(header.sequence, addr, now, is_echo=is_echo, recovery=recovery)
        elif header.message_type not in RESPONSES:
            self.dropped["message_not_supported"] += 1
        elif header.teid is None:
            self.dropped["no_teid"] += 1
        else:
            self._receive_request(header, header.teid, addr, now)

    # -- requests -------------------------------------------------------------------------------------

    def _receive_request(self, header: Header, teid: int, addr: Peer, now: float) -> None:
        key = (addr[0], addr[1], header.message_type, header.sequence)
        if not self._arrive(key, addr, now):
            return
        try:
            self._begin(key, header, teid, addr, now)
        except RemoteProtocolError as error:
            self.dropped["refused_by_protocol"] += 1
            cause = error.cause or Cause.INVALID_MESSAGE_FORMAT
            response = message.encode_cause_response(
                RESPONSES[header.message_type], self._peer_teid(header, teid), header.sequence, cause, error
            )
            self._respond(key, addr, response)

    def _begin(self, key: RequestKey, header: Header, teid: int, addr: Peer, now: float) -> None:
        """Decode a new request and hand it out; raises ``RemoteProtocolError`` with the cause to answer."""
        if not self._has_room():
            raise RemoteProtocolError("too many requests at once", cause=Cause.NO_RESOURCES_AVAILABLE)
        token = self._token()
        if header.message_type == MessageType.CREATE_SESSION_REQUEST:
            asked = self._asked_create(token, addr, header)
        elif header.message_type == MessageType.MODIFY_BEARER_REQUEST:
            asked = self._asked_modify(token, addr, header, teid)
        else:
            delete = message.decode_delete_session_request(header.payload)
            context = self._named(teid, addr, ContextEvent.DELETE_REQUESTED)
            asked = Asked(DeleteRequested(token, context.session_id), context.peer_teid, None, delete)
        self._hand_out(token, key, addr, asked, now)

    def _asked_create(self, token: int, addr: Peer, header: Header) -> Asked:
        create = message.decode_create_session_request(header.payload)
        prefix = IPv6Network((create.paa.ipv6, ie.PREFIX_BITS), strict=False) if create.paa.ipv6 else None
        wish = SessionWish(
            imsi=create.imsi,
            apn=create.apn,
            nsapi=create.ebi,
            ends=_ends(create.control, create.user, self._counter_of(addr, create.recovery)),
            imei=create.imei,
            msisdn=create.msisdn,
            location=create.location,
            address=create.paa.ipv4,
            prefix=prefix,
            pdn_type=self._fitting(create),
            qos=create.qos,
            credentials=credentials(create.pco) or credentials(create.epco) or credentials(create.apco),
            is_low_priority=create.is_low_priority,
        )
        event = SessionRequested(token, addr[0], wish)
        return Asked(event, create.control.teid, create.recovery, create)

    def _fitting(self, create: message.CreateSessionRequest) -> PdnType:
        """What to ask for: of both families one, when the peer's bearers take one (TS 23.401 §5.3.1.1)."""
        apn = self._apns.get(create.apn)
        if create.paa.pdn_type is not PdnType.IPV4V6 or create.indication.takes_both or apn is None:
            return create.paa.pdn_type
        return next((one for one in (PdnType.IPV4, PdnType.IPV6) if one in apn.pdn_types), PdnType.IPV4)

    def _asked_modify(self, token: int, addr: Peer, header: Header, teid: int) -> Asked:
        modify = message.decode_modify_bearer_request(header.payload)
        context = self._named(teid, addr, ContextEvent.UPDATE_REQUESTED)
        ends = _ends(modify.control, modify.user, self._counter_of(addr, modify.recovery))
        event = UpdateRequested(token, context.session_id, ends, modify.location)
        peer_teid = modify.control.teid if modify.control else context.peer_teid
        return Asked(event, peer_teid, modify.recovery, modify)

    def _named(self, teid: int, addr: Peer, event: ContextEvent) -> Context:
        context = self._context_for(teid, addr, event)
        if context is None:
            raise RemoteProtocolError("no such context", cause=Cause.CONTEXT_NOT_FOUND)
        return context

    def _peer_teid(self, header: Header, teid: int) -> int:
        """For a refusal: the peer's control TEID where it can be known, else 0 (§5.5.2)."""
        if header.message_type == MessageType.CREATE_SESSION_REQUEST:
            return message.peek_control_teid(header.payload)
        context = self._contexts.by_teid(teid)
        return context.peer_teid if context else 0

    # -- answers --------------------------------------------------------------------------------------

    def _encode_answer(self, pending: Pending, outcome: Outcome) -> bytes:
        wire, teid, sequence = pending.asked.wire, pending.asked.peer_teid, pending.sequence
        if isinstance(outcome, Accepted) and isinstance(wire, message.CreateSessionRequest):
            return message.encode_create_session_response(
                teid, sequence, wire, self._created(wire, outcome.session)
            )
        if isinstance(outcome, Accepted) and isinstance(wire, message.ModifyBearerRequest):
            tunnel = outcome.session.tunnel
            assert tunnel is not None, "a GTP session has a tunnel"
            return message.encode_modify_bearer_response(
                tunnel.peer_teid_control,
                sequence,
                recovery=self._recovery,
                ebi=wire.ebi,
                charging_id=tunnel.charging_id,
                msisdn=outcome.session.msisdn,
            )
        if isinstance(outcome, Done):
            return message.encode_delete_session_response(teid, sequence, self._recovery)
        assert isinstance(outcome, Rejected), "a request is accepted, done or rejected"
        cause = CAUSE_OF_REFUSAL[outcome.reason]
        return message.encode_cause_response(RESPONSES[pending.message_type], teid, sequence, cause)

    def _created(self, request: message.CreateSessionRequest, session: Session) -> message.Created:
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        apn, prefix = self._apn_of(session), session.ue_prefix
        return message.Created(
            cause=self._cause_of(request, session),
            control=ie.FTeid(ie.S5_S8_PGW_GTP_C, tunnel.local_teid_control, self._address),
            user=ie.FTeid(ie.S5_S8_PGW_GTP_U, tunnel.local_teid_user, self._address),
            paa=ie.Paa(
                session.pdn_type,
                session.ue_address,
                prefix.network_address + session.interface_identifier if prefix else None,
            ),
            qos=session.qos,
            charging_id=tunnel.charging_id,
            recovery=self._recovery,
            pco=answer_options(request.pco, session, apn),
            apco=answer_options(request.apco, session, apn),
            epco=answer_options(request.epco, session, apn),
        )

    def _cause_of(self, request: message.CreateSessionRequest, session: Session) -> Cause:
        """Acceptance, with the reason why only one address of two is given (§8.4)."""
        if session.pdn_type is request.paa.pdn_type:
            return Cause.REQUEST_ACCEPTED
        if not request.indication.takes_both and PdnType.IPV4V6 in self._apn_of(session).pdn_types:
            return Cause.NEW_PDN_TYPE_DUE_TO_SINGLE_ADDRESS_BEARER_ONLY
        return Cause.NEW_PDN_TYPE_DUE_TO_NETWORK_PREFERENCE

    def _encode_release(self, context: Context, sequence: int) -> bytes:
        """Delete Bearer Request for the whole PDN connection (§7.2.9.2)."""
        return message.encode_delete_bearer_request(context.peer_teid, sequence, context.nsapi)

    def _encode_echo_request(self, sequence: int) -> bytes:
        return message.encode_echo_request(sequence, self._recovery)


def _ends(control: ie.FTeid | None, user: ie.FTeid | None, restart_counter: int | None) -> PeerEnds:
    return PeerEnds(
        teid_control=control.teid if control else None,
        control_address=control.address if control else None,
        teid_user=user.teid if user else None,
        user_address=user.address if user else None,
        restart_counter=restart_counter,
    )
