"""GTPv1-C messages (TS 29.060 §7): typed, one dataclass each.

Rules: what a request must carry is told by ``MANDATORY`` and checked before anything else of it; optional
elements that are broken are left out, they never refuse a session (facts of the field: modems send them).
"""

from collections.abc import Mapping
from enum import IntEnum
from ipaddress import IPv4Address

from msgspec import Struct

from core.domain.session import NOWHERE, Location, Qos
from core.errors import RemoteProtocolError
from gtp import qos, values
from gtp.v1 import ie
from gtp.v1.cause import Cause
from gtp.v1.header import encode_header


class MessageType(IntEnum):
    """TS 29.060 §7.1, table 1: those that a GGSN speaks or must recognise."""

    ECHO_REQUEST = 1
    ECHO_RESPONSE = 2
    VERSION_NOT_SUPPORTED = 3
    CREATE_PDP_CONTEXT_REQUEST = 16
    CREATE_PDP_CONTEXT_RESPONSE = 17
    UPDATE_PDP_CONTEXT_REQUEST = 18
    UPDATE_PDP_CONTEXT_RESPONSE = 19
    DELETE_PDP_CONTEXT_REQUEST = 20
    DELETE_PDP_CONTEXT_RESPONSE = 21
    SUPPORTED_EXTENSION_HEADERS_NOTIFICATION = 31
    MS_INFO_CHANGE_NOTIFICATION_REQUEST = 128
    MS_INFO_CHANGE_NOTIFICATION_RESPONSE = 129


MANDATORY: Mapping[MessageType, tuple[int, ...]] = {
    MessageType.CREATE_PDP_CONTEXT_REQUEST: (
        ie.IMSI,
        ie.TEID_DATA_I,
        ie.TEID_CONTROL,
        ie.NSAPI,
        ie.END_USER_ADDRESS,
        ie.ACCESS_POINT_NAME,
        ie.GSN_ADDRESS,
        ie.QUALITY_OF_SERVICE,
    ),
    MessageType.UPDATE_PDP_CONTEXT_REQUEST: (
        ie.TEID_DATA_I,
        ie.NSAPI,
        ie.GSN_ADDRESS,
        ie.QUALITY_OF_SERVICE,
    ),
    MessageType.DELETE_PDP_CONTEXT_REQUEST: (ie.NSAPI,),
    MessageType.MS_INFO_CHANGE_NOTIFICATION_REQUEST: (ie.RAT_TYPE,),
    MessageType.ECHO_RESPONSE: (ie.RECOVERY,),
    MessageType.CREATE_PDP_CONTEXT_RESPONSE: (ie.CAUSE,),
    MessageType.UPDATE_PDP_CONTEXT_RESPONSE: (ie.CAUSE,),
    MessageType.DELETE_PDP_CONTEXT_RESPONSE: (ie.CAUSE,),
}
"""§7.3.1, §7.3.3, §7.3.5, §7.5B.1, §7.2.2. IMSI, APN and control TEID are conditional in the tables there and
present in every first activation; a secondary activation is told by its Linked NSAPI and refused apart."""

_GSN_ADDRESSES_MIN = 2
"""SGSN address for signalling and SGSN address for user traffic."""
_DUAL_ADDRESS_BEARER, _NO_QOS_NEGOTIATION = 0x80, 0x08
"""Of the Common Flags (§7.7.48)."""
_START_REPORTING_CGI_SAI = b"\1"
"""MS Info Change Reporting Action (§7.7.80)."""


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


class CreateRequest(Struct, frozen=True):
    """Create PDP Context Request (§7.3.1)."""

    imsi: str
    nsapi: int
    apn: str
    teid_control: int
    teid_data: int
    control_address: IPv4Address
    user_address: IPv4Address
    end_user_address: ie.EndUserAddress
    asked: AskedQos
    recovery: int | None = None
    msisdn: str = ""
    imei: str = ""
    location: Location = NOWHERE
    pco: bytes = b""
    has_dual_address_bearers: bool = False
    is_low_priority: bool = False


class UpdateRequest(Struct, frozen=True):
    """Update PDP Context Request (§7.3.3). ``teid_control`` is ``None`` when it does not change."""

    nsapi: int
    teid_control: int | None
    teid_data: int
    control_address: IPv4Address
    user_address: IPv4Address
    asked: AskedQos
    recovery: int | None = None
    location: Location = NOWHERE
    pco: bytes = b""
    imei: str = ""


class DeleteRequest(Struct, frozen=True):
    """Delete PDP Context Request (§7.3.5)."""

    nsapi: int
    teardown: bool


class NotificationRequest(Struct, frozen=True):
    """MS Info Change Notification Request (§7.5B.1). ``imsi`` as it stood, to be told again."""

    nsapi: int | None
    imsi: bytes | None
    location: Location
    imei: str = ""


