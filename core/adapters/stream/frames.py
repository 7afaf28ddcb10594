"""Framed records: how they are written, and how whole ones are found among damage.

A segment begins with its head: which format it has, the number of its first record, and the CRC-32 of both;
in 0.2.0 with ``MAGIC_1`` alone, and is read so. A record is its length, the CRC-32 of its body and its body:
number, microseconds of arrival, length of the key, key, data. Within a segment numbers rise by one.
"""

import re
import struct
import zlib
from dataclasses import dataclass

from core.ports.stream import RECORD_BYTES_MAX

MAGIC_1 = b"airloom1"
"""All of the head that a segment of 0.2.0 has."""
MAGIC = b"airloom2"
_HEAD_OF_SEGMENT = struct.Struct(">8sQI")
HEAD_BYTES = _HEAD_OF_SEGMENT.size
MAGIC_BITS_OFF_MAX = 8
"""A file that begins so much like one of ours is one, though it be damaged."""
HEAD = struct.Struct(">II")
BODY = struct.Struct(">QQH")
FRAME_BYTES_MIN = HEAD.size + BODY.size
BODY_BYTES_MAX = BODY.size + RECORD_BYTES_MAX

Frame = tuple[int, int, str, bytes]
"""Number, microseconds of arrival, partition key, data."""


@dataclass(frozen=True, slots=True)
class Run:
    """Whole records, one after the other: those from ``first`` on, between two offsets."""

    first: int
    begin: int
    end: int
    places: tuple[tuple[int, int], ...]
    """Number and offset of each."""

    @property
    def next_number(self) -> int:
        """The one after its last."""
        return self.first + len(self.places)


@dataclass(frozen=True, slots=True)
class Scan:
    """What is in a segment: ``runs`` with damage between them, in which ``lost`` records are, at least."""

    runs: tuple[Run, ...]
    lost: int
    next_number: int
    """Above every number that the segment may have held."""
    begin: int
    """Where its records begin."""

    @property
    def is_damaged(self) -> bool:
        """Whether there is anything but whole records and a torn end, though no record may be lost."""
        return self.lost > 0 or len(self.runs) > 1 or self.runs[0].begin != self.begin


def head_of_segment(first: int) -> bytes:
    """What a segment begins with whose first record has that number."""
    head = _HEAD_OF_SEGMENT.pack(MAGIC, first, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "big")


def begin_of_records(buffer: bytes, first: int) -> int | None:
    """How long the head is that a segment begins with; ``None``: it is damaged, or not all there."""
    head = head_of_segment(first)
    if buffer.startswith(head):
        return HEAD_BYTES
    is_of_1 = buffer.startswith(MAGIC_1) and buffer[len(MAGIC_1) : HEAD_BYTES] != head[len(MAGIC_1) :]
    return len(MAGIC_1) if is_of_1 else None


def is_cut_off_head(buffer: bytes, first: int) -> bool:
    """Whether there is nothing but a part of the head: the rest never reached the disk."""
    head = head_of_segment(first)
    return not buffer.startswith(head) and head.startswith(buffer.rstrip(b"\0"))


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


def next_whole(buffer: bytes, offset: int, number: int) -> tuple[int, int] | None:
    """Offset and number of the next whole record with that number or a higher one that has room before it."""
    if len(buffer) - offset < FRAME_BYTES_MIN:
        return None
    highest = number + (len(buffer) - offset) // FRAME_BYTES_MIN
    low, high = number.to_bytes(8, "big"), highest.to_bytes(8, "big")
    same = next((n for n in range(8) if low[n] != high[n]), 7)
    length = rb"(?!\0{4})\0[\0-\x10]"
    between = b"[" + re.escape(low[same : same + 1]) + b"-" + re.escape(high[same : same + 1]) + b"]"
    candidate = re.compile(b"(?s)(?=" + length + rb".{6}" + re.escape(low[:same]) + between + b")")
    for found in candidate.finditer(buffer, offset):
        at = found.start()
        (stored,) = struct.unpack_from(">Q", buffer, at + HEAD.size)
        if number <= stored <= highest and decode(buffer, at, stored) is not None:
            return at, stored
    return None


def scan(buffer: bytes, first: int) -> Scan:
    """Find every whole record of a segment whose first one has that number.

    What is behind the last of them is a torn end, which loses nothing that was acknowledged, when it is what
    an append that was cut off leaves: the beginning of a record, or zeros.
    """
    runs: list[Run] = []
    if is_cut_off_head(buffer, first):
        return Scan((Run(first, HEAD_BYTES, HEAD_BYTES, ()),), 0, first, HEAD_BYTES)
    at = start = begin_of_records(buffer, first) or len(MAGIC_1)
    number, lost = first, 0
    while True:
        begin, places = at, list[tuple[int, int]]()
        while (found := decode(buffer, at, number + len(places))) is not None:
            places.append((number + len(places), at))
            at = found[1]
        run = Run(number, begin, at, tuple(places))
        number += len(places)
        following = next_whole(buffer, at, number)
        if places or following is None or following[1] > number:
            runs.append(run)
        if following is None:
            break
        lost += following[1] - number
        at, number = following
    if _is_torn(buffer[at:]):
        return Scan(tuple(runs), lost, number, start)
    return Scan(tuple(runs), lost + 1, number + 1 + (len(buffer) - at) // FRAME_BYTES_MIN, start)


def is_ours(buffer: bytes) -> bool:
    """Whether a file is a segment, though perhaps a damaged one."""
    head = int.from_bytes(buffer[: len(MAGIC)].ljust(len(MAGIC), b"\0"), "big")
    off = min((head ^ int.from_bytes(magic, "big")).bit_count() for magic in (MAGIC, MAGIC_1))
    return off <= MAGIC_BITS_OFF_MAX or not buffer.strip(b"\0") or MAGIC.startswith(buffer.rstrip(b"\0"))


def _is_torn(rest: bytes) -> bool:
    if len(rest) < HEAD.size or not rest.strip(b"\0"):
        return True
    length, crc = HEAD.unpack_from(rest)
    is_cut: bool = BODY.size <= length <= BODY_BYTES_MAX and HEAD.size + length > len(rest)
    return is_cut and bool(zlib.crc32(memoryview(rest)[HEAD.size :]) != crc)  # else its length is damaged
