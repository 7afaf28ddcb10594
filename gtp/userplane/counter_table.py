"""The counter table: a gateway's usage counters in a memory-mapped file that survives its process.

Rules:

- The table is a shared mapping of a file: the kernel keeps each store of a process that is killed. Each
  store here is of one aligned 64-bit word or is invisible until such a word is stored after it, so that a
  kill between any two leaves a table that reads as before or as after, never in between.
- A host that stopped may have lost pages: a table of another boot is set aside and a fresh one begun.
  Nobody goes on counting from a guess.
- Counters only rise. A segment is the difference of two readings of them: its start is kept with its
  number, its end is the start of the next.
- ``timestamp_us`` of a slot strictly rises, over kills too.
- What is written once has a checksum: a changed octet of it is reported when the table is opened, and the
  table set aside. Counters and timestamp have none, for a packet changes them in place: of these only a
  counter below its segment's start is noticed, and what no store would take.
- A slot of 0.2.0 (format 1) is read, and brought to this format when its table is opened: state and selector
  are small numbers there, and its segments have no checksum.

Layout, native byte order: a page of header, then slots of ``SLOT_WORDS`` words of 8 bytes. The words of a
slot: state (which names the format, too), selector, four counters, timestamp, CRC of the identity, identity
(session id, IMSI, operator id, epoch), and two segment blocks (CRC of block and identity in the upper half,
number in the lower; begin, four starts, speed class, PLMN), of which the selector names the current.
"""

import errno
import fcntl
import mmap
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from functools import lru_cache
from operator import add, le
from pathlib import Path
from sys import byteorder

from core.domain.reasons import AttachRefusal
from core.domain.usage import SegmentLabel, Volume
from core.errors import ConfigurationError, Refused
from core.ports.user_plane import Counters, Segment

CAPACITY_DEFAULT = 65_536
LOST_FILES_MAX = 8
"""Set-aside tables that are kept; beyond it the oldest gives way."""

LABELS_MAX = 1_024
"""So many labels are remembered: they are few."""
LOOK_SLOTS = 8_192
"""Looked at in one go for what was counted: a millisecond."""
SLOT_WORDS = 40
HEADER_BYTES = 4_096
_FIRST_WORD = HEADER_BYTES // 8
MAGIC = b"AIRLOOM\x01"
VERSION = 1

_HEADER = struct.Struct("=8sIIQ36sI")  # magic, version, words per slot, slots, boot id, CRC
_IDENTITY = struct.Struct("=32s16s24sQ")
_NAMES_BYTES = 32 + 16 + 24
_LABEL = struct.Struct("=32s8s")

_STATE, _SELECTOR, _UP, _TIMESTAMP, _CRC, _IDENTITY_AT = 0, 1, 2, 6, 7, 8
_IDENTITY_WORDS = _IDENTITY.size // 8
_BLOCK_AT = _IDENTITY_AT + _IDENTITY_WORDS
_NUMBER, _BEGUN, _START, _LABEL_AT = 0, 1, 2, 6
_BLOCK_WORDS = _LABEL_AT + _LABEL.size // 8

_FREE = 0
_OPEN, _CLOSED = 0x4F50454E_00000002, 0x53485554_00000002
"""Far apart, and with the format in the lower half: one changed octet makes no other state."""
_SELECTORS = (0x53454C45_00000000, 0xACBAB3BA_FFFFFFFF)
"""By which block is current; the last bit says it, too."""
_STATES_1 = {1: _OPEN, 2: _CLOSED}
"""Of format 1."""
_NUMBER_MASK, _CRC_SHIFT = 0xFFFFFFFF, 32
_COUNTER_MAX, _TIMESTAMP_MAX = 2**62, 2**57
"""A century at 10 Gbit/s, and the year 6536: what is above is damage. A report with it could not be stored,
and would hold up those of others.
"""
_EMPTY = bytes(8 * (SLOT_WORDS - _SELECTOR))
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Origin(Enum):
    """How a table came to be."""

    FRESH = "fresh"  # there was none
    RESUMED = "resumed"  # the process had stopped, the host had not
    LOST = "lost"  # there was one, and it could not be trusted


@dataclass(frozen=True, slots=True)
class Opening:
    """What was found when a table was opened; anything ``LOST`` belongs into the audit.

    ``in_use`` is how many slots were resumed; ``why`` says why a table was lost and ``kept_as`` where it is.
    """

    origin: Origin
    in_use: int = 0
    why: str = ""
    kept_as: Path | None = None


