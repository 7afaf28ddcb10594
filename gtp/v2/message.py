"""GTPv2-C messages (TS 29.274 §7): their types, and what a PGW answers."""

from collections.abc import Mapping, Sequence
from enum import IntEnum

from msgspec import Struct

from core.domain.session import Qos
from core.errors import RemoteProtocolError
from gtp import values
from gtp.v2 import ie
from gtp.v2.cause import Cause
from gtp.v2.header import encode_header


class MessageType(IntEnum):
    """TS 29.274 §6.1, table 6.1-1: those that a PGW speaks here."""

    ECHO_REQUEST = 1
    ECHO_RESPONSE = 2
    VERSION_NOT_SUPPORTED = 3
    CREATE_SESSION_REQUEST = 32
    CREATE_SESSION_RESPONSE = 33
    MODIFY_BEARER_REQUEST = 34
    MODIFY_BEARER_RESPONSE = 35
    DELETE_SESSION_REQUEST = 36
    DELETE_SESSION_RESPONSE = 37
    CHANGE_NOTIFICATION_REQUEST = 38
    CHANGE_NOTIFICATION_RESPONSE = 39
    MODIFY_BEARER_COMMAND = 64
    MODIFY_BEARER_FAILURE_INDICATION = 65
    DELETE_BEARER_COMMAND = 66
    DELETE_BEARER_FAILURE_INDICATION = 67
    BEARER_RESOURCE_COMMAND = 68
    BEARER_RESOURCE_FAILURE_INDICATION = 69
    CREATE_BEARER_REQUEST = 95
    CREATE_BEARER_RESPONSE = 96
    UPDATE_BEARER_REQUEST = 97
    UPDATE_BEARER_RESPONSE = 98
    DELETE_BEARER_REQUEST = 99
    DELETE_BEARER_RESPONSE = 100
    DELETE_PDN_CONNECTION_SET_REQUEST = 101
    DELETE_PDN_CONNECTION_SET_RESPONSE = 102
    SUSPEND_NOTIFICATION = 162
    SUSPEND_ACKNOWLEDGE = 163
    RESUME_NOTIFICATION = 164
    RESUME_ACKNOWLEDGE = 165
    PGW_RESTART_NOTIFICATION = 179
    PGW_RESTART_NOTIFICATION_ACKNOWLEDGE = 180
    UPDATE_PDN_CONNECTION_SET_REQUEST = 200
    UPDATE_PDN_CONNECTION_SET_RESPONSE = 201


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
_EBI_MIN = 5
IMSI_BYTES_MAX = 8
NO_APN_RESTRICTION = b"\0"
"""§8.57."""


class Created(Struct, frozen=True):
    """What an accepting Create Session Response states (§7.2.2)."""

    cause: Cause
    control: ie.FTeid
    user: ie.FTeid
    paa: ie.Paa
    qos: Qos
    charging_id: int
    recovery: int
    pco: bytes
    apco: bytes
    epco: bytes


_ACCEPTING = {
    cause: ie.encode_cause(cause)
    for cause in (
        Cause.REQUEST_ACCEPTED,
        Cause.NEW_PDN_TYPE_DUE_TO_NETWORK_PREFERENCE,
        Cause.NEW_PDN_TYPE_DUE_TO_SINGLE_ADDRESS_BEARER_ONLY,
    )
}
"""The elements of the causes by which a session is accepted."""
_ACCEPTED = _ACCEPTING[Cause.REQUEST_ACCEPTED]
_UNRESTRICTED = ie.encode_element(ie.APN_RESTRICTION, NO_APN_RESTRICTION)


def imsi_element(elements: ie.Elements) -> bytes:
    """The IMSI as an element, to be repeated (§7.3.15); or nothing."""
    value = ie.optional(elements, ie.IMSI)
    return ie.encode_element(ie.IMSI, value) if 0 < len(value) <= IMSI_BYTES_MAX else b""


def decode_ebi(value: bytes) -> int:
    """5–15 (§8.8); raises ``ElementError`` (69)."""
    if value[0] & 15 < _EBI_MIN:
        raise ie.ElementError("EBI below 5", Cause.MANDATORY_IE_INCORRECT, (ie.EBI, 0))
    return value[0] & 15


def recovery_of(elements: ie.Elements) -> int | None:
    """The restart counter of its sender, where there is one (§8.5)."""
    value = ie.optional(elements, ie.RECOVERY)
    return value[0] if value else None


def decode_recovery(payload: bytes) -> int | None:
    """The Recovery of an Echo or of a response, where there is one."""
    try:
        return recovery_of(ie.decode_elements(payload))
    except RemoteProtocolError:
        return None


def peek_control_teid(payload: bytes) -> int:
    """The sender's control TEID in a request that could not be decoded, or 0: it then knows our refusal."""
    try:
        return ie.decode_f_teid(ie.decode_elements(payload), 0).teid
    except RemoteProtocolError:
        return 0


