"""Files that a command writes.

Rule: they hold credentials or what customers did, so each is its owner's alone (mode 0600), also where a file
of another mode was there before.
"""

import os
import stat
import tempfile
from pathlib import Path
from typing import BinaryIO

MODE = 0o600


def write_private(path: Path, content: bytes) -> None:
    """Replace a file atomically; raises ``OSError``."""
    descriptor, aside = tempfile.mkstemp(prefix=".airloom-", dir=path.parent)  # made with mode 0600
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
        Path(aside).replace(path)
    except BaseException:
        Path(aside).unlink()
        raise


def open_private(path: Path, *, must_be_new: bool = False) -> BinaryIO:
    """A file to be written bit by bit, from its beginning; raises ``OSError``."""
    how = os.O_EXCL if must_be_new else os.O_TRUNC
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, MODE)
    file = os.fdopen(descriptor, "wb")
    if stat.S_ISREG(os.fstat(descriptor).st_mode):  # a pipe's or a terminal's mode is not ours
        os.fchmod(descriptor, MODE)
    return file
