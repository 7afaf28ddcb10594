"""The GTPv2-C endpoint of a PGW on S5/S8, without I/O (TS 29.274)."""

from collections.abc import Mapping
from typing import ClassVar

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, PdnType, Session
from core.domain.values import replace
from core.errors import RemoteProtocolError
from gtp import values
from gtp.contexts import Context, ContextEvent
from gtp.endpoint import GtpEndpoint
from gtp.events import (
    Accepted,
    BearerEnds,
    BearersUnwanted,
    DeleteRequested,
    Done,
    Outcome,
    PeerEnds,
    QosChange,
    SessionRequested,
    SessionWish,
    UpdateRequested,
)
from gtp.initiated import Initiated, Procedure, Reply, Verdict
from gtp.pco import credentials
from gtp.pending import Asked, Pending
from gtp.transaction import Peer, RequestKey
from gtp.v2 import bearers, ie, message
from gtp.v2.cause import CAUSE_OF_REFUSAL, CAUSE_OF_RELEASE, Cause
from gtp.v2.header import SHORTEST_BYTES, VERSION, Header, decode_header, sequence_at
from gtp.v2.message import MessageType

RESPONSES: Mapping[int, MessageType] = {
    MessageType.CREATE_SESSION_REQUEST: MessageType.CREATE_SESSION_RESPONSE,
    MessageType.MODIFY_BEARER_REQUEST: MessageType.MODIFY_BEARER_RESPONSE,
    MessageType.DELETE_SESSION_REQUEST: MessageType.DELETE_SESSION_RESPONSE,
    MessageType.CHANGE_NOTIFICATION_REQUEST: MessageType.CHANGE_NOTIFICATION_RESPONSE,
    MessageType.SUSPEND_NOTIFICATION: MessageType.SUSPEND_ACKNOWLEDGE,
    MessageType.RESUME_NOTIFICATION: MessageType.RESUME_ACKNOWLEDGE,
    MessageType.MODIFY_BEARER_COMMAND: MessageType.MODIFY_BEARER_FAILURE_INDICATION,
    MessageType.DELETE_BEARER_COMMAND: MessageType.DELETE_BEARER_FAILURE_INDICATION,
    MessageType.BEARER_RESOURCE_COMMAND: MessageType.BEARER_RESOURCE_FAILURE_INDICATION,
    MessageType.DELETE_PDN_CONNECTION_SET_REQUEST: MessageType.DELETE_PDN_CONNECTION_SET_RESPONSE,
    MessageType.UPDATE_PDN_CONNECTION_SET_REQUEST: MessageType.UPDATE_PDN_CONNECTION_SET_RESPONSE,
    MessageType.PGW_RESTART_NOTIFICATION: MessageType.PGW_RESTART_NOTIFICATION_ACKNOWLEDGE,
}
"""The requests that are decided, and what answers them; of a command, what refuses it."""

ANSWERS = frozenset(
    {
        MessageType.CREATE_BEARER_RESPONSE,
        MessageType.UPDATE_BEARER_RESPONSE,
        MessageType.DELETE_BEARER_RESPONSE,
    }
)
"""What answers our own requests, beside Echo Responses."""

COMMANDS = frozenset(
    {
        MessageType.MODIFY_BEARER_COMMAND,
        MessageType.DELETE_BEARER_COMMAND,
        MessageType.BEARER_RESOURCE_COMMAND,
    }
)