class SecondaryActivation(RemoteProtocolError):
    """A Create PDP Context Request for a secondary context."""


class Response(Struct, frozen=True):
    """Any response: its cause, and for the simulated peer what a session answer carries."""

    cause: int
    recovery: int | None
    elements: ie.Elements


def decode_create_request(payload: bytes) -> CreateRequest:
    """Raises ``RemoteProtocolError`` with cause 201, 202 or 193; ``SecondaryActivation`` with 200."""
    elements = ie.decode_elements(payload)
    nsapi = elements.get(ie.NSAPI, [])
    if len(nsapi) > 1:  # the second is the Linked NSAPI of a secondary activation
        raise SecondaryActivation("secondary PDP context", cause=Cause.SERVICE_NOT_SUPPORTED)
    _check_mandatory(MessageType.CREATE_PDP_CONTEXT_REQUEST, elements)
    control_address, user_address = _gsn_addresses(elements)
    return CreateRequest(
        imsi=ie.decode_imsi(ie.required(elements, ie.IMSI)),
        nsapi=_nsapi(elements),
        apn=values.network_identifier(ie.decode_apn(ie.required(elements, ie.ACCESS_POINT_NAME))),
        teid_control=_teid(elements, ie.TEID_CONTROL),
        teid_data=_teid(elements, ie.TEID_DATA_I),
        control_address=control_address,
        user_address=user_address,
        end_user_address=ie.decode_end_user_address(ie.required(elements, ie.END_USER_ADDRESS)),
        asked=_asked_qos(elements),
        recovery=_recovery(elements),
        msisdn=ie.decode_msisdn(ie.first(elements, ie.MSISDN) or b""),
        imei=values.decode_imei(ie.first(elements, ie.IMEI) or b""),
        location=_location(elements),
        pco=ie.first(elements, ie.PROTOCOL_CONFIGURATION_OPTIONS) or b"",
        has_dual_address_bearers=_has_flag(elements, _DUAL_ADDRESS_BEARER),
        is_low_priority=bool((ie.first(elements, ie.SIGNALLING_PRIORITY) or b"\0")[0] & 1),
    )


def decode_update_request(payload: bytes) -> UpdateRequest:
    """Raises ``RemoteProtocolError`` with cause 201, 202 or 193."""
    elements = ie.decode_elements(payload)
    _check_mandatory(MessageType.UPDATE_PDP_CONTEXT_REQUEST, elements)
    control_address, user_address = _gsn_addresses(elements)
    has_control = ie.TEID_CONTROL in elements
    return UpdateRequest(
        nsapi=_nsapi(elements),
        teid_control=_teid(elements, ie.TEID_CONTROL) if has_control else None,
        teid_data=_teid(elements, ie.TEID_DATA_I),
        control_address=control_address,
        user_address=user_address,
        asked=_asked_qos(elements),
        recovery=_recovery(elements),
        location=_location(elements),
        pco=ie.first(elements, ie.PROTOCOL_CONFIGURATION_OPTIONS) or b"",
        imei=values.decode_imei(ie.first(elements, ie.IMEI) or b""),
    )


def decode_delete_request(payload: bytes) -> DeleteRequest:
    """Raises ``RemoteProtocolError`` with cause 201, 202 or 193."""
    elements = ie.decode_elements(payload)
    _check_mandatory(MessageType.DELETE_PDP_CONTEXT_REQUEST, elements)
    teardown = ie.first(elements, ie.TEARDOWN_IND)
    return DeleteRequest(nsapi=_nsapi(elements), teardown=bool(teardown and teardown[0] & 1))


def decode_notification_request(payload: bytes) -> NotificationRequest:
    """Raises ``RemoteProtocolError`` with cause 202 or 193."""
    elements = ie.decode_elements(payload)
    _check_mandatory(MessageType.MS_INFO_CHANGE_NOTIFICATION_REQUEST, elements)
    nsapi = _nsapi(elements) if ie.NSAPI in elements else None
    imei = values.decode_imei(ie.first(elements, ie.IMEI) or b"")
    return NotificationRequest(nsapi, ie.first(elements, ie.IMSI), _location(elements), imei)


def decode_response(message_type: MessageType, payload: bytes) -> Response:
    """Raises ``RemoteProtocolError`` when it has no cause (an Echo Response: no Recovery)."""
    elements = ie.decode_elements(payload)
    _check_mandatory(message_type, elements)
    cause = ie.first(elements, ie.CAUSE)
    return Response(cause[0] if cause else Cause.REQUEST_ACCEPTED, _recovery(elements), elements)


def decode_recovery(payload: bytes) -> int | None:
    """The Recovery of an Echo Request, where there is one; other elements do not matter."""
    try:
        return _recovery(ie.decode_elements(payload))
    except RemoteProtocolError:
        return None


