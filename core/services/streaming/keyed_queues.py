"""Per-key queues in front of a stream, which keep each SIM's order.

Rules:

- A queue is one partition key's records, first in, first out. At most one run of them is on its way at a
  time.
- A run is one record: PutRecords may store a later record of a call and fail an earlier one, so two of one
  key never share a call. Only over a stream that keeps order is it as long as a call lets it.
- A record that failed stays at the head of its queue and is tried again after a pause that doubles; what is
  behind it waits, other queues go on.
- A record leaves only by being accepted, or given up after its deadline, between two tries.
- Everything is bounded; what does not fit, and a record that no stream would take, is refused on entry.
"""

import heapq
from collections import deque
from collections.abc import Sequence
from enum import Enum
from typing import Generic, TypeVar

from msgspec import Struct

from core.domain.message import StreamRecord
from core.ports.stream import PUT_BYTES_MAX, RECORD_BYTES_MAX, RECORDS_PER_PUT_MAX

KEY_RECORDS_MAX = 256
"""Records of one SIM that wait."""
RECORDS_MAX = 65_536
"""Records that wait in all queues together."""
BYTES_MAX = 67_108_864
"""Their bytes, keys included."""
RETRY_FIRST_S = 0.05
"""The pause after a record's first failure."""
RETRY_S_MAX = 2.0

Token = TypeVar("Token")


class QueueRefusal(Enum):
    """Why a record was not let into its queue."""

    KEY_FULL = "key_full"
    FULL = "full"
    TOO_LARGE = "too_large"


class Entry(Struct, Generic[Token], eq=False):
    """One record on its way, and what its owner wants to have back with it."""

    record: StreamRecord
    token: Token
    size: int
    deadline: float
    failures: int = 0


class KeyedQueues(Generic[Token]):
    """The queues of all SIMs. Times are monotonic seconds that the caller passes in.

    ``keeps_order`` is the stream's (``Stream.keeps_order``).
    """

    def __init__(
        self,
        *,
        keeps_order: bool = False,
        key_records_max: int = KEY_RECORDS_MAX,
        records_max: int = RECORDS_MAX,
        bytes_max: int = BYTES_MAX,
    ) -> None:
        self._run_records_max = RECORDS_PER_PUT_MAX if keeps_order else 1
        self._key_records_max = key_records_max
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._queues: dict[str, deque[Entry[Token]]] = {}
        self._ready: deque[str] = deque()
        self._paused: list[tuple[float, int, str]] = []
        self._pauses = 0
        self._given_up: list[Entry[Token]] = []
        self.record_count = 0
        self.byte_count = 0

    @property
    def queue_count(self) -> int:
        """Queues that hold a record; an empty one is not kept."""
        return len(self._queues)

    @property
    def ready_count(self) -> int:
        """Queues that may go now."""
        return len(self._ready)

    def offer(self, record: StreamRecord, token: Token, *, deadline: float) -> QueueRefusal | None:
        """Put a record at the end of its queue, or say why not."""
        key = record.partition_key
        size = len(key.encode()) + len(record.data)
        if size > RECORD_BYTES_MAX:
            return QueueRefusal.TOO_LARGE
        if self.record_count >= self._records_max or self.byte_count + size > self._bytes_max:
            return QueueRefusal.FULL
        queue = self._queues.get(key)
        if queue is None:
            queue = self._queues[key] = deque()
            self._ready.append(key)
        elif len(queue) >= self._key_records_max:
            return QueueRefusal.KEY_FULL
        queue.append(Entry(record, token, size, deadline))
        self.record_count += 1
        self.byte_count += size
        return None

    def next_batch(self, now: float) -> list[Entry[Token]]:
        """The heads of the queues that may go now, at most one call's worth; each must come to ``settle``."""
        self._end_pauses(now)
        batch: list[Entry[Token]] = []
        count = size = 0
        while self._ready and count < RECORDS_PER_PUT_MAX:
            queue = self._queues[self._ready[0]]
            if queue[0].deadline <= now:
                self._give_up_late(queue, now)
            if queue and size + queue[0].size > PUT_BYTES_MAX:
                break
            key = self._ready.popleft()
            if not queue:
                del self._queues[key]
            run_end = count + self._run_records_max
            for entry in queue:
                if count in (run_end, RECORDS_PER_PUT_MAX) or size + entry.size > PUT_BYTES_MAX:
                    break
                batch.append(entry)
                count += 1
                size += entry.size
        return batch

    def settle(self, batch: Sequence[Entry[Token]], errors: Sequence[str], now: float) -> list[Entry[Token]]:
        """What became of a batch, an error or an empty text each; gives back the accepted entries."""
        accepted = []
        accepted_keys: dict[str, None] = {}
        failed_keys: dict[str, None] = {}
        for entry, error in zip(batch, errors, strict=True):
            key = entry.record.partition_key
            if key in failed_keys:
                entry.failures += 1
            elif error:
                failed_keys[key] = None
                self._pause(entry, key, now)
            else:
                self._queues[key].popleft()
                self.record_count -= 1
                self.byte_count -= entry.size
                accepted.append(entry)
                accepted_keys[key] = None
        for key in accepted_keys:
            if not self._queues[key]:
                del self._queues[key]
            elif key not in failed_keys:
                self._ready.append(key)
        return accepted

    def take_given_up(self) -> list[Entry[Token]]:
        """Entries whose deadline passed before they were accepted, since last asked."""
        given_up, self._given_up = self._given_up, []
        return given_up

    def clear(self) -> list[Entry[Token]]:
        """Forget everything, and give it back: nothing of it is known to be accepted."""
        left = [entry for queue in self._queues.values() for entry in queue]
        self._queues.clear()
        self._ready.clear()
        self._paused.clear()
        self.record_count = self.byte_count = 0
        return left

    def next_pause_end(self) -> float | None:
        """When a paused queue may go again; nothing when none is paused."""
        return self._paused[0][0] if self._paused else None

    def _pause(self, entry: Entry[Token], key: str, now: float) -> None:
        pause_s = min(RETRY_FIRST_S * 2 ** min(entry.failures, 16), RETRY_S_MAX)
        entry.failures += 1
        self._pauses += 1
        heapq.heappush(self._paused, (now + pause_s, self._pauses, key))

    def _end_pauses(self, now: float) -> None:
        while self._paused and self._paused[0][0] <= now:
            self._ready.append(heapq.heappop(self._paused)[2])

    def _give_up_late(self, queue: deque[Entry[Token]], now: float) -> None:
        while queue and queue[0].deadline <= now:
            entry = queue.popleft()
            self.record_count -= 1
            self.byte_count -= entry.size
            self._given_up.append(entry)
