"""A simulated SGW: attaches SIMs over GTPv2-C and carries their packets over GTP-U."""

from dataclasses import dataclass
from ipaddress import IPv4Address

from core.domain.session import PdnType
from core.ports.network import Address
from gtp import values
from gtp.pco import dns_request, dns_servers
from gtp.v2 import ie
from gtp.v2.cause import Cause
from gtp.v2.header import decode_header, encode_header
from gtp.v2.message import (
    MessageType,
    decode_recovery,
    encode_cause_response,
    encode_echo_request,
    encode_echo_response,
)
from loadtest.peers.gtp import GtpPeer, PdpContext, Refusal

BEARER_QOS = bytes.fromhex("7409") + bytes(20)
"""ARP priority 13, QCI 9, no guaranteed rates."""
AMBR = (1_000).to_bytes(4, "big") * 2
RAT_LTE_M = 9


@dataclass(frozen=True, slots=True)
class Answer:
    """A response: cause, Recovery, elements."""

    cause: int
    recovery: int | None
    elements: ie.Elements


class Sgw(GtpPeer[Answer]):
    """One SGW on one address. ``serving_network``: the PLMN that it reports, as MCC and MNC octets."""

    serving_network = bytes.fromhex("44f001")

    async def echo(self) -> int:
        """Echo Request; the gateway's restart counter."""
        sequence = self._next_sequence()
        data = encode_echo_request(sequence, self.restart_counter)
        return (await self._ask(MessageType.ECHO_RESPONSE, sequence, data)).recovery or 0

    async def _create(self, context: PdpContext, imei: str) -> None:
        """Create Session."""
        bearer = [
            ie.encode_element(ie.EBI, bytes((context.nsapi,))),
            self._f_teid(ie.S5_S8_SGW_GTP_U, context.local_teid_user).encode(2),
            ie.encode_element(ie.BEARER_QOS, BEARER_QOS),
        ]
        elements = [
            ie.encode_element(ie.IMSI, values.encode_tbcd(context.imsi, 8)),
            ie.encode_element(ie.SERVING_NETWORK, self.serving_network),
            ie.encode_element(ie.RAT_TYPE, bytes((RAT_LTE_M,))),
            self._f_teid(ie.S5_S8_SGW_GTP_C, context.local_teid_control).encode(0),
            ie.encode_element(ie.APN, values.encode_apn(context.apn)),
            ie.encode_element(ie.SELECTION_MODE, b"\0"),
            ie.encode_element(ie.PDN_TYPE, bytes((ie.PDN_NUMBERS[PdnType.IPV4],))),
            ie.Paa(PdnType.IPV4).encode(),
            ie.encode_element(ie.APN_RESTRICTION, b"\0"),
            ie.encode_element(ie.AMBR, AMBR),
            ie.encode_element(ie.PCO, dns_request()),
            ie.encode_group(ie.BEARER_CONTEXT, bearer),
            ie.encode_element(ie.RECOVERY, bytes((self.restart_counter,))),
        ]
        if imei:
            elements.append(ie.encode_element(ie.MEI, values.encode_tbcd(imei, 8)))
        answer = await self._request(MessageType.CREATE_SESSION_REQUEST, 0, elements)
        given = ie.decode_elements(ie.required(answer.elements, ie.BEARER_CONTEXT))
        context.peer_teid_control = ie.decode_f_teid(answer.elements, 1).teid
        context.peer_teid_user = ie.decode_f_teid(given, 2).teid
        context.charging_id = int.from_bytes(ie.required(given, ie.CHARGING_ID), "big")
        context.ue_address = ie.Paa.decode(ie.required(answer.elements, ie.PAA)).ipv4 or context.ue_address
        context.dns = dns_servers(ie.optional(answer.elements, ie.PCO))

    async def _move(self, context: PdpContext) -> None:
        """Modify Bearer."""
        bearer = [
            ie.encode_element(ie.EBI, bytes((context.nsapi,))),
            self._f_teid(ie.S5_S8_SGW_GTP_U, context.local_teid_user).encode(1),
        ]
        elements = [
            ie.encode_element(ie.SERVING_NETWORK, self.serving_network),
            ie.encode_element(ie.RAT_TYPE, bytes((RAT_LTE_M,))),
            self._f_teid(ie.S5_S8_SGW_GTP_C, context.local_teid_control).encode(0),
            ie.encode_group(ie.BEARER_CONTEXT, bearer),
            ie.encode_element(ie.RECOVERY, bytes((self.restart_counter,))),
        ]
        await self._request(MessageType.MODIFY_BEARER_REQUEST, context.peer_teid_control, elements)

    async def _delete(self, context: PdpContext) -> None:
        """Delete Session."""
        elements = [ie.encode_element(ie.EBI, bytes((context.nsapi,)))]
        await self._request(MessageType.DELETE_SESSION_REQUEST, context.peer_teid_control, elements)

    async def _request(self, message_type: MessageType, teid: int, elements: list[bytes]) -> Answer:
        sequence = self._next_sequence()
        data = encode_header(message_type, teid, sequence, b"".join(elements))
        answer = await self._ask(message_type + 1, sequence, data)
        if not 16 <= answer.cause < 64:
            raise Refusal(answer.cause)
        return answer

    def _on_control(self, data: bytes, source: Address) -> None:
        header = decode_header(data)
        if header.message_type == MessageType.ECHO_REQUEST:
            self._send(encode_echo_response(header.sequence, self.restart_counter), source)
        elif header.message_type == MessageType.DELETE_BEARER_REQUEST:
            context = self._ended(header.teid or 0)
            cause = Cause.REQUEST_ACCEPTED if context else Cause.CONTEXT_NOT_FOUND
            teid = context.peer_teid_control if context else 0
            response_type = MessageType.DELETE_BEARER_RESPONSE
            self._send(encode_cause_response(response_type, teid, header.sequence, cause), source)
        elif (header.message_type, header.sequence) in self._waiting:
            elements = ie.decode_elements(header.payload)
            cause_value = elements.get((ie.CAUSE, 0), bytes((Cause.REQUEST_ACCEPTED,)))
            recovery = decode_recovery(header.payload)
            answer = Answer(cause_value[0], recovery, elements)
            self._answered(header.message_type, header.sequence, answer, recovery)

    def _f_teid(self, interface: int, teid: int) -> ie.FTeid:
        return ie.FTeid(interface, teid, IPv4Address(self.address))
