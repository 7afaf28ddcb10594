"""A simulated SGSN: attaches SIMs over GTPv1-C and carries their packets over GTP-U."""

from ipaddress import IPv4Address

from core.domain.session import PdnType
from core.ports.network import Address
from gtp import values
from gtp.pco import dns_request, dns_servers
from gtp.v1 import ie
from gtp.v1.cause import Cause
from gtp.v1.header import decode_header, encode_header
from gtp.v1.message import (
    MessageType,
    Response,
    decode_response,
    encode_cause_response,
    encode_echo_request,
    encode_echo_response,
)
from loadtest.peers.gtp import UNKNOWN, GtpPeer, PdpContext, Refusal

QOS = bytes.fromhex("000b921f")


class Sgsn(GtpPeer[Response]):
    """One SGSN on one address."""

    async def echo(self) -> int:
        """Echo Request; the gateway's restart counter."""
        sequence = self._next_sequence()
        answer = await self._ask(MessageType.ECHO_RESPONSE, sequence, encode_echo_request(sequence))
        return answer.recovery or 0

    async def _create(self, context: PdpContext, imei: str) -> None:
        """Create PDP Context."""
        elements = [
            *self._end_elements(context),
            (ie.IMSI, values.encode_tbcd(context.imsi, 8)),
            (ie.SELECTION_MODE, b"\xfc"),
            (ie.END_USER_ADDRESS, ie.encode_end_user_address(ie.EndUserAddress(PdnType.IPV4))),
            (ie.ACCESS_POINT_NAME, values.encode_apn(context.apn)),
            (ie.PROTOCOL_CONFIGURATION_OPTIONS, dns_request()),
            (ie.RAT_TYPE, b"\x06"),
        ]
        if imei:
            elements.append((ie.IMEI, values.encode_tbcd(imei, 8)))
        answer = await self._request(MessageType.CREATE_PDP_CONTEXT_REQUEST, 0, elements)
        context.peer_teid_control = int.from_bytes(ie.required(answer.elements, ie.TEID_CONTROL), "big")
        context.peer_teid_user = int.from_bytes(ie.required(answer.elements, ie.TEID_DATA_I), "big")
        context.charging_id = int.from_bytes(ie.required(answer.elements, ie.CHARGING_ID), "big")
        given = ie.decode_end_user_address(ie.required(answer.elements, ie.END_USER_ADDRESS))
        context.ue_address = given.ipv4 or UNKNOWN
        context.gateway_user = str(IPv4Address(answer.elements[ie.GSN_ADDRESS][1]))
        options = ie.first(answer.elements, ie.PROTOCOL_CONFIGURATION_OPTIONS)
        context.dns = dns_servers(options or b"")

    async def _move(self, context: PdpContext) -> None:
        """Update PDP Context."""
        await self._request(
            MessageType.UPDATE_PDP_CONTEXT_REQUEST, context.peer_teid_control, self._end_elements(context)
        )

    async def _delete(self, context: PdpContext) -> None:
        """Delete PDP Context."""
        await self._request(
            MessageType.DELETE_PDP_CONTEXT_REQUEST,
            context.peer_teid_control,
            [(ie.TEARDOWN_IND, b"\xff"), (ie.NSAPI, bytes((context.nsapi,)))],
        )

    def _end_elements(self, context: PdpContext) -> list[tuple[int, bytes]]:
        own = IPv4Address(self.address).packed
        return [
            (ie.RECOVERY, bytes((self.restart_counter,))),
            (ie.TEID_DATA_I, context.local_teid_user.to_bytes(4, "big")),
            (ie.TEID_CONTROL, context.local_teid_control.to_bytes(4, "big")),
            (ie.NSAPI, bytes((context.nsapi,))),
            (ie.GSN_ADDRESS, own),
            (ie.GSN_ADDRESS, own),
            (ie.QUALITY_OF_SERVICE, QOS),
        ]

    async def _request(
        self, message_type: MessageType, teid: int, elements: list[tuple[int, bytes]]
    ) -> Response:
        sequence = self._next_sequence()
        data = encode_header(message_type, teid, sequence, ie.encode_elements(elements))
        answer = await self._ask(message_type + 1, sequence, data)
        if not 128 <= answer.cause < 192:
            raise Refusal(answer.cause)
        return answer

    def _on_control(self, data: bytes, source: Address) -> None:
        header = decode_header(data)
        sequence = header.sequence or 0
        if header.message_type == MessageType.ECHO_REQUEST:
            self._send(encode_echo_response(sequence, self.restart_counter), source)
        elif header.message_type == MessageType.DELETE_PDP_CONTEXT_REQUEST:
            context = self._ended(header.teid)
            cause = Cause.REQUEST_ACCEPTED if context else Cause.NON_EXISTENT
            teid = context.peer_teid_control if context else 0
            response_type = MessageType.DELETE_PDP_CONTEXT_RESPONSE
            self._send(encode_cause_response(response_type, teid, sequence, cause), source)
        elif header.message_type == MessageType.UPDATE_PDP_CONTEXT_REQUEST:
            held = self.contexts.get(header.teid)
            cause = Cause.REQUEST_ACCEPTED if held else Cause.NON_EXISTENT
            teid = held.peer_teid_control if held else 0
            answer_type = MessageType.UPDATE_PDP_CONTEXT_RESPONSE
            self._send(encode_cause_response(answer_type, teid, sequence, cause), source)
        elif (header.message_type, sequence) in self._waiting:
            answer = decode_response(MessageType(header.message_type), header.payload)
            self._answered(header.message_type, sequence, answer, answer.recovery)
