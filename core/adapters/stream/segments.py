"""One shard of the append log: segment files of framed records.

Rules:

- A segment is named by the number of its first record and begins with ``MAGIC``; a record is its length,
  the CRC-32 of its body and its body: number, microseconds of arrival, length of the key, key, data.
- Records are numbered from 1 without gaps. What is behind ``_Segment.size`` is not yet durable: nobody
  reads it, and when a write or a sync fails it is cut off before anything else is written.
- Only the last segment may have a torn end: another is begun only after it was synced.
- One thread appends; any thread reads.
"""

import os
import struct
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.errors import ConfigurationError, Unavailable
from core.ports.stream import RECORD_BYTES_MAX

MAGIC = b"airloom1"
HEAD = struct.Struct(">II")
BODY = struct.Struct(">QQH")
BODY_BYTES_MAX = BODY.size + RECORD_BYTES_MAX
MARK_BYTES = 65_536
"""A segment remembers where a record begins about once in this many bytes; a reader scans no more."""
READ_CHUNK_BYTES = 262_144

Frame = tuple[int, int, str, bytes]
"""Number, microseconds of arrival, partition key, data."""


@dataclass(slots=True)
class _Segment:
    """One file. ``size`` is its durable length; ``marks`` are (number, offset) pairs that rise."""

    path: Path
    first: int
    size: int
    newest_us: int
    marks: list[tuple[int, int]] = field(default_factory=list)

    def mark(self, number: int, offset: int) -> None:
        if offset - self.marks[-1][1] >= MARK_BYTES:
            self.marks.append((number, offset))


def encode(number: int, arrived_us: int, key: bytes, data: bytes) -> bytes:
    """One framed record."""
    body = BODY.pack(number, arrived_us, len(key)) + key + data
    return HEAD.pack(len(body), zlib.crc32(body)) + body


def decode(buffer: bytes, offset: int, number: int) -> tuple[Frame, int] | None:
    """The record that begins there and where the next does; nothing unless it is whole and that number."""
    if offset + HEAD.size > len(buffer):
        return None
    length, crc = HEAD.unpack_from(buffer, offset)
    start = offset + HEAD.size
    end = start + length
    if not BODY.size <= length <= BODY_BYTES_MAX or end > len(buffer):
        return None
    if zlib.crc32(memoryview(buffer)[start:end]) != crc:
        return None
    stored, arrived_us, key_length = BODY.unpack_from(buffer, start)
    key_end = start + BODY.size + key_length
    if stored != number or key_end > end:
        return None
    return (stored, arrived_us, buffer[start + BODY.size : key_end].decode(), buffer[key_end:end]), end


