"""GTPv1-C requests that a GGSN decides (TS 29.060 §7.3, §7.5B): what each asks for, in the endpoint's terms.

Rules: the mandatory elements of ``gtp.v1.message.MANDATORY`` are checked before anything else of
it; optional elements that are broken are left out, they never refuse a session (facts of the field: modems
send them). Functions raise ``RemoteProtocolError`` with the cause to answer.
"""

from collections.abc import Callable, Mapping

from msgspec import Struct

from core.domain.requests import OpenSession, PeerTunnel
from core.domain.session import Access, Location, Qos
from core.errors import RemoteProtocolError
from gtp import qos, values
from gtp.pco import credentials
from gtp.v1 import ie
from gtp.v1.cause import Cause
from gtp.v1.message import RESPONSES, MessageType, check_mandatory, recovery_of
from gtp.wire import (
    CreateSessionParams,
    DecodedRequest,
    DeleteSessionParams,
    EncodedRequest,
    ModifySessionParams,
    NotOffered,
    PeerEndpoints,
)

MS_INFO_CHANGE_REPORTING_SUPPORT = 0x02
"""The one extension header that is understood: the SGSN can tell changes of the cell (§6.1.4)."""
COMPREHENSION_REQUIRED = 0x80
"""Set in the type of an extension header that its receiver must understand (§6.1.1)."""
_GSN_ADDRESSES_MIN = 2
"""SGSN address for signalling and SGSN address for user traffic."""
_DUAL_ADDRESS_BEARER, _NO_QOS_NEGOTIATION = 0x80, 0x08
"""Of the Common Flags (§7.7.48)."""
_ABSENT = (b"",)


class AskedQos(Struct, frozen=True):
    """The quality of service of a request: its profile as it stood, which newer elements it had, whether
    it may be answered by less, and what all of it means.
    """

    profile: bytes
    has_ambr: bool
    has_evolved_arp: bool
    is_negotiable: bool
    meaning: Qos

    def granted(self, session: Qos) -> list[tuple[int, bytes]]:
        """The elements that answer it: no more than the session has."""
        profile = qos.granted_profile(self.profile, session) if self.is_negotiable else self.profile
        elements = [(ie.QUALITY_OF_SERVICE, profile)]
        if self.has_evolved_arp:
            elements.append((ie.EVOLVED_ARP_I, bytes((session.arp,))))
        if self.has_ambr:
            elements.append((ie.AGGREGATE_MAXIMUM_BIT_RATE, qos.encode_ambr(session)))
        return elements


class Asked(Struct, frozen=True):
    """What the answer to a Create or an Update needs of it; ``reports_changes``: the SGSN can tell changes of
    the cell.
    """

    qos: AskedQos
    pco: bytes
    reports_changes: bool


class Named(Struct, frozen=True):
    """What the answer to an MS Info Change Notification Request names again (§7.5B.2)."""

    imsi: bytes | None
    nsapi: int | None


def is_understood(extensions: tuple[int, ...]) -> bool:
    """Whether there is no extension header that should be understood, and is not."""
    return not any(
        type_ & COMPREHENSION_REQUIRED and type_ != MS_INFO_CHANGE_REPORTING_SUPPORT for type_ in extensions
    )


def decode_request(request: EncodedRequest) -> DecodedRequest:
    """Raises ``RemoteProtocolError`` with the cause to answer."""
    if request.extensions and not is_understood(request.extensions):
        raise RemoteProtocolError("extension header", cause=Cause.UNKNOWN_MANDATORY_EXTENSION_HEADER)
    return DECODERS[request.message_type](request)


