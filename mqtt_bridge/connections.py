"""Connections of devices from inside the tunnels: whose they are, how many, and until when.

Rules:

- A connection belongs to the session that held its source address when it was accepted, and ends with it.
- A device's packets go into the device network only under its own address; what comes out of it goes to the
  session that holds the address now.
- Connections are bounded, in all and per SIM. One too many takes the place of the SIM's connection that is
  silent for longest, or is cut off at once where none has been silent for ``GIVE_WAY_S``: a host that
  restarts behind a modem leaves connections that neither end will close.
- What is begun must be whole within ``UNFINISHED_S_MAX``, whatever the entry point.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address
from typing import cast

from core.domain.message import DeviceMessage
from core.domain.session import Session
from core.errors import Unavailable
from core.ports.clock import Clock
from core.ports.device_network import DeviceNetwork
from core.services.streaming.delivery import Delivery
from mqtt_bridge.budget import AnswerBudget
from mqtt_bridge.inner import is_plain_refusal

CONNECTIONS_MAX = 65_536
GIVE_WAY_S = 60.0
"""A connection on which something came within this time keeps its place."""
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


EntryFactory = Callable[["DeviceConnection"], asyncio.Protocol]
"""Makes what serves a connection that was admitted."""


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
        self.delivery = delivery
        self.clock = clock
        self._budget = budget
        self._per_sim_max = per_sim_max
        self._open: dict[asyncio.BaseTransport, DeviceConnection] = {}
        self._by_session: dict[str, dict[DeviceConnection, None]] = {}
        self._by_sim: dict[str, dict[DeviceConnection, None]] = {}
        self.counts: Counter[ConnectionCount] = Counter()
        self.refused_packets: Counter[str] = Counter()
        """MQTT packets that came in a state which does not have them, as ``PACKET_while_STATE``."""
        network.on_packet(self._on_packet_down)

    @property
    def open(self) -> int:
        """How many there are."""
        return len(self._open)

    async def serve(self, address: IPv4Address, port: int, entry: EntryFactory) -> None:
        """Accept connections of devices there."""
        await self._network.serve(address, port, lambda: DeviceConnection(self, entry))

    def session(self, transport: asyncio.BaseTransport | None) -> Session | None:
        """Whose connection it is, while both stand."""
        connection = self._open.get(transport) if transport is not None else None
        return connection.session if connection is not None else None

    def may_answer(self, session: Session) -> bool:
        """Whether the SIM's budget lets it have one more answer that is not a message's."""
        if self._budget.take(session.imsi, self.clock.monotonic()):
            return True
        self.counts[ConnectionCount.OVER_BUDGET] += 1
        return False

    def message(
        self, session: Session, source_protocol: str, entry_point_url: str, payload: bytes
    ) -> DeviceMessage:
        """A message of this session, received now; raises ``Unavailable`` when it is over."""
        if self._session_of(session.session_id) is None:
            raise Unavailable("the session is over")
        return DeviceMessage(
            session.session_id,
            session.sim_id,
            session.imsi,
            session.imei,
            session.operator_id,
            source_protocol,
            entry_point_url,
            payload,
            self.clock.now(),
        )

    def on_packet_up(self, packet: bytes) -> None:
        """A TCP packet of a device, its source checked."""
        if not self._network.send(packet):
            self.counts[ConnectionCount.NOT_TAKEN] += 1

    def end_session(self, session_id: str) -> None:
        """The session is over: its connections are cut."""
        for connection in tuple(self._by_session.get(session_id, ())):
            self.counts[ConnectionCount.ENDED] += 1
            connection.transport.abort()

    async def aclose(self) -> None:
        """Cut every connection; a client that was not answered sends again."""
        for connection in tuple(self._open.values()):
            connection.transport.abort()
        await asyncio.sleep(0)  # asyncio reports their end in the loop's next turn

    def admit(self, connection: "DeviceConnection") -> Session | None:
        """Take a new connection in, if it has a session and a place."""
        transport = connection.transport
        session = self._session_at(IPv4Address(transport.get_extra_info("peername")[0]))
        if session is None:
            self.counts[ConnectionCount.NO_SESSION] += 1
            return None
        if len(self._open) >= CONNECTIONS_MAX or not self._has_place(session.imsi):
            self.counts[ConnectionCount.TOO_MANY] += 1
            return None
        self._open[transport] = connection
        self._by_session.setdefault(session.session_id, {})[connection] = None
        self._by_sim.setdefault(session.imsi, {})[connection] = None
        self.counts[ConnectionCount.ACCEPTED] += 1
        return session

    def dismiss(self, connection: "DeviceConnection") -> None:
        """The connection is gone; nothing more when it was dismissed before."""
        if self._open.pop(connection.transport, None) is not None:
            _remove(self._by_session, connection.session.session_id, connection)
            _remove(self._by_sim, connection.session.imsi, connection)

    def _has_place(self, imsi: str) -> bool:
        """Whether one more connection of the SIM may be; the one that gives way for it is cut."""
        others = self._by_sim.get(imsi, {})
        if len(others) < self._per_sim_max:
            return True
        silent = min(others, key=lambda each: each.heard_at)
        if self.clock.monotonic() - silent.heard_at < GIVE_WAY_S:
            return False
        self.counts[ConnectionCount.GAVE_WAY] += 1
        self.dismiss(silent)
        silent.transport.abort()
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


class DeviceConnection(asyncio.Protocol):
    """One connection of a device: admitted before an entry point serves it."""

    session: Session
    """Whose it is; once it was admitted."""
    transport: asyncio.Transport

    def __init__(self, connections: DeviceConnections, entry: EntryFactory) -> None:
        self._connections = connections
        self._serving: asyncio.Protocol = asyncio.Protocol()
        self.entry = entry
        self.heard_at = connections.clock.monotonic()
        """When the device last sent something, or connected."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The device connected."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        session = self._connections.admit(self)
        if session is None:
            self.transport.abort()
            return
        self.session = session
        self._serving = self.entry(self)
        self._serving.connection_made(transport)

    def data_received(self, data: bytes) -> None:
        """The device sent something."""
        self.heard_at = self._connections.clock.monotonic()
        self._serving.data_received(data)

    def eof_received(self) -> bool | None:
        """The device sends no more."""
        return self._serving.eof_received()

    def pause_writing(self) -> None:
        """The device does not read."""
        self._serving.pause_writing()

    def resume_writing(self) -> None:
        """It reads again."""
        self._serving.resume_writing()

    def connection_lost(self, error: Exception | None) -> None:
        """The device is gone."""
        self._serving.connection_lost(error)
        self._connections.dismiss(self)


def _remove(table: dict[str, dict[DeviceConnection, None]], key: str, connection: DeviceConnection) -> None:
    del table[key][connection]
    if not table[key]:
        del table[key]