class ShardLog:
    """The segments of one shard in their own folder.

    Opening cuts a torn end off; raises ``OSError``, or ``ConfigurationError`` for a file that is not ours.
    A segment is closed once it holds ``segment_bytes_max`` or more.
    """

    def __init__(
        self,
        *,
        folder: Path,
        segment_bytes_max: int,
        retention_s: float,
        retention_bytes_max: int,
    ) -> None:
        self._folder = folder
        self._segment_bytes_max = segment_bytes_max
        self._retention_us = int(retention_s * 1e6)
        self._retention_bytes_max = retention_bytes_max
        self._lock = threading.Lock()
        self._segments: list[_Segment] = []
        self._pending: list[tuple[int, int]] = []
        self._written = 0
        self._newest_us = 0
        self._is_doubtful = False
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)
        self.next_number = self._open_segments()
        self._file = self._open_last()

    @property
    def segment_count(self) -> int:
        """Files in use."""
        return len(self._segments)

    def append(self, entries: Sequence[tuple[bytes, bytes]], arrived_us: int) -> int:
        """Write (key, data) pairs behind the durable end; the first one's number. Raises ``OSError``.

        Nothing is readable before ``sync``.
        """
        self._cut_doubtful()
        if self._segments[-1].size >= self._segment_bytes_max:
            self._roll(arrived_us)
        frames = [
            encode(number, arrived_us, key, data)
            for number, (key, data) in enumerate(entries, start=self.next_number)
        ]
        self._is_doubtful = True
        self._write(b"".join(frames))
        self._newest_us = arrived_us
        self._pending = []
        offset = self._segments[-1].size
        for number, frame in enumerate(frames, start=self.next_number):
            self._pending.append((number, offset))
            offset += len(frame)
        self._written = offset
        return self.next_number

    def sync(self) -> None:
        """Make what was appended durable and readable. Raises ``OSError``: then it is not, and is cut off."""
        os.fdatasync(self._file)
        with self._lock:
            segment = self._segments[-1]
            segment.size = self._written
            segment.newest_us = self._newest_us
            for number, offset in self._pending:
                segment.mark(number, offset)
            self.next_number += len(self._pending)
        self._pending = []
        self._is_doubtful = False

    def read(self, position: int, limit: int, bytes_max: int) -> list[Frame]:
        """Records from that number on, or from the oldest that is kept; at least one when there is one.

        Raises ``Unavailable`` when a file cannot be read or was damaged after it was durable.
        """
        frames: list[Frame] = []
        size = 0
        for number, path, offset, end in self._plan(position):
            try:
                for frame in _frames(path, offset, end, number):
                    if frame[0] >= position:
                        frames.append(frame)
                        size += len(frame[3])
                    if len(frames) >= limit or size >= bytes_max:
                        return frames
            except FileNotFoundError:
                return frames or self.read(position, limit, bytes_max)  # retention took it meanwhile
            except OSError as error:
                raise Unavailable(f"{path}: {error.strerror}") from error
        return frames

    def retain(self, now_us: int) -> None:
        """Delete closed segments that are too old, or the oldest while all hold too much."""
        while len(self._segments) > 1:
            oldest = self._segments[0]
            total = sum(segment.size for segment in self._segments)
            if oldest.newest_us > now_us - self._retention_us and total <= self._retention_bytes_max:
                return
            with self._lock:
                del self._segments[0]
            oldest.path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let the file go."""
        os.close(self._file)

    def _plan(self, position: int) -> list[tuple[int, Path, int, int]]:
        """Number, file, offset and end to read from, for each segment that may hold the position."""
        with self._lock:
            plan = []
            for segment, following in zip(self._segments, [*self._segments[1:], None], strict=True):
                if following is not None and following.first <= position:
                    continue
                at = bisect_right(segment.marks, max(position, segment.first), key=lambda mark: mark[0])
                number, offset = segment.marks[at - 1]
                plan.append((number, segment.path, offset, segment.size))
            return plan

    def _open_segments(self) -> int:
        """Find the segments, cut the torn end of the last; the number of the next record."""
        for path in sorted(self._folder.glob("*.log")):
            first, status = int(path.stem), path.stat()
            self._segments.append(
                _Segment(path, first, status.st_size, status.st_mtime_ns // 1_000, [(first, len(MAGIC))])
            )
        if not self._segments:
            self._segments.append(self._create(1, 0))
        last = self._segments[-1]
        number = last.first
        buffer = last.path.read_bytes()
        offset = self._begin(last, buffer)
        while (found := decode(buffer, offset, number)) is not None:
            last.mark(number, offset)
            number, offset = number + 1, found[1]
        last.size = offset
        return number

    def _begin(self, segment: _Segment, buffer: bytes) -> int:
        """Where the first record is; a file whose first bytes never reached the disk is begun again."""
        if buffer.startswith(MAGIC):
            return len(MAGIC)
        if buffer.strip(b"\0") and not MAGIC.startswith(buffer.rstrip(b"\0")):
            raise ConfigurationError(f"{segment.path}: not a segment of a stream; move it away")
        segment.path.write_bytes(MAGIC)
        return len(MAGIC)

    def _open_last(self) -> int:
        last = self._segments[-1]
        file = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(file, last.size)
        os.fsync(file)
        os.lseek(file, last.size, os.SEEK_SET)
        return file

    def _create(self, first: int, now_us: int) -> _Segment:
        """A new segment, durable with its name; a try that failed leaves nothing behind."""
        path = self._folder / f"{first:020d}.log"
        try:
            with path.open("wb") as file:
                file.write(MAGIC)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return _Segment(path, first, len(MAGIC), now_us, [(first, len(MAGIC))])

    def _roll(self, now_us: int) -> None:
        segment = self._create(self.next_number, now_us)
        file = os.open(segment.path, os.O_RDWR | os.O_CLOEXEC)
        os.lseek(file, segment.size, os.SEEK_SET)
        os.close(self._file)
        self._file = file
        with self._lock:
            self._segments.append(segment)

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:
            view = view[os.write(self._file, view) :]

    def _cut_doubtful(self) -> None:
        """After a failed write or sync: back to the durable end, whatever reached the file behind it."""
        if self._is_doubtful:
            size = self._segments[-1].size
            os.ftruncate(self._file, size)
            os.lseek(self._file, size, os.SEEK_SET)
            self._pending = []
            self._is_doubtful = False


def _frames(path: Path, offset: int, end: int, number: int) -> Iterator[Frame]:
    """The records between two offsets, the first of which has that number."""
    with path.open("rb") as file:
        file.seek(offset)
        buffer, at, unread = b"", 0, end - offset
        while unread or at < len(buffer):
            found = decode(buffer, at, number)
            if found is not None:
                yield found[0]
                number, at = number + 1, found[1]
                continue
            chunk = file.read(min(unread, max(READ_CHUNK_BYTES, BODY_BYTES_MAX if buffer else 0)))
            if not chunk:
                raise Unavailable(f"{path}: record {number} is damaged")
            unread -= len(chunk)
            buffer, at = buffer[at:] + chunk, 0


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
