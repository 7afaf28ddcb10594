"""From a device's message to its place in the stream.

Rules:

- Identity is the session's, never the payload's. The record is Funnel's envelope as canonical JSON (sorted
  keys, no spaces), with a ``recordId`` that is unique and rises with time; the partition key is the IMSI.
- One SIM's messages reach the stream in the order of the calls of ``deliver``.
- A receipt is given only after the stream accepted. A retry puts the very same bytes, so that what an
  unclear outcome stored twice can be told by its ``recordId``.
- What the stream will never take is kept as a dead letter, and its sender is told so: the SIM's next messages
  go on.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import partial
from typing import Any, NamedTuple

import msgspec

from core.domain.message import DeviceMessage, StreamRecord
from core.domain.reasons import RequestRefusal
from core.errors import Refused, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.object_store import ObjectStore
from core.ports.stream import PutResult, Stream
from core.services.ids import RecordIds
from core.services.lanes import Entry, LaneRefusal, Lanes

DEADLINE_S = 60.0
"""A message's tries begin within this time of its ``deliver``; then it is given up, unacknowledged."""
PUTS_IN_FLIGHT_MAX = 4
"""Calls of ``Stream.put`` under way at a time, each with other SIMs' records."""
LINGER_S = 0.003
"""How long a call waits for company while others are under way, if it would carry few records."""
BATCH_WORTH = 128
"""Records that are no longer few: a call costs as much as some dozens of them."""
PROVIDER = "airloom"
SERVICE = "stream"

_EPOCH, _MILLISECOND = datetime(1970, 1, 1, tzinfo=UTC), timedelta(milliseconds=1)
_CANONICAL = msgspec.json.Encoder(order="sorted")

REFUSALS = {
    LaneRefusal.LANE_FULL: RequestRefusal.TOO_MANY_REQUESTS,
    LaneRefusal.FULL: RequestRefusal.TOO_MANY_REQUESTS,
    LaneRefusal.TOO_LARGE: RequestRefusal.BODY_TOO_LARGE,
}


class ContentType(Enum):
    """What a group says its payloads are (SoracomFunnel ``contentType``); unsaid over UDP, TCP: binary."""

    JSON = "json"
    TEXT = "text"
    BINARY = "binary"


class Receipt(NamedTuple):
    """The stream has it, durably: under which id and where."""

    record_id: str
    shard_id: str
    sequence_number: str


Outcome = Receipt | Refused | Unavailable
"""How a message ended: stored, kept as a dead letter, or given up."""
Settled = Callable[[Outcome], None]
"""What is told; it must not raise."""
DEAD_LETTERS = "dead-letters"
"""The folder of the object store: a file per record, named by its id."""


class _Waiting(NamedTuple):
    """Who waits for a record."""

    record_id: str
    protocol: str
    settled: Settled


def _always_binary(_: DeviceMessage) -> ContentType:
    return ContentType.BINARY


