"""The RADIUS front end: sockets, tasks and the use cases around the machines (RFC 2865, RFC 2866, RFC 5176).

Rule: a datagram goes to its port's machine at once. A decision is begun at once, and becomes a task if it
must wait; the machine bounds their number. Each decision ends in an answer or in silence, also when the store
fails.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import CloseReason, Session
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.ports.network import Address, DatagramSocket, Network
from core.services.running.eager import begin
from core.services.running.transmission import Transmission
from radius.accounting import Accounting, Books
from radius.authentication import Authentication
from radius.client import DisconnectClient
from radius.events import (
    AccessRequested,
    AccountingRequested,
    DisconnectFailed,
    Ending,
    NotRecorded,
    Outcome,
    ServerEvent,
    StrangerHeard,
)
from radius.networks import NasNetwork, NasNetworks
from radius.notices import Notices
from radius.server import KEPT_S, RadiusServer, ServerPort


@dataclass(frozen=True, slots=True)
class RadiusAddresses:
    """Where the front end listens (RFC 2865 §3, RFC 2866 §3), and where its Disconnect-Requests come from."""

    authentication: Address
    accounting: Address
    disconnect: Address


@dataclass(frozen=True, slots=True)
class _Port:
    """A port's machine, and what drives it."""

    server: RadiusServer
    transmission: Transmission[ServerEvent]


