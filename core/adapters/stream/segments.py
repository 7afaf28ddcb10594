"""One shard of the append log: segment files of framed records.

Rules:

- A segment is named by the number of its first record and begins with its head; its records are numbered
  without gaps (``core.adapters.stream.frames``). Numbers are left out between two segments alone: those of
  damaged records, and those that may have been given out by what is no longer there.
- What is behind ``_Segment.size`` is not yet durable: it is not read, and when a write or a sync fails it is
  cut off before anything else is written.
- Only the last segment may have a torn end: another is begun only after it was synced. Damage in it has whole
  records behind it, or is nothing that a torn write leaves: then the file is kept as ``.lost-1`` and its
  whole records go on as segments of their own. Damage in an older segment is found when it is read, and
  passed over.
- A file that is not named as a segment is reported, and left as it is.
- One thread appends; any thread reads.
"""

import os
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from core.adapters.durable import replace_file, sync_folder
from core.adapters.stream.frames import (
    BODY_BYTES_MAX,
    HEAD_BYTES,
    MAGIC_1,
    Frame,
    Run,
    Scan,
    begin_of_records,
    decode,
    encode,
    head_of_segment,
    is_cut_off_head,
    is_ours,
    next_whole,
    scan,
)
from core.errors import ConfigurationError, PositionLost, Unavailable

MARK_BYTES = 65_536
"""A segment remembers where a record begins about once in this many bytes; a reader scans no more."""
READ_CHUNK_BYTES = 262_144
LOST_FILES_MAX = 8
"""Damaged segments of a shard that are kept; beyond it the oldest gives way."""
FOREIGN_NAMED_MAX = 4
"""Foreign files of a shard that are named; of more it is said how many."""
_SEGMENT = re.compile(r"[0-9]{20}\.log")
_LOST = re.compile(r"([0-9]{20})\.lost-([0-9]{1,9})")


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


@dataclass(slots=True)
class Part:
    """Some records read, where to go on, and how many damaged ones at least were passed over."""

    frames: list[Frame]
    following: int
    lost: int


@dataclass(frozen=True, slots=True)
class _Piece:
    """What is to be read of one segment: from record ``number`` on, below ``until``; ``wanted`` are those
    from ``position`` on.
    """

    number: int
    path: Path
    offset: int
    end: int
    until: int
    position: int


