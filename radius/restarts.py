"""Accounting-On and Accounting-Off: a NAS restarted, and its sessions are over (RFC 2866 §5.1, §5.2).

Rule: one ends the sessions that began before it was first received, so that a repeat or a replay ends none
that began since.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta

from core.domain.session import CloseReason, Session
from core.domain.shares import Kept
from core.domain.usage import day_of
from core.errors import Refused
from core.ports.clock import Clock
from core.ports.store import NasRestarts
from core.services.sessions.service import Sessions
from radius.events import AccountingRequested, NotRecorded, Outcome, Recorded
from radius.networks import NasNetwork

RESTARTS_A_DAY_MAX = 10_000
"""Accounting-Ons and -Offs of one client that are remembered a day; beyond it they get silence."""
UNSTORED_RESTARTS_MAX = 1_024
"""Accounting-Ons and -Offs whose time is kept while the store is away; beyond it, or a client's share, the
oldest loses its own."""
TIMESTAMP_OFF_MAX = timedelta(minutes=5)
"""By so much may the clock of a NAS be off, as RFC 5176 §6.3 recommends it for Disconnect-Requests."""


class Restarts:
    """Ends the sessions of NASes that restarted. ``note`` as in ``Accounting``."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        restarts: NasRestarts,
        clock: Clock,
        note: Callable[[str, str, str], None],
    ) -> None:
        self._sessions = sessions
        self._restarts = restarts
        self._clock = clock
        self._note = note
        self._restarts_of: Counter[tuple[str, int]] = Counter()
        self._first_heard: Kept[tuple[str, bytes], datetime] = Kept(UNSTORED_RESTARTS_MAX)
        """Of restarts that could not be stored yet: repeats are of the same time."""

    async def answer(self, event: AccountingRequested) -> tuple[Outcome, str]:
        """From an Accounting-On or -Off to its answer, and what became of it; raises ``Unavailable``."""
        report, client, now = event.report, event.client, self._clock.now()
        if not self._has_room(client, now):
            return NotRecorded(), "too_many_restarts"
        first, heard = await self._first_heard_at(client, report.authenticator, now)
        is_new = first == heard
        self._restarts_of[client.name, day_of(now)] += is_new  # a repeat uses up nothing
        delay = timedelta(seconds=report.delay_s)
        before, is_timely = heard - delay, False
        if report.event_timestamp is not None:
            happened = datetime.fromtimestamp(report.event_timestamp, UTC)
            is_timely = abs(now - delay - happened) <= TIMESTAMP_OFF_MAX
            before = min(before, happened + TIMESTAMP_OFF_MAX)
        if client.policy.require_event_timestamp and not is_timely:
            said = f"{report.nas}: no Event-Timestamp within five minutes"
            self._note("restart ignored", client.known_as, said)
            return Recorded(), "restart_ignored"
        for session in self._held_by(event):
            if session.opened <= before:
                with suppress(Refused):  # over already
                    await self._sessions.close(session.session_id, CloseReason.PEER_LOST)
        return Recorded(), "restarted" if is_new else "restart_repeated"

    def _has_room(self, client: NasNetwork, now: datetime) -> bool:
        key = (client.name, day_of(now))
        if key not in self._restarts_of:
            of_today = {each: n for each, n in self._restarts_of.items() if each[1] == key[1]}
            self._restarts_of = Counter(of_today)
        return self._restarts_of[key] < RESTARTS_A_DAY_MAX

    async def _first_heard_at(
        self, client: NasNetwork, authenticator: bytes, now: datetime
    ) -> tuple[datetime, datetime]:
        """When this lease term first received it, and when any did (durable); raises ``Unavailable``."""
        key = (client.name, authenticator)
        if (first := self._first_heard.get(key)) is None:
            first = now
            self._first_heard.put(key, client.name, first)
        heard = await self._restarts.first_heard(*key, first)
        self._first_heard.pop(key)
        return first, heard

    def _held_by(self, event: AccountingRequested) -> list[Session]:
        """The sessions of the NAS. An address alone does not distinguish NASes that share it and have
        identifiers.
        """
        name, held = event.report.nas, []
        for session in self._sessions.open_sessions.values():
            nas = session.nas
            if nas is not None and nas.network == event.client.name and nas.name.is_same(name):
                held.append((nas.nas_identifier, session))
        are_several = not name.identifier and len({identifier for identifier, _ in held if identifier}) > 1
        return [session for identifier, session in held if not (are_several and identifier)]