def _create(request: EncodedRequest) -> DecodedRequest:
    """Create PDP Context Request (§7.3.1)."""
    elements = ie.decode_elements(request.payload)
    if len(elements.get(ie.NSAPI, ())) > 1:  # the second is the Linked NSAPI
        return _secondary_activation(request)
    check_mandatory(MessageType.CREATE_PDP_CONTEXT_REQUEST, elements)
    control_address, user_address = _gsn_addresses(elements)
    imsi = ie.decode_imsi(elements[ie.IMSI][0])
    nsapi = _nsapi(elements)
    apn = ie.decode_network_identifier(elements[ie.ACCESS_POINT_NAME][0])
    teid_control = _teid(elements, ie.TEID_CONTROL)
    teid_user = _teid(elements, ie.TEID_DATA_I)
    address = ie.decode_end_user_address(elements[ie.END_USER_ADDRESS][0])
    asked_qos, recovery = _asked_qos(elements), recovery_of(elements)
    pco = elements.get(ie.PROTOCOL_CONFIGURATION_OPTIONS, _ABSENT)[0]
    if address.pdn_type is None:
        raise RemoteProtocolError("PDP type", cause=Cause.UNKNOWN_PDP_ADDRESS_OR_PDP_TYPE)
    asked = OpenSession(
        access=Access.GTPV1,
        imsi=imsi,
        apn=apn,
        imei=values.decode_imei(elements.get(ie.IMEI, _ABSENT)[0]),
        msisdn=ie.decode_msisdn(elements.get(ie.MSISDN, _ABSENT)[0]),
        location=_location(elements),
        peer=PeerTunnel(teid_control, teid_user, control_address, user_address, nsapi, recovery),
        requested_address=address.ipv4,
        pdn_type=address.pdn_type,
        qos=asked_qos.meaning,
        requested_prefix=values.asked_prefix(address.ipv6),
    )
    params = CreateSessionParams(
        asked,
        credentials(pco),
        is_low_priority=_has_flag(elements, ie.SIGNALLING_PRIORITY, 1),
        has_dual_address_bearers=_has_flag(elements, ie.COMMON_FLAGS, _DUAL_ADDRESS_BEARER),
    )
    return DecodedRequest(
        params,
        MessageType.CREATE_PDP_CONTEXT_RESPONSE,
        Cause.NON_EXISTENT,
        recovery,
        teid_control,
        repeated=_asked(asked_qos, pco, request),
    )


def _secondary_activation(request: EncodedRequest) -> DecodedRequest:
    fault = RemoteProtocolError("secondary PDP context", cause=Cause.SERVICE_NOT_SUPPORTED)
    return DecodedRequest(
        NotOffered(fault, changes_context=False), RESPONSES[request.message_type], Cause.CONTEXT_NOT_FOUND
    )


def _update(request: EncodedRequest) -> DecodedRequest:
    """Update PDP Context Request (§7.3.3)."""
    elements = ie.decode_elements(request.payload)
    check_mandatory(MessageType.UPDATE_PDP_CONTEXT_REQUEST, elements)
    control_address, user_address = _gsn_addresses(elements)
    nsapi, newcomer_fault, teid_control = _nsapi(elements), None, None
    if ie.TEID_CONTROL in elements:
        teid_control = _teid(elements, ie.TEID_CONTROL)
    else:  # it does not change; an SGW's is nothing to an SGSN
        newcomer_fault = RemoteProtocolError(
            "control TEID of a new peer", cause=Cause.MANDATORY_IE_MISSING, offending=ie.TEID_CONTROL
        )
    teid_user = _teid(elements, ie.TEID_DATA_I)
    asked_qos, recovery = _asked_qos(elements), recovery_of(elements)
    params = ModifySessionParams(
        ends=PeerEndpoints(teid_control, control_address, teid_user, user_address, recovery),
        location=_location(elements),
        qos=asked_qos.meaning,
        imei=values.decode_imei(elements.get(ie.IMEI, _ABSENT)[0]),
    )
    pco = elements.get(ie.PROTOCOL_CONFIGURATION_OPTIONS, _ABSENT)[0]
    return DecodedRequest(
        params,
        MessageType.UPDATE_PDP_CONTEXT_RESPONSE,
        Cause.NON_EXISTENT,
        recovery,
        teid_control,
        nsapi,
        newcomer_fault,
        repeated=_asked(asked_qos, pco, request),
    )


def _delete(request: EncodedRequest) -> DecodedRequest:
    """Delete PDP Context Request (§7.3.5): its NSAPI counts where not all contexts go (Teardown Ind)."""
    elements = ie.decode_elements(request.payload)
    check_mandatory(MessageType.DELETE_PDP_CONTEXT_REQUEST, elements)
    nsapi = None if _has_flag(elements, ie.TEARDOWN_IND, 1) else _nsapi(elements)
    response_type = MessageType.DELETE_PDP_CONTEXT_RESPONSE
    return DecodedRequest(DeleteSessionParams(), response_type, Cause.NON_EXISTENT, nsapi=nsapi)