class ShardLog:
    """The segments of one shard in their own folder.

    Opening cuts a torn end off; raises ``OSError``, or ``ConfigurationError`` for a file that is not ours.
    A segment is closed once it holds ``segment_bytes_max`` or more. Numbers below ``numbers_from`` are not
    given out; ``reserve(number)`` is called before any number below that one is, and may raise ``OSError``.
    """

    def __init__(
        self,
        *,
        folder: Path,
        segment_bytes_max: int,
        retention_s: float,
        retention_bytes_max: int,
        numbers_from: int = 1,
        reserve: Callable[[int], None] = lambda _: None,
    ) -> None:
        self.damage: list[str] = []
        """What was found damaged or foreign when it was opened, a line each; ``lost``: how many records at
        least.
        """
        self.lost = 0
        self._reserve = reserve
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
        self.next_number, above = self._open_segments()
        self._file = self._open_last()
        self.left_out = range(above, numbers_from)
        """Numbers that may have been given out, of records that are not there."""
        if (wanted := max(above, numbers_from)) > self.next_number:
            self.next_number = wanted
            self._roll(self._segments[-1].newest_us)

    def append(self, entries: Sequence[tuple[bytes, bytes]], arrived_us: int) -> int:
        """Write (key, data) pairs behind the durable end; the first one's number. Raises ``OSError``.

        Nothing is readable before ``sync``.
        """
        self._reserve(self.next_number + len(entries))
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

    def demand(self, position: int) -> None:
        """Raise ``PositionLost`` when a record before that position is not known here, or others after it
        were trimmed.
        """
        with self._lock:
            oldest = self._segments[0].first
        if position > self.next_number or position - 1 in self.left_out:
            raise PositionLost(f"no record has sequence number {position - 1}")
        if position < oldest:
            raise PositionLost(f"record {position} was trimmed; the oldest is {oldest}")

    def read(self, position: int, limit: int, bytes_max: int) -> Part:
        """Records from that number on, 0: from the oldest that is kept; at least one when there is one.

        Raises ``PositionLost`` when the position was trimmed, ``Unavailable`` when a file cannot be read.
        """
        if position:
            self.demand(position)
        part, size = Part([], position, 0), 0
        for piece in self._plan(position):
            try:
                for frame, lost in _frames(piece):
                    part.lost += lost
                    if frame is not None and frame[0] >= position:
                        part.frames.append(frame)
                        part.following = frame[0] + 1
                        size += len(frame[3])
                    elif frame is None:
                        part.following = piece.until
                    if len(part.frames) >= limit or size >= bytes_max:
                        return part
            except FileNotFoundError:
                return part if part.frames else self.read(position, limit, bytes_max)  # retention took it
            except OSError as error:
                raise Unavailable(f"{piece.path}: {error.strerror}") from error
        return part

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

    def _plan(self, position: int) -> list[_Piece]:
        """What to read of each segment that may hold the position."""
        with self._lock:
            plan: list[_Piece] = []
            for segment, following in zip(self._segments, [*self._segments[1:], None], strict=True):
                until = following.first if following is not None else self.next_number
                if following is not None and until <= position:
                    continue
                at = bisect_right(segment.marks, max(position, segment.first), key=lambda mark: mark[0])
                number, offset = segment.marks[at - 1]
                plan.append(_Piece(number, segment.path, offset, segment.size, until, position))
            return plan

    def _open_segments(self) -> tuple[int, int]:
        """Find the segments, mend the last; the number after its last record, and one above all of them."""
        for first, path in segments_in(self._folder):
            status = path.stat()
            self._segments.append(_Segment(path, first, status.st_size, status.st_mtime_ns // 1_000))
        if foreign := self._foreign():
            self.damage.append(foreign)
        if not self._segments:
            self._segments.append(self._create(1, 0))
        for older in self._segments[:-1]:
            older.marks = [(older.first, self._begin_of(older))]
        last = self._segments.pop()
        buffer = last.path.read_bytes()
        found = scan(buffer, last.first)
        if not is_ours(buffer) and not any(run.places for run in found.runs):
            raise ConfigurationError(f"{last.path}: not a segment of a stream; move it away")
        begin = found.begin
        if is_cut_off_head(buffer, last.first):
            last.path.write_bytes(head_of_segment(last.first))
        elif found.is_damaged or begin_of_records(buffer, last.first) is None:
            self._set_aside(last, buffer, found.runs)
            self._report(last, found)
            begin = HEAD_BYTES
        for run in found.runs:
            self._add(last, run, begin)
        return found.runs[-1].next_number, found.next_number

    def _begin_of(self, older: _Segment) -> int:
        """Where the records begin of a segment that is not the last."""
        with older.path.open("rb") as file:
            begin = begin_of_records(file.read(HEAD_BYTES), older.first)
        if begin is None:
            self.damage.append(f"{older.path}: damaged at its head; its whole records are read")
        return begin or len(MAGIC_1)

    def _report(self, last: _Segment, found: Scan) -> None:
        kept = sum(len(run.places) for run in found.runs)
        self.lost += found.lost
        lost = (
            f"{found.lost} records at least are lost, {kept} others" if found.lost else f"all {kept} records"
        )
        self.damage.append(f"{last.path}: damaged; {lost} are kept; as it was it is {last.path.stem}.lost-*")

    def _add(self, last: _Segment, run: Run, begin: int) -> None:
        """A run of the last segment, which is its beginning or was made a segment of its own, in which its
        records begin at ``begin``.
        """
        shift = run.begin - begin
        segment = _Segment(
            self._path_of(run.first), run.first, run.end - shift, last.newest_us, [(run.first, begin)]
        )
        for number, offset in run.places:
            segment.mark(number, offset - shift)
        self._segments.append(segment)

    def _set_aside(self, last: _Segment, buffer: bytes, runs: Sequence[Run]) -> None:
        """Keep a damaged file under another name and its runs as segments, so that a crash or a full disk in
        between leaves what the next start makes the same of: what is kept already is not kept again.
        """
        kept = sorted(
            (int(name[1]), int(name[2]), path)
            for path in self._folder.iterdir()
            if (name := _LOST.fullmatch(path.name))
        )
        if not any(path.samefile(last.path) for _, _, path in kept):
            for _, _, path in kept[: max(0, len(kept) + 1 - LOST_FILES_MAX)]:
                path.unlink()
            number = 1 + max((number for first, number, _ in kept if first == last.first), default=0)
            os.link(last.path, last.path.with_suffix(f".lost-{number}"))
        for run in reversed(runs):
            replace_file(self._path_of(run.first), head_of_segment(run.first) + buffer[run.begin : run.end])

    def _foreign(self) -> str:
        """A line about what is neither a segment nor was made of one; empty: there is nothing such."""
        own = {path.name for _, path in segments_in(self._folder)}
        names = sorted(
            path.name
            for path in self._folder.iterdir()
            if path.name not in own and not _LOST.fullmatch(path.name) and path.suffix != ".new"
        )
        named = ", ".join(names[:FOREIGN_NAMED_MAX])
        more = f" and {len(names) - FOREIGN_NAMED_MAX} others" if len(names) > FOREIGN_NAMED_MAX else ""
        return f"{self._folder}: {named}{more}: not part of the stream; ignored" if names else ""

    def _path_of(self, first: int) -> Path:
        return self._folder / f"{first:020d}.log"

    def _open_last(self) -> int:
        last = self._segments[-1]
        file = os.open(last.path, os.O_RDWR | os.O_CLOEXEC)
        os.ftruncate(file, last.size)
        os.fsync(file)
        os.lseek(file, last.size, os.SEEK_SET)
        return file

    def _create(self, first: int, now_us: int) -> _Segment:
        """A new segment, durable with its name; a try that failed leaves nothing behind."""
        path, head = self._path_of(first), head_of_segment(first)
        try:
            with path.open("wb") as file:
                file.write(head)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(self._folder)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return _Segment(path, first, len(head), now_us, [(first, len(head))])

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


def segments_in(folder: Path) -> list[tuple[int, Path]]:
    """The segments of a shard in order, each with the number of its first record; raises ``OSError``."""
    return sorted(
        (int(path.stem), path)
        for path in folder.iterdir()
        if _SEGMENT.fullmatch(path.name) and int(path.stem) and path.is_file()
    )


def _frames(piece: _Piece) -> Iterator[tuple[Frame | None, int]]:
    """The records of a piece, each with how many damaged ones at least were passed over before it; last
    ``None`` with those that were passed over at the end, if any.
    """
    number, lost = piece.number, 0
    with piece.path.open("rb") as file:
        file.seek(piece.offset)
        buffer, at, unread = b"", 0, max(0, piece.end - piece.offset)  # a head may be cut off
        while (unread or at < len(buffer)) and number < piece.until:
            found = decode(buffer, at, number)
            if found is not None:
                yield found[0], lost
                number, at, lost = number + 1, found[1], 0
                continue
            chunk = file.read(min(unread, max(READ_CHUNK_BYTES, BODY_BYTES_MAX if buffer else 0)))
            if chunk:
                unread -= len(chunk)
                buffer, at = buffer[at:] + chunk, 0
                continue
            following = next_whole(buffer, at, number)
            if following is None or following[1] >= piece.until:
                yield None, lost + (piece.position < piece.until)
                return
            lost += max(0, following[1] - max(number, piece.position))
            at, number = following
