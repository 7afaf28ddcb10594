"""GTPv2-C of a PGW on S5/S8 as a wire (TS 29.274)."""

from collections.abc import Mapping
from typing import final

from core.domain.session import Access, CloseReason, PdnType, Qos
from core.errors import RemoteProtocolError
from gtp import values
from gtp.pco import answer_options
from gtp.v2 import bearers, ie, message
from gtp.v2.cause import CAUSE_OF_REFUSAL, CAUSE_OF_RELEASE, Cause
from gtp.v2.header import SHORTEST_BYTES, VERSION, Header, decode_header, sequence_at
from gtp.v2.message import ANSWERS, RESPONSES, MessageType
from gtp.v2.request import CreateOptions, ModifiedBearers, NamedImsi, decode_request
from gtp.wire import (
    AcceptedRequest,
    CauseTable,
    DecodedRequest,
    DeleteBearersParams,
    Discarded,
    EchoRequest,
    EncodedRequest,
    GatewayEnd,
    Malformed,
    Message,
    PdnTypeChange,
    Reply,
    Response,
    Verdict,
)

_CAUSES = CauseTable(
    of_refusal=CAUSE_OF_REFUSAL,
    no_resources=Cause.NO_RESOURCES_AVAILABLE,
    malformed=Cause.INVALID_MESSAGE_FORMAT,
    element=ie.CAUSE,
    value_at=16,
)
_ACCEPTING: Mapping[PdnTypeChange | None, Cause] = {
    None: Cause.REQUEST_ACCEPTED,
    PdnTypeChange.NETWORK_PREFERENCE: Cause.NEW_PDN_TYPE_DUE_TO_NETWORK_PREFERENCE,
    PdnTypeChange.SINGLE_ADDRESS_BEARER_ONLY: Cause.NEW_PDN_TYPE_DUE_TO_SINGLE_ADDRESS_BEARER_ONLY,
}


@final
class V2Wire:
    """Version 2; see ``gtp.wire.Wire``."""

    access = Access.GTPV2
    version = VERSION
    sequence_bits = 23
    """The topmost bit marks what a command set off (§7.6); nothing else of ours has it."""
    dual_only_pdn_type = PdnType.IPV4
    causes = _CAUSES
    bearers = bearers.V2Bearers()

    def procedure_of(self, response_type: int) -> str:
        """By its name in §6.1, table 6.1-1."""
        return MessageType(response_type).name.lower().removesuffix("_response")

    # -- decoding -------------------------------------------------------------------------------------

    def decode(self, data: bytes) -> tuple[Message, ...]:
        """One message, or two: one may ride on another, not a chain of them (§5.5.1)."""
        if data and data[0] >> 5 != VERSION:
            return (_other_version(data),)
        try:
            header = decode_header(data)
        except RemoteProtocolError:
            return (Malformed(),)
        if not header.following:
            return (_message(header),)
        try:
            return _message(header), _message(decode_header(header.following))
        except RemoteProtocolError:
            return _message(header), Malformed()

    def decode_request(self, request: EncodedRequest) -> DecodedRequest | RemoteProtocolError:
        """As ``Wire``."""
        try:
            return decode_request(request)
        except RemoteProtocolError as fault:
            return fault

    def peek_control_teid(self, request: EncodedRequest) -> int:
        """As ``Wire``: of a Create Session Request alone; else 0, as to a stranger (§5.5.2)."""
        is_create = request.message_type == MessageType.CREATE_SESSION_REQUEST
        return message.peek_control_teid(request.payload) if is_create else 0

    # -- answers --------------------------------------------------------------------------------------

    def encode_accepted(
        self, request: DecodedRequest, accepted: AcceptedRequest, peer_teid: int, sequence: int
    ) -> bytes:
        """As ``Wire``; a command is answered by the request for what it wants (§7.2.14, §7.2.17)."""
        if request.is_command:
            return _commanded(request, accepted, peer_teid, sequence)
        repeated = request.repeated
        if isinstance(repeated, CreateOptions):
            created = _created(repeated, accepted)
            return message.encode_create_session_response(peer_teid, sequence, repeated.ebi, created)
        if isinstance(repeated, ModifiedBearers):
            return _modified(repeated, accepted, peer_teid, sequence)
        return message.encode_cause_response(
            MessageType(request.response_type),
            peer_teid,
            sequence,
            Cause.REQUEST_ACCEPTED,
            repeated=repeated.element if isinstance(repeated, NamedImsi) else b"",
        )

    def encode_deleted(
        self, request: DecodedRequest, gateway: GatewayEnd, peer_teid: int, sequence: int
    ) -> bytes:
        """Delete Session Response (§7.2.10.1)."""
        return message.encode_delete_session_response(peer_teid, sequence, gateway.recovery)

    def encode_refused(
        self,
        request: EncodedRequest,
        peer_teid: int,
        cause: int,
        *,
        fault: RemoteProtocolError | None = None,
        back_off_s: float = 0.0,
    ) -> bytes:
        """As ``Wire``, with what a refusal repeats of its request."""
        repeated = bearers.elements_to_repeat(request.message_type, request.payload, cause)
        if back_off_s and cause == Cause.APN_CONGESTION:
            repeated = ie.encode_element(ie.EPC_TIMER, values.encode_back_off(back_off_s))
        return message.encode_cause_response(
            RESPONSES[request.message_type],
            peer_teid,
            request.sequence,
            cause,
            fault=fault,
            repeated=repeated,
        )

    # -- what we ask ----------------------------------------------------------------------------------

    def encode_echo_request(self, sequence: int, recovery: int) -> bytes:
        """§7.1.1."""
        return message.encode_echo_request(sequence, recovery)

    def encode_echo_response(self, sequence: int, recovery: int) -> bytes:
        """§7.1.2."""
        return message.encode_echo_response(sequence, recovery)

    def encode_release(self, peer_teid: int, sequence: int, nsapi: int, reason: CloseReason) -> bytes:
        """Delete Bearer Request for the whole PDN connection (§7.2.9.2)."""
        return bearers.encode_delete_bearer_request(peer_teid, sequence, nsapi, CAUSE_OF_RELEASE.get(reason))

    def encode_change(self, peer_teid: int, sequence: int, nsapi: int, qos: Qos) -> bytes:
        """Update Bearer Request (§7.2.15)."""
        return bearers.encode_update_bearer_request(peer_teid, sequence, nsapi, qos)


