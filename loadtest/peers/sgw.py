"""A simulated SGW: attaches SIMs over GTPv2-C and carries their packets over GTP-U."""

from dataclasses import dataclass

from core.domain.session import PdnType
from core.ports.network import Address
from gtp import values
from gtp.pco import dns_request, dns_servers
from gtp.v2 import ie
from gtp.v2.cause import Cause
from gtp.v2.header import Header, decode_header, encode_header
from gtp.v2.message import (
    MessageType,
    decode_recovery,
    encode_cause_response,
    encode_echo_request,
    encode_echo_response,
)
from loadtest.peers.gtp import GtpPeer, PdpContext, Refusal

ASKED_OF_US = frozenset(
    {
        MessageType.CREATE_BEARER_REQUEST,
        MessageType.UPDATE_BEARER_REQUEST,
        MessageType.DELETE_BEARER_REQUEST,
    }
)
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
    verdict = Cause.REQUEST_ACCEPTED
    """Its answers to the gateway's requests for bearers and for changes."""
    told_ambr = (0, 0)

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
        user = ie.decode_f_teid(given, 2)
        context.peer_teid_user, context.gateway_user = user.teid, str(user.address)
        context.charging_id = int.from_bytes(ie.required(given, ie.CHARGING_ID), "big")
        context.ue_address = ie.decode_paa(ie.required(answer.elements, ie.PAA)).ipv4 or context.ue_address
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
        elif header.message_type in ASKED_OF_US:
            self._answer_gateway(header, source)
        elif (header.message_type, header.sequence) in self._waiting:
            elements = ie.decode_elements(header.payload)
            cause_value = elements.get((ie.CAUSE, 0), bytes((Cause.REQUEST_ACCEPTED,)))
            recovery = decode_recovery(header.payload)
            answer = Answer(cause_value[0], recovery, elements)
            self._answered(header.message_type, header.sequence, answer, recovery)

    def _answer_gateway(self, header: Header, source: Address) -> None:
        """Carry out what the gateway asks of a context."""
        context, elements = self.contexts.get(header.teid or 0), ie.decode_elements(header.payload)
        cause, answer = (Cause.REQUEST_ACCEPTED, b"") if context else (Cause.CONTEXT_NOT_FOUND, b"")
        if context is None:
            pass
        elif header.message_type == MessageType.CREATE_BEARER_REQUEST:
            cause, answer = self.verdict, self._make_bearer(context, header)
        elif header.message_type == MessageType.UPDATE_BEARER_REQUEST:
            cause = self.verdict
            bearer = ie.decode_elements(ie.required(elements, ie.BEARER_CONTEXT))
            told = [ie.encode_element(ie.EBI, ie.required(bearer, ie.EBI)), ie.encode_cause(cause)]
            answer = ie.encode_group(ie.BEARER_CONTEXT, told)
            self.told_ambr = ie.decode_ambr(ie.required(elements, ie.AMBR))
        elif (ie.EBI, 0) in elements:
            self._ended(header.teid or 0)
        else:
            for ebi in ie.every(header.payload, ie.EBI, 1):
                context.bearers.pop(ebi[0], None)
        teid = context.peer_teid_control if context else 0
        answer_type = MessageType(header.message_type + 1)
        data = encode_cause_response(answer_type, teid, header.sequence, cause, repeated=answer)
        self._send(data, source)

    def _make_bearer(self, context: PdpContext, header: Header) -> bytes:
        """A bearer with the lowest identity that is free; one that was asked for again is the same."""
        asked = ie.decode_elements(ie.required(ie.decode_elements(header.payload), ie.BEARER_CONTEXT))
        gateway = ie.decode_f_teid(asked, 1)
        assert str(gateway.address) == context.gateway_user, "where its other tunnel ends"
        of_teid = {teid: ebi for ebi, teid in context.bearers.items()}
        ebi = of_teid.get(gateway.teid) or next(
            number for number in range(6, 16) if number not in context.bearers
        )
        if self.verdict is Cause.REQUEST_ACCEPTED:
            context.bearers[ebi] = gateway.teid
        return ie.encode_group(
            ie.BEARER_CONTEXT,
            [
                ie.encode_element(ie.EBI, bytes((ebi,))),
                ie.encode_cause(self.verdict),
                self._f_teid(ie.S5_S8_SGW_GTP_U, context.local_teid_user).encode(2),
                gateway.encode(3),
            ],
        )

    def _f_teid(self, interface: int, teid: int) -> ie.FTeid:
        return ie.FTeid(interface, teid, self.address)
