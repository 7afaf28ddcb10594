"""From Accounting-Request to answer: sessions begin, count and end; usage without a session is kept apart.

Rules:

- An Accounting-Response means that the report is durable (RFC 2866 §4.1): recorded for its session, or kept
  apart. A report that could not be stored gets silence, and the NAS repeats it.
- A session is found by Class, which is its id (RFC 2865 §5.25), or by the NAS's own name for it. Only the NAS
  that opened it may report it, under any of its names.
- An Interim-Update whose Start was lost opens the session; a Stop is charged without opening it. A report of
  a session that is over only raises its counters.
- A session that is not reported for ``silent_s`` is ended: its Stop was lost. Only its own gateway instance
  receives its reports, and ends it; a node that takes over waits ``silent_s`` again.
"""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from ipaddress import IPv4Address

from core.domain.ids import time_of_id
from core.domain.reasons import AttachRefusal
from core.domain.requests import Grant, ModifySession, OpenSession
from core.domain.session import NOWHERE, Access, CloseReason, Nas, Session
from core.domain.speed import SPEEDS_KBPS
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.ports.store import NasRestarts
from core.services.running.locks import KeyedLocks
from core.services.running.timer import Timer
from core.services.sessions.nas_accounting import Ceiling, NasAccounting
from core.services.sessions.quarantine import UsageQuarantine
from core.services.sessions.reservations import AddressReservations
from core.services.sessions.service import Sessions
from radius.client_policy import apn_of, demand_own, foreign, holder_of
from radius.events import AccountingRequested, Ending, NotRecorded, Outcome, Recorded
from radius.mapping import AccountingReport, AcctStatus
from radius.networks import NasNetwork
from radius.restarts import Restarts
from radius.sessions import NasSessions, SessionSettled, SessionSilent

CLASS_AGE_MAX = timedelta(days=31)
"""A session that is over is found in the history for 32 days; an older Class opens none."""
CLASS_EARLY_MAX = timedelta(days=1)
NOT_OURS = (AttachRefusal.UNKNOWN_SIM, AttachRefusal.FOREIGN_SIM)
"""No Disconnect-Request is sent for sessions of users without a SIM here, or of another client's SIMs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The services that record reports."""

    sessions: Sessions
    reservations: AddressReservations
    usage: NasAccounting
    quarantine: UsageQuarantine
    restarts: NasRestarts


