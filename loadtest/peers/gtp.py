"""What a simulated SGSN and a simulated SGW have in common: sockets, tunnels, patience.

Rules: they use our codec, so they prove behaviour, never the wire: that is what the real SGSN of the
end-to-end tests and the oracles are for. They repeat what is not answered (T3, N3) and answer what the
gateway starts. They run on real sockets and in the virtual world alike.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from typing import Generic, Self, TypeVar

from core.errors import RemoteProtocolError
from core.ports.clock import Entropy
from core.ports.network import Address, DatagramSocket, Network
from gtp.v1.header import decode_header, encode_header

GTP_C_PORT, GTP_U_PORT = 2123, 2152
ECHO_REQUEST, ECHO_RESPONSE, ERROR_INDICATION, G_PDU = 1, 2, 26, 255
T3_S, N3 = 1.0, 4
UNKNOWN = IPv4Address(0)

Answer = TypeVar("Answer")


class NotAnswered(Exception):
    """The gateway stayed silent through every repeat."""


class Refusal(Exception):
    """The gateway answered with a cause that is no acceptance."""

    def __init__(self, cause: int) -> None:
        super().__init__(f"cause {cause}")
        self.cause = cause


@dataclass(slots=True)
class PdpContext:
    """A PDP context or PDN connection as the peer holds it; ``on_down`` gets each packet for the device."""

    imsi: str
    apn: str
    nsapi: int
    local_teid_control: int
    local_teid_user: int
    peer_teid_control: int = 0
    peer_teid_user: int = 0
    ue_address: IPv4Address = UNKNOWN
    charging_id: int = 0
    gateway_user: str = ""
    """The gateway's end of the tunnel; empty: its GTP-C address."""
    dns: tuple[str, ...] = ()
    bearers: dict[int, int] = field(default_factory=dict)
    """Dedicated ones: their identities, and where to send what goes by them."""
    is_active: bool = False
    ended_by_gateway: bool = False
    on_down: Callable[[bytes], None] = field(default=lambda _: None)


