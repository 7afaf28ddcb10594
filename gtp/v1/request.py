"""GTPv1-C requests that a GGSN decides (TS 29.060 §7.3, §7.5B): what each asks for, in the endpoint's terms.

Rules: the mandatory elements of ``gtp.v1.message.MANDATORY`` are checked before anything else of
it; optional elements that are broken are left out, they never refuse a session (facts of the field: modems
send them). Functions raise ``RemoteProtocolError`` with the cause to answer.
"""

import struct
from collections.abc import Callable, Mapping
from functools import lru_cache

from msgspec import Struct

from core.domain.requests import OpenSession, PeerTunnel
from core.domain.session import Access, Location, Qos
from core.errors import RemoteProtocolError
from gtp import qos, values
from gtp.pco import credentials
from gtp.v1 import ie
from gtp.v1.cause import Cause
from gtp.v1.message import RESPONSES, MessageType, check_mandatory, encode_granted_qos, recovery_of
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
"""The one extension header that is understood: the SGSN can report changes of the cell (§6.1.4)."""
COMPREHENSION_REQUIRED = 0x80
"""Set in the type of an extension header that its receiver must understand (§6.1.1)."""
_DUAL_ADDRESS_BEARER, _NO_QOS_NEGOTIATION = 0x80, 0x08
"""Of the Common Flags (§7.7.48)."""
_LOW_PRIORITY, _TEARDOWN = 0x01, 0x01
"""Of the Signalling Priority Indication (§7.7.103) and of the Teardown Ind (§7.7.16)."""
_TEIDS = struct.Struct("!II")


class AskedQos(Struct, frozen=True):
    """The quality of service of a request: its profile as it stood, which newer elements it had, whether
    it may be answered by less, and what all of it means.
    """

    profile: bytes
    has_ambr: bool
    has_evolved_arp: bool
    is_negotiable: bool
    meaning: Qos


class Asked(Struct, frozen=True):
    """What the answer to a Create or an Update needs of it; ``reports_changes``: the SGSN can report changes
    of the cell.
    """

    qos: AskedQos
    pco: bytes
    reports_changes: bool

    def encode_granted_qos(self, session: Qos) -> bytes:
        """The elements that answer its quality of service: no more than the session has."""
        return _encode_granted_qos(self.qos, session, self.reports_changes)


class Named(Struct, frozen=True):
    """What the answer to an MS Info Change Notification Request names again (§7.5B.2)."""

    imsi: bytes | None
    nsapi: int | None


