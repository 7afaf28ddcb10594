"""Folders of a run among the system's temporary files. A run that was killed leaves its own to the next one.

Rules: a folder is marked by a file that is locked (flock(2)) as long as its maker lives, whatever ends it.
The next run removes a marked folder of the same name and user whose lock is free and in which no process
works any more. What has no mark is not ours and stays.
"""

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

MARK = ".airloom-run"
PROCESSES = Path("/proc")


@contextmanager
def temporary_folder(name: str) -> Iterator[Path]:
    """A folder ``airloom-NAME-…`` that lasts as long as its block; before, those that killed runs left go."""
    prefix = f"airloom-{name}-"
    _remove_left(prefix)
    with tempfile.TemporaryDirectory(prefix=prefix) as made:
        folder = Path(made)
        with (folder / f"{MARK}.new").open("w") as mark:
            fcntl.flock(mark, fcntl.LOCK_EX)
            (folder / f"{MARK}.new").rename(folder / MARK)  # so that no process sees an unlocked mark
            yield folder


def _remove_left(prefix: str) -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError), _claimed(folder):
            if not _is_worked_in(folder):
                shutil.rmtree(folder)


@contextmanager
def _claimed(folder: Path) -> Iterator[None]:
    """Raises ``OSError`` unless it is a marked folder of this user, and its maker is gone."""
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise PermissionError(f"{folder}: not a folder of ours")
    descriptor = os.open(folder / MARK, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _is_worked_in(folder: Path) -> bool:
    """Whether a process, which its maker may have left behind, has it in its command or as its directory.
    Where that cannot be seen, as without /proc, it is taken to be so.
    """
    try:
        processes = [each for each in PROCESSES.iterdir() if each.name.isdigit()]
    except OSError:
        return True
    return not processes or any(_names(each, str(folder)) for each in processes)


def _names(process: Path, folder: str) -> bool:
    with suppress(OSError):  # it ended, or is another user's
        if folder in (process / "cmdline").read_text(errors="replace"):
            return True
        where = Path(os.readlink(process / "cwd"))
        return Path(folder) in (where, *where.parents)
    return False
