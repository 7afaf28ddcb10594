"""GTPv2-C messages about bearers that the network starts, and commands that make it (TS 29.274 §7.2.3–17).

Rules: as in ``gtp.v2.message``. A bearer was made only if its answer says so twice: as a whole and of it.
"""

from collections.abc import Iterable, Mapping, Sequence

from core.domain.flow import DedicatedBearer
from core.domain.session import Qos
from core.errors import RemoteProtocolError
from gtp.tft import encode_tft
from gtp.v2 import ie
from gtp.v2.cause import Cause
from gtp.v2.header import encode_header
from gtp.v2.message import MessageType, decode_ebi, imsi_element, recovery_of
from gtp.v2.request import decode_delete_bearer_command
from gtp.wire import BearerEndpoints, GatewayEnd, Reply, Verdict

_VERDICTS: Mapping[int, Verdict] = {
    Cause.TEMPORARILY_REJECTED_DUE_TO_HANDOVER: Verdict.LATER,
    Cause.UE_IS_TEMPORARILY_NOT_REACHABLE_DUE_TO_POWER_SAVING: Verdict.ASLEEP,
    Cause.CONTEXT_NOT_FOUND: Verdict.UNKNOWN,
}


def elements_to_repeat(message_type: int, payload: bytes, cause: int) -> bytes:
    """What a refusal repeats of its request (§7.2.6, §7.2.17.2, §7.3.15), as far as it can be read."""
    try:
        if message_type == MessageType.CHANGE_NOTIFICATION_REQUEST:
            return imsi_element(ie.decode_elements(payload))
        if message_type == MessageType.BEARER_RESOURCE_COMMAND:
            elements = ie.decode_elements(payload)
            kept = [(type_, ie.optional(elements, type_)) for type_ in (ie.EBI, ie.PTI)]
            return b"".join(ie.encode_element(type_, value[:1]) for type_, value in kept if value)
        if message_type == MessageType.DELETE_BEARER_COMMAND:
            ebis = decode_delete_bearer_command(payload)
            return b"".join(_bearer(ebi, [ie.encode_cause(cause)]) for ebi in ebis)
    except RemoteProtocolError:
        return b""
    return b""


# -- what we ask ----------------------------------------------------------------------------------------


def encode_update_bearer_request(peer_teid: int, sequence: int, ebi: int, qos: Qos) -> bytes:
    """Update Bearer Request (§7.2.15): the default bearer's QoS and the APN-AMBR."""
    body = _bearer(ebi, [ie.encode_qos(qos.qci, qos.arp)]) + ie.encode_ambr(qos)
    return encode_header(MessageType.UPDATE_BEARER_REQUEST, peer_teid, sequence, body)


def encode_delete_bearer_request(
    peer_teid: int, sequence: int, linked_ebi: int, cause: Cause | None = None
) -> bytes:
    """Delete Bearer Request (§7.2.9.2) for a whole PDN connection, and why, if the device should know."""
    body = ie.encode_element(ie.EBI, bytes((linked_ebi,)))
    if cause is not None:
        body += ie.encode_cause(cause)
    return encode_header(MessageType.DELETE_BEARER_REQUEST, peer_teid, sequence, body)


def encode_delete_dedicated_request(peer_teid: int, sequence: int, ebis: Sequence[int]) -> bytes:
    """Delete Bearer Request (§7.2.9.2) for dedicated bearers."""
    body = b"".join(ie.encode_element(ie.EBI, bytes((ebi,)), 1) for ebi in ebis)
    return encode_header(MessageType.DELETE_BEARER_REQUEST, peer_teid, sequence, body)


class V2Bearers:
    """Requests for dedicated bearers; see ``gtp.wire.BearerWire``."""

    def encode_create(
        self, peer_teid: int, sequence: int, linked_ebi: int, bearer: DedicatedBearer, gateway: GatewayEnd
    ) -> bytes:
        """Create Bearer Request (§7.2.3) for one dedicated bearer; its identity is the peer's to give."""
        user = ie.FTeid(ie.S5_S8_PGW_GTP_U, bearer.local_teid_user, gateway.user_address)
        elements = [
            ie.encode_element(ie.BEARER_TFT, encode_tft(bearer.filters)),
            user.encode(1),
            ie.encode_qos(bearer.qci, bearer.arp),
            ie.encode_element(ie.CHARGING_ID, bearer.charging_id.to_bytes(4, "big")),
        ]
        body = ie.encode_element(ie.EBI, bytes((linked_ebi,))) + _bearer(0, elements)
        return encode_header(MessageType.CREATE_BEARER_REQUEST, peer_teid, sequence, body)

    def encode_update(self, peer_teid: int, sequence: int, bearer: DedicatedBearer, qos: Qos) -> bytes:
        """Update Bearer Request (§7.2.15) for it alone: its QoS, and a TFT in the place of the one that it
        has (TS 24.301 §6.4.3.4). The session's APN-AMBR is mandatory, and repeated.
        """
        elements = [
            ie.encode_element(ie.BEARER_TFT, encode_tft(bearer.filters)),
            ie.encode_qos(bearer.qci, bearer.arp),
        ]
        body = _bearer(bearer.ebi, elements) + ie.encode_ambr(qos)
        return encode_header(MessageType.UPDATE_BEARER_REQUEST, peer_teid, sequence, body)

    def encode_delete(self, peer_teid: int, sequence: int, ebi: int) -> bytes:
        """Delete Bearer Request (§7.2.9.2) for it alone."""
        return encode_delete_dedicated_request(peer_teid, sequence, (ebi,))


# -- what we are answered -------------------------------------------------------------------------------


def decode_reply(message_type: int, payload: bytes) -> Reply:
    """The answer to a request of ours; raises ``RemoteProtocolError`` when it has no cause.

    A bearer was made only if the answer, and its bearer context, says so, with an identity and an F-TEID.
    """
    elements = ie.decode_elements(payload)
    cause = ie.required(elements, ie.CAUSE)[0]
    recovery = recovery_of(elements)
    if cause not in (Cause.REQUEST_ACCEPTED, Cause.REQUEST_ACCEPTED_PARTIALLY):
        return Reply(_VERDICTS.get(cause, Verdict.REFUSED), recovery)
    if (put_off := _VERDICTS.get(_cause_of_bearer(elements))) in (Verdict.LATER, Verdict.ASLEEP):
        return Reply(put_off, recovery)
    ends = _made(elements) if message_type == MessageType.CREATE_BEARER_RESPONSE else None
    return Reply(Verdict.DONE, recovery, ends)


def _cause_of_bearer(elements: ie.Elements) -> int:
    """What an answer says of its bearer alone; 0: nothing."""
    try:
        bearer = ie.decode_elements(ie.required(elements, ie.BEARER_CONTEXT))
        return ie.required(bearer, ie.CAUSE)[0]
    except RemoteProtocolError:
        return 0


def _made(elements: ie.Elements) -> BearerEndpoints | None:
    try:
        bearer = ie.decode_elements(ie.required(elements, ie.BEARER_CONTEXT))
        if ie.required(bearer, ie.CAUSE)[0] != Cause.REQUEST_ACCEPTED:
            return None
        user = ie.decode_f_teid(bearer, 2)
        return BearerEndpoints(decode_ebi(ie.required(bearer, ie.EBI)), user.teid, user.address)
    except RemoteProtocolError:
        return None


def _bearer(ebi: int, elements: Iterable[bytes]) -> bytes:
    return ie.encode_group(ie.BEARER_CONTEXT, [ie.encode_element(ie.EBI, bytes((ebi,))), *elements])
