"""The embedded stream: an append log on disk.

Rules:

- One thread writes. It takes every put that waits (up to ``GROUP_BYTES_MAX``), writes each shard's records
  at one go, syncs each shard it touched once, and only then are the puts answered.
- What waits is bounded; beyond it a record is refused with Kinesis' word for throttling. What the disk
  did not take is refused with its word for a failure, and the log is as it was before.
- Of one put, one key's records fail from some record on to the last: never one before another that is stored.
- Nothing here blocks the event loop: reading has threads of its own.
"""

import asyncio
import errno
import fcntl
import json
import os
import re
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

from core.adapters.durable import replace_file
from core.adapters.stream.frames import Frame
from core.adapters.stream.numbers import Numbers
from core.adapters.stream.rules import (
    FAILED,
    THROTTLED,
    ShardMap,
    check_limit,
    check_put,
    start_position,
)
from core.adapters.stream.segments import Part, ShardLog
from core.domain.message import StreamRecord
from core.errors import ConfigurationError, Unavailable
from core.ports.clock import Clock
from core.ports.stream import IteratorType, PutResult, ReadResult, Shard, StoredRecord

SEGMENT_BYTES_MAX = 16_777_216
"""A segment is closed once it holds this; opening reads one per shard."""
RETENTION_S = 86_400.0
"""How long a closed segment is kept after its newest record; Kinesis' default."""
RETENTION_BYTES_MAX = 1_073_741_824
"""How much each shard keeps, whatever its age."""
QUEUE_RECORDS_MAX = 16_384
"""Records that wait for the writer."""
QUEUE_BYTES_MAX = 33_554_432
GROUP_BYTES_MAX = 8_388_608
"""What one group commit takes, by the puts that begin below it."""
READ_BYTES_MAX = 10_485_760
"""What one read returns, by the records that begin below it (GetRecords)."""
READERS = 2
STREAM_FOLDER, SHARDS_FILE = "stream", "stream.json"
"""In ``node.data_dir``, and in there."""
_SHARD = re.compile(r"shardId-[0-9]{12}")
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_Entry = tuple[int, bytes, bytes]
"""Shard, key, data."""


@dataclass(slots=True)
class _Put:
    """One call of ``put`` on its way through the writer."""

    entries: list[_Entry]
    size: int
    arrived_us: int
    done: asyncio.Future[list[PutResult]]
    results: list[PutResult] = field(default_factory=list)


class _Queue:
    """What waits for the writer, bounded; shared by the loop and the writer's thread."""

    def __init__(self, *, records_max: int, bytes_max: int) -> None:
        self._condition = threading.Condition()
        self._puts: deque[_Put] = deque()
        self._records = 0
        self._bytes = 0
        self._records_max = records_max
        self._bytes_max = bytes_max
        self._is_closed = False

    def room_for(self, sizes: Sequence[int]) -> int:
        """How many of these records may come in, from the first on."""
        with self._condition:
            records, size = self._records, self._bytes
            for taken, record_size in enumerate(sizes):
                records, size = records + 1, size + record_size
                if records > self._records_max or size > self._bytes_max:
                    return taken
            return len(sizes)

    def offer(self, put: _Put) -> None:
        """Let it wait; raises ``Unavailable`` when closed."""
        with self._condition:
            if self._is_closed:
                raise Unavailable("the stream is closed")
            self._puts.append(put)
            self._records += len(put.entries)
            self._bytes += put.size
            self._condition.notify()

    def take(self) -> list[_Put]:
        """The next group, blocking; empty once closed and drained."""
        with self._condition:
            while not self._puts and not self._is_closed:
                self._condition.wait()
            group: list[_Put] = []
            size = 0
            while self._puts and size < GROUP_BYTES_MAX:
                put = self._puts.popleft()
                group.append(put)
                size += put.size
            return group

    def release(self, group: list[_Put]) -> None:
        """These no longer wait."""
        with self._condition:
            self._records -= sum(len(put.entries) for put in group)
            self._bytes -= sum(put.size for put in group)

    def close(self) -> None:
        """Take nothing more; what waits is still written."""
        with self._condition:
            self._is_closed = True
            self._condition.notify()