def peek_control_teid(payload: bytes) -> int:
    """The sender's control TEID in a request that could not be decoded, or 0: it then knows our refusal."""
    at, end = 0, len(payload)
    while at < end:
        type_ = payload[at]
        if type_ == ie.TEID_CONTROL and at + 5 <= end:
            return int.from_bytes(payload[at + 1 : at + 5], "big")
        if type_ >= 128 or type_ not in ie.TV_LENGTHS:
            return 0
        at += 1 + ie.TV_LENGTHS[type_]
    return 0


def encode_echo_response(sequence: int, recovery: int) -> bytes:
    """§7.2.2."""
    body = ie.encode_elements([(ie.RECOVERY, bytes((recovery,)))])
    return encode_header(MessageType.ECHO_RESPONSE, 0, sequence, body)


def encode_echo_request(sequence: int) -> bytes:
    """§7.2.1."""
    return encode_header(MessageType.ECHO_REQUEST, 0, sequence, b"")


def encode_version_not_supported(sequence: int) -> bytes:
    """§7.2.3: tells the latest version that is spoken here by its own header."""
    return encode_header(MessageType.VERSION_NOT_SUPPORTED, 0, sequence, b"")


def encode_supported_extension_headers(types: bytes) -> bytes:
    """Supported Extension Headers Notification (§7.2.4)."""
    body = ie.encode_elements([(ie.EXTENSION_HEADER_TYPES, types)])
    return encode_header(MessageType.SUPPORTED_EXTENSION_HEADERS_NOTIFICATION, 0, 0, body)


def encode_notification_response(teid: int, sequence: int, request: NotificationRequest) -> bytes:
    """An accepting MS Info Change Notification Response (§7.5B.2)."""
    elements = [(ie.CAUSE, bytes((Cause.REQUEST_ACCEPTED,)))]
    if request.imsi is not None:
        elements.append((ie.IMSI, request.imsi))
    if request.nsapi is not None:
        elements.append((ie.NSAPI, bytes((request.nsapi,))))
    body = ie.encode_elements(elements)
    return encode_header(MessageType.MS_INFO_CHANGE_NOTIFICATION_RESPONSE, teid, sequence, body)


def encode_cause_response(
    message_type: MessageType,
    teid: int,
    sequence: int,
    cause: int,
    recovery: int | None = None,
    *,
    back_off: bytes = b"",
) -> bytes:
    """A response that carries a cause alone (§7.3.2, §7.3.4, §7.3.6), and how long to stay away."""
    elements = [(ie.CAUSE, bytes((cause,)))]
    if recovery is not None:
        elements.append((ie.RECOVERY, bytes((recovery,))))
    if back_off:
        elements.append((ie.BACK_OFF_TIME, back_off))
    return encode_header(message_type, teid, sequence, ie.encode_elements(elements))


class Granted(Struct, frozen=True):
    """What an accepting response to a Create or an Update tells (§7.3.2, §7.3.4). ``reports_changes``: the
    SGSN shall tell changes of the cell.
    """

    recovery: int
    teid_control: int
    teid_data: int
    charging_id: int
    control_address: IPv4Address
    user_address: IPv4Address
    qos: list[tuple[int, bytes]]
    pco: bytes
    reports_changes: bool

    def elements(self, cause: Cause) -> list[tuple[int, bytes]]:
        """Its elements."""
        elements = [
            (ie.CAUSE, bytes((cause,))),
            (ie.RECOVERY, bytes((self.recovery,))),
            (ie.TEID_DATA_I, self.teid_data.to_bytes(4, "big")),
            (ie.TEID_CONTROL, self.teid_control.to_bytes(4, "big")),
            (ie.CHARGING_ID, self.charging_id.to_bytes(4, "big")),
            (ie.GSN_ADDRESS, self.control_address.packed),
            (ie.GSN_ADDRESS, self.user_address.packed),
            *self.qos,
        ]
        if self.pco:
            elements.append((ie.PROTOCOL_CONFIGURATION_OPTIONS, self.pco))
        if self.reports_changes:
            elements.append((ie.MS_INFO_CHANGE_REPORTING_ACTION, _START_REPORTING_CGI_SAI))
        return elements


def encode_create_response(
    peer_teid: int, sequence: int, cause: Cause, granted: Granted, address: ie.EndUserAddress
) -> bytes:
    """An accepting Create PDP Context Response (§7.3.2)."""
    body = ie.encode_elements(
        [
            *granted.elements(cause),
            (ie.REORDERING_REQUIRED, b"\xfe"),
            (ie.END_USER_ADDRESS, ie.encode_end_user_address(address)),
        ]
    )
    return encode_header(MessageType.CREATE_PDP_CONTEXT_RESPONSE, peer_teid, sequence, body)


