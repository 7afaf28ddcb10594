"""From a device's message to its place in the stream.

Rules:

- Identity is the session's, never the payload's. The record is Funnel's envelope as canonical JSON (sorted
  keys, no spaces), with a ``recordId`` that is unique and rises with time; the partition key is the IMSI.
- One SIM's messages reach the stream in the order of the calls of ``deliver``.
- A receipt is given only after the stream accepted. A retry puts the very same bytes, so that what an
  unclear outcome stored twice is recognised by its ``recordId``.
- An empty payload is a message like any other.
- What the stream will never take is kept as a dead letter, and its sender is refused: the SIM's next messages
  go on. So is the beginning of what is too long where the protocol cannot refuse it.
"""

import asyncio
from collections import Counter, deque
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
from msgspec import Struct

from core.domain.message import DeviceMessage, StreamRecord
from core.domain.reasons import RequestRefusal
from core.errors import LocalProtocolError, Refused, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.object_store import ObjectStore
from core.ports.stream import PutResult, Stream
from core.services.running.faults import Faults
from core.services.running.ids import RecordIds
from core.services.streaming.keyed_queues import Entry, KeyedQueues, QueueRefusal

DEADLINE_S = 60.0
"""A message's tries begin within this time of its ``deliver``; then it is given up, unacknowledged."""
PUTS_IN_FLIGHT_MAX = 4
"""Calls of ``Stream.put`` under way at a time, each with other SIMs' records."""
LINGER_S = 0.003
"""How long a call waits for company while others are under way, if it would carry few records."""
BATCH_WORTH = 128
"""Records that are no longer few: a call costs as much as some dozens of them."""
ASIDE_MAX = 64
"""Messages that wait to be kept aside."""
ASIDE_RETRY_S = 1.0
LOOP, STREAM, LETTERS = "delivery", "stream", "dead-letters"
"""As what a stream that takes nothing, and an object store that keeps nothing, are reported."""
PROVIDER = "airloom"
SERVICE = "stream"

_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_CANONICAL = msgspec.json.Encoder(order="sorted")

REFUSALS = {
    QueueRefusal.KEY_FULL: RequestRefusal.TOO_MANY_REQUESTS,
    QueueRefusal.FULL: RequestRefusal.TOO_MANY_REQUESTS,
    QueueRefusal.TOO_LARGE: RequestRefusal.BODY_TOO_LARGE,
}


class Receipt(Struct, frozen=True, gc=False):
    """The stream has it, durably: under which id and where."""

    record_id: str
    shard_id: str
    sequence_number: str


Outcome = Receipt | Refused | Unavailable
"""How a message ended: stored, kept as a dead letter, or given up."""
Settled = Callable[[Outcome, float], None]
"""Takes the outcome of a message, and the monotonic time; it must not raise."""
DEAD_LETTERS = "dead-letters"
"""The folder of the object store: a file per record, named by its id."""


class _Waiting(Struct, frozen=True):
    """What waits for a record's outcome."""

    record_id: str
    protocol: str
    settled: Settled


class _Aside(Struct, frozen=True):
    """What is to be kept aside, and until when it is tried."""

    record: StreamRecord
    waiting: _Waiting
    deadline: float