class Accounting:
    """Decides Accounting-Requests. ``disconnect`` sends a NAS a Disconnect-Request; ``note(kind, client,
    text)`` writes a log line about a client.
    """

    def __init__(
        self,
        *,
        books: Books,
        clients: dict[str, NasNetwork],
        clock: Clock,
        silent_s: float,
        disconnect: Callable[[Ending], None],
        note: Callable[[str, str, str], None],
    ) -> None:
        self._sessions = books.sessions
        self._reservations = books.reservations
        self._usage = books.usage
        self._quarantine = books.quarantine
        self._restarts = Restarts(sessions=books.sessions, restarts=books.restarts, clock=clock, note=note)
        self._clients = clients
        self._clock = clock
        self._disconnect = disconnect
        self._note = note
        self._locks = KeyedLocks()
        self._held = held = NasSessions(silent_s=silent_s)
        self._timer = Timer(held, clock=clock, shortest_s=held.shortest_s, then=self._handle_held)
        self._silent: asyncio.Queue[str] = asyncio.Queue()

    def __len__(self) -> int:
        """Open sessions, without those whose last counters may still come."""
        return len(self._held)

    async def run(self) -> None:
        """Forget settled sessions and end silent ones, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._timer.run())
            while True:
                session_id = await self._silent.get()
                with suppress(Refused, Unavailable):  # over already, or its end is tried again by the service
                    await self._sessions.close(session_id, CloseReason.SILENT, tell_peer=True)

    def hold(self, session: Session) -> None:
        """A session has begun, or was read back."""
        self._held.hold(session, self._clock.monotonic())
        self._timer.rearm()

    def forget(self, session: Session) -> None:
        """The session is over; reports of it may still be on their way."""
        self._held.forget(session, self._clock.monotonic())
        self._handle_held()
        self._timer.rearm()

    def _handle_held(self) -> None:
        while (event := self._held.next_event()) is not None:
            match event:
                case SessionSilent():
                    self._silent.put_nowait(event.session_id)
                case SessionSettled():
                    self._usage.discard(event.session_id)

    async def answer(self, event: AccountingRequested) -> tuple[Outcome, str]:
        """The decision, once the report is durable, and its name in ``airloom_radius_answers_total``; raises
        ``Unavailable``.
        """
        status = event.report.status
        if status is AcctStatus.ACCOUNTING_ON or status is AcctStatus.ACCOUNTING_OFF:
            return await self._restarts.answer(event)
        if status is AcctStatus.OTHER:  # of no session of a SIM; after silence the NAS repeats it for ever
            return Recorded(), "not_of_a_session"
        try:
            session = self._find(event) or await self._found_or_begun(event)
            demand_own(session, event.client, event.report)
        except Refused as refusal:
            return await self._keep_apart(event, refusal)
        is_over = session.session_id not in self._sessions.open_sessions
        if is_over and status is AcctStatus.START:
            self._turn_away(event)
            return Recorded(), "over"  # it comes late, or the NAS carries an ended session: nothing to store
        try:
            answer = await self._record(session, event, is_open=not is_over)
        except Refused:  # it ended meanwhile: the repeat finds it over
            self._turn_away(event)
            return NotRecorded(), "not_recorded"
        if is_over:
            self._turn_away(event)
        return answer

    # -- the session of a report ---------------------------------------------------------------------------

    def _find(self, event: AccountingRequested) -> Session | None:
        """The session, open or just ended."""
        report, open_sessions = event.report, self._sessions.open_sessions
        for session_id in report.session_ids:
            if (session := open_sessions.get(session_id)) is not None:
                return session
        for session_id in report.session_ids:
            if (ended := self._held.ended(session_id)) is not None:
                return ended
        return None if report.session_ids else self._find_by_name(event)

    def _find_by_name(self, event: AccountingRequested) -> Session | None:
        """Acct-Session-Ids begin anew when a NAS restarts, and NASes use the same (RFC 2866 §5.5)."""
        report = event.report
        for session_id in self._held.named((event.client.name, report.imsi, report.acct_session_id)):
            session = self._sessions.open_sessions.get(session_id)
            if session is None and report.status is not AcctStatus.START:
                session = self._held.ended(session_id)
            if session is not None and session.nas is not None and session.nas.name.is_same(report.nas):
                return session
        return None

    async def _found_or_begun(self, event: AccountingRequested) -> Session:
        """One report at a time for each session: its Start and first Interim-Update may come together."""
        report = event.report
        name = " ".join(report.session_ids) or f"{report.imsi} {report.acct_session_id}"
        async with self._locks.hold(f"{event.client.name} {name}"):
            session = self._find(event) or await self._recall(report)
            return session or await self._begin(event)

    async def _recall(self, report: AccountingReport) -> Session | None:
        """A session that ended long ago, or before a restart: its last counters may still come."""
        for session_id in report.session_ids:
            session = await self._sessions.ended(report.imsi, session_id)
            if session is not None:
                self.forget(session)
                return session
        return None

    async def _begin(self, event: AccountingRequested) -> Session:
        """Open what Access-Accept reserved. A session that may not be opened, but was carried, is charged."""
        report, request = event.report, self._request(event)
        session_id = next(iter(report.session_ids), "")
        self._demand_recent(session_id)
        try:
            if request.refusal is not None or report.status is AcctStatus.STOP:
                raise Refused(
                    request.refusal or AttachRefusal.UNKNOWN_SESSION,
                    "the session ended before it was opened here",
                )
            request = replace(request, grant=self._grant(event, request.apn, session_id))
            held = holder_of(event.client, nas_of(event), self._clients)
            session = await self._sessions.open(request, holder_of=held)
        except Refused as refusal:
            if report.status is AcctStatus.START or not session_id or request.refusal is not None:
                raise
            carried = Grant(session_id, _framed(report) or IPv4Address(0))
            session = await self._sessions.carried_unopened(replace(request, grant=carried), refusal)
            self.forget(session)
            return session
        self.hold(session)
        return session

    def _request(self, event: AccountingRequested) -> OpenSession:
        report, client = event.report, event.client
        reserved = self._reservations.apn_of(report.imsi, (client.name, report.nas))
        apn = apn_of(client, report.apns, self._sessions.is_served, reserved)
        return OpenSession(
            access=Access.RADIUS,
            imsi=report.imsi,
            apn=apn,
            imei=report.imei,
            msisdn=report.msisdn,
            location=report.location,
            nas=nas_of(event),
            refusal=foreign(client, report.imsi, apn),
        )

    def _grant(self, event: AccountingRequested, apn: str, session_id: str) -> Grant:
        report, client = event.report, event.client
        if client.policy.own_addresses:
            address = _framed(report) or IPv4Address(0)
            return Grant(session_id or self._reservations.fresh_id(), address, is_allocated=False)
        pool, asker = self._sessions.pool_of(apn), (client.name, report.nas)
        return self._reservations.claim(report.imsi, asker, session_id, _framed(report), pool)

    def _demand_recent(self, session_id: str) -> None:
        """Raises ``Refused(UNKNOWN_SESSION)`` for an id so old that its session may be over and forgotten."""
        if session_id:
            age = self._clock.now() - time_of_id(session_id)
            if not -CLASS_EARLY_MAX <= age <= CLASS_AGE_MAX:
                raise Refused(AttachRefusal.UNKNOWN_SESSION, "its Class is older than a month")

    # -- the report ---------------------------------------------------------------------------------

    async def _record(
        self, session: Session, event: AccountingRequested, *, is_open: bool
    ) -> tuple[Outcome, str]:
        """Raises ``Refused`` when the session ends meanwhile."""
        report, session_id = event.report, session.session_id
        if is_open:
            self._held.heard(session_id, event.received)
            if (change := _change_of(session, report)) is not None:
                session = await self._sessions.modify(change)
        became = "recorded"
        if not await self._usage.report(session, report.volume, self._ceiling(session, event)):
            became = "quarantined"
            if not await self._quarantined(session, event):
                return NotRecorded(), "not_recorded"
        if report.status is AcctStatus.STOP:
            if is_open:
                await self._sessions.close(session_id, CloseReason.DEVICE)
            else:
                await self._sessions.finish(session_id)
        return Recorded(), became

    def _ceiling(self, session: Session, event: AccountingRequested) -> Ceiling:
        """A NAS that sends no Access-Request may have carried a session for as long as Acct-Session-Time
        says. One that limits devices to their speed class is not informed of changes: it may have carried as
        much as the fastest class since the session was opened allows.
        """
        policy, unseen_s = event.client.policy, 0.0
        fastest = session.nas.fastest_class if session.nas else ""
        kbps = SPEEDS_KBPS.get(fastest or session.speed_class, 0) if policy.enforces_speed_class else 0
        if policy.own_addresses:
            open_s = (self._clock.now() - session.opened).total_seconds()
            unseen_s = max(0.0, event.report.session_s + event.report.delay_s - open_s)
        return Ceiling(kbps or policy.line_rate_kbps, unseen_s)

    async def _quarantined(self, session: Session, event: AccountingRequested) -> bool:
        """More than the line can carry: the session goes on, and its later reports may be right."""
        volume, client = event.report.volume, event.client.known_as
        why = f"{volume.up_bytes} octets up, {volume.down_bytes} down: more than the line rate allows"
        self._note("usage quarantined", client, f"IMSI {session.imsi}, session {session.session_id}: {why}")
        return await self._quarantine.keep(
            client=client,
            nas=session.nas or nas_of(event),
            imsi=session.imsi,
            volume=volume,
            why="above the line rate",
            session_id=session.session_id,
            operator_id=session.operator_id,
            is_alarm=True,
        )

    async def _keep_apart(self, event: AccountingRequested, refusal: Refused) -> tuple[Outcome, str]:
        """There is no session to bill: the usage is stored apart, and acknowledged."""
        report, client = event.report, event.client.known_as
        try:
            await self._sessions.demand_sim(report.imsi)
        except Refused as no_sim:
            refusal = no_sim
        who = f"IMSI {report.imsi}" if report.imsi else f"user {report.user_name!r}"
        self._note(
            "accounting kept apart",
            client,
            f"{report.status.name} of {who}, session {report.acct_session_id!r} at {report.nas}: {refusal}",
        )
        if refusal.reason not in NOT_OURS:
            self._turn_away(event)
        kept = await self._quarantine.keep(
            client=client,
            nas=nas_of(event),
            imsi=report.imsi,
            volume=report.volume,
            why=refusal.reason.value,
        )
        return (Recorded(), "kept_apart") if kept else (NotRecorded(), "not_recorded")

    def _turn_away(self, event: AccountingRequested) -> None:
        """The NAS carries a session that it may not carry: have it end the session."""
        if event.report.status is not AcctStatus.STOP:
            self._disconnect(Ending(event.report.imsi, nas_of(event), event.client.known_as))


def nas_of(event: AccountingRequested) -> Nas:
    """The NAS, and its own names of the session (RFC 5176 §3)."""
    report, name = event.report, event.report.nas
    return Nas(
        network=event.client.name,
        identifier=name.identifier or name.ip_address or name.source,
        address=name.source,
        acct_session_id=report.acct_session_id,
        ip_address=name.ip_address,
        user_name=report.user_name,
        framed_address=report.framed_address,
        says_imsi=report.says_imsi,
        has_own_address=event.client.policy.own_addresses,
    )


def _framed(report: AccountingReport) -> IPv4Address | None:
    return IPv4Address(report.framed_address) if report.framed_address else None


def _change_of(session: Session, report: AccountingReport) -> ModifySession | None:
    """Where the device has moved, or in which device the SIM is now; ``None``: nothing is new."""
    location = None if report.location == NOWHERE else report.location
    if location in (None, session.location) and report.imei in ("", session.imei):
        return None
    return ModifySession(session_id=session.session_id, location=location, imei=report.imei)
