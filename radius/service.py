"""The RADIUS door: the shell around its machines, where sockets, tasks and the session service are.

Rules:

- Access-Accept promises, Accounting-Start opens; an Accounting-Response means that what was reported is
  durable (RFC 2866 §4.1), so what cannot be recorded gets silence and is asked again.
- A session is found by Class, which is its id, or by what its NAS calls it; only clients of the network that
  opened it may speak of it.
- An Interim whose Start was lost opens the session; a Stop is charged without; one whose session is over
  changes nothing but counters that were lower.
- A session of which nothing is heard for ``silent_s`` is ended: its Stop was lost. Its own virtual gateway
  does it, which alone hears of it; a node that takes over waits as long again.
"""

import asyncio
from collections import Counter, OrderedDict
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from ipaddress import IPv4Address

from core.domain.flow import DedicatedBearer
from core.domain.ids import time_of_id
from core.domain.reasons import AttachRefusal
from core.domain.session import NOWHERE, Access, CloseReason, Nas, Session
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.ports.network import Address, DatagramSocket, Network
from core.services.admissions import Admissions
from core.services.eager import begin
from core.services.locks import KeyedLocks
from core.services.reported import ReportedUsage
from core.services.session_requests import Grant, ModifySession, OpenSession
from core.services.sessions import Sessions
from radius.client import DisconnectClient, Ending
from radius.mapping import AccountingReport, AcctStatus
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
    Recorded,
    Service,
)