class GtpPeer(ABC, Generic[Answer]):
    """One peer on one address. ``restart_counter`` is what it sends as Recovery."""

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
        self._waiting: dict[tuple[int, int], asyncio.Future[Answer]] = {}
        self._control: DatagramSocket | None = None
        self._user: DatagramSocket | None = None
        self.address = address
        self.restart_counter = restart_counter
        self.contexts: dict[int, PdpContext] = {}
        self.gateway_restart_counter: int | None = None
        self.error_indications = 0
        self.silent: set[int] = set()
        """Control TEIDs of contexts that were forgotten without a word, since the last restart."""
        self.refuted: list[PdpContext] = []
        """Contexts that stand here and whose packets the gateway answered with an Error Indication."""
        self._counters: set[int] = set()
        self._twin = int.from_bytes(entropy.random_bytes(1), "big")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Its sockets are open inside."""
        self._control = await self._network.open_datagram((self.address, GTP_C_PORT), self._receive)
        self._user = await self._network.open_datagram((self.address, GTP_U_PORT), self._on_user)
        try:
            yield self
        finally:
            self._control.close()
            self._user.close()

    @abstractmethod
    async def echo(self) -> int:
        """Echo Request; the gateway's restart counter."""

    async def attach(self, *, imsi: str, apn: str, imei: str = "", nsapi: int = 5) -> PdpContext:
        """Ask for a session; raises ``Refusal`` or ``NotAnswered``."""
        context = PdpContext(imsi, apn, nsapi, self._new_teid(), self._new_teid())
        self._hold(context)
        try:
            await self._create(context, imei)
        except (Refusal, NotAnswered):
            self.lose(context)
            raise
        self._begin(context)
        return context

    async def take_over(self, context: PdpContext) -> PdpContext:
        """Serve from here a context that another peer held, of whichever version."""
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
            context.gateway_user,
            context.dns,
            on_down=context.on_down,
        )
        self._hold(taken)
        try:
            await self._move(taken)
        except (Refusal, NotAnswered):
            self.lose(taken)
            raise
        self._begin(taken)
        return taken

    def _begin(self, context: PdpContext) -> None:
        """The answer came; meanwhile a delete may have overtaken it, or a restart forgotten the question."""
        if context.local_teid_control not in self.contexts and not context.ended_by_gateway:
            raise NotAnswered("this peer restarted")
        context.is_active = not context.ended_by_gateway

    async def detach(self, context: PdpContext) -> None:
        """End a session; raises ``Refusal`` or ``NotAnswered``. It is gone here either way."""
        self.lose(context)
        await self._delete(context)

    def lose(self, context: PdpContext) -> None:
        """Forget a context without a word, as a phone whose battery was pulled."""
        context.is_active = False
        if self.contexts.pop(context.local_teid_control, None) is not None:
            self.silent.add(context.local_teid_control)
        self.contexts.pop(context.local_teid_user, None)

    def restart(self, counter: int | None = None) -> None:
        """Lose every context and restart with the next restart counter (TS 23.007 §18), or with another one,
        as a peer that lost its file or was replaced. Never with the same one: that restart cannot be
        detected.
        """
        for context in list(self.contexts.values()):
            self.lose(context)
        self.silent.clear()
        self._counters.add(self.restart_counter)
        self.restart_counter = (self.restart_counter + 1 if counter is None else counter) & 0xFF
        while self.restart_counter in self._counters:
            self.restart_counter = (self.restart_counter + 1) & 0xFF

    def fail_over(self) -> None:
        """A twin with a restart counter of its own goes on at this address, without contexts; this one
        restarts before it is back.
        """
        twin, self._twin = self._twin, self.restart_counter + 1
        self.restart(twin)

    def send_up(self, context: PdpContext, packet: bytes) -> None:
        """Carry a device's packet to the gateway, if the context stands."""
        if context.is_active and self._user is not None:
            data = encode_header(G_PDU, context.peer_teid_user, None, packet)
            self._user.send(data, (context.gateway_user or self._gateway, GTP_U_PORT))

    # -- what a version fills in ----------------------------------------------------------------------

    @abstractmethod
    async def _create(self, context: PdpContext, imei: str) -> None:
        """Ask for the session and fill in what the answer gives."""

    @abstractmethod
    async def _move(self, context: PdpContext) -> None:
        """Ask the gateway to move the context to this peer."""

    @abstractmethod
    async def _delete(self, context: PdpContext) -> None:
        """Ask for the end."""

    @abstractmethod
    def _on_control(self, data: bytes, source: Address) -> None:
        """Take one control datagram in; may raise ``RemoteProtocolError`` or ``ValueError``."""

    # -- inside ---------------------------------------------------------------------------------------

    def _receive(self, data: bytes, source: Address) -> None:
        try:
            self._on_control(data, source)
        except (RemoteProtocolError, ValueError):
            return  # a simulated peer that is sent nonsense waits for its repeat, as a real one does

    async def _ask(self, answer_type: int, sequence: int, data: bytes) -> Answer:
        assert self._control is not None, "ask inside running()"
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
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

    def _answered(self, message_type: int, sequence: int, answer: Answer, recovery: int | None) -> None:
        waiting = self._waiting.get((message_type, sequence))
        if waiting is not None and not waiting.done():
            self.gateway_restart_counter = recovery or self.gateway_restart_counter
            waiting.set_result(answer)

    def _ended(self, teid: int) -> PdpContext | None:
        """The gateway ends a context; what was known of it."""
        context = self.contexts.get(teid)
        if context is not None:
            context.ended_by_gateway = True
            self.lose(context)
        return context

    def _on_user(self, data: bytes, source: Address) -> None:
        try:
            header = decode_header(data)
        except RemoteProtocolError:
            return
        if header.message_type == ERROR_INDICATION:
            self.error_indications += 1
            teid = int.from_bytes(header.payload[1:5], "big")
            held = {id(each): each for each in self.contexts.values() if each.peer_teid_user == teid}
            self.refuted += [each for each in held.values() if each.is_active]
        elif header.message_type == ECHO_REQUEST and self._user is not None:
            self._user.send(encode_header(ECHO_RESPONSE, 0, header.sequence or 0, b"\x0e\0"), source)
        elif header.message_type != G_PDU:
            return
        elif context := self.contexts.get(header.teid):
            if source[0] == (context.gateway_user or self._gateway):
                context.on_down(header.payload)
        elif self._user is not None:  # TS 29.281 §7.3.1
            own = b"\x85\x00\x04" + IPv4Address(self.address).packed
            body = b"\x10" + header.teid.to_bytes(4, "big") + own
            self._user.send(encode_header(ERROR_INDICATION, 0, 0, body), (source[0], GTP_U_PORT))

    def _send(self, data: bytes, to: Address) -> None:
        if self._control is not None:
            self._control.send(data, to)

    def _hold(self, context: PdpContext) -> None:
        self.contexts[context.local_teid_control] = self.contexts[context.local_teid_user] = context

    def _next_sequence(self) -> int:
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self._sequence

    def _new_teid(self) -> int:
        teid = 0
        while teid == 0 or teid in self.contexts:
            teid = int.from_bytes(self._entropy.random_bytes(4), "big")
        return teid
