"""Outbox relay: moves stored session events to the stream.

Rules: an event is stored before it is relayed, so an unavailable stream does not refuse sessions; it is
relayed at least once, under its own id as ``recordId``; one SIM's events are relayed in order, one at a time.
An event that cannot be read, or that the stream will never take, is passed over and audited.
"""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import msgspec

from core.domain.message import StreamRecord
from core.domain.session import SessionEvent
from core.errors import Unavailable
from core.ports.store import DamagedEvent, Sessions
from core.ports.stream import RECORDS_PER_PUT_MAX, PutResult, Stream
from core.services.running.audit import AuditTrail
from core.services.running.faults import Fault, Faults

LOOK_S = 5.0
"""How often the outbox is polled without a notification."""
GATHER_S = 0.02
"""Events within this time of the first are relayed in one batch: one by one costs five times the CPU."""
RETRY_FIRST_S, RETRY_S_MAX = 0.1, 5.0
LOOP = "outbox-relay"


class OutboxRelay:
    """Empties the outbox of one gateway instance; ``relayed`` counts relayed events."""

    def __init__(
        self, *, sessions: Sessions, stream: Stream, gateway_id: str, faults: Faults, audit: AuditTrail
    ) -> None:
        self._sessions = sessions
        self._stream = stream
        self._gateway_id = gateway_id
        self._faults = faults
        self._audit = audit
        self._is_due = asyncio.Event()
        self.relayed = 0

    def wake(self) -> None:
        """There is something in the outbox."""
        self._is_due.set()

    async def run(self) -> None:
        """Relay what is in the outbox, until cancelled."""
        pause_s = RETRY_FIRST_S
        while True:
            self._is_due.clear()
            try:
                left = await self._relay()
            except Unavailable as error:
                self._faults.stands(LOOP, error, self._gateway_id)
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, RETRY_S_MAX)
                continue
            pause_s = RETRY_FIRST_S
            self._faults.goes_on(LOOP, self._gateway_id)
            if not left:
                with suppress(TimeoutError):
                    async with asyncio.timeout(LOOK_S):
                        await self._is_due.wait()
                await asyncio.sleep(GATHER_S)

    async def _relay(self) -> bool:
        """One put's worth; whether there is more. Raises ``Unavailable`` when nothing could be told."""
        first: dict[str, SessionEvent] = {}
        for event in await self._sessions.outbox(self._gateway_id, limit=RECORDS_PER_PUT_MAX):
            if isinstance(event, DamagedEvent):
                await self._pass_over(event, event.why)
            else:  # the oldest of each SIM: its next one waits until this one is told
                first.setdefault(event.sim_id, event)
        if not first:
            return False
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
            await self._sessions.sent(self._gateway_id, relayed)
        self.relayed += len(relayed)
        return True

    async def _put(self, records: list[StreamRecord]) -> list[PutResult]:
        """``Stream.put``, where a record that breaks its limits costs the others nothing."""
        try:
            return list(await self._stream.put(records))
        except ValueError as error:
            if len(records) == 1:
                return [PutResult(error=str(error), is_poison=True)]
        middle = len(records) // 2
        return [*await self._put(records[:middle]), *await self._put(records[middle:])]

    async def _pass_over(self, event: SessionEvent | DamagedEvent, why: str) -> None:
        """Durably in the audit, then out of the outbox; raises ``Unavailable``."""
        why = f"event {event.event_id}: {why}"
        await self._audit.records_skipped(f"{LOOP} {self._gateway_id}", why)
        await self._sessions.sent(self._gateway_id, [event])
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
                "event": event.kind.value,
                "imei": event.imei,
                "sessionId": event.session_id,
                "ueIpAddress": event.ue_address,
            },
            "simId": event.sim_id,
            "timestamp": (event.at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1),
        },
        order="sorted",
    )
