"""GTPv2-C requests and commands that a PGW decides (TS 29.274 §7.2, §7.3, §7.4): what each asks for, in the
endpoint's terms.

Rules: what a request must carry is checked in the order of its table; optional elements that are broken are
left out, they never refuse a session. A fault of a command is answered only to a peer of its context.
Functions raise ``RemoteProtocolError`` with the cause to answer, and the element it names.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct

from core.domain.requests import OpenSession, PeerTunnel
from core.domain.session import Access, Location, Qos
from core.errors import RemoteProtocolError
from gtp import values
from gtp.pco import credentials
from gtp.tft import decode_tft
from gtp.v2 import ie
from gtp.v2.cause import Cause
from gtp.v2.message import RESPONSES, MessageType, decode_ebi, imsi_element, recovery_of
from gtp.wire import (
    BearerEndpoints,
    CreateSessionParams,
    DecodedRequest,
    DeleteBearersParams,
    DeleteSessionParams,
    EncodedRequest,
    ModifySessionParams,
    NotOffered,
    PeerEndpoints,
    QosChange,
    RequestBody,
)

_TO_BE_MODIFIED, _TO_BE_REMOVED = 0, 1
"""Instances of the bearer contexts of a Modify Bearer Request (table 7.2.7-1)."""


class CreateOptions(Struct, frozen=True):
    """What the answer to a Create Session Request needs of it: EBI, and the configuration options by kind."""

    ebi: int
    pco: bytes
    apco: bytes
    epco: bytes


class ModifiedBearers(Struct, frozen=True):
    """The bearers of which a Modify Bearer Request speaks, by EBI, and those that it removes."""

    ebis: tuple[int, ...]
    removed: tuple[int, ...]


class NamedImsi(Struct, frozen=True):
    """The IMSI of a Change Notification Request, repeated as it stood in the answer (§7.3.15)."""

    element: bytes


def decode_request(request: EncodedRequest) -> DecodedRequest:
    """Raises ``RemoteProtocolError`` with the cause to answer."""
    return DECODERS[request.message_type](request)


def _create_session(request: EncodedRequest) -> DecodedRequest:
    """Create Session Request (§7.2.1) with its default bearer."""
    elements = ie.decode_elements(request.payload)
    imsi = ie.decode_imsi(ie.conditional(elements, ie.IMSI))
    ie.required(elements, ie.RAT_TYPE)
    control = ie.decode_f_teid(elements, 0)
    apn = ie.decode_apn(ie.required(elements, ie.APN))
    paa = _paa(elements)
    bearer = ie.decode_elements(ie.required(elements, ie.BEARER_CONTEXT))
    ebi = decode_ebi(ie.required(bearer, ie.EBI))
    user = ie.decode_f_teid(bearer, 2, Cause.CONDITIONAL_IE_MISSING)
    qos = _qos(ie.required(bearer, ie.BEARER_QOS), ie.optional(elements, ie.AMBR))
    indication = ie.Indication.decode(ie.optional(elements, ie.INDICATION))
    recovery = recovery_of(elements)
    pco, apco, epco = (
        ie.optional(elements, ie.PCO),
        ie.optional(elements, ie.APCO),
        ie.optional(elements, ie.EPCO),
    )
    asked = OpenSession(
        access=Access.GTPV2,
        imsi=imsi,
        apn=apn,
        imei=values.decode_imei(ie.optional(elements, ie.MEI)),
        msisdn=ie.decode_msisdn(ie.optional(elements, ie.MSISDN)),
        location=_location(elements),
        peer=PeerTunnel(control.teid, user.teid, control.address, user.address, ebi, recovery),
        requested_address=paa.ipv4,
        pdn_type=paa.pdn_type,
        qos=qos,
        requested_prefix=values.asked_prefix(paa.ipv6) if paa.ipv6 is not None else None,
        is_handover=indication.is_handover,
    )
    params = CreateSessionParams(
        asked,
        credentials(pco) or credentials(epco) or credentials(apco),
        is_low_priority=bool((ie.optional(elements, ie.SIGNALLING_PRIORITY) or b"\0")[0] & 1),
        has_dual_address_bearers=indication.takes_both,
    )
    return DecodedRequest(
        params,
        MessageType.CREATE_SESSION_RESPONSE,
        Cause.CONTEXT_NOT_FOUND,
        recovery,
        control.teid,
        repeated=CreateOptions(ebi, pco, apco, epco),
    )


def _modify_bearer(request: EncodedRequest) -> DecodedRequest:
    """Modify Bearer Request (§7.2.7). Whoever moves is back: a session is suspended no longer (TS 23.272
    §6.5).
    """
    elements = ie.decode_elements(request.payload)
    ebis: list[int] = []
    bearers: list[BearerEndpoints] = []
    for value in ie.every(request.payload, ie.BEARER_CONTEXT, _TO_BE_MODIFIED):
        bearer = ie.decode_elements(value)
        user = ie.decode_f_teid(bearer, 1) if (ie.F_TEID, 1) in bearer else None
        ebis.append(decode_ebi(ie.required(bearer, ie.EBI)))
        if user is not None:
            bearers.append(BearerEndpoints(ebis[-1], user.teid, user.address))
    marked = ie.every(request.payload, ie.BEARER_CONTEXT, _TO_BE_REMOVED)
    removed = tuple(decode_ebi(ie.required(ie.decode_elements(value), ie.EBI)) for value in marked)
    control = ie.decode_f_teid(elements, 0) if (ie.F_TEID, 0) in elements else None
    ambr, recovery = ie.optional(elements, ie.AMBR), recovery_of(elements)
    params = ModifySessionParams(
        ends=PeerEndpoints(
            control.teid if control else None, control.address if control else None, restart_counter=recovery
        ),
        location=_location(elements),
        qos_change=QosChange(ambr_kbps=ie.decode_ambr(ambr)) if ambr else None,
        bearers=tuple(bearers),
        removed=removed,
        is_suspended=False,
        imei=values.decode_imei(ie.optional(elements, ie.MEI)),
    )
    return DecodedRequest(
        params,
        MessageType.MODIFY_BEARER_RESPONSE,
        Cause.CONTEXT_NOT_FOUND,
        recovery,
        control.teid if control else None,
        repeated=ModifiedBearers(tuple(ebis), removed),
    )


def _delete_session(request: EncodedRequest) -> DecodedRequest:
    """Delete Session Request (§7.2.9.1)."""
    if linked := ie.optional(ie.decode_elements(request.payload), ie.EBI):
        decode_ebi(linked)
    return _of_context(request, DeleteSessionParams())


def _change_notification(request: EncodedRequest) -> DecodedRequest:
    """Change Notification Request (§7.3.14)."""
    elements = ie.decode_elements(request.payload)
    ie.required(elements, ie.RAT_TYPE)
    imei = values.decode_imei(ie.optional(elements, ie.MEI))
    params = ModifySessionParams(location=_location(elements), imei=imei)
    return _of_context(request, params, repeated=NamedImsi(imsi_element(elements)))


def _suspend(request: EncodedRequest) -> DecodedRequest:
    """Suspend Notification (§7.4.1)."""
    return _of_context(request, ModifySessionParams(is_suspended=True))


def _resume(request: EncodedRequest) -> DecodedRequest:
    """Resume Notification (§7.4.3)."""
    return _of_context(request, ModifySessionParams(is_suspended=False))


def _of_context(request: EncodedRequest, body: RequestBody, repeated: object = None) -> DecodedRequest:
    response_type = RESPONSES[request.message_type]
    return DecodedRequest(body, response_type, Cause.CONTEXT_NOT_FOUND, repeated=repeated)


# -- commands -------------------------------------------------------------------------------------------


def _command(request: EncodedRequest) -> DecodedRequest:
    """A command (§7.2.5, §7.2.14, §7.2.17), or what is wrong with it."""
    try:
        return _COMMANDS[request.message_type](request)
    except RemoteProtocolError as fault:
        return _of_context(request, NotOffered(fault))


def _modify_bearer_command(request: EncodedRequest) -> DecodedRequest:
    """Modify Bearer Command (§7.2.14.1): what is subscribed has changed."""
    elements = ie.decode_elements(request.payload)
    ambr_kbps = ie.decode_ambr(ie.required(elements, ie.AMBR))
    bearer = ie.decode_elements(ie.required(elements, ie.BEARER_CONTEXT))
    ebi = decode_ebi(ie.required(bearer, ie.EBI))
    has_qos = (ie.BEARER_QOS, 0) in bearer
    qos = ie.required(bearer, ie.BEARER_QOS) if has_qos else b""
    change = QosChange(qos[1], qos[0], ambr_kbps) if has_qos else QosChange(ambr_kbps=ambr_kbps)
    return DecodedRequest(
        ModifySessionParams(qos_change=change),
        MessageType.MODIFY_BEARER_FAILURE_INDICATION,
        Cause.CONTEXT_NOT_FOUND,
        nsapi=ebi,
        is_command=True,
    )


def _delete_bearer_command(request: EncodedRequest) -> DecodedRequest:
    """Delete Bearer Command (§7.2.17.1)."""
    return DecodedRequest(
        DeleteBearersParams(decode_delete_bearer_command(request.payload)),
        MessageType.DELETE_BEARER_FAILURE_INDICATION,
        Cause.CONTEXT_NOT_FOUND,
        is_command=True,
    )


def decode_delete_bearer_command(payload: bytes) -> tuple[int, ...]:
    """The EBIs that a Delete Bearer Command names."""
    ie.required(ie.decode_elements(payload), ie.BEARER_CONTEXT)
    bearers = [ie.decode_elements(value) for value in ie.every(payload, ie.BEARER_CONTEXT)]
    return tuple(decode_ebi(ie.required(bearer, ie.EBI)) for bearer in bearers)


def _bearer_resource_command(request: EncodedRequest) -> DecodedRequest:
    """Bearer Resource Command (§7.2.5): it is wrong, or not offered."""
    elements = ie.decode_elements(request.payload)
    ie.required(elements, ie.EBI)
    ie.required(elements, ie.PTI)
    try:
        decode_tft(ie.required(elements, ie.TRAFFIC_AGGREGATE))
    except ie.ElementError:
        raise
    except RemoteProtocolError as error:
        raise RemoteProtocolError(str(error), cause=Cause.SYNTACTIC_ERROR_IN_TFT) from None
    raise RemoteProtocolError("devices get no bearers by asking", cause=Cause.SERVICE_NOT_SUPPORTED)


def _restoration(request: EncodedRequest) -> DecodedRequest:
    """What of restoration is not offered (§7.9)."""
    raise RemoteProtocolError("no sets of PDN connections", cause=Cause.SERVICE_NOT_SUPPORTED)


_COMMANDS: Mapping[int, Callable[[EncodedRequest], DecodedRequest]] = {
    MessageType.MODIFY_BEARER_COMMAND: _modify_bearer_command,
    MessageType.DELETE_BEARER_COMMAND: _delete_bearer_command,
    MessageType.BEARER_RESOURCE_COMMAND: _bearer_resource_command,
}
DECODERS: Mapping[int, Callable[[EncodedRequest], DecodedRequest]] = {
    MessageType.CREATE_SESSION_REQUEST: _create_session,
    MessageType.MODIFY_BEARER_REQUEST: _modify_bearer,
    MessageType.DELETE_SESSION_REQUEST: _delete_session,
    MessageType.CHANGE_NOTIFICATION_REQUEST: _change_notification,
    MessageType.SUSPEND_NOTIFICATION: _suspend,
    MessageType.RESUME_NOTIFICATION: _resume,
    **dict.fromkeys(_COMMANDS, _command),
    MessageType.DELETE_PDN_CONNECTION_SET_REQUEST: _restoration,
    MessageType.UPDATE_PDN_CONNECTION_SET_REQUEST: _restoration,
    MessageType.PGW_RESTART_NOTIFICATION: _restoration,
}
"""Of each type in ``RESPONSES``, how it is read."""


# -- elements -------------------------------------------------------------------------------------------


def _paa(elements: ie.Elements) -> ie.Paa:
    """PAA, which must be of the PDN Type that stands beside it (§8.14)."""
    paa = ie.decode_paa(ie.conditional(elements, ie.PAA)[: ie.PAA_BYTES_MAX])
    asked = ie.optional(elements, ie.PDN_TYPE)
    if asked and ie.decode_pdn_type(asked) is not paa.pdn_type:
        raise ie.ElementError("not of the PDN type", Cause.MANDATORY_IE_INCORRECT, (ie.PAA, 0))
    return paa


def _qos(bearer_qos: bytes, ambr: bytes) -> Qos:
    up_kbps, down_kbps = ie.decode_ambr(ambr)
    return Qos(qci=bearer_qos[1], arp=bearer_qos[0], ambr_up_kbps=up_kbps, ambr_down_kbps=down_kbps)


def _location(elements: ie.Elements) -> Location:
    return values.locate(
        values.decode_cell_v2,
        ie.optional(elements, ie.SERVING_NETWORK)[:3],
        ie.optional(elements, ie.RAT_TYPE)[:1],
        ie.optional(elements, ie.ULI)[: values.USER_LOCATION_OCTETS_MAX],
        ie.optional(elements, ie.MS_TIME_ZONE)[:1],
    )
