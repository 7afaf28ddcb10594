"""Packets of devices to the platform: UDP messages, questions to the name server, pings; TCP is passed on.

Rules:

- ``on_edge_packet`` never raises and never waits; a packet that is no message is counted and dropped.
- A message is answered only after the stream accepted it, and only into the session that it came through.
- One SIM's messages are delivered in the order of their packets.
- What is under way is bounded, in all and per SIM; what comes over that is dropped without an answer. What is
  answered at once has a budget per SIM, asked before anything is read by it.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from ipaddress import IPv4Address

from core.domain.session import Session
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.services.streaming.delivery import Delivery, Receipt
from mqtt_bridge import inner
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.edge.udp import ACCEPTED, STATUS_OF_REFUSAL, UdpEntryPoint, message_of

IN_FLIGHT_MAX = 4_096
"""Messages of all SIMs that wait for the stream."""
SIM_IN_FLIGHT_MAX = 64
"""Messages of one SIM that wait for the stream; not above what its queue takes."""


class PacketCount(Enum):
    """What became of packets, besides their faults (``inner.Fault``)."""

    ACCEPTED = "accepted"
    ANSWERED = "answered"
    REFUSED = "refused"
    OVERLOAD = "overload"
    NOT_ACCEPTED = "not_accepted"
    NOT_SERVING = "not_serving"
    OVER_BUDGET = "over_budget"
    NO_SESSION = "no_session"
    FOREIGN_SOURCE = "foreign_source"
    NO_TCP = "no_tcp"
    NO_ENTRY_POINT = "no_entry_point"
    ECHO = "echo"
    QUESTION = "question"
    NO_QUESTION = "no_question"
    SESSION_GONE = "session_gone"
    NOT_INJECTED = "not_injected"


SERVED = frozenset(
    {PacketCount.ACCEPTED, PacketCount.ANSWERED, PacketCount.REFUSED, PacketCount.ECHO, PacketCount.QUESTION}
)
"""What healthy traffic is counted as; every other count is a datagram that was dropped."""

Responder = Callable[[bytes], bytes | None]
"""What a datagram is answered with at once; ``None``: it is dropped."""


class DevicePackets:
    """Serves devices while ``run`` runs; before and after, packets are dropped."""

    def __init__(
        self,
        *,
        delivery: Delivery,
        session_of: Callable[[str], Session | None],
        inject: Callable[[str, bytes], bool],
        clock: Clock,
        budget: AnswerBudget,
        entry_points: Iterable[UdpEntryPoint],
        responders: Mapping[tuple[IPv4Address, int], Responder] | None = None,
        on_tcp: Callable[[bytes], None] | None = None,
        in_flight_max: int = IN_FLIGHT_MAX,
        sim_in_flight_max: int = SIM_IN_FLIGHT_MAX,
    ) -> None:
        self._delivery = delivery
        self._session_of = session_of
        self._inject = inject
        self._clock = clock
        self._budget = budget
        self._entry_points = {(entry.address, entry.port): entry for entry in entry_points}
        self._responders = dict(responders or {})
        self._on_tcp = on_tcp
        self._addresses = {address for address, _ in (*self._entry_points, *self._responders)}
        self._in_flight_max = in_flight_max
        self._sim_in_flight_max = sim_in_flight_max
        self._in_flight: Counter[str] = Counter()
        self._in_flight_total = 0
        self._group: asyncio.TaskGroup | None = None
        self.counts: Counter[PacketCount | inner.Fault] = Counter()

    @property
    def in_flight(self) -> int:
        """Messages that wait for the stream."""
        return self._in_flight_total

    async def run(self) -> None:
        """Serve until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                await asyncio.Event().wait()
            finally:
                self._group = None

    def on_edge_packet(self, session_id: str, packet: bytes) -> None:
        """An inner packet from a device to a platform address (``PacketSink``)."""
        session = self._session_of(session_id)
        if session is None:
            self.counts[PacketCount.NO_SESSION] += 1
            return
        parsed = inner.parse(packet)
        if isinstance(parsed, inner.Fault):
            self.counts[parsed] += 1
        elif parsed.source != session.ue_address:
            self.counts[PacketCount.FOREIGN_SOURCE] += 1
        elif isinstance(parsed, inner.EchoRequest):
            self._receive_echo(session, parsed)
        elif isinstance(parsed, inner.TcpPacket):
            self._receive_tcp(session, parsed)
        else:
            self._receive_datagram(session, parsed, packet)

    def _receive_tcp(self, session: Session, packet: inner.TcpPacket) -> None:
        if self._on_tcp is None:
            self.counts[PacketCount.NO_TCP] += 1
        elif not packet.is_first or self._may_answer(session):
            self._on_tcp(packet.whole)

    def _receive_echo(self, session: Session, request: inner.EchoRequest) -> None:
        if request.destination not in self._addresses:
            self.counts[PacketCount.NO_ENTRY_POINT] += 1
        elif self._may_answer(session):
            self.counts[PacketCount.ECHO] += 1
            self._answer(session, inner.echo_reply(request))

    def _receive_datagram(self, session: Session, datagram: inner.UdpDatagram, packet: bytes) -> None:
        to = (datagram.destination, datagram.destination_port)
        entry_point = self._entry_points.get(to)
        if entry_point is None:
            if self._may_answer(session):
                self._answer_at_once(session, self._responders.get(to), datagram, packet)
        elif self._group is None:
            self.counts[PacketCount.NOT_SERVING] += 1
        elif self._is_overloaded(session):
            self.counts[PacketCount.OVERLOAD] += 1
        else:
            self._deliver(self._group, session, entry_point, datagram)

    def _may_answer(self, session: Session) -> bool:
        if self._budget.take(session.imsi, self._clock.monotonic()):
            return True
        self.counts[PacketCount.OVER_BUDGET] += 1
        return False

    def _answer_at_once(
        self, session: Session, responder: Responder | None, datagram: inner.UdpDatagram, packet: bytes
    ) -> None:
        if responder is None:
            self.counts[PacketCount.NO_ENTRY_POINT] += 1
            self._answer(session, inner.port_unreachable(packet))
            return
        answer = responder(datagram.payload)
        self.counts[PacketCount.NO_QUESTION if answer is None else PacketCount.QUESTION] += 1
        if answer is not None:
            self._answer(session, inner.reply_to(datagram, answer))

    def _is_overloaded(self, session: Session) -> bool:
        return (
            self._in_flight_total >= self._in_flight_max
            or self._in_flight[session.imsi] >= self._sim_in_flight_max
        )

    def _deliver(
        self,
        group: asyncio.TaskGroup,
        session: Session,
        entry_point: UdpEntryPoint,
        datagram: inner.UdpDatagram,
    ) -> None:
        """Hand the message over at once, so that packets keep their order; a task waits for the outcome."""
        try:
            receipt = self._delivery.deliver(
                message_of(session, entry_point, datagram, self._clock.now()),
            )
        except Refused as refusal:
            self.counts[PacketCount.REFUSED] += 1
            status = STATUS_OF_REFUSAL.get(refusal.reason)
            if status is not None:
                self._answer(session, inner.reply_to(datagram, status))
            return
        except Unavailable:
            self.counts[PacketCount.NOT_ACCEPTED] += 1
            return
        self._in_flight[session.imsi] += 1
        self._in_flight_total += 1
        group.create_task(self._answer_when_accepted(session, receipt, datagram))

    async def _answer_when_accepted(
        self, session: Session, receipt: asyncio.Future[Receipt], datagram: inner.UdpDatagram
    ) -> None:
        try:
            await receipt
        except Refused as refusal:
            self.counts[PacketCount.REFUSED] += 1
            self._answer(session, inner.reply_to(datagram, STATUS_OF_REFUSAL[refusal.reason]))
            return
        except Unavailable:
            self.counts[PacketCount.NOT_ACCEPTED] += 1
            return
        finally:
            self._land(session.imsi)
        self.counts[PacketCount.ACCEPTED] += 1
        self._answer(session, inner.reply_to(datagram, ACCEPTED))

    def _land(self, imsi: str) -> None:
        self._in_flight_total -= 1
        self._in_flight[imsi] -= 1
        if not self._in_flight[imsi]:
            del self._in_flight[imsi]

    def _answer(self, session: Session, reply: bytes) -> None:
        """Into the session that was asked through, if it is still that one."""
        current = self._session_of(session.session_id)
        if current is None or (current.imsi, current.ue_address) != (session.imsi, session.ue_address):
            self.counts[PacketCount.SESSION_GONE] += 1
        elif self._inject(session.session_id, reply):
            self.counts[PacketCount.ANSWERED] += 1
        else:
            self.counts[PacketCount.NOT_INJECTED] += 1
