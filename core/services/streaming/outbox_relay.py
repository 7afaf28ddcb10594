"""Outbox relay: moves stored session events to the stream.

Rules:

- An event is in the store before it is relayed, so no session is refused while the stream is away; it is
  relayed at least once, under its own id as ``recordId``; one SIM's events are relayed in order, one at a
  time.
- What makes an event durable gives it here, and it is relayed from memory. The outbox in the store is read
  when memory may lack an event: at first, when a write's outcome is unknown (a former holder's, too), after a
  fault, when more than ``EVENTS_MAX`` wait, and every ``SWEEP_S``. While memory may lack one it relays
  nothing that was not read, for what it lacks may be an earlier event of the same SIM.
- An event that cannot be read, or that the stream will never take, is passed over and audited.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec

from core.domain.message import StreamRecord
from core.domain.session import SessionEvent
from core.errors import Unavailable
from core.ports.clock import Clock
from core.ports.store import DamagedEvent, Sessions
from core.ports.stream import RECORDS_PER_PUT_MAX, PutResult, Stream
from core.services.running.audit import AuditTrail
from core.services.running.faults import Fault, Faults

EVENTS_MAX = 20_000
"""Events kept in memory until the stream has them, some 1 kB each; beyond it they are read from the store."""
SWEEP_S = 60.0
"""How often the outbox is read in any case; who reads it also removes what a crash left."""
DOUBT_S = 60.0
"""A write whose outcome is unknown has arrived by then or never does; so long each event is read."""
GATHER_S = 0.02
"""Events within this time of the first are relayed in one batch: one by one costs five times the CPU."""
RETRY_FIRST_S, RETRY_S_MAX = 0.1, 5.0
LOOP = "outbox-relay"


class OutboxRelay:
    """Empties the outbox of one gateway instance; ``relayed`` counts events that the stream has, ``reads``
    how often the outbox was read.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        stream: Stream,
        gateway_id: str,
        clock: Clock,
        faults: Faults,
        audit: AuditTrail,
    ) -> None:
        self._sessions = sessions
        self._stream = stream
        self._gateway_id = gateway_id
        self._clock = clock
        self._faults = faults
        self._audit = audit
        self._is_due = asyncio.Event()
        self._events: dict[str, SessionEvent] = {}
        self._must_read = True
        self._sweep_at = 0.0
        self._doubted_at: float | None = None
        self.relayed = 0
        self.reads = 0

    def handle(self, event: SessionEvent | None) -> None:
        """This event is durable now, after every earlier one of its SIM; ``None``: some event may be."""
        if event is None:
            self._doubted_at = self._clock.monotonic()
        if self._doubted_at is not None or len(self._events) >= EVENTS_MAX:
            self._must_read = True
        elif event is not None and not self._must_read:
            self._events[event.event_id] = event
        self._is_due.set()

    async def run(self) -> None:
        """Relay what is in the outbox, until cancelled."""
        pause_s = RETRY_FIRST_S
        self._must_read = True
        while True:
            self._is_due.clear()
            try:
                is_more = await self._relay()
            except Unavailable as error:
                self._must_read = True
                self._faults.stands(LOOP, error, self._gateway_id)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_S_MAX)
                continue
            pause_s = RETRY_FIRST_S
            self._faults.goes_on(LOOP, self._gateway_id)
            if not is_more:
                with suppress(TimeoutError):
                    async with asyncio.timeout(SWEEP_S):
                        await self._is_due.wait()
                await asyncio.sleep(GATHER_S)

    async def _relay(self) -> bool:
        """One put's worth; whether to go on at once. Raises ``Unavailable`` when nothing could be relayed."""
        if self._must_read or self._clock.monotonic() >= self._sweep_at:
            await self._read()
        first: dict[str, SessionEvent] = {}
        for event in self._events.values():  # the oldest of each SIM: its next one waits for it
            first.setdefault(event.sim_id, event)
            if len(first) == RECORDS_PER_PUT_MAX:
                break
        if not first:
            return self._must_read
        chosen = list(first.values())
        results = await self._put([StreamRecord(event.imsi, envelope(event)) for event in chosen])
        relayed = []
        for event, result in zip(chosen, results, strict=True):
            if result.is_poison:
                await self._pass_over(event, result.error)
            elif not result.error:
                relayed.append(event)
        if not relayed and not any(result.is_poison for result in results):
            raise Unavailable(results[0].error)
        if relayed:
            await self._leave(relayed)
        self.relayed += len(relayed)
        return bool(self._events) or self._must_read

    async def _read(self) -> None:
        """Let memory hold what the outbox holds, or its oldest part.

        What becomes durable meanwhile is either found or given here, and after what is found in either case.
        """
        now = self._clock.monotonic()
        if self._doubted_at is not None and now >= self._doubted_at + DOUBT_S:
            self._doubted_at = None
        self._events.clear()
        self._must_read = False
        self._sweep_at = now + SWEEP_S
        self.reads += 1
        found = await self._sessions.outbox(self._gateway_id, limit=RECORDS_PER_PUT_MAX)
        stored = {event.event_id: event for event in found if isinstance(event, SessionEvent)}
        if len(found) >= RECORDS_PER_PUT_MAX:
            self._must_read = True
        self._events = stored if self._must_read else stored | self._events
        for event in found:
            if isinstance(event, DamagedEvent):
                await self._pass_over(event, event.why)

    async def _put(self, records: list[StreamRecord]) -> list[PutResult]:
        """``Stream.put``, where a record that breaks its limits costs the others nothing."""
        try:
            return list(await self._stream.put(records))
        except ValueError as error:
            if len(records) == 1:
                return [PutResult(error=str(error), is_poison=True)]
        middle = len(records) // 2
        return [*await self._put(records[:middle]), *await self._put(records[middle:])]

    async def _leave(self, events: Sequence[SessionEvent | DamagedEvent]) -> None:
        await self._sessions.sent(self._gateway_id, events)
        for event in events:
            self._events.pop(event.event_id, None)

    async def _pass_over(self, event: SessionEvent | DamagedEvent, why: str) -> None:
        """Durably in the audit, then out of the outbox; raises ``Unavailable``."""
        why = f"event {event.event_id}: {why}"
        await self._audit.records_skipped(f"{LOOP} {self._gateway_id}", why)
        await self._leave([event])
        self._faults.passed_over(LOOP, Fault.ITEM, why)


def envelope(event: SessionEvent) -> bytes:
    """The event's record, as canonical JSON."""
    return msgspec.json.encode(
        {
            "imsi": event.imsi,
            "operatorId": event.operator_id,
            "recordId": event.event_id,
            "sessionEvent": {
                "apn": event.apn,
                "cause": event.cause,
                "event": event.kind,
                "imei": event.imei,
                "sessionId": event.session_id,
                "ueIpAddress": event.ue_address,
            },
            "simId": event.sim_id,
            "timestamp": (event.at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1),
        },
        order="sorted",
    )
