"""The GTPv1-C endpoint of a GGSN, without I/O (TS 29.060)."""

from collections.abc import Mapping
from typing import ClassVar

from msgspec import Struct

from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, PdnType, Session
from core.domain.values import replace
from core.errors import RemoteProtocolError
from gtp import values
from gtp.contexts import Context, ContextEvent
from gtp.endpoint import GtpEndpoint
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
from gtp.pco import credentials
from gtp.pending import Asked, Pending
from gtp.transaction import Peer, RequestKey
from gtp.v1 import ie, message
from gtp.v1.cause import CAUSE_OF_REFUSAL, CAUSE_OF_RELEASE, Cause
from gtp.v1.header import FLAG_PT, Header, decode_header, version_of
from gtp.v1.ie import TEID_CONTROL, EndUserAddress
from gtp.v1.message import MessageType

RESPONSES: Mapping[int, MessageType] = {
    MessageType.CREATE_PDP_CONTEXT_REQUEST: MessageType.CREATE_PDP_CONTEXT_RESPONSE,
    MessageType.UPDATE_PDP_CONTEXT_REQUEST: MessageType.UPDATE_PDP_CONTEXT_RESPONSE,
    MessageType.DELETE_PDP_CONTEXT_REQUEST: MessageType.DELETE_PDP_CONTEXT_RESPONSE,
    MessageType.MS_INFO_CHANGE_NOTIFICATION_REQUEST: MessageType.MS_INFO_CHANGE_NOTIFICATION_RESPONSE,
}
"""The requests that are decided, and what answers them."""
MS_INFO_CHANGE_REPORTING_SUPPORT = 0x02
"""The one extension header that is understood: the SGSN can tell changes of the cell (TS 29.060 §6.1.4)."""
COMPREHENSION_REQUIRED = 0x80
"""Set in the type of an extension header that its receiver must understand (§6.1.1)."""


class _Wire(Struct, frozen=True):
    """A request that its session answers, and the header that it came with."""

    request: message.CreateRequest | message.UpdateRequest | message.NotificationRequest
    header: Header


ANSWERS = frozenset(
    {
        MessageType.ECHO_RESPONSE,
        MessageType.UPDATE_PDP_CONTEXT_RESPONSE,
        MessageType.DELETE_PDP_CONTEXT_RESPONSE,
    }
)
"""What answers our own requests."""
_VERDICTS: Mapping[int, Verdict] = {
    Cause.NON_EXISTENT: Verdict.UNKNOWN,
    Cause.CONTEXT_NOT_FOUND: Verdict.UNKNOWN,
    Cause.UE_IS_TEMPORARILY_NOT_REACHABLE_DUE_TO_POWER_SAVING: Verdict.ASLEEP,
}