class Delivery:
    """The way into the stream for every entry point. Its owner keeps ``run`` going as long as it delivers."""

    def __init__(
        self,
        *,
        stream: Stream,
        clock: Clock,
        entropy: Entropy,
        dead_letters: ObjectStore | None = None,
        lanes: Lanes[Any] | None = None,
        content_type_of: Callable[[DeviceMessage], ContentType] = _always_binary,
        deadline_s: float = DEADLINE_S,
    ) -> None:
        self._stream = stream
        self._clock = clock
        self._lanes: Lanes[_Waiting] = Lanes(keeps_order=stream.keeps_order) if lanes is None else lanes
        self._record_ids = RecordIds(clock=clock, entropy=entropy)
        self._content_type_of = content_type_of
        self._deadline_s = deadline_s
        self.delivered: Counter[str] = Counter()
        """Records that the stream accepted, by the protocol they came by."""
        self._wake = asyncio.Event()
        self._under_way = 0
        self._is_over = False
        self._dead_letters = dead_letters
        self.dead_letters = 0
        """Records that the stream would not take, kept aside."""

    @property
    def waiting(self) -> int:
        """Messages that are not yet accepted."""
        return self._lanes.record_count

    def send(self, message: DeviceMessage, settled: Settled) -> None:
        """Send a message on its way; ``settled`` is called, later and once, when the stream has it.

        Raises ``Refused`` at once: ``INVALID_FIELD`` (no payload, or not the JSON or text that it should
        be), ``BODY_TOO_LARGE``, ``TOO_MANY_REQUESTS``. ``settled`` is told ``Unavailable`` when the message
        was given up; it may be stored all the same when that is ``ambiguous``; ``Refused`` when it became a
        dead letter.
        """
        self._check_open()
        payloads = payloads_of(message.payload, self._content_type_of(message))
        record_id = self._record_ids.next()
        record = StreamRecord(message.imsi, envelope(message, record_id, payloads))
        self._enter_lane(record, _Waiting(record_id, message.source_protocol, settled))
        self._wake.set()

    def deliver(self, message: DeviceMessage) -> asyncio.Future[Receipt]:
        """``send`` for whoever rather waits: the future raises what ``settled`` would be told."""
        receipt: asyncio.Future[Receipt] = asyncio.get_running_loop().create_future()
        self.send(message, partial(_resolve, receipt))
        return receipt

    async def run(self) -> None:
        """Put what waits, for ever. When it ends, whatever waits is told that it may or may not be stored;
        it may be run again.
        """
        self._is_over = False
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(PUTS_IN_FLIGHT_MAX):
                    group.create_task(self._pump())
        finally:
            self._is_over = True
            for entry in self._lanes.clear():
                _fail(entry, "delivery has ended", ambiguous=True)

    def _check_open(self) -> None:
        if self._is_over:
            raise Unavailable("delivery has ended")

    def _enter_lane(self, record: StreamRecord, waiting: _Waiting) -> None:
        deadline = self._clock.monotonic() + self._deadline_s
        refusal = self._lanes.offer(record, waiting, deadline=deadline)
        if refusal is not None:
            raise Refused(REFUSALS[refusal], refusal.value)

    async def _pump(self) -> None:
        while True:
            if self._under_way and 0 < self._lanes.ready_count < BATCH_WORTH:
                await asyncio.sleep(LINGER_S)
            batch = self._lanes.next_batch(self._clock.monotonic())
            for entry in self._lanes.take_given_up():
                _fail(entry, "the stream did not accept it in time", ambiguous=entry.failures > 0)
            if batch:
                await self._put(batch)
            else:
                await self._wait()

    async def _put(self, batch: list[Entry[_Waiting]]) -> None:
        """One call; afterwards each record is either accepted and acknowledged, or waits for its next try."""
        self._under_way += 1
        try:
            results = await self._stream.put([entry.record for entry in batch])
        except Unavailable:
            results = [PutResult(error="Unavailable")] * len(batch)
        finally:
            self._under_way -= 1
        placed = dict(zip(batch, results, strict=True))
        buried = {entry for entry, result in placed.items() if result.is_poison and await self._bury(entry)}
        errors = ["" if entry in buried else result.error for entry, result in placed.items()]
        for entry in self._lanes.settle(batch, errors, self._clock.monotonic()):
            if entry in buried:
                self.dead_letters += 1
                entry.token.settled(Refused(RequestRefusal.INVALID_FIELD, placed[entry].error))
                continue
            self.delivered[entry.token.protocol] += 1
            _acknowledge(entry, placed[entry])
        self._wake.set()

    async def _bury(self, entry: Entry[_Waiting]) -> bool:
        """Keep what the stream will never take; false when that cannot be done now."""
        if self._dead_letters is None:
            return False
        try:
            await self._dead_letters.put(f"{DEAD_LETTERS}/{entry.token.record_id}", entry.record.data)
        except (Unavailable, OSError):
            return False
        return True

    async def _wait(self) -> None:
        """Until a lane may have something to go."""
        self._wake.clear()
        pause_end = self._lanes.next_pause_end()
        timeout_s = None if pause_end is None else max(0.0, pause_end - self._clock.monotonic())
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()


class _Destination(msgspec.Struct, rename="camel"):
    provider: str
    resource_url: str
    service: str


class _Envelope(msgspec.Struct, rename="camel"):
    destination: _Destination
    imei: str
    imsi: str
    operator_id: str
    payloads: object
    record_id: str
    sim_id: str
    source_protocol: str
    timestamp: int


def envelope(message: DeviceMessage, record_id: str, payloads: object) -> bytes:
    """Funnel's record as canonical JSON; bytes become base64."""
    return _CANONICAL.encode(
        _Envelope(
            destination=_Destination(PROVIDER, message.destination, SERVICE),
            imei=message.imei,
            imsi=message.imsi,
            operator_id=message.operator_id,
            payloads=payloads,
            record_id=record_id,
            sim_id=message.sim_id,
            source_protocol=message.source_protocol,
            timestamp=(message.received - _EPOCH) // _MILLISECOND,
        )
    )


def payloads_of(payload: bytes, content_type: ContentType) -> object:
    """The envelope's ``payloads``: JSON as a value, text as text, binary as bytes (which become base64).

    Raises ``Refused(INVALID_FIELD)`` for a payload that is empty or not what it should be.
    """
    if not payload:
        raise Refused(RequestRefusal.INVALID_FIELD, "the payload is empty")
    if content_type is ContentType.BINARY:
        return payload
    try:
        if content_type is ContentType.TEXT:
            return payload.decode()
        value = msgspec.json.decode(payload)
        msgspec.json.encode(value)  # what can be read but not written (a lone surrogate) is refused here
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise Refused(RequestRefusal.INVALID_FIELD, f"the payload is not {content_type.value}") from error
    return value


def _acknowledge(entry: Entry[_Waiting], result: PutResult) -> None:
    waiting = entry.token
    waiting.settled(Receipt(waiting.record_id, result.shard_id, result.sequence_number))


def _fail(entry: Entry[_Waiting], why: str, *, ambiguous: bool) -> None:
    entry.token.settled(Unavailable(why, ambiguous=ambiguous))


def _resolve(receipt: asyncio.Future[Receipt], outcome: Outcome) -> None:
    if receipt.done():
        return
    if isinstance(outcome, Receipt):
        receipt.set_result(outcome)
    else:
        receipt.set_exception(outcome)
        receipt.exception()  # nobody need wait: a device that is gone is no error of ours