class LogStream:
    """Implements ``Stream`` in a folder that one process holds; made by ``open``, in its user's loop."""

    @classmethod
    async def open(
        cls,
        *,
        folder: Path,
        clock: Clock,
        shards: int = 4,
        segment_bytes_max: int = SEGMENT_BYTES_MAX,
        retention_s: float = RETENTION_S,
        retention_bytes_max: int = RETENTION_BYTES_MAX,
        queue_records_max: int = QUEUE_RECORDS_MAX,
        queue_bytes_max: int = QUEUE_BYTES_MAX,
        numbers_from: Mapping[str, int] = MappingProxyType({}),
    ) -> "LogStream":
        """Open or create the log; raises ``ConfigurationError`` with the fix in one line.

        ``numbers_from``: the lowest sequence number that a shard may assign.
        """

        def make_shard(index: int, numbers: Numbers) -> ShardLog:
            shard_id = shard_map.shards[index].shard_id
            return ShardLog(
                folder=folder / shard_id,
                segment_bytes_max=segment_bytes_max,
                retention_s=retention_s,
                retention_bytes_max=retention_bytes_max,
                numbers_from=max(numbers.of(index), numbers_from.get(shard_id, 1)),
                reserve=partial(numbers.reserve, index),
            )

        shard_map = ShardMap(shards)
        opened = await asyncio.to_thread(_open_folder, folder, shard_map, make_shard)
        queue = _Queue(records_max=queue_records_max, bytes_max=queue_bytes_max)
        return cls(folder=folder, clock=clock, shard_map=shard_map, opened=opened, queue=queue)

    def __init__(
        self, *, folder: Path, clock: Clock, shard_map: ShardMap, opened: "_Opened", queue: _Queue
    ) -> None:
        self._folder = folder
        self._clock = clock
        self._map = shard_map
        self._logs = opened.logs
        self._numbers = opened.numbers
        self.damage = opened.damage
        """What was found damaged or missing when it was opened, a line each; ``lost``: how many records at
        least.
        """
        self.lost = opened.lost
        self._lock_file = opened.lock_file
        self._queue = queue
        self._loop = asyncio.get_running_loop()
        self._readers = ThreadPoolExecutor(READERS, "stream-read")
        self._writer = threading.Thread(target=self._write_until_closed, name="stream-write", daemon=True)
        self._writer.start()
        self._is_closed = False

    keeps_order = True

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        """Store records; returns when each accepted one is synced."""
        sizes = check_put(records)
        taken = self._queue.room_for(sizes)
        refused = [PutResult(error=THROTTLED)] * (len(records) - taken)
        if not taken:
            return refused
        done: asyncio.Future[list[PutResult]] = self._loop.create_future()
        entries = [
            (self._map.index_of_key(r.partition_key), r.partition_key.encode(), r.data)
            for r in records[:taken]
        ]
        arrived_us = (self._clock.now() - EPOCH) // timedelta(microseconds=1)
        self._queue.offer(_Put(entries, sum(sizes[:taken]), arrived_us, done))
        return await done + refused

    async def shards(self) -> Sequence[Shard]:
        """The shards, by hash range."""
        return self._map.shards

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        """An opaque iterator to start from; raises ``PositionLost``, ``SourceGone``."""
        log = self._logs[self._map.index_of_source(shard_id)]
        position = start_position(kind, sequence_number, next_position=log.next_number)
        if kind in (IteratorType.AT_SEQUENCE_NUMBER, IteratorType.AFTER_SEQUENCE_NUMBER):
            log.demand(position)
        return self._map.iterator(shard_id, position)

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        """Up to ``limit`` records and about 10 MiB from there; what is damaged is passed over."""
        check_limit(limit)
        index, position = self._map.resolve(iterator)
        shard_id = self._map.shards[index].shard_id
        part: Part = await self._in_thread(self._logs[index].read, position, limit, READ_BYTES_MAX)
        records = tuple(to_stored(shard_id, frame) for frame in part.frames)
        return ReadResult(records, self._map.iterator(shard_id, part.following), part.lost)

    async def aclose(self) -> None:
        """Write what waits, then let go; idempotent."""
        if self._is_closed:
            return
        self._is_closed = True
        self._queue.close()
        await asyncio.to_thread(self._let_go)

    async def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Any:
        if self._is_closed:
            raise Unavailable("the stream is closed")
        return await self._loop.run_in_executor(self._readers, call, *arguments)

    def _let_go(self) -> None:
        self._writer.join()
        self._readers.shutdown()
        for log in self._logs:
            log.close()
        with suppress(OSError):  # then as many numbers are left out as after a kill
            self._numbers.close([log.next_number for log in self._logs])
        os.close(self._lock_file)

    def _write_until_closed(self) -> None:
        """The writer's thread. However it ends, all waiting callers get an answer."""
        group: list[_Put] = []
        try:
            while group := self._queue.take():
                self._commit(group)
                self._queue.release(group)
                self._answer(group)
        finally:
            self._queue.close()
            while group:
                self._answer(group)
                group = self._queue.take()

    def _commit(self, group: list[_Put]) -> None:
        """Write and sync one group; fill in each put's results."""
        by_shard: dict[int, list[tuple[bytes, bytes]]] = {}
        for put in group:
            for index, key, data in put.entries:
                by_shard.setdefault(index, []).append((key, data))
        arrived_us = group[-1].arrived_us
        numbers = {index: self._append(index, entries, arrived_us) for index, entries in by_shard.items()}
        for index, number in numbers.items():
            if number and not self._sync(index, arrived_us):
                numbers[index] = 0
        for put in group:
            results = []
            for index, _, _ in put.entries:
                number = numbers[index]
                if number:
                    results.append(PutResult(self._map.shards[index].shard_id, str(number)))
                    numbers[index] += 1
                else:
                    results.append(PutResult(error=FAILED))
            put.results = results

    def _append(self, index: int, entries: list[tuple[bytes, bytes]], arrived_us: int) -> int:
        """The first number, or 0 when the disk did not take them."""
        try:
            return self._logs[index].append(entries, arrived_us)
        except OSError:
            return 0

    def _sync(self, index: int, arrived_us: int) -> bool:
        try:
            self._logs[index].sync()
        except OSError:
            return False
        with suppress(OSError):  # what could not be deleted now is tried again with the next group
            self._logs[index].retain(arrived_us)
        return True

    def _answer(self, group: list[_Put]) -> None:
        with suppress(RuntimeError):  # the loop is gone, and with it everyone who waited
            self._loop.call_soon_threadsafe(_settle, group)


