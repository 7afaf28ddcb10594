"""The RADIUS door: the shell around its machines, where sockets, tasks and the session service are.

Rules:

- Access-Accept promises, Accounting-Start opens (``radius.accounting``).
- A device is let in by what can be checked: the word of a network that knows its SIM, or a password that its
  group demands.
- Whoever is turned away finds the reason in the log, and its customer in the SIM's history.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.requests import OpenSession
from core.domain.session import Access, CloseReason, Session
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.ports.network import Address, DatagramSocket, Network
from core.services.running.eager import begin
from radius.accounting import Accounting, Books
from radius.client import DisconnectClient, Ended, Ending
from radius.notices import Notices
from radius.server import (
    AccessRequested,
    AccountingRequested,
    Denied,
    Event,
    Granted,
    NasNetwork,
    NotRecorded,
    Outcome,
    RadiusServer,
    Service,
)
from radius.terms import apn_of, foreign

TICK_S = 1.0


@dataclass(frozen=True, slots=True)
class RadiusAddresses:
    """Where the door listens, and where its Disconnect-Requests come from."""

    authentication: Address
    accounting: Address
    disconnect: Address


class RadiusDoor:
    """Serves authentication and accounting; implements ``AccessDoor``."""

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
        self._admissions = books.admissions
        self._clock = clock
        self._interim_interval_s = interim_interval_s
        self._server = RadiusServer(clients)
        self._client = DisconnectClient()
        self._notices = Notices()
        self._accounting = Accounting(
            books=books,
            clients=self._clients,
            clock=clock,
            silent_s=silent_s,
            disconnect=self._disconnect,
            note=self._note,
        )
        self._sockets: dict[Service, DatagramSocket] = {}
        self._disconnect_socket: DatagramSocket | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self.answers: Counter[tuple[str, ...]] = Counter()
        """What became of requests, by client: ``accepted`` or why not, ``recorded``, ``kept_apart`` …"""

    @property
    def dropped(self) -> Counter[str]:
        """What got silence, by reason."""
        return self._server.dropped

    @property
    def disconnects(self) -> Counter[str]:
        """How Disconnect-Requests ended."""
        return self._client.outcomes

    @property
    def held(self) -> int:
        """Sessions that this door knows; those that it waits for after their end are not among them."""
        return len(self._accounting)

    async def start(self) -> None:
        """Open the sockets; datagrams are taken in from now on and decided once ``run`` runs.

        Without a client there is nobody to listen to.
        """
        if not self._clients:
            return
        listen = {
            Service.AUTHENTICATION: self._addresses.authentication,
            Service.ACCOUNTING: self._addresses.accounting,
        }
        for service, address in listen.items():
            self._sockets[service] = await self._network.open_datagram(
                address, partial(self._receive, service)
            )
        self._disconnect_socket = await self._network.open_datagram(
            self._addresses.disconnect, self._receive_disconnect_answer
        )

    async def run(self) -> None:
        """Decide events and keep the times, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._pump()
            try:
                while True:
                    await asyncio.sleep(TICK_S)
                    await self._tick()
            finally:
                self._tasks = None

    def close(self) -> None:
        """Take nothing in and answer nothing any more. Idempotent."""
        for bound in (*self._sockets.values(), self._disconnect_socket):
            if bound is not None:
                bound.close()
        self._sockets.clear()
        self._disconnect_socket = None

    # -- AccessDoor -----------------------------------------------------------------------------------

    async def adopt(self, session: Session) -> None:
        """Take over a session that was read back."""
        self._accounting.hold(session)

    def release(self, session: Session, reason: CloseReason) -> None:
        """Ask the NAS to end the session; goes on in the background. Its last counters are still taken."""
        self.forget(session)
        if (nas := session.nas) is not None:
            client = self._clients.get(nas.network)
            self._disconnect(Ending(session.imsi, nas, client.known_as if client else "", session))

    def changed(self, session: Session) -> None:
        """A NAS is not told: CoA is not offered."""

    async def add_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """A NAS has none: raises ``Refused(NOT_SUPPORTED)``."""
        raise Refused(AttachRefusal.NOT_SUPPORTED, "a session behind a NAS has no bearers")

    async def change_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """A NAS has none: raises ``Refused(NOT_SUPPORTED)``."""
        raise Refused(AttachRefusal.NOT_SUPPORTED, "a session behind a NAS has no bearers")

    def remove_bearer(self, session: Session, ebi: int) -> None:
        """A NAS has none."""

    def forget(self, session: Session) -> None:
        """The session is over; reports of it may still be on their way."""
        self._accounting.forget(session)

    # -- the shell ------------------------------------------------------------------------------------

    def _receive(self, service: Service, data: bytes, addr: Address) -> None:
        self._server.receive_datagram(service, data, addr, self._clock.monotonic())
        self._pump()

    def _receive_disconnect_answer(self, data: bytes, addr: Address) -> None:
        self._client.receive_datagram(data, addr, self._clock.monotonic(), self._clock.now())
        self._pump()

    def _pump(self) -> None:
        """Send what is to be sent, tell and decide what is to be told and decided."""
        self._send()
        for address in self._server.strangers:
            self._note("request of no client", "", f"from {address}")
        self._server.strangers.clear()
        if self._tasks is not None:
            while self._client.failed:
                begin(self._tasks, self._tell_failed(self._client.failed.popleft()))
            while (event := self._server.next_event()) is not None:
                begin(self._tasks, self._decide(event))

    def _note(self, kind: str, client: str, text: str) -> None:
        self._notices.write(kind, client, text, self._clock.monotonic())

    def _disconnect(self, ending: Ending) -> None:
        nas = ending.nas
        if (client := self._clients.get(nas.network)) is None:
            return  # it is configured no more
        peer, now = (nas.address, client.disconnect_port), self._clock.monotonic()
        self._client.disconnect(ending, peer, client.secret, now, self._clock.now())
        self._send()

    async def _tell_failed(self, ended: Ended) -> None:
        """The NAS did not end a session: its device may still be on line."""
        ending, nas = ended.ending, ended.ending.nas
        cause, error_cause = f"disconnect_{ended.outcome}", ended.error_cause
        text = f"NAS {nas.identifier} at {nas.address}, IMSI {ending.imsi}, session {nas.acct_session_id!r}"
        text += f", Error-Cause {error_cause}" if error_cause else ""
        self._note(cause, ending.client, text)  # not by Error-Cause: of these a NAS has as many as it likes
        cause += f":{error_cause}" if error_cause else ""
        if ending.session is not None:
            with suppress(Unavailable):  # the line above stands
                await self._sessions.remark(ending.session, cause)

    def _send(self) -> None:
        for service, data, peer in self._server.datagrams_to_send():
            if service in self._sockets:
                self._sockets[service].send(data, peer)
        for data, peer in self._client.datagrams_to_send():
            if self._disconnect_socket is not None:
                self._disconnect_socket.send(data, peer)

    async def _tick(self) -> None:
        now = self._clock.monotonic()
        self._client.handle_timer(now, self._clock.now())
        self._pump()
        self._admissions.expire()
        await self._accounting.tick()

    async def _decide(self, event: Event) -> None:
        outcome: Outcome
        try:
            match event:
                case AccessRequested():
                    outcome, became = await self._admit(event)
                case AccountingRequested():
                    outcome, became = await self._accounting.account(event)
        except Unavailable:
            outcome, became = NotRecorded(), "unavailable"
        self.answers[event.client.known_as, became] += 1
        self._server.answer(event.token, outcome)
        self._send()

    async def _admit(self, event: AccessRequested) -> tuple[Outcome, str]:
        asked, client = event.request, event.client
        apn = apn_of(client, asked.apns, self._sessions.is_served)
        request = OpenSession(
            access=Access.RADIUS,
            imsi=asked.imsi,
            apn=apn,
            imei=asked.imei,
            msisdn=asked.msisdn,
            location=asked.location,
            refusal=asked.refusal or foreign(client, asked.imsi, apn),
            must_prove=asked.must_prove and client.terms.check_passwords,
        )
        try:
            sim = await self._sessions.permit(request, proof=asked.knows)
            if client.terms.own_addresses:
                expected = self._admissions.expect(asked.imsi, (client.name, asked.nas), apn=apn)
                return Granted(None, expected.session_id.encode(), self._interim_interval_s), "accepted"
            grant = self._admissions.promise(
                asked.imsi,
                (client.name, asked.nas),
                apn=apn,
                static_address=sim.static_address,
                pool=self._sessions.pool_of(apn),
            )
        except Refused as refusal:
            who = f"IMSI {asked.imsi}" if asked.imsi else f"user {asked.user_name!r}"
            self._note("access rejected", client.known_as, f"{who} at {asked.nas}, APN {apn!r}: {refusal}")
            reason = refusal.reason
            reason = reason if isinstance(reason, AttachRefusal) else AttachRefusal.NO_RESOURCES
            return Denied(reason), reason.value
        return Granted(grant.address, grant.session_id.encode(), self._interim_interval_s), "accepted"
