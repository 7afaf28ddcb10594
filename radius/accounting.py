"""What NASes report: sessions begin, count and end; what is none of ours is kept apart.

Rules:

- An Accounting-Response means that what was reported is durable (RFC 2866 §4.1): booked, or kept apart where
  it cannot be booked. Silence is for what could not be stored: it is asked again.
- A session is found by Class, which is its id, or by what its NAS calls it; the NAS that opened it alone may
  speak of it, by whichever of its names.
- An Interim whose Start was lost opens the session; a Stop is charged without; one whose session is over
  changes nothing but counters that were lower.
- An Accounting-On or -Off ends what began before it was first heard, so a repeat of it, by whomever, ends
  nothing that came since.
- A session of which nothing is heard for ``silent_s`` is ended: its Stop was lost. Its own virtual gateway
  does it, which alone hears of it; a node that takes over waits as long again.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address

from core.domain.ids import time_of_id
from core.domain.reasons import AttachRefusal
from core.domain.requests import Grant, ModifySession, OpenSession
from core.domain.session import NOWHERE, Access, CloseReason, Nas, Session
from core.domain.shares import Kept
from core.domain.speed import SPEEDS_KBPS
from core.domain.usage import day_of
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.ports.store import NasRestarts
from core.services.running.locks import KeyedLocks
from core.services.sessions.admissions import Admissions
from core.services.sessions.quarantine import UsageQuarantine
from core.services.sessions.reported import Ceiling, ReportedUsage
from core.services.sessions.service import Sessions
from radius.client import Ending
from radius.mapping import AccountingReport, AcctStatus
from radius.server import AccountingRequested, NasNetwork, NotRecorded, Outcome, Recorded
from radius.terms import apn_of, foreign, holder_of

ENDED_KEPT_S = 300.0
"""How long the last counters of a session that we ended are waited for."""
ENDED_MAX = 65_536
"""Such sessions; beyond it, or a client's share, the oldest is waited for no longer."""
CLASS_AGE_MAX = timedelta(days=31)
"""A session that is over is found in the history for 32 days; an older Class opens none."""
CLASS_EARLY_MAX = timedelta(days=1)
RESTARTS_A_DAY_MAX = 10_000
"""Accounting-Ons and -Offs of one client that are remembered a day; beyond it they get silence."""
UNSTORED_RESTARTS_MAX = 1_024
"""Accounting-Ons and -Offs whose time is kept while the store is away; beyond it, or a client's share, the
oldest loses its own."""
TIMESTAMP_OFF_MAX = timedelta(minutes=5)
"""By so much may the clock of a NAS be off, as RFC 5176 §6.3 recommends it for Disconnect-Requests."""
NOT_OURS = (AttachRefusal.UNKNOWN_SIM, AttachRefusal.FOREIGN_SIM)
"""Sessions of users who are no SIMs of ours, or not this client's, are not ours to end."""

