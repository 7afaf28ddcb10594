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
from functools import partial
from ipaddress import IPv4Address

from core.domain.message import DeviceMessage
from core.domain.session import Session
from core.domain.values import KeyEnum
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.services.streaming.delivery import Delivery, Outcome, Receipt
from mqtt_bridge import inner
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.edge.udp import ACCEPTED, SOURCE_PROTOCOL, STATUS_OF_REFUSAL, UdpEntryPoint

IN_FLIGHT_MAX = 4_096
"""Messages of all SIMs that wait for the stream."""
SIM_IN_FLIGHT_MAX = 64
"""Messages of one SIM that wait for the stream; not above what its queue takes."""


class PacketCount(KeyEnum):
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
        self._urls = {(each.address.packed, each.port): each.url for each in entry_points}
        """The entry points' names, by where they stand."""
        self._responders = {
            (address.packed, port): each for (address, port), each in (responders or {}).items()
        }
        self._on_tcp = on_tcp
        self._addresses = {address for address, _ in (*self._urls, *self._responders)}
        self._in_flight_max = in_flight_max
        self._sim_in_flight_max = sim_in_flight_max
        self._in_flight: dict[str, int] = {}
        """By SIM."""
        self._in_flight_total = 0
        self._is_serving = False
        self.counts: Counter[PacketCount | inner.Fault] = Counter()

    @property
    def in_flight(self) -> int:
        """Messages that wait for the stream."""
        return self._in_flight_total

    async def run(self) -> None:
        """Serve until cancelled."""
        self._is_serving = True
        try:
            await asyncio.Event().wait()
        finally:
            self._is_serving = False

    def on_edge_packet(self, session_id: str, packet: bytes) -> None:
        """An inner packet from a device to a platform address (``PacketSink``)."""
        session = self._session_of(session_id)
        if session is None:
            self.counts[PacketCount.NO_SESSION] += 1
            return
        parsed = inner.parse(packet)
        if isinstance(parsed, inner.Fault):
            self.counts[parsed] += 1
        elif packet[12:16] != session.ue_address.packed:
            self.counts[PacketCount.FOREIGN_SOURCE] += 1
        elif isinstance(parsed, inner.UdpDatagram):
            self._receive_datagram(session, parsed, packet)
        elif isinstance(parsed, inner.TcpPacket):
            self._receive_tcp(session, parsed)
        else:
            self._receive_echo(session, parsed)

    def _receive_tcp(self, session: Session, packet: inner.TcpPacket) -> None:
        if self._on_tcp is None:
            self.counts[PacketCount.NO_TCP] += 1
        elif not packet.is_first or self._may_answer(session):
            self._on_tcp(packet.whole)

    def _receive_echo(self, session: Session, request: inner.EchoRequest) -> None:
        if request.addresses[4:] not in self._addresses:
            self.counts[PacketCount.NO_ENTRY_POINT] += 1
        elif self._may_answer(session):
            self.counts[PacketCount.ECHO] += 1
            self._answer(session, inner.echo_reply(request))

    def _receive_datagram(self, session: Session, datagram: inner.UdpDatagram, packet: bytes) -> None:
        to = (datagram.addresses[4:], datagram.destination_port)
        url = self._urls.get(to)
        if url is None:
            if self._may_answer(session):
                self._answer_at_once(session, self._responders.get(to), datagram, packet)
        elif not self._is_serving:
            self.counts[PacketCount.NOT_SERVING] += 1
        else:
            self._deliver(session, url, datagram)

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

    def _deliver(self, session: Session, url: str, datagram: inner.UdpDatagram) -> None:
        """Hand the message over at once, so that packets keep their order."""
        of_sim = self._in_flight.get(session.imsi, 0)
        if self._in_flight_total >= self._in_flight_max or of_sim >= self._sim_in_flight_max:
            self.counts[PacketCount.OVERLOAD] += 1
            return
        message = DeviceMessage(
            session.session_id,
            session.sim_id,
            session.imsi,
            session.imei,
            session.operator_id,
            SOURCE_PROTOCOL,
            url,
            datagram.payload,
            self._clock.now(),
        )
        settled = partial(self._on_settled, session, datagram)
        try:
            self._delivery.send(message, settled, self._clock.monotonic())
        except (Refused, Unavailable) as error:
            self._answer_outcome(session, datagram, error)
            return
        self._in_flight[session.imsi] = of_sim + 1
        self._in_flight_total += 1

    def _on_settled(self, session: Session, datagram: inner.UdpDatagram, outcome: Outcome, _: float) -> None:
        self._in_flight_total -= 1
        of_sim = self._in_flight[session.imsi] = self._in_flight[session.imsi] - 1
        if not of_sim:
            del self._in_flight[session.imsi]
        self._answer_outcome(session, datagram, outcome)

    def _answer_outcome(self, session: Session, datagram: inner.UdpDatagram, outcome: Outcome) -> None:
        if isinstance(outcome, Receipt):
            self.counts[PacketCount.ACCEPTED] += 1
            self._answer(session, inner.reply_to(datagram, ACCEPTED))
        elif isinstance(outcome, Refused):
            self.counts[PacketCount.REFUSED] += 1
            status = STATUS_OF_REFUSAL.get(outcome.reason)
            if status is not None:
                self._answer(session, inner.reply_to(datagram, status))
        else:
            self.counts[PacketCount.NOT_ACCEPTED] += 1

    def _answer(self, session: Session, reply: bytes) -> None:
        """Into the session that was asked through, if it is still that one."""
        current = self._session_of(session.session_id)
        if current is not session and not _is_same(current, session):
            self.counts[PacketCount.SESSION_GONE] += 1
        elif self._inject(session.session_id, reply):
            self.counts[PacketCount.ANSWERED] += 1
        else:
            self.counts[PacketCount.NOT_INJECTED] += 1


def _is_same(current: Session | None, before: Session) -> bool:
    """Whether a session was only changed since, not ended and its id used again."""
    if current is None:
        return False
    return (current.imsi, current.ue_address) == (before.imsi, before.ue_address)
