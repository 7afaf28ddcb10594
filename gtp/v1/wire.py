"""GTPv1-C of a GGSN as a wire (TS 29.060)."""

from collections.abc import Mapping
from typing import final

from core.domain.session import Access, CloseReason, PdnType, Qos, Session
from core.errors import RemoteProtocolError
from gtp import values
from gtp.pco import answer_options
from gtp.v1 import ie, message
from gtp.v1.cause import CAUSE_OF_REFUSAL, CAUSE_OF_RELEASE, Cause
from gtp.v1.header import FLAG_PT, HEADER_BYTES, Header, decode_header
from gtp.v1.ie import EndUserAddress
from gtp.v1.message import ANSWERS, RESPONSES, MessageType
from gtp.v1.request import MS_INFO_CHANGE_REPORTING_SUPPORT, Asked, Named, decode_request, is_understood
from gtp.wire import (
    AcceptedRequest,
    CauseTable,
    CreateSessionParams,
    DecodedRequest,
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

VERSION = 1
_NOTICE = message.encode_supported_extension_headers(bytes((MS_INFO_CHANGE_REPORTING_SUPPORT,)))
"""What answers an extension header that should be understood (§7.2.4)."""
_CAUSES = CauseTable(
    of_refusal=CAUSE_OF_REFUSAL,
    no_resources=Cause.NO_RESOURCES_AVAILABLE,
    malformed=Cause.INVALID_MESSAGE_FORMAT,
    element=ie.CAUSE,
    value_at=13,
)
_VERDICTS: Mapping[int, Verdict] = {
    Cause.NON_EXISTENT: Verdict.UNKNOWN,
    Cause.CONTEXT_NOT_FOUND: Verdict.UNKNOWN,
    Cause.UE_IS_TEMPORARILY_NOT_REACHABLE_DUE_TO_POWER_SAVING: Verdict.ASLEEP,
}
_ACCEPTING: Mapping[PdnTypeChange | None, Cause] = {
    None: Cause.REQUEST_ACCEPTED,
    PdnTypeChange.NETWORK_PREFERENCE: Cause.NEW_PDP_TYPE_DUE_TO_NETWORK_PREFERENCE,
    PdnTypeChange.SINGLE_ADDRESS_BEARER_ONLY: Cause.NEW_PDP_TYPE_DUE_TO_SINGLE_ADDRESS_BEARER_ONLY,
}


@final
class V1Wire:
    """Version 1; see ``gtp.wire.Wire``."""

    access = Access.GTPV1
    version = VERSION
    sequence_bits = 16
    dual_only_pdn_type = PdnType.IPV4V6
    causes = _CAUSES
    bearers = None

    def procedure_of(self, response_type: int) -> str:
        """By its name in §7.1, table 1."""
        return MessageType(response_type).name.lower().removesuffix("_response")

    # -- decoding -------------------------------------------------------------------------------------

    def decode(self, data: bytes) -> tuple[Message, ...]:
        """One message."""
        if len(data) >= HEADER_BYTES and data[0] >> 5 != VERSION:
            return (_other_version(data),)
        try:
            header = decode_header(data)
        except RemoteProtocolError:
            return (Malformed(),)
        return (_message(header),)

    def decode_request(self, request: EncodedRequest) -> DecodedRequest | RemoteProtocolError:
        """As ``Wire``."""
        try:
            return decode_request(request)
        except RemoteProtocolError as fault:
            return fault

    def peek_control_teid(self, request: EncodedRequest) -> int:
        """As ``Wire``: of a Create alone."""
        is_create = request.message_type == MessageType.CREATE_PDP_CONTEXT_REQUEST
        return message.peek_control_teid(request.payload) if is_create else 0

    # -- answers --------------------------------------------------------------------------------------

    def encode_accepted(
        self, request: DecodedRequest, accepted: AcceptedRequest, peer_teid: int, sequence: int
    ) -> bytes:
        """As ``Wire``."""
        match request.repeated:
            case Asked() as asked:
                granted = _granted(asked, accepted)
            case Named(imsi, nsapi):
                return message.encode_notification_response(peer_teid, sequence, imsi, nsapi)
            case _:
                return message.encode_cause_response(
                    MessageType(request.response_type), peer_teid, sequence, Cause.REQUEST_ACCEPTED
                )
        if not isinstance(request.body, CreateSessionParams):
            return message.encode_update_response(peer_teid, sequence, granted)
        cause = _ACCEPTING[accepted.pdn_type_change]
        address = _end_user_address(accepted.session)
        return message.encode_create_response(peer_teid, sequence, cause, granted, address)

    def encode_deleted(
        self, request: DecodedRequest, gateway: GatewayEnd, peer_teid: int, sequence: int
    ) -> bytes:
        """Delete PDP Context Response (§7.3.6)."""
        response_type = MessageType(request.response_type)
        return message.encode_cause_response(response_type, peer_teid, sequence, Cause.REQUEST_ACCEPTED)

    def encode_refused(
        self,
        request: EncodedRequest,
        peer_teid: int,
        cause: int,
        *,
        fault: RemoteProtocolError | None = None,
        back_off_s: float = 0.0,
    ) -> bytes:
        """As ``Wire``; no answer names an element."""
        is_congestion = back_off_s and cause == Cause.APN_CONGESTION
        return message.encode_cause_response(
            RESPONSES[request.message_type],
            peer_teid,
            request.sequence,
            cause,
            back_off=values.encode_back_off(back_off_s) if is_congestion else b"",
        )

    # -- what we ask ----------------------------------------------------------------------------------

    def encode_echo_request(self, sequence: int, recovery: int) -> bytes:
        """§7.2.1: it carries no Recovery."""
        return message.encode_echo_request(sequence)

    def encode_echo_response(self, sequence: int, recovery: int) -> bytes:
        """§7.2.2."""
        return message.encode_echo_response(sequence, recovery)

    def encode_release(self, peer_teid: int, sequence: int, nsapi: int, reason: CloseReason) -> bytes:
        """Delete PDP Context Request (§7.3.5)."""
        cause = CAUSE_OF_RELEASE.get(reason)
        return message.encode_delete_request(peer_teid=peer_teid, sequence=sequence, nsapi=nsapi, cause=cause)

    def encode_change(self, peer_teid: int, sequence: int, nsapi: int, qos: Qos) -> bytes:
        """Update PDP Context Request of a GGSN (§7.3.3)."""
        return message.encode_update_request(peer_teid=peer_teid, sequence=sequence, nsapi=nsapi, granted=qos)


def _other_version(data: bytes) -> Discarded:
    """Version Not Supported (§7.2.3), but never in answer to one or to GTP'."""
    is_charging = not data[0] & FLAG_PT and data[0] >> 5 == 0
    if is_charging or data[1] == MessageType.VERSION_NOT_SUPPORTED:
        return Discarded("version_not_supported")
    at = 4 if data[0] >> 5 == 0 else 8  # a header of version 0 has no TEID before its sequence number
    sequence = int.from_bytes(data[at : at + 2], "big") if len(data) >= at + 2 else 0
    return Discarded("version_not_supported", message.encode_version_not_supported(sequence))


def _message(header: Header) -> Message:
    kind, sequence = header.message_type, header.sequence
    notice = b"" if not header.extensions or is_understood(header.extensions) else _NOTICE
    if sequence is None:
        return Discarded("no_sequence_number", notice)
    if kind in RESPONSES:
        return EncodedRequest(kind, sequence, header.teid, header.payload, header.extensions, notice)
    if notice:
        return Discarded("unknown_extension_header", notice)
    if kind == MessageType.ECHO_REQUEST:
        return EchoRequest(sequence, message.decode_recovery(header.payload))
    return _response(header, sequence) if kind in ANSWERS else Discarded("message_not_supported")


def _response(header: Header, sequence: int) -> Message:
    try:
        response = message.decode_response(MessageType(header.message_type), header.payload)
    except RemoteProtocolError:
        return Discarded("malformed_response")
    verdict = Verdict.DONE
    if response.cause >= Cause.NON_EXISTENT:
        verdict = _VERDICTS.get(response.cause, Verdict.REFUSED)
    return Response(header.message_type, sequence, Reply(verdict, response.recovery))


def _granted(asked: Asked, accepted: AcceptedRequest) -> message.Granted:
    session, gateway = accepted.session, accepted.gateway
    tunnel = session.tunnel
    assert tunnel is not None, "a GTP session has a tunnel"
    return message.Granted(
        recovery=gateway.recovery,
        teid_control=tunnel.local_teid_control,
        teid_data=tunnel.local_teid_user,
        charging_id=tunnel.charging_id,
        control_address=gateway.address,
        user_address=gateway.user_address,
        pco=answer_options(asked.pco, session, accepted.apn, ipcp_ack=accepted.ipcp_ack),
        qos=asked.encode_granted_qos(session.qos),
    )


def _end_user_address(session: Session) -> EndUserAddress:
    prefix = session.ue_prefix
    return EndUserAddress(
        session.pdn_type,
        None if session.pdn_type is PdnType.IPV6 else session.ue_address,
        prefix.network_address + session.interface_identifier if prefix else None,
    )
