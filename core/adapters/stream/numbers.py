"""Which sequence numbers may have been given out, kept beside the folder of a log.

Rules: a number is given out only below a mark that is durable, so that it is never given out twice, also
when the folder is removed or restored from an older copy. Marks are set ahead, for many records at a time; a
log that was closed in order leaves them exact.
"""

import json
import zlib
from collections.abc import Sequence
from pathlib import Path

from core.adapters.durable import replace_file

RESERVED = 65_536
"""Numbers that one write of the file allows: so many at most are left out after a kill."""


class Numbers:
    """The marks of one log, by shard: from there on numbers are certainly free. Raises ``OSError``."""

    def __init__(self, folder: Path, shards: int) -> None:
        self._path = folder.with_name(f"{folder.name}.numbers")
        self._marks = [1] * shards
        self.is_exact = False
        """Whether each mark is the next number."""
        self.damage = ""
        """Why the file could not be used, if it could not."""
        try:
            self._read(self._path.read_bytes(), shards)
        except FileNotFoundError:
            pass
        except (ValueError, LookupError, TypeError):
            self.damage = f"{self._path}: damaged; rebuilt from the records found"

    def of(self, shard: int) -> int:
        """The mark of a shard."""
        return self._marks[shard]

    def reserve(self, shard: int, number: int) -> None:
        """Durably allow the numbers below this one, and some more."""
        if number > self._marks[shard] or self.is_exact:
            marks = list(self._marks)
            marks[shard] = number + RESERVED
            self._write(marks, is_exact=False)

    def close(self, next_numbers: Sequence[int]) -> None:
        """Nothing more is given out: the next number of each shard."""
        self._write(list(next_numbers), is_exact=True)

    def _read(self, content: bytes, shards: int) -> None:
        checksum, _, body = content.partition(b" ")
        if int(checksum, 16) != zlib.crc32(body):
            raise ValueError("checksum")
        stored = json.loads(body)
        marks = [int(mark) for mark in stored["next"]]
        if len(marks) == shards:
            self._marks, self.is_exact = marks, bool(stored["exact"])

    def _write(self, marks: list[int], *, is_exact: bool) -> None:
        body = json.dumps({"next": marks, "exact": is_exact}).encode()
        replace_file(self._path, b"%08x %s" % (zlib.crc32(body), body))
        self._marks, self.is_exact = marks, is_exact