class GtpV2Gateway(GtpEndpoint):
    """The machine of version 2."""

    ACCESS: ClassVar[Access] = Access.GTPV2
    HAS_BEARERS: ClassVar[bool] = True
    SEQUENCE_BITS: ClassVar[int] = 23
    """The topmost bit marks what a command set off (§7.6); nothing else of ours has it."""
    CAUSE: ClassVar[tuple[int, int]] = (ie.CAUSE, 16)
    CAUSES: ClassVar[Mapping[AttachRefusal, int]] = CAUSE_OF_REFUSAL

    def procedure_of(self, response_type: int) -> str:
        """By its name in §6.1, table 6.1-1."""
        return MessageType(response_type).name.lower().removesuffix("_response")

    def _receive(self, data: bytes, addr: Peer, now: float) -> None:
        if data and data[0] >> 5 != VERSION:
            self._reprove(data, addr, now)
            return
        header = decode_header(data)
        self._dispatch(header, addr, now)
        if header.following:  # one message may ride on another, not a chain of them (§5.5.1)
            self._dispatch(decode_header(header.following), addr, now)

    def _reprove(self, data: bytes, addr: Peer, now: float) -> None:
        """Version Not Supported Indication (§7.1.3), but rarely. Later versions begin as this one does."""
        self.dropped["version_not_supported"] += 1
        if len(data) >= SHORTEST_BYTES and self._peers.may_reprove(addr[0], now):
            at = sequence_at(data)
            sequence = int.from_bytes(data[at : at + 3], "big")
            self._outgoing.append((message.encode_version_not_supported(sequence), addr))

    def _dispatch(self, header: Header, addr: Peer, now: float) -> None:
        kind, recovery = header.message_type, message.decode_recovery(header.payload)
        if kind == MessageType.ECHO_REQUEST:
            self._outgoing.append((message.encode_echo_response(header.sequence, self._recovery), addr))
            self._hear(addr[0], recovery, now)
        elif kind == MessageType.ECHO_RESPONSE:
            self._take_response(kind, header.sequence, addr, now, Reply(Verdict.DONE, recovery))
        elif kind in ANSWERS:
            self._receive_answer(header, addr, now)
        elif kind not in RESPONSES:
            self.dropped["message_not_supported"] += 1
        elif header.teid is None:
            self.dropped["no_teid"] += 1
        else:
            self._receive_request(header, header.teid, addr, now)

    def _receive_answer(self, header: Header, addr: Peer, now: float) -> None:
        kind = header.message_type
        try:
            reply = bearers.decode_reply(kind, header.payload)
        except RemoteProtocolError:
            self.dropped["malformed_response"] += 1
            return
        self._take_response(kind, header.sequence, addr, now, reply)

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
                RESPONSES[header.message_type],
                self._peer_teid(header, teid, addr),
                header.sequence,
                cause,
                fault=error,
                repeated=_repeated(header.message_type, header.payload, cause),
            )
            self._respond(key, addr, response)

    def _begin(self, key: RequestKey, header: Header, teid: int, addr: Peer, now: float) -> None:
        """Decode a new request and hand it out; raises ``RemoteProtocolError`` with the cause to answer."""
        if not self._has_room(addr[0]):
            raise RemoteProtocolError("too many requests at once", cause=Cause.NO_RESOURCES_AVAILABLE)
        token = self._token()
        asked: Asked
        match header.message_type:
            case MessageType.CREATE_SESSION_REQUEST:
                asked = self._asked_create(token, addr, header)
            case MessageType.MODIFY_BEARER_REQUEST:
                asked = self._asked_modify(token, addr, header, teid)
            case MessageType.DELETE_SESSION_REQUEST:
                delete = message.decode_delete_session_request(header.payload)
                context = self._named(teid, addr, ContextEvent.DELETE_REQUESTED)
                asked = Asked(DeleteRequested(token, context.session_id), context.peer_teid, None, delete)
            case MessageType.CHANGE_NOTIFICATION_REQUEST:
                notification = message.decode_change_notification(header.payload)
                context = self._named(teid, addr, ContextEvent.UPDATE_REQUESTED)
                place, imei = notification.location, notification.imei
                update = UpdateRequested(token, context.session_id, location=place, imei=imei)
                asked = Asked(update, context.peer_teid, None, notification)
            case MessageType.SUSPEND_NOTIFICATION | MessageType.RESUME_NOTIFICATION:
                context = self._named(teid, addr, ContextEvent.UPDATE_REQUESTED)
                is_suspended = header.message_type == MessageType.SUSPEND_NOTIFICATION
                update = UpdateRequested(token, context.session_id, is_suspended=is_suspended)
                asked = Asked(update, context.peer_teid, None, message.Notification(is_suspended))
            case _:
                asked = self._asked_command(token, addr, header, teid)
        self._hand_out(token, key, addr, asked, now)

    def _asked_command(self, token: int, addr: Peer, header: Header, teid: int) -> Asked:
        """A command (§7.2.5, §7.2.14, §7.2.17), or what of restoration is not offered (§7.9)."""
        if header.message_type not in COMMANDS:
            raise RemoteProtocolError("no sets of PDN connections", cause=Cause.SERVICE_NOT_SUPPORTED)
        context = self._named(teid, addr, ContextEvent.UPDATE_REQUESTED)
        if header.message_type == MessageType.MODIFY_BEARER_COMMAND:
            modify = bearers.decode_modify_bearer_command(header.payload)
            if modify.ebi != context.nsapi:
                raise RemoteProtocolError("not the default bearer", cause=Cause.CONTEXT_NOT_FOUND)
            update = UpdateRequested(token, context.session_id, qos_change=modify.change)
            return Asked(update, context.peer_teid, None, modify)
        if header.message_type == MessageType.DELETE_BEARER_COMMAND:
            delete = bearers.decode_delete_bearer_command(header.payload)
            unwanted = BearersUnwanted(token, context.session_id, delete.ebis)
            return Asked(unwanted, context.peer_teid, None, delete)
        raise bearers.refuse_bearer_resource_command(header.payload)

    def _asked_create(self, token: int, addr: Peer, header: Header) -> Asked:
        create = message.decode_create_session_request(header.payload)
        if self._partner(addr).assume_dual_address_bearers:
            create = replace(create, indication=replace(create.indication, takes_both=True))
        wish = SessionWish(
            imsi=create.imsi,
            apn=create.apn,
            nsapi=create.ebi,
            ends=_ends(create.control, create.user, self._counter_of(addr, create.recovery)),
            imei=create.imei,
            msisdn=create.msisdn,
            location=create.location,
            address=create.paa.ipv4,
            prefix=values.asked_prefix(create.paa.ipv6),
            pdn_type=self._fitting(create),
            qos=create.qos,
            credentials=credentials(create.pco) or credentials(create.epco) or credentials(create.apco),
            is_low_priority=create.is_low_priority,
            is_handover=create.indication.is_handover,
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
        named = self._contexts.by_teid(teid)
        default_ebi = named.nsapi if named else 0
        user = next((user for ebi, user in modify.bearers if ebi == default_ebi), None)
        ends = _ends(modify.control, user, self._counter_of(addr, modify.recovery))
        is_ours = named is not None and self._may_move(addr[0], named, ends)
        context = self._demand(named if is_ours else None, ContextEvent.UPDATE_REQUESTED)
        modify = replace(modify, is_from_sgsn=context.access is not self.ACCESS)
        event = UpdateRequested(
            token,
            context.session_id,
            ends,
            modify.location,
            qos_change=QosChange(ambr_kbps=modify.ambr_kbps) if modify.ambr_kbps else None,
            bearers=tuple(
                BearerEnds(ebi, user.teid, user.address)
                for ebi, user in modify.bearers
                if user is not None and ebi != context.nsapi
            ),
            removed=modify.removed,
            is_suspended=False,  # whoever moves is back (TS 23.272 §6.5)
            imei=modify.imei,
            is_taken_over=not self._speaks_for(addr[0], context),
        )
        peer_teid = modify.control.teid if modify.control else context.peer_teid
        return Asked(event, peer_teid, modify.recovery, modify)

    def _named(self, teid: int, addr: Peer, event: ContextEvent) -> Context:
        """The context that this TEID names, if this peer may speak of it; raises ``RemoteProtocolError``."""
        context = self._contexts.by_teid(teid)
        return self._demand(context if context and self._speaks_for(addr[0], context) else None, event)

    def _demand(self, context: Context | None, event: ContextEvent) -> Context:
        """The context taken through an event; raises ``RemoteProtocolError`` where that may not be."""
        if context is None or not self._step(context, event):
            raise RemoteProtocolError("no such context", cause=Cause.CONTEXT_NOT_FOUND)
        return context

    def _peer_teid(self, header: Header, teid: int, addr: Peer) -> int:
        """For a refusal: the peer's control TEID where it can be known, else 0 (§5.5.2), as to a stranger."""
        if header.message_type == MessageType.CREATE_SESSION_REQUEST:
            return message.peek_control_teid(header.payload)
        context = self._contexts.by_teid(teid)
        return context.peer_teid if context and self._speaks_for(addr[0], context) else 0

    # -- answers --------------------------------------------------------------------------------------

    def _tell(self, pending: Pending, outcome: Outcome, now: float) -> None:
        """A command is answered by a request of ours with its own number, which is repeated (§7.6)."""
        super()._tell(pending, outcome, now)
        command = isinstance(pending.asked.wire, bearers.ModifyBearerCommand | bearers.DeleteBearerCommand)
        if command and isinstance(outcome, Accepted):
            data, peer = self._outgoing[-1]
            session = outcome.session

            def encode(sequence: int) -> bytes:
                """Put off, it is asked of whoever has the session by then, by that peer's TEID."""
                context = self._contexts.by_session(session.session_id)
                asked = replace(pending.asked, peer_teid=context.peer_teid if context else 0)
                return self._encode_accepted(replace(pending, sequence=sequence, asked=asked), session)

            commanded = Initiated(Procedure.COMMANDED, session.session_id, address=peer[0], encode=encode)
            self._requests.begin(pending.sequence, data, peer, commanded, now)

    def _encode_answer(self, pending: Pending, outcome: Outcome) -> bytes:
        teid, sequence = pending.asked.peer_teid, pending.sequence
        if isinstance(outcome, Accepted):
            return self._encode_accepted(pending, outcome.session)
        if isinstance(outcome, Done):
            return message.encode_delete_session_response(teid, sequence, self._recovery)
        cause, wire = self._causes[outcome.reason], pending.asked.wire
        repeated = wire.imsi if isinstance(wire, message.ChangeNotification) else b""
        back_off = self._back_off(pending, outcome.reason)
        if back_off and cause == Cause.APN_CONGESTION:
            repeated = ie.encode_element(ie.EPC_TIMER, back_off)
        if isinstance(wire, bearers.DeleteBearerCommand):
            repeated = bearers.refused_bearers(wire.ebis, cause)
        response_type = RESPONSES[pending.message_type]
        return message.encode_cause_response(response_type, teid, sequence, cause, repeated=repeated)

    def _encode_accepted(self, pending: Pending, session: Session) -> bytes:
        teid, sequence, wire = pending.asked.peer_teid, pending.sequence, pending.asked.wire
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        match wire:
            case message.CreateSessionRequest():
                created = self._created(wire, session, pending.peer)
                return message.encode_create_session_response(teid, sequence, wire, created)
            case message.ModifyBearerRequest():
                charging = {tunnel.nsapi: tunnel.charging_id}
                charging |= {bearer.ebi: bearer.charging_id for bearer in session.dedicated}
                return message.encode_modify_bearer_response(
                    tunnel.peer_teid_control,
                    sequence,
                    recovery=self._recovery,
                    bearers={ebi: charging.get(ebi) for ebi, _ in wire.bearers},
                    msisdn=session.msisdn,
                    removed=wire.removed,
                    linked_ebi=tunnel.nsapi if wire.is_from_sgsn else None,
                )
            case bearers.ModifyBearerCommand():
                return bearers.encode_update_bearer_request(teid, sequence, wire.ebi, session.qos)
            case bearers.DeleteBearerCommand():
                return bearers.encode_delete_dedicated_request(teid, sequence, wire.ebis)
        repeated = wire.imsi if isinstance(wire, message.ChangeNotification) else b""
        response_type = RESPONSES[pending.message_type]
        return message.encode_cause_response(
            response_type, teid, sequence, Cause.REQUEST_ACCEPTED, repeated=repeated
        )

    def _created(
        self, request: message.CreateSessionRequest, session: Session, peer: Peer
    ) -> message.Created:
        tunnel = session.tunnel
        assert tunnel is not None, "a GTP session has a tunnel"
        prefix = session.ue_prefix
        return message.Created(
            cause=self._cause_of(request, session),
            control=ie.FTeid(ie.S5_S8_PGW_GTP_C, tunnel.local_teid_control, self._address),
            user=ie.FTeid(ie.S5_S8_PGW_GTP_U, tunnel.local_teid_user, self._user_address),
            paa=ie.Paa(
                session.pdn_type,
                session.ue_address,
                prefix.network_address + session.interface_identifier if prefix else None,
            ),
            qos=session.qos,
            charging_id=tunnel.charging_id,
            recovery=self._recovery,
            pco=self._options(request.pco, session, peer),
            apco=self._options(request.apco, session, peer),
            epco=self._options(request.epco, session, peer),
        )

    def _cause_of(self, request: message.CreateSessionRequest, session: Session) -> Cause:
        """Acceptance, with the reason why only one address of two is given (§8.4)."""
        if session.pdn_type is request.paa.pdn_type:
            return Cause.REQUEST_ACCEPTED
        if not request.indication.takes_both and PdnType.IPV4V6 in self._apn_of(session).pdn_types:
            return Cause.NEW_PDN_TYPE_DUE_TO_SINGLE_ADDRESS_BEARER_ONLY
        return Cause.NEW_PDN_TYPE_DUE_TO_NETWORK_PREFERENCE

    # -- what we ask ----------------------------------------------------------------------------------

    def _encode_release(self, context: Context, sequence: int, reason: CloseReason) -> bytes:
        """Delete Bearer Request for the whole PDN connection (§7.2.9.2)."""
        cause = CAUSE_OF_RELEASE.get(reason)
        return bearers.encode_delete_bearer_request(context.peer_teid, sequence, context.nsapi, cause)

    def _encode_change(self, context: Context, session: Session, sequence: int) -> bytes:
        """Update Bearer Request (§7.2.15)."""
        return bearers.encode_update_bearer_request(context.peer_teid, sequence, context.nsapi, session.qos)

    def _encode_bearer_added(self, context: Context, bearer: DedicatedBearer, sequence: int) -> bytes:
        """Create Bearer Request (§7.2.3)."""
        user = ie.FTeid(ie.S5_S8_PGW_GTP_U, bearer.local_teid_user, self._user_address)
        return bearers.encode_create_bearer_request(context.peer_teid, sequence, context.nsapi, bearer, user)

    def _encode_bearer_changed(
        self, context: Context, session: Session, bearer: DedicatedBearer, sequence: int
    ) -> bytes:
        """Update Bearer Request (§7.2.15) for it alone."""
        return bearers.encode_update_dedicated_request(context.peer_teid, sequence, bearer, session.qos)

    def _encode_bearer_removed(self, context: Context, ebi: int, sequence: int) -> bytes:
        """Delete Bearer Request for it alone (§7.2.9.2)."""
        return bearers.encode_delete_dedicated_request(context.peer_teid, sequence, (ebi,))

    def _encode_echo_request(self, sequence: int) -> bytes:
        return message.encode_echo_request(sequence, self._recovery)


def _repeated(message_type: int, payload: bytes, cause: int) -> bytes:
    if message_type == MessageType.CHANGE_NOTIFICATION_REQUEST:
        return message.peek_imsi_element(payload)
    return bearers.told_again(message_type, payload, cause) if message_type in COMMANDS else b""


def _ends(control: ie.FTeid | None, user: ie.FTeid | None, restart_counter: int | None) -> PeerEnds:
    return PeerEnds(
        teid_control=control.teid if control else None,
        control_address=control.address if control else None,
        teid_user=user.teid if user else None,
        user_address=user.address if user else None,
        restart_counter=restart_counter,
    )
