"""Reading the embedded stream beside the process that writes it.

Rules: nothing is locked, written or mended here, and the writer does not notice. What is at the end of the
last segment and not whole is on its way; what the writer has not synced yet may be seen already. An iterator
is a place in a file: a segment that retention took meanwhile is passed over.
"""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from core.adapters.stream.frames import HEAD_BYTES, MAGIC_1, Frame, begin_of_records, decode, next_whole
from core.adapters.stream.log import SHARDS_FILE, to_stored
from core.adapters.stream.rules import ShardMap, check_limit
from core.adapters.stream.segments import segments_in
from core.errors import ConfigurationError, SourceGone, Unavailable
from core.ports.stream import IteratorType, ReadResult, Shard

PIECE_BYTES = 8_388_608
"""What is read of a file at a time; more than the longest record."""


class LogReader:
    """Implements the reading half of ``Stream`` on a folder. Make one with ``open``."""

    def __init__(self, *, folder: Path, shards: int) -> None:
        self._folder = folder
        self._map = ShardMap(shards)

    @classmethod
    async def open(cls, folder: Path) -> "LogReader":
        """Find out how many shards there are; raises ``ConfigurationError``."""
        try:
            content = await asyncio.to_thread((folder / SHARDS_FILE).read_bytes)
            return cls(folder=folder, shards=int(json.loads(content)["shards"]))
        except (OSError, ValueError, LookupError, TypeError) as error:
            raise ConfigurationError(
                f"{folder}: no stream of a node ({error}); name its folder (node.data_dir, --data-dir)"
            ) from error

    async def shards(self) -> Sequence[Shard]:
        """By hash range."""
        return self._map.shards

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        """To the oldest record or behind the newest: raises ``ValueError`` for other kinds."""
        if kind is IteratorType.TRIM_HORIZON:
            return f"{shard_id}:0:0:0"
        if kind is not IteratorType.LATEST:
            raise ValueError(f"{kind.value}: is not offered here")
        iterator = f"{shard_id}:0:0:0"
        while (result := await self.read(iterator, limit=10_000)).records:
            iterator = result.next_iterator
        return result.next_iterator

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        """Up to ``limit`` records of one segment."""
        check_limit(limit)
        shard_id, first, offset, number = iterator.split(":")
        self._map.index_of_shard(shard_id)
        folder = self._folder / shard_id
        try:
            return await asyncio.to_thread(_read, folder, int(first), int(offset), int(number), limit)
        except FileNotFoundError as error:
            raise SourceGone(f"{folder}: is not there") from error
        except OSError as error:
            raise Unavailable(f"{folder}: {error.strerror}") from error


def _read(folder: Path, first: int, offset: int, number: int, limit: int) -> ReadResult:
    frames: list[Frame] = []
    lost = 0
    segments = [(segment, path) for segment, path in segments_in(folder) if segment >= first]
    for segment, path in segments:
        if segment != first:
            first, offset, number = segment, 0, segment
        is_last = segment == segments[-1][0]
        try:
            with path.open("rb") as file:
                offset, number, passed_over = _read_segment(
                    file, offset, number, limit, frames, is_last=is_last
                )
        except FileNotFoundError:  # retention took it
            continue
        lost += passed_over
        if len(frames) >= limit:
            break
    records = tuple(to_stored(folder.name, frame) for frame in frames)
    return ReadResult(records, f"{folder.name}:{first}:{offset}:{number}", lost)


def _read_segment(
    file: BinaryIO, offset: int, number: int, limit: int, frames: list[Frame], *, is_last: bool
) -> tuple[int, int, int]:
    """Add records to ``frames``; where to go on, with which number, and how many damaged ones at least were
    passed over.
    """
    lost = 0
    offset = offset or begin_of_records(file.read(HEAD_BYTES), number) or len(MAGIC_1)
    while len(frames) < limit:
        file.seek(offset)
        buffer = file.read(PIECE_BYTES)
        at = 0
        while len(frames) < limit and (found := decode(buffer, at, number)) is not None:
            frames.append(found[0])
            at, number = found[1], number + 1
        offset += at
        if at:
            continue
        following = next_whole(buffer, 0, number)
        if following is None:
            lost += bool(buffer) and not is_last
            break
        lost += following[1] - number
        offset, number = offset + following[0], following[1]
    return offset, number, lost
