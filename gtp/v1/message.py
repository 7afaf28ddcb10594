"""GTPv1-C messages (TS 29.060 §7): their types, what each must carry, and what a GGSN sends."""

import struct
from collections.abc import Mapping
from enum import IntEnum

from msgspec import Struct

from core.domain.session import Qos
from core.errors import RemoteProtocolError
from gtp import qos
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
present in every first activation; a secondary activation is recognised by its Linked NSAPI and refused
apart."""

RESPONSES: Mapping[int, MessageType] = {
    MessageType.CREATE_PDP_CONTEXT_REQUEST: MessageType.CREATE_PDP_CONTEXT_RESPONSE,
    MessageType.UPDATE_PDP_CONTEXT_REQUEST: MessageType.UPDATE_PDP_CONTEXT_RESPONSE,
    MessageType.DELETE_PDP_CONTEXT_REQUEST: MessageType.DELETE_PDP_CONTEXT_RESPONSE,
    MessageType.MS_INFO_CHANGE_NOTIFICATION_REQUEST: MessageType.MS_INFO_CHANGE_NOTIFICATION_RESPONSE,
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
_START_REPORTING_CGI_SAI = b"\1"
"""MS Info Change Reporting Action (§7.7.80)."""


class Response(Struct, frozen=True):
    """Any response: its cause, and for the simulated peer what a session answer carries."""

    cause: int
    recovery: int | None
    elements: ie.Elements


def check_mandatory(message_type: MessageType, elements: ie.Elements) -> None:
    """Raises ``RemoteProtocolError`` with cause 202 for the first element that is missing."""
    for type_ in MANDATORY[message_type]:
        if elements[type_] is ie.ABSENT:
            ie.required(elements, type_)


def recovery_of(elements: ie.Elements) -> int | None:
    """The restart counter of its sender, where there is one (§7.7.11)."""
    value = elements[ie.RECOVERY][0]
    return value[0] if value else None


def decode_response(message_type: MessageType, payload: bytes) -> Response:
    """Raises ``RemoteProtocolError`` when it has no cause (an Echo Response: no Recovery)."""
    elements = ie.decode_elements(payload)
    check_mandatory(message_type, elements)
    cause = ie.first(elements, ie.CAUSE)
    return Response(cause[0] if cause else Cause.REQUEST_ACCEPTED, recovery_of(elements), elements)


def decode_recovery(payload: bytes) -> int | None:
    """The Recovery of an Echo Request, where there is one; other elements do not matter."""
    try:
        return recovery_of(ie.decode_elements(payload))
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
    """§7.2.3: states the latest version that is spoken here by its own header."""
    return encode_header(MessageType.VERSION_NOT_SUPPORTED, 0, sequence, b"")


def encode_supported_extension_headers(types: bytes) -> bytes:
    """Supported Extension Headers Notification (§7.2.4)."""
    body = ie.encode_elements([(ie.EXTENSION_HEADER_TYPES, types)])
    return encode_header(MessageType.SUPPORTED_EXTENSION_HEADERS_NOTIFICATION, 0, 0, body)


def encode_notification_response(teid: int, sequence: int, imsi: bytes | None, nsapi: int | None) -> bytes:
    """An accepting MS Info Change Notification Response (§7.5B.2), which names what its request named."""
    elements = [(ie.CAUSE, bytes((Cause.REQUEST_ACCEPTED,)))]
    if imsi is not None:
        elements.append((ie.IMSI, imsi))
    if nsapi is not None:
        elements.append((ie.NSAPI, bytes((nsapi,))))
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
    """What an accepting response to a Create or an Update states (§7.3.2, §7.3.4). ``qos``: its elements from
    the QoS profile on (``encode_granted_qos``).
    """

    recovery: int
    teid_control: int
    teid_data: int
    charging_id: int
    control_address: str
    user_address: str
    pco: bytes
    qos: bytes

    def encode_last(self) -> bytes:
        """The elements from the protocol configuration options on."""
        last = ie.encode_gsn_addresses(self.control_address, self.user_address) + self.qos
        return ie.encode_element(ie.PROTOCOL_CONFIGURATION_OPTIONS, self.pco) + last if self.pco else last


_CREATED = struct.Struct("!BBBBBBBIBIBI")
"""Cause, Reordering Required, Recovery, both TEIDs and the charging id, each after its type."""
_UPDATED = struct.Struct("!BBBBBIBIBI")
"""Without Reordering Required."""
_NOT_REORDERED = 0xFE


def encode_granted_qos(profile: bytes, *, reports_changes: bool, evolved_arp: bytes, ambr: bytes) -> bytes:
    """The elements of the quality of service, the last two where they are not empty; ``reports_changes``: the
    SGSN shall report changes of the cell.
    """
    elements = [(ie.QUALITY_OF_SERVICE, profile)]
    if reports_changes:
        elements.append((ie.MS_INFO_CHANGE_REPORTING_ACTION, _START_REPORTING_CGI_SAI))
    if evolved_arp:
        elements.append((ie.EVOLVED_ARP_I, evolved_arp))
    if ambr:
        elements.append((ie.AGGREGATE_MAXIMUM_BIT_RATE, ambr))
    return ie.encode_elements(elements)


def encode_create_response(
    peer_teid: int, sequence: int, cause: Cause, granted: Granted, address: ie.EndUserAddress
) -> bytes:
    """An accepting Create PDP Context Response (§7.3.2)."""
    first = _CREATED.pack(
        ie.CAUSE,
        cause,
        ie.REORDERING_REQUIRED,
        _NOT_REORDERED,
        ie.RECOVERY,
        granted.recovery,
        ie.TEID_DATA_I,
        granted.teid_data,
        ie.TEID_CONTROL,
        granted.teid_control,
        ie.CHARGING_ID,
        granted.charging_id,
    )
    given = ie.encode_element(ie.END_USER_ADDRESS, ie.encode_end_user_address(address))
    body = first + given + granted.encode_last()
    return encode_header(MessageType.CREATE_PDP_CONTEXT_RESPONSE, peer_teid, sequence, body)


def encode_update_response(peer_teid: int, sequence: int, granted: Granted) -> bytes:
    """An accepting Update PDP Context Response (§7.3.4)."""
    first = _UPDATED.pack(
        ie.CAUSE,
        Cause.REQUEST_ACCEPTED,
        ie.RECOVERY,
        granted.recovery,
        ie.TEID_DATA_I,
        granted.teid_data,
        ie.TEID_CONTROL,
        granted.teid_control,
        ie.CHARGING_ID,
        granted.charging_id,
    )
    body = first + granted.encode_last()
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