def encode_echo_request(sequence: int, recovery: int) -> bytes:
    """§7.1.1."""
    body = ie.encode_octet(ie.RECOVERY, recovery)
    return encode_header(MessageType.ECHO_REQUEST, None, sequence, body)


def encode_echo_response(sequence: int, recovery: int) -> bytes:
    """§7.1.2."""
    body = ie.encode_octet(ie.RECOVERY, recovery)
    return encode_header(MessageType.ECHO_RESPONSE, None, sequence, body)


def encode_version_not_supported(sequence: int) -> bytes:
    """§7.1.3: states the latest version that is spoken here by its own header."""
    return encode_header(MessageType.VERSION_NOT_SUPPORTED, None, sequence, b"")


def encode_cause_response(
    message_type: MessageType,
    teid: int,
    sequence: int,
    cause: int,
    *,
    fault: RemoteProtocolError | None = None,
    repeated: bytes = b"",
) -> bytes:
    """A response that carries a cause, and elements that it repeats; it names the element at fault where it
    must (§8.4).
    """
    return encode_header(message_type, teid, sequence, ie.encode_cause(cause, fault) + repeated)


def encode_create_session_response(peer_teid: int, sequence: int, ebi: int, created: Created) -> bytes:
    """An accepting Create Session Response (§7.2.2)."""
    bearer = [
        ie.encode_octet(ie.EBI, ebi),
        _ACCEPTED,
        created.user.encode(2),
        ie.encode_qos(created.qos.qci, created.qos.arp),
        ie.encode_charging_id(created.charging_id),
    ]
    elements = [
        _ACCEPTING[created.cause],
        ie.encode_octet(ie.RECOVERY, created.recovery),
        created.control.encode(1),
        created.paa.encode(),
        _UNRESTRICTED,
    ]
    if created.qos.ambr_up_kbps or created.qos.ambr_down_kbps:
        elements.append(ie.encode_ambr(created.qos))
    if created.pco:
        elements.append(ie.encode_element(ie.PCO, created.pco))
    elements.append(ie.encode_group(ie.BEARER_CONTEXT, bearer))
    for type_, options in ((ie.APCO, created.apco), (ie.EPCO, created.epco)):
        if options:
            elements.append(ie.encode_element(type_, options))
    return encode_header(MessageType.CREATE_SESSION_RESPONSE, peer_teid, sequence, b"".join(elements))


def encode_modify_bearer_response(
    peer_teid: int,
    sequence: int,
    *,
    recovery: int,
    bearers: Mapping[int, int | None],
    msisdn: str,
    removed: Sequence[int] = (),
    linked_ebi: int | None = None,
) -> bytes:
    """An accepting Modify Bearer Response (§7.2.8). ``bearers``: of each EBI that was spoken of the charging
    id; ``None``: there is no such bearer. ``linked_ebi``: the default bearer, to be sent with the APN
    Restriction to an SGW whose session comes from an SGSN on Gn/Gp (table 7.2.8-1).
    """
    is_whole = None not in bearers.values()
    cause = Cause.REQUEST_ACCEPTED if is_whole else Cause.REQUEST_ACCEPTED_PARTIALLY
    elements = [ie.encode_cause(cause)]
    if msisdn:
        digits = values.encode_tbcd(msisdn, (len(msisdn) + 1) // 2)
        elements.append(ie.encode_element(ie.MSISDN, digits))
    if linked_ebi is not None:
        elements.append(ie.encode_octet(ie.EBI, linked_ebi))
        elements.append(_UNRESTRICTED)
    elements.append(ie.encode_octet(ie.RECOVERY, recovery))
    for ebi, charging_id in bearers.items():
        bearer = [ie.encode_octet(ie.EBI, ebi)]
        if charging_id is None:
            bearer.append(ie.encode_cause(Cause.CONTEXT_NOT_FOUND))
        else:
            bearer.append(_ACCEPTED)
            bearer.append(ie.encode_charging_id(charging_id))
        elements.append(ie.encode_group(ie.BEARER_CONTEXT, bearer))
    for ebi in removed:
        marked = [ie.encode_octet(ie.EBI, ebi), _ACCEPTED]
        elements.append(ie.encode_group(ie.BEARER_CONTEXT, marked, 1))
    return encode_header(MessageType.MODIFY_BEARER_RESPONSE, peer_teid, sequence, b"".join(elements))


def encode_delete_session_response(peer_teid: int, sequence: int, recovery: int) -> bytes:
    """An accepting Delete Session Response (§7.2.10.1)."""
    body = _ACCEPTED + ie.encode_octet(ie.RECOVERY, recovery)
    return encode_header(MessageType.DELETE_SESSION_RESPONSE, peer_teid, sequence, body)