class Delivery:
    """The way into the stream for every entry point. Its owner keeps ``run`` going as long as it delivers."""

    def __init__(
        self,
        *,
        stream: Stream,
        clock: Clock,
        entropy: Entropy,
        faults: Faults | None = None,
        dead_letters: ObjectStore | None = None,
        queues: KeyedQueues[Any] | None = None,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._faults = faults or Faults(clock=clock)
        self._queues: KeyedQueues[_Waiting] = (
            KeyedQueues(keeps_order=stream.keeps_order) if queues is None else queues
        )
        self._record_ids = RecordIds(clock=clock, entropy=entropy)
        self._deadline_s = deadline_s
        self.delivered: Counter[str] = Counter()
        """Records that the stream accepted, by the protocol they came by."""
        self._wake = asyncio.Event()
        self._under_way = 0
        self._is_over = False
        self._dead_letters = dead_letters
        self.dead_letters = 0
        """Records that the stream would not take, kept aside."""
        self._aside: deque[_Aside] = deque()
        self._wake_aside = asyncio.Event()

    @property
    def waiting(self) -> int:
        """Messages that are not yet accepted."""
        return self._queues.record_count

    def send(self, message: DeviceMessage, settled: Settled, now: float) -> None:
        """Send a message on its way; ``settled`` is called, later and once, when the stream has it.

        Raises ``Refused`` at once: ``BODY_TOO_LARGE``, ``TOO_MANY_REQUESTS``. ``settled`` gets
        ``Unavailable`` when the message was given up, which may be stored all the same when that is
        ``ambiguous``; ``Refused`` when it became a dead letter. ``now`` is the monotonic time.
        """
        if self._is_over:
            raise Unavailable("delivery has ended")
        record_id = self._record_ids.next(message.received)
        refusal = self._queues.offer(
            StreamRecord(message.imsi, envelope(message, record_id)),
            _Waiting(record_id, message.source_protocol, settled),
            deadline=now + self._deadline_s,
        )
        if refusal is not None:
            raise Refused(REFUSALS[refusal], refusal.value)
        self._wake.set()

    def deliver(self, message: DeviceMessage) -> asyncio.Future[Receipt]:
        """``send`` as a future, which raises what ``settled`` would get."""
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.send(message, partial(_resolve, receipt), self._clock.monotonic())
        return receipt

    def keep_aside(self, message: DeviceMessage, octets_missing: int, settled: Settled) -> None:
        """Make a dead letter of a message whose payload lacks its end; ``settled`` as in ``send``.

        Raises ``Refused(TOO_MANY_REQUESTS)``.
        """
        if self._is_over:
            raise Unavailable("delivery has ended")
        if self._dead_letters is None:
            raise Unavailable("the queue of dead letters is full")
        if len(self._aside) >= ASIDE_MAX:
            raise Refused(RequestRefusal.TOO_MANY_REQUESTS, "too many oversized messages are being received")
        record_id = self._record_ids.next(message.received)
        record = StreamRecord(message.imsi, envelope(message, record_id, octets_missing))
        waiting = _Waiting(record_id, message.source_protocol, settled)
        self._aside.append(_Aside(record, waiting, self._clock.monotonic() + self._deadline_s))
        self._wake_aside.set()

    async def run(self) -> None:
        """Put what waits, until cancelled. What still waits then ends as ``Unavailable``, for it may or may
        not be stored. It may be run again.
        """
        self._is_over = False
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PUTS_IN_FLIGHT_MAX):
                    group.create_task(self._pump())
                group.create_task(self._pump_aside())
        finally:
            self._is_over = True
            now = self._clock.monotonic()
            for entry in self._queues.clear():
                _fail(entry.token, "delivery has ended", now, ambiguous=True)
            while self._aside:
                _fail(self._aside.popleft().waiting, "delivery has ended", now, ambiguous=True)

    async def _pump(self) -> None:
        while True:
            if self._under_way and 0 < self._queues.ready_count < BATCH_WORTH:
                await asyncio.sleep(LINGER_S)
            now = self._clock.monotonic()
            batch = self._queues.next_batch(now)
            for entry in self._queues.take_given_up():
                _fail(entry.token, "the stream did not accept it in time", now, ambiguous=entry.failures > 0)
            if batch:
                await self._put(batch)
            else:
                await self._wait()

    async def _put(self, batch: list[Entry[_Waiting]]) -> None:
        """One call; afterwards each record is either accepted and acknowledged, or waits for its next try."""
        self._under_way += 1
        try:
            results = await self._stream.put([entry.record for entry in batch])
        except Unavailable as error:
            results = [PutResult(error=str(error))] * len(batch)
        finally:
            self._under_way -= 1
        errors = [result.error for result in results]
        poison = [number for number, result in enumerate(results) if result.is_poison]
        if all(errors) and not poison:
            self._faults.stands(LOOP, Unavailable(errors[0]), STREAM)
        else:
            self._faults.goes_on(LOOP, STREAM)
        placed = dict(zip(batch, results, strict=True))
        buried = set()
        for number in poison:
            entry = batch[number]
            if await self._bury(entry.token.record_id, entry.record):
                buried.add(entry)
                errors[number] = ""
        now = self._clock.monotonic()
        for entry in self._queues.settle(batch, errors, now):
            waiting, result = entry.token, placed[entry]
            if entry in buried:
                waiting.settled(Refused(RequestRefusal.INVALID_FIELD, result.error), now)
                continue
            self.delivered[waiting.protocol] += 1
            waiting.settled(Receipt(waiting.record_id, result.shard_id, result.sequence_number), now)
        self._wake.set()

    async def _pump_aside(self) -> None:
        while True:
            while not self._aside:
                self._note_rest()
                self._wake_aside.clear()
                await self._wake_aside.wait()
            first = self._aside[0]
            is_kept = await self._bury(first.waiting.record_id, first.record)
            now = self._clock.monotonic()
            if is_kept:
                self._aside.popleft()
                first.waiting.settled(Refused(RequestRefusal.BODY_TOO_LARGE, "kept as a dead letter"), now)
            elif now >= first.deadline:
                self._aside.popleft()
                _fail(first.waiting, "it could not be stored as a dead letter in time", now, ambiguous=True)
            else:
                await asyncio.sleep(ASIDE_RETRY_S)

    async def _bury(self, record_id: str, record: StreamRecord) -> bool:
        """Keep what the stream will never take; false when that cannot be done now."""
        if self._dead_letters is None:
            return False
        try:
            await self._dead_letters.put(f"{DEAD_LETTERS}/{record_id}", record.data)
        except (Unavailable, LocalProtocolError) as error:  # or a foreign file stands where the folder would
            self._faults.stands(LOOP, Unavailable(str(error)), LETTERS)
            return False
        self._faults.goes_on(LOOP, LETTERS)
        self.dead_letters += 1
        return True

    def _note_rest(self) -> None:
        """With nothing left to wait, no loop stands still: each message was stored, or given up."""
        if not self._queues.record_count and not self._aside:
            self._faults.goes_on(LOOP, STREAM)
            self._faults.goes_on(LOOP, LETTERS)

    async def _wait(self) -> None:
        """Until a queue may have something to go."""
        self._note_rest()
        self._wake.clear()
        pause_end = self._queues.next_pause_end()
        timeout_s = None if pause_end is None else max(0.0, pause_end - self._clock.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()


class _Destination(Struct, rename="camel"):
    provider: str
    resource_url: str
    service: str


class _Envelope(Struct, rename="camel"):
    destination: _Destination
    imei: str
    imsi: str
    operator_id: str
    payloads: bytes
    record_id: str
    sim_id: str
    source_protocol: str
    timestamp: int


class _Beginning(_Envelope):
    """A dead letter of a message that was too long: how much of its payload is not in it."""

    octets_missing: int


def envelope(message: DeviceMessage, record_id: str, octets_missing: int = 0) -> bytes:
    """Funnel's record as canonical JSON; the payload becomes base64."""
    record = partial(_Beginning, octets_missing=octets_missing) if octets_missing else _Envelope
    return _CANONICAL.encode(
        record(
            destination=_Destination(PROVIDER, message.entry_point_url, SERVICE),
            imei=message.imei,
            imsi=message.imsi,
            operator_id=message.operator_id,
            payloads=message.payload,
            record_id=record_id,
            sim_id=message.sim_id,
            source_protocol=message.source_protocol,
            timestamp=(message.received - _EPOCH) // _MILLISECOND,
        )
    )


def _fail(waiting: _Waiting, why: str, now: float, *, ambiguous: bool) -> None:
    waiting.settled(Unavailable(why, ambiguous=ambiguous), now)


def _resolve(receipt: asyncio.Future[Receipt], outcome: Outcome, _: float) -> None:
    if receipt.done():
        return
    if isinstance(outcome, Receipt):
        receipt.set_result(outcome)
    else:
        receipt.set_exception(outcome)
        receipt.exception()  # a device that is gone does not ask for it, which is no error of ours