def encode_update_response(peer_teid: int, sequence: int, granted: Granted) -> bytes:
    """An accepting Update PDP Context Response (§7.3.4)."""
    body = ie.encode_elements(granted.elements(Cause.REQUEST_ACCEPTED))
    return encode_header(MessageType.UPDATE_PDP_CONTEXT_RESPONSE, peer_teid, sequence, body)


def encode_update_request(*, peer_teid: int, sequence: int, nsapi: int, granted: Qos) -> bytes:
    """An Update PDP Context Request of a GGSN (§7.3.3): QoS profile and APN-AMBR as the session has them."""
    elements = [
        (ie.NSAPI, bytes((nsapi,))),
        (ie.QUALITY_OF_SERVICE, qos.encode_profile(granted)),
        (ie.AGGREGATE_MAXIMUM_BIT_RATE, qos.encode_ambr(granted)),
    ]
    body = ie.encode_elements(elements)
    return encode_header(MessageType.UPDATE_PDP_CONTEXT_REQUEST, peer_teid, sequence, body)


def encode_delete_request(*, peer_teid: int, sequence: int, nsapi: int, cause: Cause | None = None) -> bytes:
    """A Delete PDP Context Request with Teardown Ind (§7.3.5), and why, if the device should know."""
    elements = [(ie.TEARDOWN_IND, b"\xff"), (ie.NSAPI, bytes((nsapi,)))]
    if cause is not None:
        elements.insert(0, (ie.CAUSE, bytes((cause,))))
    body = ie.encode_elements(elements)
    return encode_header(MessageType.DELETE_PDP_CONTEXT_REQUEST, peer_teid, sequence, body)


def _check_mandatory(message_type: MessageType, elements: ie.Elements) -> None:
    for type_ in MANDATORY[message_type]:
        if type_ not in elements:
            ie.required(elements, type_)


def _nsapi(elements: ie.Elements) -> int:
    """0–15 (§7.7.17). 0–4 are reserved, yet clients of the field send them (sgsnemu: 0)."""
    return ie.required(elements, ie.NSAPI)[0] & 15


def _teid(elements: ie.Elements, type_: int) -> int:
    teid = int.from_bytes(ie.required(elements, type_), "big")
    if teid == 0:
        raise RemoteProtocolError("TEID 0", cause=Cause.MANDATORY_IE_INCORRECT, offending=type_)
    return teid


def _asked_qos(elements: ie.Elements) -> AskedQos:
    """§7.7.34: an allocation/retention octet and at least the three of TS 24.008 §10.5.6.5."""
    profile = ie.required(elements, ie.QUALITY_OF_SERVICE)
    if not 4 <= len(profile) <= 255:
        raise RemoteProtocolError(
            "QoS profile", cause=Cause.MANDATORY_IE_INCORRECT, offending=ie.QUALITY_OF_SERVICE
        )
    ambr = ie.first(elements, ie.AGGREGATE_MAXIMUM_BIT_RATE) or b""
    arp = ie.first(elements, ie.EVOLVED_ARP_I) or b""
    meaning = qos.decode_qos(profile, apn_ambr=ambr, evolved_arp=arp)
    return AskedQos(
        profile=profile,
        has_ambr=len(ambr) == qos.AMBR_OCTETS,
        has_evolved_arp=bool(arp),
        is_negotiable=not _has_flag(elements, _NO_QOS_NEGOTIATION),
        meaning=meaning,
    )


def _gsn_addresses(elements: ie.Elements) -> tuple[IPv4Address, IPv4Address]:
    """For signalling and for user traffic, both mandatory, then, where those are of IPv6, the alternatives of
    both (§7.3.1, §7.3.3).
    """
    addresses = elements[ie.GSN_ADDRESS][:4]
    if len(addresses) < _GSN_ADDRESSES_MIN:
        raise RemoteProtocolError(
            "one GSN address of two", cause=Cause.MANDATORY_IE_MISSING, offending=ie.GSN_ADDRESS
        )
    return ie.decode_gsn_address(addresses[0::2]), ie.decode_gsn_address(addresses[1::2])


def _has_flag(elements: ie.Elements, flag: int) -> bool:
    flags = ie.first(elements, ie.COMMON_FLAGS)
    return bool(flags and flags[0] & flag)


def _recovery(elements: ie.Elements) -> int | None:
    value = ie.first(elements, ie.RECOVERY)
    return value[0] if value else None


def _location(elements: ie.Elements) -> Location:
    user_location = ie.first(elements, ie.USER_LOCATION) or b""
    return values.locate(
        serving_network=(ie.first(elements, ie.ROUTEING_AREA) or b"")[:3],
        rat=ie.first(elements, ie.RAT_TYPE) or b"",
        user_location=user_location,
        cell=values.decode_cell_v1(user_location),
        time_zone=ie.first(elements, ie.MS_TIME_ZONE) or b"",
    )