class RadiusFrontEnd:
    """Serves authentication and accounting; implements ``AccessFrontEnd``."""

    def __init__(
        self,
        *,
        network: Network,
        addresses: RadiusAddresses,
        clients: Sequence[NasNetwork],
        books: Books,
        clock: Clock,
        interim_interval_s: int,
        silent_s: float,
    ) -> None:
        self._network = network
        self._addresses = addresses
        self._clients = {client.name: client for client in clients}
        self._sessions = books.sessions
        self._reservations = books.reservations
        self._clock = clock
        self._notices = Notices()
        self._authentication = Authentication(
            sessions=books.sessions,
            reservations=books.reservations,
            interim_interval_s=interim_interval_s,
            note=self._note,
        )
        self._accounting = Accounting(
            books=books,
            clients=self._clients,
            clock=clock,
            silent_s=silent_s,
            disconnect=self._disconnect,
            note=self._note,
        )
        networks = NasNetworks(clients)
        self._authentication_port = self._make_port(ServerPort.AUTHENTICATION, networks)
        self._accounting_port = self._make_port(ServerPort.ACCOUNTING, networks)
        self._client = DisconnectClient()
        self._disconnects = Transmission(self._client, clock=clock, handle=self._handle_failed)
        self._sockets: list[DatagramSocket] = []
        self._tasks: asyncio.TaskGroup | None = None
        self.answers: Counter[tuple[str, ...]] = Counter()
        """Requests by client and result: ``accepted`` or the refusal, ``recorded``, ``kept_apart`` …"""

    @property
    def dropped(self) -> Counter[str]:
        """Datagrams that got silence, by reason."""
        return self._authentication_port.server.dropped + self._accounting_port.server.dropped

    @property
    def disconnects(self) -> Counter[str]:
        """How Disconnect-Requests ended."""
        return self._client.outcomes

    @property
    def reserved(self) -> int:
        """How many Access-Accepts wait for their session."""
        return len(self._reservations)

    @property
    def held(self) -> int:
        """Open sessions, without those whose last counters may still come."""
        return len(self._accounting)

    async def start(self) -> None:
        """Open the sockets; without a client none. Datagrams are received from now on, and decided once
        ``run`` runs.
        """
        if not self._clients:
            return
        await self._listen(self._authentication_port.transmission, self._addresses.authentication)
        await self._listen(self._accounting_port.transmission, self._addresses.accounting)
        await self._listen(self._disconnects, self._addresses.disconnect)

    async def _listen(self, transmission: Transmission[Any], address: Address) -> None:
        bound = await self._network.open_datagram(address, transmission.receive)
        self._sockets.append(bound)
        transmission.send_by(bound.send)

    async def run(self) -> None:
        """Decide requests and run the timers, until cancelled."""
        async with asyncio.TaskGroup() as decisions:
            self._tasks = decisions
            try:
                async with asyncio.TaskGroup() as keeping:
                    for transmission in self._transmissions():
                        keeping.create_task(transmission.run())
                    keeping.create_task(self._accounting.run())
                    keeping.create_task(self._reservations.run())
            finally:
                self._tasks = None

    def close(self) -> None:
        """Stop receiving and sending. Idempotent."""
        for transmission in self._transmissions():
            transmission.send_by(None)
        for bound in self._sockets:
            bound.close()
        self._sockets.clear()

    # -- AccessFrontEnd -----------------------------------------------------------------------------------

    async def adopt(self, session: Session) -> None:
        """Serve a session that was read back after a restart."""
        self._accounting.hold(session)

    def release(self, session: Session, reason: CloseReason) -> None:
        """Send the NAS a Disconnect-Request (RFC 5176 §2.1); its last counters are still recorded."""
        self.forget(session)
        if (nas := session.nas) is not None:
            client = self._clients.get(nas.network)
            self._disconnect(Ending(session.imsi, nas, client.known_as if client else "", session))

    def changed(self, session: Session) -> None:
        """No CoA-Request is sent: CoA (RFC 5176 §2.2) is not offered."""

    async def add_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """A NAS has none: raises ``Refused(NOT_SUPPORTED)``."""
        raise Refused(AttachRefusal.NOT_SUPPORTED, "RADIUS sessions have no bearers")

    async def change_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """A NAS has none: raises ``Refused(NOT_SUPPORTED)``."""
        raise Refused(AttachRefusal.NOT_SUPPORTED, "RADIUS sessions have no bearers")

    def remove_bearer(self, session: Session, ebi: int) -> None:
        """A NAS has none: nothing to do."""

    def forget(self, session: Session) -> None:
        """The session is over; its last reports may still come."""
        self._accounting.forget(session)

    # -- the shell ------------------------------------------------------------------------------------

    def _make_port(self, port: ServerPort, networks: NasNetworks) -> _Port:
        server = RadiusServer(port, networks)
        return _Port(server, Transmission(server, clock=self._clock, handle=self._handle, shortest_s=KEPT_S))

    def _transmissions(self) -> list[Transmission[Any]]:
        ports = (self._authentication_port, self._accounting_port)
        return [*(port.transmission for port in ports), self._disconnects]

    def _handle(self, event: ServerEvent) -> None:
        match event:
            case StrangerHeard():
                self._note("request from an unknown client", "", f"from {event.address}")
            case AccessRequested() | AccountingRequested() if self._tasks is not None:
                begin(self._tasks, self._decide(event))

    async def _decide(self, event: AccessRequested | AccountingRequested) -> None:
        outcome: Outcome
        port = self._authentication_port
        try:
            match event:
                case AccessRequested():
                    outcome, became = await self._authentication.answer(event)
                case AccountingRequested():
                    port = self._accounting_port
                    outcome, became = await self._accounting.answer(event)
        except Unavailable:
            outcome, became = NotRecorded(), "unavailable"
        self.answers[event.client.known_as, became] += 1
        port.server.answer(event.token, outcome, self._clock.monotonic())
        port.transmission.transmit()

    def _note(self, kind: str, client: str, text: str) -> None:
        self._notices.write(kind, client, text, self._clock.monotonic())

    def _disconnect(self, ending: Ending) -> None:
        nas = ending.nas
        if (client := self._clients.get(nas.network)) is None:
            return  # it is no longer configured
        peer, now = (nas.address, client.disconnect_port), self._clock.monotonic()
        self._client.disconnect(ending, peer, client.secret, now, self._clock.now())
        self._disconnects.transmit()

    def _handle_failed(self, event: DisconnectFailed) -> None:
        if self._tasks is not None:
            begin(self._tasks, self._report_failed(event))

    async def _report_failed(self, failed: DisconnectFailed) -> None:
        """The NAS did not end a session: the device may still be online."""
        ending, nas = failed.ending, failed.ending.nas
        cause, error_cause = f"disconnect_{failed.outcome}", failed.error_cause
        text = f"NAS {nas.identifier} at {nas.address}, IMSI {ending.imsi}, session {nas.acct_session_id!r}"
        text += f", Error-Cause {error_cause}" if error_cause else ""
        self._note(cause, ending.client, text)  # one kind for all Error-Causes: a NAS may send many
        cause += f":{error_cause}" if error_cause else ""
        if ending.session is not None:
            with suppress(Unavailable):  # the log line stands
                await self._sessions.remark(ending.session, cause)