Name = tuple[str, str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """The services by which reports are booked."""

    sessions: Sessions
    admissions: Admissions
    usage: ReportedUsage
    quarantine: UsageQuarantine
    restarts: NasRestarts


class Accounting:
    """The sessions that NASes hold. ``disconnect`` asks a NAS to end one; ``note`` writes a line about a
    client: kind, client, text.
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
        self._admissions = books.admissions
        self._usage = books.usage
        self._quarantine = books.quarantine
        self._restarts = books.restarts
        self._clients = clients
        self._clock = clock
        self._silent_s = silent_s
        self._disconnect = disconnect
        self._note = note
        self._locks = KeyedLocks()
        self._heard: dict[str, float] = {}
        self._by_name: dict[Name, tuple[str, ...]] = {}
        self._ended: Kept[str, tuple[float, Session]] = Kept(ENDED_MAX)
        self._restarts_of: Counter[tuple[str, int]] = Counter()
        self._first_heard: Kept[tuple[str, bytes], datetime] = Kept(UNSTORED_RESTARTS_MAX)
        """Of restarts that could not be stored yet: repeats are of the same time."""

    def __len__(self) -> int:
        """Sessions that are held; those that are waited for after their end are not among them."""
        return len(self._heard)

    def hold(self, session: Session) -> None:
        """A session has begun, or was read back."""
        self._heard[session.session_id] = self._clock.monotonic()
        name = _name_of(session)
        if name[2] and session.session_id not in (known := self._by_name.get(name, ())):
            self._by_name[name] = (*known, session.session_id)

    def forget(self, session: Session) -> None:
        """The session is over; reports of it may still be on their way."""
        self._heard.pop(session.session_id, None)
        ended = (self._clock.monotonic() + ENDED_KEPT_S, session)
        if (surplus := self._ended.put(session.session_id, _name_of(session)[0], ended)) is not None:
            self._discard(surplus[1])

    async def tick(self) -> None:
        """Forget what was waited for long enough, end what is silent."""
        now = self._clock.monotonic()
        while (oldest := self._ended.oldest()) is not None and oldest[0] <= now:
            self._ended.pop_oldest()
            self._discard(oldest[1])
        silent_since = now - self._silent_s
        for session_id in [known for known, heard in self._heard.items() if heard < silent_since]:
            with suppress(Refused, Unavailable):  # over already, or its end is tried again by the service
                await self._sessions.close(session_id, CloseReason.SILENT, tell_peer=True)

    async def account(self, event: AccountingRequested) -> tuple[Outcome, str]:
        """Book a report: what to answer, and what became of it in a word. Raises ``Unavailable``."""
        report = event.report
        if report.status in (AcctStatus.ACCOUNTING_ON, AcctStatus.ACCOUNTING_OFF):
            return await self._restarted(event)
        try:
            session = self._find(event) or await self._found_or_begun(event)
            _demand_own(session, event)
        except Refused as refusal:
            return await self._keep_apart(event, refusal)
        is_over = session.session_id not in self._sessions.open_sessions
        if is_over and report.status is AcctStatus.START:
            self._turn_away(event)
            return Recorded(), "over"  # it comes late, or what has ended is carried: nothing is to be stored
        try:
            answer = await self._record(session, event)
        except Refused:  # it ended meanwhile: what comes again finds it over
            self._turn_away(event)
            return NotRecorded(), "not_recorded"
        if is_over:
            self._turn_away(event)
        return answer

    # -- whose report it is ---------------------------------------------------------------------------

    def _find(self, event: AccountingRequested) -> Session | None:
        """The session, open or just ended."""
        report, open_sessions = event.report, self._sessions.open_sessions
        for session_id in report.session_ids:
            if (session := open_sessions.get(session_id)) is not None:
                return session
        for session_id in report.session_ids:
            if (ended := self._ended.get(session_id)) is not None:
                return ended[1]
        return None if report.session_ids else self._find_by_name(event)

    def _find_by_name(self, event: AccountingRequested) -> Session | None:
        """Numbers of that kind begin anew when a NAS does, and others count as it does (RFC 2866 §5.5)."""
        report = event.report
        named = self._by_name.get((event.client.name, report.imsi, report.acct_session_id), ())
        for session_id in reversed(named):
            session = self._sessions.open_sessions.get(session_id)
            if session is None and (ended := self._ended.get(session_id)) is not None:
                session = None if report.status is AcctStatus.START else ended[1]
            if session is not None and session.nas is not None and session.nas.name.is_same(report.nas):
                return session
        return None

    async def _found_or_begun(self, event: AccountingRequested) -> Session:
        """One at a time for each session: its Start and its first Interim may come together."""
        report = event.report
        name = " ".join(report.session_ids) or f"{report.imsi} {report.acct_session_id}"
        async with self._locks.hold(f"{event.client.name} {name}"):
            session = self._find(event) or await self._recall(report)
            return session or await self._begin(event)

    async def _recall(self, report: AccountingReport) -> Session | None:
        """One that ended long ago, or before a restart: its last counters may still come."""
        for session_id in report.session_ids:
            session = await self._sessions.ended(report.imsi, session_id)
            if session is not None:
                self.forget(session)
                return session
        return None

    async def _begin(self, event: AccountingRequested) -> Session:
        """Open what Access-Accept promised. What may not be opened and was carried yet is charged."""
        report, request = event.report, self._request(event)
        session_id = next(iter(report.session_ids), "")
        self._demand_recent(session_id)
        try:
            if request.refusal is not None or report.status is AcctStatus.STOP:
                raise Refused(
                    request.refusal or AttachRefusal.UNKNOWN_SESSION, "it ended before it began here"
                )
            request = replace(request, grant=self._grant(event, request.apn, session_id))
            held = holder_of(event.client, nas_of(event), self._clients)
            session = await self._sessions.open(request, holder_of=held)
        except Refused as refusal:
            if report.status is AcctStatus.START or not session_id or request.refusal is not None:
                raise
            carried = Grant(session_id, report.framed_address or IPv4Address(0))
            session = await self._sessions.carried_unopened(replace(request, grant=carried), refusal)
            self.forget(session)
            return session
        self.hold(session)
        return session

    def _request(self, event: AccountingRequested) -> OpenSession:
        report, client = event.report, event.client
        promised = self._admissions.apn_of(report.imsi, (client.name, report.nas))
        apn = apn_of(client, report.apns, self._sessions.is_served, promised)
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
        if client.terms.own_addresses:
            address = report.framed_address or IPv4Address(0)
            return Grant(session_id or self._admissions.fresh_id(), address, is_lent=False)
        pool, asker = self._sessions.pool_of(apn), (client.name, report.nas)
        return self._admissions.redeem(report.imsi, asker, session_id, report.framed_address, pool)

    def _demand_recent(self, session_id: str) -> None:
        """Raises ``Refused(UNKNOWN_SESSION)`` for an id that is too old to know that it is not over."""
        if session_id:
            age = self._clock.now() - time_of_id(session_id)
            if not -CLASS_EARLY_MAX <= age <= CLASS_AGE_MAX:
                raise Refused(AttachRefusal.UNKNOWN_SESSION, "its Class is not of these days")

    # -- what it says ---------------------------------------------------------------------------------

    async def _record(self, session: Session, event: AccountingRequested) -> tuple[Outcome, str]:
        report, session_id = event.report, session.session_id
        is_open = session_id in self._sessions.open_sessions
        if is_open:
            self._heard[session_id] = self._clock.monotonic()
            session = await self._moved(session, report)
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

    async def _moved(self, session: Session, report: AccountingReport) -> Session:
        location = None if report.location == NOWHERE else report.location
        place = (location or session.location, report.imei or session.imei)
        if place == (session.location, session.imei):
            return session
        change = ModifySession(session_id=session.session_id, location=location, imei=report.imei)
        return await self._sessions.modify(change)

    def _ceiling(self, session: Session, event: AccountingRequested) -> Ceiling:
        """A NAS that asks no access may have carried a session for as long as it says; one that holds devices
        to their class, as fast as the fastest since the session was opened: nobody tells it of changes, and
        it may learn of them when it will.
        """
        terms, unseen_s = event.client.terms, 0.0
        fastest = session.nas.fastest_class if session.nas else ""
        kbps = SPEEDS_KBPS.get(fastest or session.speed_class, 0) if terms.enforces_speed_class else 0
        if terms.own_addresses:
            open_s = (self._clock.now() - session.opened).total_seconds()
            unseen_s = max(0.0, event.report.session_s + event.report.delay_s - open_s)
        return Ceiling(kbps or terms.line_rate_kbps, unseen_s)

    async def _quarantined(self, session: Session, event: AccountingRequested) -> bool:
        """More than can be: the session goes on, and what it reports later may be right."""
        volume, client = event.report.volume, event.client.known_as
        why = f"{volume.up_bytes} octets up, {volume.down_bytes} down: more than its line can carry"
        self._note("usage quarantined", client, f"IMSI {session.imsi}, session {session.session_id}: {why}")
        return await self._quarantine.keep(
            client=client,
            nas=session.nas or nas_of(event),
            imsi=session.imsi,
            told=volume,
            why="above what its line can carry",
            session_id=session.session_id,
            operator_id=session.operator_id,
            is_alarm=True,
        )

    async def _keep_apart(self, event: AccountingRequested, refusal: Refused) -> tuple[Outcome, str]:
        """It is no session of ours: what it used is acknowledged and billed to nobody."""
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
            told=report.volume,
            why=refusal.reason.value,
        )
        return (Recorded(), "kept_apart") if kept else (NotRecorded(), "not_recorded")

    def _turn_away(self, event: AccountingRequested) -> None:
        """The NAS carries what may not be carried: it shall end it."""
        if event.report.status is not AcctStatus.STOP:
            self._disconnect(Ending(event.report.imsi, nas_of(event), event.client.known_as))

    # -- restarts of NASes ----------------------------------------------------------------------------

    async def _restarted(self, event: AccountingRequested) -> tuple[Outcome, str]:
        """What a NAS held before it began anew is over (RFC 2866 §5.1, §5.2)."""
        report, client, now = event.report, event.client, self._clock.now()
        if not self._has_room_for_restart(client, now):
            return NotRecorded(), "too_many_restarts"
        first, heard = await self._first_heard_at(client, report.authenticator, now)
        is_new = first == heard
        self._restarts_of[client.name, day_of(now)] += is_new  # who repeats one uses up nothing
        delay = timedelta(seconds=report.delay_s)
        before, is_timely = heard - delay, False
        if report.event_timestamp is not None:
            happened = datetime.fromtimestamp(report.event_timestamp, UTC)
            is_timely = abs(now - delay - happened) <= TIMESTAMP_OFF_MAX
            before = min(before, happened + TIMESTAMP_OFF_MAX)
        if client.terms.require_event_timestamp and not is_timely:
            self._note(
                "restart ignored", client.known_as, f"{report.nas}: no Event-Timestamp of these minutes"
            )
            return Recorded(), "restart_ignored"
        for session in self._held_by(event):
            if session.opened <= before:
                with suppress(Refused):  # over already
                    await self._sessions.close(session.session_id, CloseReason.PEER_LOST)
        return Recorded(), "restarted" if is_new else "restart_repeated"

    async def _first_heard_at(
        self, client: NasNetwork, authenticator: bytes, now: datetime
    ) -> tuple[datetime, datetime]:
        """When it was heard first by this tenure, and at all, which is durable; raises ``Unavailable``."""
        key = (client.name, authenticator)
        if (first := self._first_heard.get(key)) is None:
            first = now
            self._first_heard.put(key, client.name, first)
        heard = await self._restarts.first_heard(*key, first)
        self._first_heard.pop(key)
        return first, heard

    def _has_room_for_restart(self, client: NasNetwork, now: datetime) -> bool:
        key = (client.name, day_of(now))
        if key not in self._restarts_of:
            self._restarts_of = Counter(
                {each: n for each, n in self._restarts_of.items() if each[1] == key[1]}
            )
        return self._restarts_of[key] < RESTARTS_A_DAY_MAX

    def _held_by(self, event: AccountingRequested) -> list[Session]:
        """The sessions of the NAS that speaks. An address alone does not tell NASes apart that share it and
        have identifiers.
        """
        name, held = event.report.nas, []
        for session in self._sessions.open_sessions.values():
            nas = session.nas
            if nas is not None and nas.network == event.client.name and nas.name.is_same(name):
                held.append((nas.nas_identifier, session))
        are_several = not name.identifier and len({identifier for identifier, _ in held if identifier}) > 1
        return [session for identifier, session in held if not (are_several and identifier)]

    def _discard(self, session: Session) -> None:
        """Nothing more is waited for of a session that is over."""
        session_id = session.session_id
        if session_id in (known := self._by_name.get(name := _name_of(session), ())):
            if others := tuple(each for each in known if each != session_id):
                self._by_name[name] = others
            else:
                del self._by_name[name]
        self._usage.discard(session_id)


def nas_of(event: AccountingRequested) -> Nas:
    """The NAS, and how it names the session."""
    report, name = event.report, event.report.nas
    return Nas(
        network=event.client.name,
        identifier=name.identifier or name.ip_address or name.source,
        address=name.source,
        acct_session_id=report.acct_session_id,
        ip_address=name.ip_address,
        user_name=report.user_name,
        framed_address="" if report.framed_address is None else str(report.framed_address),
        says_imsi=report.says_imsi,
        has_own_address=event.client.terms.own_addresses,
    )


def _demand_own(session: Session, event: AccountingRequested) -> None:
    """Raises ``Refused(UNKNOWN_SESSION)`` unless it is this NAS's to speak of."""
    nas, report = session.nas, event.report
    is_its_own = nas is not None and nas.network == event.client.name and nas.name.is_same(report.nas)
    if not is_its_own or report.imsi not in ("", session.imsi):
        raise Refused(AttachRefusal.UNKNOWN_SESSION, f"{session.session_id} is another's")


def _name_of(session: Session) -> Name:
    """What its NAS calls it, without who that is."""
    nas = session.nas
    return (nas.network, session.imsi, nas.acct_session_id) if nas else ("", session.imsi, "")
