"""Connections of devices from inside the tunnels: who they are, how many, and until when.

Rules:

- A connection belongs to the session that held its source address when it was accepted, and ends with it.
- A device's packets go into the device network only under its own address; what comes out of it goes to the
  session that holds the address now.
- Connections are bounded, in all and per SIM. One too many takes the place of the SIM's connection that is
  silent for longest, or is cut off at once where none has been silent for ``GIVE_WAY_S``: a host that
  restarts behind a modem leaves connections that nobody will ever end.
- What is begun must be whole within ``UNFINISHED_S_MAX``, whatever the entry point.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address
from typing import TypeVar, cast

from core.domain.message import DeviceMessage
from core.domain.session import Session
from core.errors import Unavailable
from core.ports.clock import Clock
from core.ports.device_network import DeviceNetwork
from core.services.streaming.delivery import Delivery, Receipt, Settled
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.inner import is_plain_refusal

CONNECTIONS_MAX = 65_536
GIVE_WAY_S = 60.0
"""A connection that was heard of within this time keeps its place."""
UNFINISHED_S_MAX = 120.0
"""How long a device may take for one packet, line, request's head or body: the longest, 131,072 octets, need
9 kbit/s for it."""


class ConnectionCount(Enum):
    """What happened to connections and to the packets that they are made of."""

    ACCEPTED = "connection_accepted"
    NO_SESSION = "connection_without_session"
    TOO_MANY = "connection_too_many"
    GAVE_WAY = "connection_gave_way"
    OVER_BUDGET = "over_budget"
    ENDED = "connection_ended_with_session"
    NOT_TAKEN = "packet_not_taken"
    NO_HOLDER = "packet_without_holder"
    NOT_INJECTED = "packet_not_injected"


Kept = TypeVar("Kept")
EntryFactory = Callable[[Session], asyncio.Protocol]
"""What serves a connection of this session."""


class DeviceConnections:
    """All connections of one node's devices. ``session_at`` finds who holds an address."""

    def __init__(
        self,
        *,
        network: DeviceNetwork,
        session_at: Callable[[IPv4Address], Session | None],
        session_of: Callable[[str], Session | None],
        inject: Callable[[str, bytes], bool],
        delivery: Delivery,
        clock: Clock,
        budget: AnswerBudget,
        per_sim_max: int,
    ) -> None:
        self._network = network
        self._session_at = session_at
        self._session_of = session_of
        self._inject = inject
        self._delivery = delivery
        self._clock = clock
        self._budget = budget
        self._per_sim_max = per_sim_max
        self._sessions: dict[asyncio.BaseTransport, Session] = {}
        self._transports: dict[str, dict[asyncio.Transport, None]] = {}
        """By session."""
        self._heard: dict[str, dict[asyncio.Transport, float]] = {}
        """By SIM, with the time."""
        self.counts: Counter[ConnectionCount] = Counter()
        self.refused_packets: Counter[str] = Counter()
        """MQTT packets that came in a state which does not have them, as ``PACKET_while_STATE``."""
        network.on_packet(self._on_packet_down)

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._sessions)

    async def serve(self, address: IPv4Address, port: int, entry: EntryFactory) -> None:
        """Accept connections of devices there."""
        await self._network.serve(address, port, lambda: _Admitted(self, entry))

    def session(self, transport: asyncio.BaseTransport | None) -> Session | None:
        """Whose connection it is, while both stand."""
        return self._sessions.get(transport) if transport is not None else None

    def may_answer(self, session: Session) -> bool:
        """Whether the SIM's budget lets it have one more answer that is not a message's."""
        if self._budget.take(session.imsi, self._clock.monotonic()):
            return True
        self.counts[ConnectionCount.OVER_BUDGET] += 1
        return False

    def deliver(
        self, session: Session, source_protocol: str, destination: str, payload: bytes
    ) -> asyncio.Future[Receipt]:
        """Send a message of this session on its way; raises ``Refused``, ``Unavailable``."""
        return self._delivery.deliver(self.message(session, source_protocol, destination, payload))

    def send(self, message: DeviceMessage, settled: Settled, octets_missing: int = 0) -> None:
        """The same, and ``settled`` is told how it ended; a message whose end is missing is kept aside."""
        if octets_missing:
            self._delivery.keep_aside(message, octets_missing, settled)
        else:
            self._delivery.send(message, settled)

    def message(
        self, session: Session, source_protocol: str, destination: str, payload: bytes
    ) -> DeviceMessage:
        """A message of this session; raises ``Unavailable`` when it is over."""
        if self._session_of(session.session_id) is None:
            raise Unavailable("the session is over")
        return DeviceMessage(
            session.session_id,
            session.sim_id,
            session.imsi,
            session.imei,
            session.operator_id,
            source_protocol,
            destination,
            payload,
            self._clock.now(),
        )

    def on_packet_up(self, packet: bytes) -> None:
        """A TCP packet of a device, its source checked."""
        if not self._network.send(packet):
            self.counts[ConnectionCount.NOT_TAKEN] += 1

    def end_session(self, session_id: str) -> None:
        """The session is over: its connections are cut."""
        for transport in tuple(self._transports.get(session_id, ())):
            self.counts[ConnectionCount.ENDED] += 1
            transport.abort()

    async def aclose(self) -> None:
        """Cut every connection; whoever was not answered asks again."""
        for transport in tuple(self._sessions):
            cast("asyncio.Transport", transport).abort()
        await asyncio.sleep(0)  # connections are told in the loop's next turn

    def admit(self, transport: asyncio.Transport) -> Session | None:
        """Take a new connection in, or say that it has no place."""
        session = self._session_at(IPv4Address(transport.get_extra_info("peername")[0]))
        if session is None:
            self.counts[ConnectionCount.NO_SESSION] += 1
            return None
        if len(self._sessions) >= CONNECTIONS_MAX or not self._has_place(session.imsi):
            self.counts[ConnectionCount.TOO_MANY] += 1
            return None
        self._transports.setdefault(session.session_id, {})[transport] = None
        self._sessions[transport] = session
        self.hear(transport)
        self.counts[ConnectionCount.ACCEPTED] += 1
        return session

    def hear(self, transport: asyncio.Transport) -> None:
        """Something came by this connection."""
        session = self._sessions.get(transport)
        if session is not None:
            self._heard.setdefault(session.imsi, {})[transport] = self._clock.monotonic()

    def dismiss(self, transport: asyncio.Transport) -> None:
        """The connection is gone."""
        session = self._sessions.pop(transport, None)
        if session is None:
            return
        _remove(self._transports, session.session_id, transport)
        _remove(self._heard, session.imsi, transport)

    def _has_place(self, imsi: str) -> bool:
        """Whether one more connection of the SIM may be; the one that gives way for it is cut."""
        heard = self._heard.get(imsi, {})
        if len(heard) < self._per_sim_max:
            return True
        silent = min(heard, key=heard.__getitem__)
        if self._clock.monotonic() - heard[silent] < GIVE_WAY_S:
            return False
        self.counts[ConnectionCount.GAVE_WAY] += 1
        self.dismiss(silent)
        silent.abort()
        return True

    def _on_packet_down(self, packet: bytes) -> None:
        if len(packet) < 20:
            return
        session = self._session_at(IPv4Address(packet[16:20]))
        if session is None:
            self.counts[ConnectionCount.NO_HOLDER] += 1
        elif is_plain_refusal(packet) and not self.may_answer(session):
            pass
        elif not self._inject(session.session_id, packet):
            self.counts[ConnectionCount.NOT_INJECTED] += 1


def _remove(table: dict[str, dict[asyncio.Transport, Kept]], key: str, transport: asyncio.Transport) -> None:
    del table[key][transport]
    if not table[key]:
        del table[key]


class _Admitted(asyncio.Protocol):
    """Asks who connects before it lets an entry point serve it."""

    def __init__(self, connections: DeviceConnections, entry: EntryFactory) -> None:
        self._connections = connections
        self.entry = entry
        self._serving: asyncio.Protocol = asyncio.Protocol()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        taken = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        session = self._connections.admit(taken)
        if session is None:
            taken.abort()
            return
        self._transport = taken
        self._serving = self.entry(session)
        self._serving.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self._transport is not None:
            self._connections.hear(self._transport)
        self._serving.data_received(data)

    def eof_received(self) -> bool | None:
        return self._serving.eof_received()

    def pause_writing(self) -> None:
        self._serving.pause_writing()

    def resume_writing(self) -> None:
        self._serving.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        self._serving.connection_lost(error)
        if self._transport is not None:
            self._connections.dismiss(self._transport)