class CounterTable:
    """A table of ``capacity`` slots. Make one with ``open_file`` or ``over_buffer``.

    ``words`` is the table as 64-bit words: the forwarding adds to the four words at
    ``counters_at`` (up bytes, up packets, down bytes, down packets) and touches no other.
    """

    def __init__(self, buffer: memoryview, opening: Opening, mapping: mmap.mmap | None, fd: int) -> None:
        self.opening = opening
        self.words = buffer.cast("Q")
        self._bytes = buffer
        self._mapping = mapping
        self._fd = fd
        self.capacity = (len(buffer) - HEADER_BYTES) // (SLOT_WORDS * 8)
        self._by_session: dict[str, int] = {}
        self._seen = array("Q", bytes(8 * self.capacity))
        """Packets of each slot, both directions, when ``moved`` last looked."""
        self._freed: list[int] = []
        self._unused_from = 0
        for index in _used(self.words, self.capacity):
            at = _word_of(index)
            if self.words[at + _STATE] in _STATES_1:
                self._bring_up(at)
            self._by_session[self._session_id(at)] = at
            self._freed.extend(_word_of(i) for i in range(self._unused_from, index))
            self._unused_from = index + 1

    @property
    def in_use(self) -> int:
        """How many slots are open or closed."""
        return len(self._by_session)

    def find(self, session_id: str) -> int | None:
        """The session's slot, as a number that the other methods take."""
        return self._by_session.get(session_id)

    def session_ids(self) -> list[str]:
        """Every session that has a slot."""
        return list(self._by_session)

    def take(
        self,
        *,
        session_id: str,
        imsi: str,
        operator_id: str,
        epoch: int,
        label: SegmentLabel,
        begun: datetime,
    ) -> int:
        """A fresh open slot at zero, in segment 1; raises ``Refused(NO_RESOURCES)`` when all are in use."""
        identity = _packed_identity(session_id, imsi, operator_id, epoch)
        packed_label = _packed_label(label)
        at = self._unused_slot()
        words = self.words
        self._bytes[(at + _SELECTOR) * 8 : (at + SLOT_WORDS) * 8] = _EMPTY
        words[at + _SELECTOR] = _SELECTORS[0]
        self._bytes[(at + _IDENTITY_AT) * 8 : (at + _IDENTITY_AT) * 8 + _IDENTITY.size] = identity
        words[at + _CRC] = zlib.crc32(identity)
        self._write_block(at, 0, 1, packed_label, begun)
        self._seen[(at - _FIRST_WORD) // SLOT_WORDS] = 0
        words[at + _STATE] = _OPEN
        self._by_session[session_id] = at
        return at

    def reopen(self, slot: int) -> None:
        """Open again a slot that was found closed."""
        self.words[slot + _STATE] = _OPEN

    def close(self, slot: int) -> None:
        """The session forwards no longer; its counters stay."""
        self.words[slot + _STATE] = _CLOSED

    def free(self, session_id: str) -> None:
        """Give the session's slot back; idempotent."""
        at = self._by_session.pop(session_id, None)
        if at is not None:
            self.words[at + _STATE] = _FREE
            self._freed.append(at)

    @staticmethod
    def counters_at(slot: int) -> int:
        """The first of the four words that a forwarder adds to."""
        return slot + _UP

    def read(self, slot: int, now: datetime) -> Counters:
        """The slot as it stands, with a timestamp above every one before it."""
        words = self.words
        stamp = max(words[slot + _TIMESTAMP] + 1, (now - _EPOCH) // _MICROSECOND)
        words[slot + _TIMESTAMP] = stamp
        session_id, imsi, operator_id, epoch = self._identity(slot)
        selector = words[slot + _SELECTOR] & 1
        current, start = self._segment(slot, selector, self._volume(slot + _UP))
        earlier = self._block(slot, 1 - selector)
        previous = None
        number = words[earlier + _NUMBER] & _NUMBER_MASK
        if number and number == current.number - 1:
            previous = self._segment(slot, 1 - selector, start)[0]
        is_open = words[slot + _STATE] == _OPEN
        return Counters(session_id, imsi, operator_id, epoch, current, previous, stamp, is_open)

    def label(self, slot: int) -> SegmentLabel:
        """The current segment's."""
        return self._label(self._block(slot, self.words[slot + _SELECTOR] & 1))

    def moved(self) -> Iterator[list[str]]:
        """Sessions that were counted for since this was last asked, ``LOOK_SLOTS`` slots at a time."""
        for first in range(0, self._unused_from, LOOK_SLOTS):
            at, end = _word_of(first), _word_of(min(first + LOOK_SLOTS, self._unused_from))
            up = self.words[at + _UP + 1 : end : SLOT_WORDS].tolist()
            down = self.words[at + _UP + 3 : end : SLOT_WORDS].tolist()
            packets = array("Q", map(add, up, down))
            seen = self._seen[first : first + len(packets)]
            self._seen[first : first + len(packets)] = packets
            slots = [
                _word_of(first + i) for i, (a, b) in enumerate(zip(packets, seen, strict=True)) if a != b
            ]
            yield [self._session_id(slot) for slot in slots if self.words[slot + _STATE] != _FREE]

    def begin_segment(self, slot: int, label: SegmentLabel, begun: datetime) -> None:
        """End the current segment here; the one before it is gone, so call this when that is durable."""
        other = 1 - (self.words[slot + _SELECTOR] & 1)
        number = self.words[self._block(slot, 1 - other) + _NUMBER] & _NUMBER_MASK
        self._write_block(slot, other, number + 1, _packed_label(label), begun)
        self.words[slot + _SELECTOR] = _SELECTORS[other]

    def release(self) -> None:
        """Let go of the file; what was counted stays in it, no slot is found any more. Idempotent."""
        self._by_session.clear()
        self.words.release()
        self._bytes.release()
        if self._mapping is not None:
            self._mapping.close()
            os.close(self._fd)
            self._mapping = None

    # -- parts ----------------------------------------------------------------------------------------

    def _unused_slot(self) -> int:
        if self._freed:
            return self._freed.pop()
        if self._unused_from == self.capacity:
            raise Refused(AttachRefusal.NO_RESOURCES, f"all {self.capacity} usage slots are in use")
        self._unused_from += 1
        return _word_of(self._unused_from - 1)

    def _identity(self, slot: int) -> tuple[str, str, str, int]:
        session_id, imsi, operator_id, epoch = _IDENTITY.unpack_from(self._bytes, (slot + _IDENTITY_AT) * 8)
        return _plain(session_id), _plain(imsi), _plain(operator_id), epoch

    def _session_id(self, slot: int) -> str:
        start = (slot + _IDENTITY_AT) * 8
        return _plain(bytes(self._bytes[start : start + 32]))

    @staticmethod
    def _block(slot: int, selector: int) -> int:
        return slot + _BLOCK_AT + selector * _BLOCK_WORDS

    def _label(self, block: int) -> SegmentLabel:
        start = (block + _LABEL_AT) * 8
        return _unpacked_label(bytes(self._bytes[start : start + _LABEL.size]))

    def _volume(self, at: int) -> Volume:
        up_bytes, up_packets, down_bytes, down_packets = self.words[at : at + 4]
        return Volume(up_bytes, down_bytes, up_packets, down_packets)

    def _write_block(self, slot: int, selector: int, number: int, label: bytes, begun: datetime) -> None:
        """The number is taken away first and given last: a torn block has none."""
        words = self.words
        at = self._block(slot, selector)
        words[at + _NUMBER] = 0
        words[at + _BEGUN] = (begun - _EPOCH) // _MICROSECOND
        for word in range(4):
            words[at + _START + word] = words[slot + _UP + word]
        self._bytes[(at + _LABEL_AT) * 8 : (at + _LABEL_AT) * 8 + _LABEL.size] = label
        words[at + _NUMBER] = _sealed(self._bytes, at, number, words[slot + _CRC])

    def _bring_up(self, slot: int) -> None:
        """To this format; a kill on the way leaves a slot of format 1, which is read as it was."""
        words = self.words
        for selector in (0, 1):
            at = self._block(slot, selector)
            if number := words[at + _NUMBER] & _NUMBER_MASK:
                words[at + _NUMBER] = _sealed(self._bytes, at, number, words[slot + _CRC])
        words[slot + _SELECTOR] = _SELECTORS[words[slot + _SELECTOR] & 1]
        words[slot + _STATE] = _STATES_1[words[slot + _STATE]]

    def _segment(self, slot: int, selector: int, end: Volume) -> tuple[Segment, Volume]:
        """A segment that ends at this reading, and the reading at which it began."""
        at = self._block(slot, selector)
        start = self._volume(at + _START)
        begun = _EPOCH + self.words[at + _BEGUN] * _MICROSECOND
        number = self.words[at + _NUMBER] & _NUMBER_MASK
        return Segment(number, self._label(at), begun, end - start), start


def over_buffer(buffer: bytearray, *, boot_id: str = "") -> CounterTable:
    """A table in memory that the caller keeps: what stands for the file in a simulation.

    A zeroed buffer becomes a fresh table of as many slots as fit (``table_bytes``).
    """
    view = memoryview(buffer)
    why = _mistrust(view, boot_id)
    if not why:
        return _resumed(view, None, -1)
    was_there = any(view[: _HEADER.size])
    view[:] = bytes(len(view))
    _write_header(view, boot_id)
    opening = Opening(Origin.LOST, why=why) if was_there else Opening(Origin.FRESH)
    return CounterTable(view, opening, None, -1)


def open_file(path: Path, *, capacity: int = CAPACITY_DEFAULT, boot_id: str = "") -> CounterTable:
    """Resume the table in ``path``, or begin one there with room for ``capacity`` sessions.

    An existing table keeps the capacity it was made with. One that cannot be trusted is kept beside it as
    ``<name>.lost-<n>`` and named in ``opening``. The whole size is reserved now, so that a full disk is found
    here and not by a packet. ``boot_id`` is the host's own unless given. Raises ``ConfigurationError``.
    """
    boot_id = boot_id or _BOOT_ID.read_text().strip()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return _open_file(path, capacity, boot_id)
    except BlockingIOError:
        raise ConfigurationError(f"{path}: in use by another process; stop that process first") from None
    except OSError as error:
        fix = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "make the folder writable"
        needed = f"{table_bytes(capacity) >> 20} MiB for {capacity} sessions"
        raise ConfigurationError(
            f"{path}: {error.strerror} ({needed}); {fix} or configure another node.data_dir"
        ) from None


def table_bytes(capacity: int) -> int:
    """The size of a table."""
    return HEADER_BYTES + capacity * SLOT_WORDS * 8


def _open_file(path: Path, capacity: int, boot_id: str) -> CounterTable:
    fd = _locked(path)
    if not os.fstat(fd).st_size:
        return _begin_file(path, fd, capacity, boot_id, Opening(Origin.FRESH))
    view, mapping = _map(fd)
    why = _mistrust(view, boot_id)
    if not why:
        return _resumed(view, mapping, fd)
    view.release()
    mapping.close()
    kept_as = _set_aside(path)
    os.close(fd)
    opening = Opening(Origin.LOST, why=why, kept_as=kept_as)
    try:
        return _begin_file(path, _locked(path), capacity, boot_id, opening)
    except OSError:
        kept_as.rename(path)  # a later try finds it again, and reports it as lost
        raise


def _begin_file(path: Path, fd: int, capacity: int, boot_id: str, opening: Opening) -> CounterTable:
    try:
        os.posix_fallocate(fd, 0, table_bytes(capacity))
    except OSError:
        path.unlink()
        os.close(fd)
        raise
    view, mapping = _map(fd)
    _write_header(view, boot_id)
    return CounterTable(view, opening, mapping, fd)


def _locked(path: Path) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def _map(fd: int) -> tuple[memoryview, mmap.mmap]:
    mapping = mmap.mmap(fd, os.fstat(fd).st_size)
    return memoryview(mapping), mapping


def _resumed(view: memoryview, mapping: mmap.mmap | None, fd: int) -> CounterTable:
    slots = CounterTable(view, Opening(Origin.RESUMED), mapping, fd)
    slots.opening = Opening(Origin.RESUMED, slots.in_use)
    return slots


def _set_aside(path: Path) -> Path:
    """Rename to ``<name>.lost-<n>``, n one above the highest, and let go of the oldest beyond the limit."""
    prefix = f"{path.name}.lost-"
    tails = [p.name.removeprefix(prefix) for p in path.parent.iterdir() if p.name.startswith(prefix)]
    numbers = sorted(int(tail) for tail in tails if tail.isdecimal())
    for number in numbers[: max(0, len(numbers) + 1 - LOST_FILES_MAX)]:
        path.with_name(f"{prefix}{number}").unlink()
    kept_as = path.with_name(f"{prefix}{numbers[-1] + 1 if numbers else 1}")
    path.rename(kept_as)
    return kept_as


def _write_header(view: memoryview, boot_id: str) -> None:
    """The magic comes last: a table whose making was cut short has none."""
    capacity = (len(view) - HEADER_BYTES) // (SLOT_WORDS * 8)
    header = _HEADER.pack(MAGIC, VERSION, SLOT_WORDS, capacity, _text(boot_id, 36), 0)[:-4]
    header += struct.pack("=I", zlib.crc32(header))
    view[8 : len(header)] = header[8:]
    view[:8] = header[:8]


def _mistrust(view: memoryview, boot_id: str) -> str:
    """Why the table cannot be gone on with; empty when it can."""
    if len(view) < table_bytes(1):
        return "it is too short"
    magic, version, slot_words, capacity, boot, crc = _HEADER.unpack_from(view)
    if magic != MAGIC or crc != zlib.crc32(view[: _HEADER.size - 4]):
        return "its header is damaged"
    if (version, slot_words) != (VERSION, SLOT_WORDS):
        return f"it has layout version {version}, this is {VERSION}"
    if table_bytes(capacity) != len(view):
        return "it was cut short" if table_bytes(capacity) > len(view) else "it is longer than its table"
    if _plain(boot) != boot_id:
        return "the host was restarted"
    with view.cast("Q") as words:
        damaged = sum(not _is_sound(view, words, _word_of(index)) for index in _used(words, capacity))
    return f"{damaged} of its slots are damaged" if damaged else ""


def _used(words: memoryview, capacity: int) -> list[int]:
    """The slots that are not free, by index."""
    states = words[_word_of(0) + _STATE : _word_of(capacity) : SLOT_WORDS].tolist()
    return [index for index, state in enumerate(states) if state != _FREE]


def _is_sound(view: memoryview, words: memoryview, at: int) -> bool:
    slot = words[at : at + SLOT_WORDS].tolist()
    is_format_1 = slot[_STATE] in _STATES_1
    if not is_format_1 and slot[_STATE] not in (_OPEN, _CLOSED):
        return False
    if slot[_SELECTOR] not in ((0, 1, *_SELECTORS) if is_format_1 else _SELECTORS):
        return False
    identity_at = (at + _IDENTITY_AT) * 8
    if slot[_CRC] != zlib.crc32(view[identity_at : identity_at + _IDENTITY.size]):
        return False
    for block in (_BLOCK_AT, _BLOCK_AT + _BLOCK_WORDS):
        stored = slot[block + _NUMBER]
        if not is_format_1 and stored:
            if stored != _sealed(view, at + block, stored & _NUMBER_MASK, slot[_CRC]):
                return False
    block = _BLOCK_AT + (slot[_SELECTOR] & 1) * _BLOCK_WORDS
    start, counters = block + _START, slot[_UP : _UP + 4]
    has_risen = all(map(le, slot[start : start + 4], counters))
    is_possible = max(counters) <= _COUNTER_MAX and slot[_TIMESTAMP] <= _TIMESTAMP_MAX
    return bool(slot[block + _NUMBER] & _NUMBER_MASK) and has_risen and is_possible


def _sealed(view: memoryview, block: int, number: int, identity_crc: int) -> int:
    """The first word of a segment's block: its number, and the CRC of all the others, number and identity."""
    others = view[(block + _BEGUN) * 8 : (block + _BLOCK_WORDS) * 8]
    return zlib.crc32(others, identity_crc ^ number) << _CRC_SHIFT | number


def _word_of(index: int) -> int:
    return _FIRST_WORD + index * SLOT_WORDS


def _packed_identity(session_id: str, imsi: str, operator_id: str, epoch: int) -> bytes:
    names = f"{session_id:\0<32}{imsi:\0<16}{operator_id:\0<24}".encode()
    if len(names) != _NAMES_BYTES:
        raise ValueError(f"{session_id!r}, {imsi!r} or {operator_id!r} is longer than a slot has room for")
    return names + epoch.to_bytes(8, byteorder)


@lru_cache(LABELS_MAX)
def _packed_label(label: SegmentLabel) -> bytes:
    return _LABEL.pack(_text(label.speed_class, 32), _text(label.plmn, 8))


@lru_cache(LABELS_MAX)
def _unpacked_label(packed: bytes) -> SegmentLabel:
    speed_class, plmn = _LABEL.unpack(packed)
    return SegmentLabel(_plain(speed_class), _plain(plmn))


def _text(value: str, size: int) -> bytes:
    packed = value.encode()
    if len(packed) > size:
        raise ValueError(f"{value!r} is longer than the {size} bytes that a slot has for it")
    return packed


def _plain(packed: bytes) -> str:
    return packed.rstrip(b"\0").decode(errors="replace")