class GtpV1Gateway(GtpEndpoint):
    """The machine of version 1."""

    ACCESS: ClassVar[Access] = Access.GTPV1
    SEQUENCE_BITS: ClassVar[int] = 16
    CAUSE: ClassVar[tuple[int, int]] = (ie.CAUSE, 13)
    CAUSES: ClassVar[Mapping[AttachRefusal, int]] = CAUSE_OF_REFUSAL

    def procedure_of(self, response_type: int) -> str:
        """By its name in §7.1, table 1."""
        return MessageType(response_type).name.lower().removesuffix("_response")

    def _receive(self, data: bytes, addr: Peer, now: float) -> None:
        if version_of(data) != 1:
            self._reprove(data, addr, now)
            return
        header = decode_header(data)
        is_understood = _is_understood(header)
        if not is_understood:
            self._tell_extension_headers(addr, now)
        if header.sequence is None:
            self.dropped["no_sequence_number"] += 1
        elif header.message_type in RESPONSES:
            self._receive_request(header, header.sequence, addr, now)
        elif not is_understood:
            self.dropped["unknown_extension_header"] += 1
        elif header.message_type == MessageType.ECHO_REQUEST:
            self._outgoing.append((message.encode_echo_response(header.sequence, self._recovery), addr))
            self._hear(addr[0], message.decode_recovery(header.payload), now)
        elif header.message_type in ANSWERS:
            self._receive_response(header, header.sequence, addr, now)
        else:
            self.dropped["message_not_supported"] += 1

    def _reprove(self, data: bytes, addr: Peer, now: float) -> None:
        """Version Not Supported (§7.2.3), but never in answer to one or to GTP', and rarely."""
        self.dropped["version_not_supported"] += 1
        is_charging = not data[0] & FLAG_PT and data[0] >> 5 == 0
        is_reproof = data[1] == MessageType.VERSION_NOT_SUPPORTED
        if is_charging or is_reproof or not self._peers.may_reprove(addr[0], now):
            return
        at = 4 if data[0] >> 5 == 0 else 8  # a header of version 0 has no TEID before its sequence number
        sequence = int.from_bytes(data[at : at + 2], "big") if len(data) >= at + 2 else 0
        self._outgoing.append((message.encode_version_not_supported(sequence), addr))

    def _tell_extension_headers(self, addr: Peer, now: float) -> None:
        """Supported Extension Headers Notification (§7.2.4), rarely."""
        if self._peers.may_reprove(addr[0], now):
            supported = bytes((MS_INFO_CHANGE_REPORTING_SUPPORT,))
            self._outgoing.append((message.encode_supported_extension_headers(supported), addr))

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
        if not _is_understood(header):
            raise RemoteProtocolError("extension header", cause=Cause.UNKNOWN_MANDATORY_EXTENSION_HEADER)
        if not self._has_room(addr[0]):
            raise RemoteProtocolError("too many requests at once", cause=Cause.NO_RESOURCES_AVAILABLE)
        token = self._token()
        if header.message_type == MessageType.CREATE_PDP_CONTEXT_REQUEST:
            asked = self._asked_create(token, addr, header)
        elif header.message_type == MessageType.UPDATE_PDP_CONTEXT_REQUEST:
            asked = self._asked_update(token, addr, header)
        elif header.message_type == MessageType.MS_INFO_CHANGE_NOTIFICATION_REQUEST:
            asked = self._asked_notification(token, addr, header)
        else:
            asked = self._asked_delete(token, addr, header)
        self._hand_out(token, key, addr, asked, now)

    def _asked_create(self, token: int, addr: Peer, header: Header) -> Asked:
        try:
            create = message.decode_create_request(header.payload)
        except message.SecondaryActivation:
            if self._known(header, addr) is None:
                raise RemoteProtocolError("no primary context", cause=Cause.CONTEXT_NOT_FOUND) from None
            raise
        if self._partner(addr).assume_dual_address_bearers:
            create = replace(create, has_dual_address_bearers=True)
        address = create.end_user_address
        if address.pdn_type is None:
            raise RemoteProtocolError("PDP type", cause=Cause.UNKNOWN_PDP_ADDRESS_OR_PDP_TYPE)
        wish = SessionWish(
            imsi=create.imsi,
            apn=create.apn,
            nsapi=create.nsapi,
            ends=PeerEnds(
                create.teid_control,
                create.control_address,
                create.teid_data,
                create.user_address,
                self._counter_of(addr, create.recovery),
            ),
            imei=create.imei,
            msisdn=create.msisdn,
            location=create.location,
            address=address.ipv4,
            prefix=values.asked_prefix(address.ipv6),
            pdn_type=self._of_one_bearer(create) or address.pdn_type,
            qos=create.asked.meaning,
            credentials=credentials(create.pco),
            is_low_priority=create.is_low_priority,
        )
        event = SessionRequested(token, addr[0], wish)
        return Asked(event, create.teid_control, create.recovery, _Wire(create, header))

    def _of_one_bearer(self, create: message.CreateRequest) -> PdnType | None:
        """The one family of a device that asks for both through an SGSN whose bearers carry one (§7.3.2)."""
        is_both = create.end_user_address.pdn_type is PdnType.IPV4V6
        apn = self._apns.get(create.apn)
        if not is_both or create.has_dual_address_bearers or apn is None:
            return None
        return next((one for one in (PdnType.IPV4, PdnType.IPV6) if apn.grant(one) is one), None)

    def _asked_update(self, token: int, addr: Peer, header: Header) -> Asked:
        update = message.decode_update_request(header.payload)
        ends = PeerEnds(
            update.teid_control,
            update.control_address,
            update.teid_data,
            update.user_address,
            self._counter_of(addr, update.recovery),
        )
        context = self._contexts.by_teid(header.teid)
        if context is not None and not self._may_move(addr[0], context, ends):
            context = None
        context = self._demand(context, ContextEvent.UPDATE_REQUESTED, update.nsapi)
        if update.teid_control is None and context.access is not self.ACCESS:
            raise RemoteProtocolError(  # it comes from an SGW, whose TEID is nothing to an SGSN
                "control TEID of a new peer", cause=Cause.MANDATORY_IE_MISSING, offending=TEID_CONTROL
            )
        event = UpdateRequested(
            token,
            context.session_id,
            ends,
            update.location,
            update.asked.meaning,
            imei=update.imei,
            is_taken_over=not self._speaks_for(addr[0], context),
        )
        return Asked(event, update.teid_control or context.peer_teid, update.recovery, _Wire(update, header))

    def _asked_notification(self, token: int, addr: Peer, header: Header) -> Asked:
        notification = message.decode_notification_request(header.payload)
        known = self._known(header, addr)
        if known is not None and known.access is not self.ACCESS:
            raise RemoteProtocolError("it is an SGW's now", cause=Cause.NON_EXISTENT)
        context = self._named(header, addr, ContextEvent.UPDATE_REQUESTED, notification.nsapi)
        event = UpdateRequested(
            token, context.session_id, location=notification.location, imei=notification.imei
        )
        return Asked(event, context.peer_teid, None, _Wire(notification, header))

    def _asked_delete(self, token: int, addr: Peer, header: Header) -> Asked:
        delete = message.decode_delete_request(header.payload)
        nsapi = None if delete.teardown else delete.nsapi
        context = self._named(header, addr, ContextEvent.DELETE_REQUESTED, nsapi)
        return Asked(DeleteRequested(token, context.session_id), context.peer_teid, None, delete)

    def _known(self, header: Header, addr: Peer) -> Context | None:
        """The context that a request names, if this peer may speak of it."""
        context = self._contexts.by_teid(header.teid)
        return context if context is not None and self._speaks_for(addr[0], context) else None

    def _named(self, header: Header, addr: Peer, event: ContextEvent, nsapi: int | None) -> Context:
        """``nsapi`` is the context's own, where the request must name it."""
        return self._demand(self._known(header, addr), event, nsapi)

    def _demand(self, context: Context | None, event: ContextEvent, nsapi: int | None) -> Context:
        """The context taken through an event; raises ``RemoteProtocolError`` where that may not be."""
        if context is None or nsapi not in (None, context.nsapi) or not self._step(context, event):
            raise RemoteProtocolError("no such context", cause=Cause.NON_EXISTENT)
        return context

    def _peer_teid(self, header: Header, addr: Peer) -> int:
        """The peer's control TEID for a refusal, where it can be known, so that it can be matched."""
        if context := self._known(header, addr):
            return context.peer_teid
        if header.message_type != MessageType.CREATE_PDP_CONTEXT_REQUEST:
            return 0
        return message.peek_control_teid(header.payload)

    # -- answers --------------------------------------------------------------------------------------

    def _encode_answer(self, pending: Pending, outcome: Outcome) -> bytes:
        wire = pending.asked.wire
        if isinstance(outcome, Accepted) and isinstance(wire, _Wire):
            return self._encode_accepted(pending, wire, outcome.session)
        cause, back_off = int(Cause.REQUEST_ACCEPTED), b""
        if isinstance(outcome, Rejected):
            cause, back_off = self._causes[outcome.reason], self._back_off(pending, outcome.reason)
        return message.encode_cause_response(
            RESPONSES[pending.message_type],
            pending.asked.peer_teid,
            pending.sequence,
            cause,
            back_off=back_off if cause == Cause.APN_CONGESTION else b"",
        )

    def _encode_accepted(self, pending: Pending, wire: _Wire, session: Session) -> bytes:
        tunnel, request, sequence = session.tunnel, wire.request, pending.sequence
        assert tunnel is not None, "a GTP session has a tunnel"
        if isinstance(request, message.NotificationRequest):
            return message.encode_notification_response(tunnel.peer_teid_control, sequence, request)
        granted = message.Granted(
            recovery=self._recovery,
            teid_control=tunnel.local_teid_control,
            teid_data=tunnel.local_teid_user,
            charging_id=tunnel.charging_id,
            control_address=self._address,
            user_address=self._user_address,
            qos=request.asked.granted(session.qos),
            pco=self._options(request.pco, session, pending.peer),
            reports_changes=MS_INFO_CHANGE_REPORTING_SUPPORT in wire.header.extensions,
        )
        if isinstance(request, message.UpdateRequest):
            return message.encode_update_response(tunnel.peer_teid_control, sequence, granted)
        cause = self._accepting_cause(request, session)
        address = _end_user_address(session)
        return message.encode_create_response(tunnel.peer_teid_control, sequence, cause, granted, address)

    def _accepting_cause(self, request: message.CreateRequest, session: Session) -> Cause:
        if session.pdn_type is request.end_user_address.pdn_type:
            return Cause.REQUEST_ACCEPTED
        if not request.has_dual_address_bearers and PdnType.IPV4V6 in self._apn_of(session).pdn_types:
            return Cause.NEW_PDP_TYPE_DUE_TO_SINGLE_ADDRESS_BEARER_ONLY
        return Cause.NEW_PDP_TYPE_DUE_TO_NETWORK_PREFERENCE

    def _encode_release(self, context: Context, sequence: int, reason: CloseReason) -> bytes:
        """Delete PDP Context Request (§7.3.5)."""
        return message.encode_delete_request(
            peer_teid=context.peer_teid,
            sequence=sequence,
            nsapi=context.nsapi,
            cause=CAUSE_OF_RELEASE.get(reason),
        )

    def _encode_change(self, context: Context, session: Session, sequence: int) -> bytes:
        """Update PDP Context Request of a GGSN (§7.3.3)."""
        return message.encode_update_request(
            peer_teid=context.peer_teid, sequence=sequence, nsapi=context.nsapi, granted=session.qos
        )

    def _encode_echo_request(self, sequence: int) -> bytes:
        return message.encode_echo_request(sequence)

    def _receive_response(self, header: Header, sequence: int, addr: Peer, now: float) -> None:
        try:
            response = message.decode_response(MessageType(header.message_type), header.payload)
        except RemoteProtocolError:
            self.dropped["malformed_response"] += 1
            return
        verdict = Verdict.DONE
        if response.cause >= Cause.NON_EXISTENT:
            verdict = _VERDICTS.get(response.cause, Verdict.REFUSED)
        self._take_response(header.message_type, sequence, addr, now, Reply(verdict, response.recovery))


def _is_understood(header: Header) -> bool:
    return not any(
        type_ & COMPREHENSION_REQUIRED and type_ != MS_INFO_CHANGE_REPORTING_SUPPORT
        for type_ in header.extensions
    )


def _end_user_address(session: Session) -> EndUserAddress:
    prefix = session.ue_prefix
    return EndUserAddress(
        session.pdn_type,
        None if session.pdn_type is PdnType.IPV6 else session.ue_address,
        prefix.network_address + session.interface_identifier if prefix else None,
    )