def _other_version(data: bytes) -> Discarded:
    """Version Not Supported Indication (§7.1.3). Later versions begin as this one does."""
    if len(data) < SHORTEST_BYTES:
        return Discarded("version_not_supported")
    at = sequence_at(data)
    sequence = int.from_bytes(data[at : at + 3], "big")
    return Discarded("version_not_supported", message.encode_version_not_supported(sequence))


def _message(header: Header) -> Message:
    kind, payload = header.message_type, header.payload
    if kind in RESPONSES:
        if header.teid is None:
            return Discarded("no_teid")
        is_create = kind == MessageType.CREATE_SESSION_REQUEST  # it is addressed to no context
        return EncodedRequest(kind, header.sequence, 0 if is_create else header.teid, payload)
    if kind == MessageType.ECHO_REQUEST:
        return EchoRequest(header.sequence, message.decode_recovery(payload))
    if kind == MessageType.ECHO_RESPONSE:
        reply = Reply(Verdict.DONE, message.decode_recovery(payload))
        return Response(kind, header.sequence, reply)
    return _response(header) if kind in ANSWERS else Discarded("message_not_supported")


def _response(header: Header) -> Message:
    kind = header.message_type
    try:
        return Response(kind, header.sequence, bearers.decode_reply(kind, header.payload))
    except RemoteProtocolError:
        return Discarded("malformed_response")


def _created(options: CreateOptions, accepted: AcceptedRequest) -> message.Created:
    session, gateway, apn = accepted.session, accepted.gateway, accepted.apn
    tunnel, prefix, ipcp_ack = session.tunnel, session.ue_prefix, accepted.ipcp_ack
    assert tunnel is not None, "a GTP session has a tunnel"
    return message.Created(
        cause=_ACCEPTING[accepted.pdn_type_change],
        control=ie.FTeid(ie.S5_S8_PGW_GTP_C, tunnel.local_teid_control, gateway.address),
        user=ie.FTeid(ie.S5_S8_PGW_GTP_U, tunnel.local_teid_user, gateway.user_address),
        paa=ie.Paa(
            session.pdn_type,
            session.ue_address,
            prefix.network_address + session.interface_identifier if prefix else None,
        ),
        qos=session.qos,
        charging_id=tunnel.charging_id,
        recovery=gateway.recovery,
        pco=answer_options(options.pco, session, apn, ipcp_ack=ipcp_ack) if options.pco else b"",
        apco=answer_options(options.apco, session, apn, ipcp_ack=ipcp_ack) if options.apco else b"",
        epco=answer_options(options.epco, session, apn, ipcp_ack=ipcp_ack) if options.epco else b"",
    )


def _modified(asked: ModifiedBearers, accepted: AcceptedRequest, peer_teid: int, sequence: int) -> bytes:
    session, tunnel = accepted.session, accepted.session.tunnel
    assert tunnel is not None, "a GTP session has a tunnel"
    charging = {tunnel.nsapi: tunnel.charging_id}
    charging |= {bearer.ebi: bearer.charging_id for bearer in session.dedicated}
    return message.encode_modify_bearer_response(
        peer_teid,
        sequence,
        recovery=accepted.gateway.recovery,
        bearers={ebi: charging.get(ebi) for ebi in asked.ebis},
        msisdn=session.msisdn,
        removed=asked.removed,
        linked_ebi=tunnel.nsapi if accepted.is_newcomer else None,
    )


def _commanded(request: DecodedRequest, accepted: AcceptedRequest, peer_teid: int, sequence: int) -> bytes:
    if isinstance(request.body, DeleteBearersParams):
        return bearers.encode_delete_dedicated_request(peer_teid, sequence, request.body.ebis)
    tunnel = accepted.session.tunnel
    assert tunnel is not None, "a GTP session has a tunnel"
    qos = accepted.session.qos
    return bearers.encode_update_bearer_request(peer_teid, sequence, tunnel.nsapi, qos)