@dataclass(slots=True)
class _Opened:
    """What opening a folder gives."""

    logs: list[ShardLog]
    numbers: Numbers
    lock_file: int
    damage: tuple[str, ...]
    lost: int


def _settle(group: list[_Put]) -> None:
    for put in group:
        if put.done.done():
            continue
        if put.results:
            put.done.set_result(put.results)
        else:
            put.done.set_exception(Unavailable("the stream's writer ended", ambiguous=True))


def to_stored(shard_id: str, frame: Frame) -> StoredRecord:
    """A record as it is read back."""
    number, arrived_us, key, data = frame
    return StoredRecord(shard_id, str(number), key, data, EPOCH + timedelta(microseconds=arrived_us))


def _open_folder(
    folder: Path, shard_map: ShardMap, make_shard: Callable[[int, Numbers], ShardLog]
) -> _Opened:
    """Take the folder for this process, check that it is the stream that was asked for, open each shard."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock_file = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(_cannot_use(folder, error)) from error
    try:
        _lock(folder, lock_file)
        damage = _check_shards(folder, shard_map)
        numbers = Numbers(folder, len(shard_map.shards))
        logs = [make_shard(index, numbers) for index in range(len(shard_map.shards))]
    except OSError as error:
        os.close(lock_file)
        raise ConfigurationError(_cannot_use(folder, error)) from error
    except ConfigurationError:
        os.close(lock_file)
        raise
    damage += [numbers.damage] if numbers.damage else []
    damage += [line for log in logs for line in log.damage]
    missing = [log.left_out if numbers.is_exact else range(0) for log in logs]
    for shard, out in zip(shard_map.shards, missing, strict=True):
        if out:
            damage.append(
                f"{folder / shard.shard_id}: records {out.start} to {out.stop - 1} are missing; the folder"
                f" may have been removed, or restored from an older copy"
            )
    lost = sum(log.lost for log in logs) + sum(map(bool, missing))
    return _Opened(logs, numbers, lock_file, tuple(damage), lost)


def _cannot_use(folder: Path, error: OSError) -> str:
    is_full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    fix = "free some space" if is_full else "use a writable folder (node.data_dir)"
    return f"stream folder {folder}: {error.strerror}; {fix}"


def _lock(folder: Path, lock_file: int) -> None:
    try:
        fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConfigurationError(
            f"stream folder {folder}: in use by another process; stop that process"
        ) from None


def _check_shards(folder: Path, shard_map: ShardMap) -> list[str]:
    """A key must find its shard again: the number of shards is fixed when a stream is begun.

    Where ``stream.json`` contradicts the folders of the shards, these are believed; a line that says so.
    """
    path, wanted = folder / SHARDS_FILE, len(shard_map.shards)
    content = json.dumps({"format": 1, "shards": wanted}).encode()
    if not path.exists():
        replace_file(path, content)
        return []
    try:
        stored = json.loads(path.read_bytes())["shards"]
    except (ValueError, LookupError, TypeError):
        stored = None
    if stored == wanted:
        return []
    found = {each.name for each in folder.iterdir() if _SHARD.fullmatch(each.name)}
    if found == {shard.shard_id for shard in shard_map.shards}:
        replace_file(path, content)
        return [f"{path}: damaged; rewritten from the {wanted} shards found"]
    if not isinstance(stored, int):
        raise ConfigurationError(f"{path}: damaged; it should name the number of shards")
    raise ConfigurationError(
        f"stream.shards: {wanted}, but the stream in {folder} has {stored} shards; set it to that"
    )