@lru_cache(values.REMEMBERED_MAX)
def _encode_granted_qos(asked: AskedQos, session: Qos, reports_changes: bool) -> bytes:
    return encode_granted_qos(
        qos.granted_profile(asked.profile, session) if asked.is_negotiable else asked.profile,
        reports_changes=reports_changes,
        evolved_arp=bytes((session.arp,)) if asked.has_evolved_arp else b"",
        ambr=qos.encode_ambr(session) if asked.has_ambr else b"",
    )


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
    if len(elements[ie.NSAPI]) > 1:  # the second is the Linked NSAPI
        return _secondary_activation(request)
    check_mandatory(MessageType.CREATE_PDP_CONTEXT_REQUEST, elements)
    control_address, user_address = ie.decode_gsn_addresses(tuple(elements[ie.GSN_ADDRESS][:4]))
    imsi = ie.decode_imsi(elements[ie.IMSI][0])
    apn = ie.decode_network_identifier(elements[ie.ACCESS_POINT_NAME][0])
    teid_control, teid_user = _TEIDS.unpack(elements[ie.TEID_CONTROL][0] + elements[ie.TEID_DATA_I][0])
    if not teid_control or not teid_user:
        raise _teid_0(ie.TEID_DATA_I if teid_control else ie.TEID_CONTROL)
    address = ie.decode_end_user_address(
        elements[ie.END_USER_ADDRESS][0][: ie.END_USER_ADDRESS_OCTETS_MAX + 1]
    )
    flags = _flags(elements, ie.COMMON_FLAGS)
    asked_qos, recovery = _asked_qos(elements, flags), recovery_of(elements)
    if address.pdn_type is None:
        raise RemoteProtocolError("PDP type", cause=Cause.UNKNOWN_PDP_ADDRESS_OR_PDP_TYPE)
    pco = elements[ie.PROTOCOL_CONFIGURATION_OPTIONS][0]
    asked = OpenSession(
        access=Access.GTPV1,
        imsi=imsi,
        apn=apn,
        imei=values.decode_imei(elements[ie.IMEI][0]),
        msisdn=ie.decode_msisdn(elements[ie.MSISDN][0]),
        location=_location(elements),
        peer=PeerTunnel(teid_control, teid_user, control_address, user_address, _nsapi(elements), recovery),
        requested_address=address.ipv4,
        pdn_type=address.pdn_type,
        qos=asked_qos.meaning,
        requested_prefix=values.asked_prefix(address.ipv6) if address.ipv6 is not None else None,
    )
    params = CreateSessionParams(
        asked,
        credentials(pco),
        is_low_priority=bool(_flags(elements, ie.SIGNALLING_PRIORITY) & _LOW_PRIORITY),
        has_dual_address_bearers=bool(flags & _DUAL_ADDRESS_BEARER),
    )
    return DecodedRequest(
        params,
        MessageType.CREATE_PDP_CONTEXT_RESPONSE,
        Cause.NON_EXISTENT,
        recovery,
        teid_control,
        repeated=Asked(asked_qos, pco, MS_INFO_CHANGE_REPORTING_SUPPORT in request.extensions),
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
    control_address, user_address = ie.decode_gsn_addresses(tuple(elements[ie.GSN_ADDRESS][:4]))
    nsapi, newcomer_fault, teid_control = _nsapi(elements), None, None
    if elements[ie.TEID_CONTROL] is not ie.ABSENT:
        teid_control = _teid(elements, ie.TEID_CONTROL)
    else:  # it does not change; an SGW's is nothing to an SGSN
        newcomer_fault = RemoteProtocolError(
            "control TEID of a new peer", cause=Cause.MANDATORY_IE_MISSING, offending=ie.TEID_CONTROL
        )
    teid_user = _teid(elements, ie.TEID_DATA_I)
    asked_qos, recovery = _asked_qos(elements, _flags(elements, ie.COMMON_FLAGS)), recovery_of(elements)
    params = ModifySessionParams(
        ends=PeerEndpoints(teid_control, control_address, teid_user, user_address, recovery),
        location=_location(elements),
        qos=asked_qos.meaning,
        imei=values.decode_imei(elements[ie.IMEI][0]),
    )
    pco = elements[ie.PROTOCOL_CONFIGURATION_OPTIONS][0]
    return DecodedRequest(
        params,
        MessageType.UPDATE_PDP_CONTEXT_RESPONSE,
        Cause.NON_EXISTENT,
        recovery,
        teid_control,
        nsapi,
        newcomer_fault,
        repeated=Asked(asked_qos, pco, MS_INFO_CHANGE_REPORTING_SUPPORT in request.extensions),
    )


def _delete(request: EncodedRequest) -> DecodedRequest:
    """Delete PDP Context Request (§7.3.5): its NSAPI counts where not all contexts go (Teardown Ind)."""
    elements = ie.decode_elements(request.payload)
    check_mandatory(MessageType.DELETE_PDP_CONTEXT_REQUEST, elements)
    nsapi = None if _flags(elements, ie.TEARDOWN_IND) & _TEARDOWN else _nsapi(elements)
    response_type = MessageType.DELETE_PDP_CONTEXT_RESPONSE
    return DecodedRequest(DeleteSessionParams(), response_type, Cause.NON_EXISTENT, nsapi=nsapi)


def _notification(request: EncodedRequest) -> DecodedRequest:
    """MS Info Change Notification Request (§7.5B.1)."""
    elements = ie.decode_elements(request.payload)
    check_mandatory(MessageType.MS_INFO_CHANGE_NOTIFICATION_REQUEST, elements)
    nsapi = None if elements[ie.NSAPI] is ie.ABSENT else _nsapi(elements)
    imei = values.decode_imei(elements[ie.IMEI][0])
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
        raise _teid_0(type_)
    return teid


def _teid_0(type_: int) -> RemoteProtocolError:
    return RemoteProtocolError("TEID 0", cause=Cause.MANDATORY_IE_INCORRECT, offending=type_)


def _asked_qos(elements: ie.Elements, common_flags: int) -> AskedQos:
    return _read_qos(
        elements[ie.QUALITY_OF_SERVICE][0],
        elements[ie.AGGREGATE_MAXIMUM_BIT_RATE][0][: qos.AMBR_OCTETS + 1],
        elements[ie.EVOLVED_ARP_I][0][:1],
        not common_flags & _NO_QOS_NEGOTIATION,
    )


@lru_cache(values.REMEMBERED_MAX)
def _read_qos(profile: bytes, ambr: bytes, evolved_arp: bytes, is_negotiable: bool) -> AskedQos:
    """§7.7.34: an allocation/retention octet and at least the three of TS 24.008 §10.5.6.5."""
    if not 4 <= len(profile) <= 255:
        raise RemoteProtocolError(
            "QoS profile", cause=Cause.MANDATORY_IE_INCORRECT, offending=ie.QUALITY_OF_SERVICE
        )
    return AskedQos(
        profile=profile,
        has_ambr=len(ambr) == qos.AMBR_OCTETS,
        has_evolved_arp=bool(evolved_arp),
        is_negotiable=is_negotiable,
        meaning=qos.decode_qos(profile, apn_ambr=ambr, evolved_arp=evolved_arp),
    )


def _flags(elements: ie.Elements, type_: int) -> int:
    """The first octet of an element of flags; none is set where it is absent or empty."""
    value = elements[type_][0]
    return value[0] if value else 0


def _location(elements: ie.Elements) -> Location:
    return values.locate(
        values.decode_cell_v1,
        elements[ie.ROUTEING_AREA][0][:3],
        elements[ie.RAT_TYPE][0][:1],
        elements[ie.USER_LOCATION][0][: values.USER_LOCATION_OCTETS_MAX],
        elements[ie.MS_TIME_ZONE][0][:1],
    )