TICK_S = 1.0
ENDED_KEPT_S = 300.0
"""How long the last counters of a session that we ended are waited for."""
ENDED_MAX = 65_536


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
        sessions: Sessions,
        admissions: Admissions,
        usage: ReportedUsage,
        clock: Clock,
        interim_interval_s: int,
        silent_s: float,
    ) -> None:
        self._network = network
        self._addresses = addresses
        self._secrets = {client.name: client for client in clients}
        self._sessions = sessions
        self._admissions = admissions
        self._usage = usage
        self._clock = clock
        self._interim_interval_s = interim_interval_s
        self._silent_s = silent_s
        self._server = RadiusServer(clients)
        self._client = DisconnectClient()
        self._sockets: dict[Service, DatagramSocket] = {}
        self._disconnect_socket: DatagramSocket | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._locks = KeyedLocks()
        self._heard: dict[str, float] = {}
        self._by_name: dict[tuple[str, str, str], str] = {}
        self._ended: OrderedDict[str, tuple[float, Session]] = OrderedDict()

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
        return len(self._heard)

    async def start(self) -> None:
        """Open the sockets; datagrams are taken in from now on and decided once ``run`` runs.

        Without a client there is nobody to listen to.
        """
        if not self._secrets:
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
        self._hold(session)

    def release(self, session: Session, reason: CloseReason) -> None:
        """Ask the NAS to end the session; goes on in the background. Its last counters are still taken."""
        self.forget(session)
        nas = session.nas
        if nas is None or (client := self._secrets.get(nas.network)) is None:
            return  # its client is configured no more
        now = self._clock.monotonic()
        peer = (nas.address, client.disconnect_port)
        ending = Ending(session.imsi, nas.acct_session_id, session.ue_address)
        self._client.disconnect(ending, peer, client.secret, now, self._clock.now())
        self._pump()

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
        self._heard.pop(session.session_id, None)
        self._ended[session.session_id] = (self._clock.monotonic() + ENDED_KEPT_S, session)
        if len(self._ended) > ENDED_MAX:
            self._discard_oldest()

    # -- the shell ------------------------------------------------------------------------------------

    def _receive(self, service: Service, data: bytes, addr: Address) -> None:
        self._server.receive_datagram(service, data, addr, self._clock.monotonic())
        self._pump()

    def _receive_disconnect_answer(self, data: bytes, addr: Address) -> None:
        self._client.receive_datagram(data, addr, self._clock.monotonic(), self._clock.now())
        self._pump()

    def _pump(self) -> None:
        """Send what is to be sent and decide what is to be decided."""
        self._send()
        if self._tasks is not None:
            while (event := self._server.next_event()) is not None:
                begin(self._tasks, self._decide(event))

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
        while self._ended and next(iter(self._ended.values()))[0] <= now:
            self._discard_oldest()
        silent_since = now - self._silent_s
        for session_id in [known for known, heard in self._heard.items() if heard < silent_since]:
            with suppress(Refused, Unavailable):  # over already, or its end is tried again by the service
                await self._sessions.close(session_id, CloseReason.SILENT, tell_peer=True)

    async def _decide(self, event: Event) -> None:
        outcome: Outcome
        try:
            match event:
                case AccessRequested():
                    outcome = await self._admit(event)
                case AccountingRequested():
                    outcome = await self._account(event)
        except Unavailable:
            outcome = NotRecorded()
        self._server.answer(event.token, outcome)
        self._send()

    async def _admit(self, event: AccessRequested) -> Outcome:
        asked = event.request
        request = OpenSession(
            access=Access.RADIUS,
            imsi=asked.imsi,
            apn=asked.apn,
            imei=asked.imei,
            msisdn=asked.msisdn,
            location=asked.location,
            proof=asked.knows,
        )
        try:
            sim = await self._sessions.permit(request)
            pool = self._sessions.pool_of(asked.apn)
            grant = self._admissions.promise(asked.imsi, sim.static_address, pool)
        except Refused as refusal:
            reason = refusal.reason
            return Denied(reason if isinstance(reason, AttachRefusal) else AttachRefusal.NO_RESOURCES)
        return Granted(grant.address, grant.session_id.encode(), self._interim_interval_s)

    async def _account(self, event: AccountingRequested) -> Outcome:
        report, network = event.report, event.client.name
        if report.status in (AcctStatus.ACCOUNTING_ON, AcctStatus.ACCOUNTING_OFF):
            await self._end_all(network, report.nas_identifier or event.address, report.delay_s)
            return Recorded()
        try:
            session = self._find(network, report) or await self._found_or_begun(event)
            self._check(session, network, report)
            is_over = session.session_id not in self._sessions.open_sessions
            if is_over and report.status is AcctStatus.START:
                raise Refused(AttachRefusal.UNKNOWN_SESSION, "it has ended")
            await self._record(session, report)
        except Refused:
            self._turn_away(event)
            return NotRecorded()
        if is_over:
            self._turn_away(event)
        return Recorded()

    async def _found_or_begun(self, event: AccountingRequested) -> Session:
        """One at a time for each session: its Start and its first Interim may come together."""
        report, network = event.report, event.client.name
        async with self._locks.hold(f"{network} {report.class_.hex() or report.acct_session_id}"):
            session = self._find(network, report) or await self._recall(report)
            return session or await self._begin(event)

    def _find(self, network: str, report: AccountingReport) -> Session | None:
        """The session, open or just ended."""
        by_class = _text_of(report.class_)
        if (session := self._sessions.open_sessions.get(by_class)) is not None:
            return session
        by_class = _id_of(report.class_)
        session_id = by_class or self._by_name.get((network, report.imsi, report.acct_session_id), "")
        session = self._sessions.open_sessions.get(session_id)
        if session is None and (ended := self._ended.get(session_id)) is not None:
            is_new = not by_class and report.status is AcctStatus.START  # the NAS uses a name once more
            session = None if is_new else ended[1]
        return session

    async def _recall(self, report: AccountingReport) -> Session | None:
        """One that ended long ago, or before a restart: its last counters may still come."""
        session_id = _id_of(report.class_)
        session = await self._sessions.ended(report.imsi, session_id) if session_id else None
        if session is not None:
            self.forget(session)
        return session

    def _check(self, session: Session, network: str, report: AccountingReport) -> None:
        """Whether it is this NAS's to speak of."""
        is_its_own = session.nas is not None and session.nas.network == network
        if not is_its_own or report.imsi not in ("", session.imsi):
            raise Refused(AttachRefusal.UNKNOWN_SESSION, session.session_id)

    async def _begin(self, event: AccountingRequested) -> Session:
        """Open what Access-Accept promised. What may not be opened and was carried yet is charged."""
        report, session_id = event.report, _id_of(event.report.class_)
        request = OpenSession(
            access=Access.RADIUS,
            imsi=report.imsi,
            apn=report.apn,
            imei=report.imei,
            msisdn=report.msisdn,
            location=report.location,
            nas=Nas(
                network=event.client.name,
                identifier=report.nas_identifier or event.address,
                address=event.address,
                acct_session_id=report.acct_session_id,
            ),
        )
        try:
            if report.status is AcctStatus.STOP:
                raise Refused(AttachRefusal.UNKNOWN_SESSION, "it ended before it began here")
            pool = self._sessions.pool_of(report.apn)
            grant = self._admissions.redeem(report.imsi, session_id, report.framed_address, pool)
            session = await self._sessions.open(replace(request, grant=grant))
        except Refused as refusal:
            if report.status is AcctStatus.START or not session_id:
                raise
            carried = Grant(session_id, report.framed_address or IPv4Address(0))
            session = await self._sessions.carried_unopened(replace(request, grant=carried), refusal)
            self.forget(session)
            return session
        self._hold(session)
        return session

    async def _record(self, session: Session, report: AccountingReport) -> None:
        session_id = session.session_id
        is_open = session_id in self._sessions.open_sessions
        if is_open:
            self._heard[session_id] = self._clock.monotonic()
            location = None if report.location == NOWHERE else report.location
            change = ModifySession(session_id=session_id, location=location, imei=report.imei)
            if (location or session.location, report.imei or session.imei) != (
                session.location,
                session.imei,
            ):
                session = await self._sessions.modify(change)
        await self._usage.report(session, report.volume)
        if report.status is AcctStatus.STOP:
            if is_open:
                await self._sessions.close(session_id, CloseReason.DEVICE)
            else:
                await self._sessions.finish(session_id)

    async def _end_all(self, network: str, identifier: str, delay_s: int) -> None:
        """A NAS began anew: what it held before that is over (RFC 2866 §5.1, §5.2)."""
        before = self._clock.now() - timedelta(seconds=delay_s)
        for session in list(self._sessions.open_sessions.values()):
            nas = session.nas
            if nas is None or (nas.network, nas.identifier) != (network, identifier):
                continue
            if session.opened <= before:
                with suppress(Refused):  # over already
                    await self._sessions.close(session.session_id, CloseReason.PEER_LOST)

    def _turn_away(self, event: AccountingRequested) -> None:
        """The NAS carries what may not be carried: it shall end it."""
        report = event.report
        if report.status is not AcctStatus.STOP:
            peer = (event.address, event.client.disconnect_port)
            ending = Ending(report.imsi, report.acct_session_id, report.framed_address)
            self._client.disconnect(
                ending, peer, event.client.secret, self._clock.monotonic(), self._clock.now()
            )
            self._send()

    def _hold(self, session: Session) -> None:
        self._heard[session.session_id] = self._clock.monotonic()
        self._by_name[_name_of(session)] = session.session_id

    def _discard_oldest(self) -> None:
        session_id, (_, session) = self._ended.popitem(last=False)
        if self._by_name.get(_name_of(session)) == session_id:
            del self._by_name[_name_of(session)]
        self._usage.discard(session_id)


def _name_of(session: Session) -> tuple[str, str, str]:
    """What its NAS calls it (RFC 2866 §5.5); numbers of that kind begin anew when a NAS does."""
    nas = session.nas
    return (nas.network, session.imsi, nas.acct_session_id) if nas else ("", session.imsi, "")


def _id_of(class_: bytes) -> str:
    """The session id that we gave as Class (RFC 2865 §5.25); empty when it is none of ours."""
    text = _text_of(class_)
    try:
        time_of_id(text)
    except ValueError:
        return ""
    return text


def _text_of(class_: bytes) -> str:
    return class_.decode(errors="replace")
