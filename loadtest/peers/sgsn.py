"""A simulated SGSN: attaches SIMs over GTPv1-C and carries their packets over GTP-U.

Rules: it uses our codec, so it proves behaviour, never the wire: that is what the real SGSN of the
end-to-end tests and the oracles are for. It repeats what is not answered (T3, N3) and answers what the
gateway starts. It runs on real sockets and in the virtual world alike.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from core.errors import RemoteProtocolError
from core.ports.clock import Entropy
from core.ports.network import Address, DatagramSocket, Network
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

GTP_C_PORT, GTP_U_PORT = 2123, 2152
G_PDU, ERROR_INDICATION = 255, 26
T3_S, N3 = 1.0, 4
UNKNOWN = IPv4Address(0)
QOS = bytes.fromhex("000b921f")


class NotAnswered(Exception):
    """The gateway stayed silent through every repeat."""


class Refusal(Exception):
    """The gateway answered with a cause that is no acceptance."""

    def __init__(self, cause: int) -> None:
        super().__init__(f"cause {cause}")
        self.cause = cause


@dataclass(slots=True)
class PdpContext:
    """A PDP context as the SGSN holds it; ``on_down`` is called with each packet for the device."""

    imsi: str
    apn: str
    nsapi: int
    local_teid_control: int
    local_teid_user: int
    peer_teid_control: int = 0
    peer_teid_user: int = 0
    ue_address: IPv4Address = UNKNOWN
    charging_id: int = 0
    dns: tuple[str, ...] = ()
    is_active: bool = False
    ended_by_gateway: bool = False
    on_down: Callable[[bytes], None] = field(default=lambda _: None)


class Sgsn:
    """One SGSN on one address. ``restart_counter`` is what it sends as Recovery."""

    def __init__(
        self,
        *,
        network: Network,
        address: str,
        gateway: str,
        entropy: Entropy,
        restart_counter: int = 7,
        t3_s: float = T3_S,
    ) -> None:
        self._network = network
        self._gateway = gateway
        self._entropy = entropy
        self._t3_s = t3_s
        self._sequence = int.from_bytes(entropy.random_bytes(2), "big")
        self._waiting: dict[tuple[int, int], asyncio.Future[Response]] = {}
        self._control: DatagramSocket | None = None
        self._user: DatagramSocket | None = None
        self.address = address
        self.restart_counter = restart_counter
        self.contexts: dict[int, PdpContext] = {}
        self.gateway_restart_counter: int | None = None
        self.error_indications = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator["Sgsn"]:
        """Its sockets are open inside."""
        self._control = await self._network.open_datagram((self.address, GTP_C_PORT), self._on_control)
        self._user = await self._network.open_datagram((self.address, GTP_U_PORT), self._on_user)
        try:
            yield self
        finally:
            self._control.close()
            self._user.close()

    async def echo(self) -> int:
        """Echo Request; the gateway's restart counter."""
        sequence = self._next_sequence()
        answer = await self._ask(MessageType.ECHO_RESPONSE, sequence, encode_echo_request(sequence))
        return answer.recovery or 0

    async def attach(self, *, imsi: str, apn: str, imei: str = "", nsapi: int = 5) -> PdpContext:
        """Create PDP Context; raises ``Refusal`` or ``NotAnswered``."""
        context = PdpContext(imsi, apn, nsapi, self._new_teid(), self._new_teid())
        self.contexts[context.local_teid_control] = self.contexts[context.local_teid_user] = context
        try:
            answer = await self._request(
                MessageType.CREATE_PDP_CONTEXT_REQUEST, 0, self._create_elements(context, imei)
            )
        except (Refusal, NotAnswered):
            self._drop(context)
            raise
        context.peer_teid_control = int.from_bytes(ie.required(answer.elements, ie.TEID_CONTROL), "big")
        context.peer_teid_user = int.from_bytes(ie.required(answer.elements, ie.TEID_DATA_I), "big")
        context.charging_id = int.from_bytes(ie.required(answer.elements, ie.CHARGING_ID), "big")
        given = ie.decode_end_user_address(ie.required(answer.elements, ie.END_USER_ADDRESS))
        context.ue_address = given.ipv4 or UNKNOWN
        options = ie.first(answer.elements, ie.PROTOCOL_CONFIGURATION_OPTIONS)
        context.dns = dns_servers(options or b"")
        context.is_active = not context.ended_by_gateway  # its delete may have overtaken the answer
        return context

    async def take_over(self, context: PdpContext) -> PdpContext:
        """Update PDP Context: this SGSN serves a context that another one held (SGSN change)."""
        taken = PdpContext(
            context.imsi,
            context.apn,
            context.nsapi,
            self._new_teid(),
            self._new_teid(),
            context.peer_teid_control,
            context.peer_teid_user,
            context.ue_address,
            context.charging_id,
            context.dns,
            on_down=context.on_down,
        )
        self.contexts[taken.local_teid_control] = self.contexts[taken.local_teid_user] = taken
        try:
            await self._request(
                MessageType.UPDATE_PDP_CONTEXT_REQUEST, taken.peer_teid_control, self._end_elements(taken)
            )
        except (Refusal, NotAnswered):
            self._drop(taken)
            raise
        taken.is_active = True
        return taken

    async def detach(self, context: PdpContext) -> None:
        """Delete PDP Context; raises ``Refusal`` or ``NotAnswered``. It is gone here either way."""
        self._drop(context)
        await self._request(
            MessageType.DELETE_PDP_CONTEXT_REQUEST,
            context.peer_teid_control,
            [(ie.TEARDOWN_IND, b"\xff"), (ie.NSAPI, bytes((context.nsapi,)))],
        )

    def lose(self, context: PdpContext) -> None:
        """Forget a context without a word, as a phone whose battery was pulled."""
        self._drop(context)

    def send_up(self, context: PdpContext, packet: bytes) -> None:
        """Carry a device's packet to the gateway, if the context stands."""
        if context.is_active and self._user is not None:
            data = encode_header(G_PDU, context.peer_teid_user, None, packet)
            self._user.send(data, (self._gateway, GTP_U_PORT))

    # -- inside ---------------------------------------------------------------------------------------

    def _create_elements(self, context: PdpContext, imei: str) -> list[tuple[int, bytes]]:
        elements = [
            *self._end_elements(context),
            (ie.IMSI, values.encode_tbcd(context.imsi, 8)),
            (ie.SELECTION_MODE, b"\xfc"),
            (ie.END_USER_ADDRESS, ie.encode_end_user_address(None)),
            (ie.ACCESS_POINT_NAME, values.encode_apn(context.apn)),
            (ie.PROTOCOL_CONFIGURATION_OPTIONS, dns_request()),
            (ie.RAT_TYPE, b"\x06"),
        ]
        if imei:
            elements.append((ie.IMEI, values.encode_tbcd(imei, 8)))
        return elements

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

    async def _ask(self, answer_type: int, sequence: int, data: bytes) -> Response:
        assert self._control is not None, "ask inside running()"
        answer: asyncio.Future[Response] = asyncio.get_running_loop().create_future()
        self._waiting[(answer_type, sequence)] = answer
        try:
            for _ in range(N3 + 1):
                self._control.send(data, (self._gateway, GTP_C_PORT))
                done, _ = await asyncio.wait((answer,), timeout=self._t3_s)
                if done:
                    return answer.result()
            raise NotAnswered(f"message type {answer_type} never came")
        finally:
            del self._waiting[(answer_type, sequence)]

    def _on_control(self, data: bytes, source: Address) -> None:
        try:
            header = decode_header(data)
            sequence = header.sequence or 0
            if header.message_type == MessageType.ECHO_REQUEST:
                self._send(encode_echo_response(sequence, self.restart_counter), source)
            elif header.message_type == MessageType.DELETE_PDP_CONTEXT_REQUEST:
                self._ended(header.teid, sequence, source)
            elif (waiting := self._waiting.get((header.message_type, sequence))) and not waiting.done():
                answer = decode_response(MessageType(header.message_type), header.payload)
                self.gateway_restart_counter = answer.recovery or self.gateway_restart_counter
                waiting.set_result(answer)
        except (RemoteProtocolError, ValueError):
            return  # a simulated peer that is sent nonsense waits for its repeat, as a real one does

    def _ended(self, teid: int, sequence: int, source: Address) -> None:
        context = self.contexts.get(teid)
        cause = Cause.REQUEST_ACCEPTED if context else Cause.NON_EXISTENT
        peer_teid = context.peer_teid_control if context else 0
        if context is not None:
            context.ended_by_gateway = True
            self._drop(context)
        self._send(
            encode_cause_response(MessageType.DELETE_PDP_CONTEXT_RESPONSE, peer_teid, sequence, cause),
            source,
        )

    def _on_user(self, data: bytes, source: Address) -> None:
        try:
            header = decode_header(data)
        except RemoteProtocolError:
            return
        if header.message_type == ERROR_INDICATION:
            self.error_indications += 1
        elif header.message_type == G_PDU and (context := self.contexts.get(header.teid)):
            context.on_down(header.payload)

    def _send(self, data: bytes, to: Address) -> None:
        if self._control is not None:
            self._control.send(data, to)

    def _drop(self, context: PdpContext) -> None:
        context.is_active = False
        self.contexts.pop(context.local_teid_control, None)
        self.contexts.pop(context.local_teid_user, None)

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self._sequence

    def _new_teid(self) -> int:
        teid = 0
        while teid == 0 or teid in self.contexts:
            teid = int.from_bytes(self._entropy.random_bytes(4), "big")
        return teid