def _notification(request: EncodedRequest) -> DecodedRequest:
    """MS Info Change Notification Request (§7.5B.1)."""
    elements = ie.decode_elements(request.payload)
    check_mandatory(MessageType.MS_INFO_CHANGE_NOTIFICATION_REQUEST, elements)
    nsapi = _nsapi(elements) if ie.NSAPI in elements else None
    imei = values.decode_imei(elements.get(ie.IMEI, _ABSENT)[0])
    return DecodedRequest(
        ModifySessionParams(location=_location(elements), imei=imei),
        MessageType.MS_INFO_CHANGE_NOTIFICATION_RESPONSE,
        Cause.NON_EXISTENT,
        nsapi=nsapi,
        newcomer_fault=RemoteProtocolError("it is an SGW's now", cause=Cause.NON_EXISTENT),
        repeated=Named(ie.first(elements, ie.IMSI), nsapi),
    )


DECODERS: Mapping[int, Callable[[EncodedRequest], DecodedRequest]] = {
    MessageType.CREATE_PDP_CONTEXT_REQUEST: _create,
    MessageType.UPDATE_PDP_CONTEXT_REQUEST: _update,
    MessageType.DELETE_PDP_CONTEXT_REQUEST: _delete,
    MessageType.MS_INFO_CHANGE_NOTIFICATION_REQUEST: _notification,
}
"""Of each type in ``RESPONSES``, how it is read."""


# -- elements, of which the mandatory ones are there ----------------------------------------------------


def _nsapi(elements: ie.Elements) -> int:
    """0–15 (§7.7.17). 0–4 are reserved, yet clients of the field send them (sgsnemu: 0)."""
    return elements[ie.NSAPI][0][0] & 15


def _teid(elements: ie.Elements, type_: int) -> int:
    teid = int.from_bytes(elements[type_][0], "big")
    if teid == 0:
        raise RemoteProtocolError("TEID 0", cause=Cause.MANDATORY_IE_INCORRECT, offending=type_)
    return teid


def _asked(asked_qos: AskedQos, pco: bytes, request: EncodedRequest) -> Asked:
    return Asked(asked_qos, pco, MS_INFO_CHANGE_REPORTING_SUPPORT in request.extensions)


def _asked_qos(elements: ie.Elements) -> AskedQos:
    """§7.7.34: an allocation/retention octet and at least the three of TS 24.008 §10.5.6.5."""
    profile = elements[ie.QUALITY_OF_SERVICE][0]
    if not 4 <= len(profile) <= 255:
        raise RemoteProtocolError(
            "QoS profile", cause=Cause.MANDATORY_IE_INCORRECT, offending=ie.QUALITY_OF_SERVICE
        )
    ambr = elements.get(ie.AGGREGATE_MAXIMUM_BIT_RATE, _ABSENT)[0]
    arp = elements.get(ie.EVOLVED_ARP_I, _ABSENT)[0]
    return AskedQos(
        profile=profile,
        has_ambr=len(ambr) == qos.AMBR_OCTETS,
        has_evolved_arp=bool(arp),
        is_negotiable=not _has_flag(elements, ie.COMMON_FLAGS, _NO_QOS_NEGOTIATION),
        meaning=qos.decode_qos(profile, apn_ambr=ambr, evolved_arp=arp),
    )


def _gsn_addresses(elements: ie.Elements) -> tuple[str, str]:
    """For signalling and for user traffic, both mandatory, then, where those are of IPv6, the alternatives of
    both (§7.3.1, §7.3.3).
    """
    addresses = elements[ie.GSN_ADDRESS][:4]
    if len(addresses) < _GSN_ADDRESSES_MIN:
        raise RemoteProtocolError(
            "one GSN address of two", cause=Cause.MANDATORY_IE_MISSING, offending=ie.GSN_ADDRESS
        )
    return ie.decode_gsn_address(addresses[0::2]), ie.decode_gsn_address(addresses[1::2])


def _has_flag(elements: ie.Elements, type_: int, flag: int) -> bool:
    value = elements.get(type_, _ABSENT)[0]
    return bool(value and value[0] & flag)


def _location(elements: ie.Elements) -> Location:
    user_location = elements.get(ie.USER_LOCATION, _ABSENT)[0]
    return values.locate(
        serving_network=elements.get(ie.ROUTEING_AREA, _ABSENT)[0][:3],
        rat=elements.get(ie.RAT_TYPE, _ABSENT)[0],
        user_location=user_location,
        cell=values.decode_cell_v1(user_location),
        time_zone=elements.get(ie.MS_TIME_ZONE, _ABSENT)[0],
    )
