"""The data folder of a node: one process at a time, and an id that distinguishes nodes of the same name.

Rules: the lock is the kernel's and ends with the process, however it ends; the id is made once and stays.
Only the owner may read the folder. A data folder or an empty folder that others can read is closed to them,
with its content; any other folder that they can read is refused.
"""

import fcntl
import os
import re
import stat
from pathlib import Path

from core.errors import ConfigurationError
from core.ports.clock import Entropy

LOCK_FILE = "node.lock"
_OTHERS = 0o077
_ID = re.compile(rb"[0-9a-f]{32}")


class DataDirectory:
    """A locked data folder. Make one with ``open``; ``close`` lets it go."""

    def __init__(self, *, folder_id: str, descriptor: int) -> None:
        self.folder_id = folder_id
        self._descriptor = descriptor

    @classmethod
    def open(cls, folder: Path, entropy: Entropy) -> "DataDirectory":
        """Make it if need be and lock it; raises ``ConfigurationError``, also when it is in use."""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _close_to_others(folder)
            descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            fix = "use a writable folder"
            raise ConfigurationError(f"node.data_dir {folder}: {error.strerror}; {fix}") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return cls(folder_id=_id_in(descriptor, entropy), descriptor=descriptor)
        except BlockingIOError:
            os.close(descriptor)
            fix = "stop that process, or give each node its own folder"
            raise ConfigurationError(f"node.data_dir {folder}: in use by another process; {fix}") from None
        except OSError as error:
            os.close(descriptor)
            fix = "free some space or use another folder"
            raise ConfigurationError(f"node.data_dir {folder}: {error.strerror}; {fix}") from error

    def close(self) -> None:
        """Another process may have it now."""
        os.close(self._descriptor)


def _close_to_others(folder: Path) -> None:
    mode = folder.stat().st_mode
    if not mode & _OTHERS:
        return
    within = [entry.name for entry in folder.iterdir()]
    if within and (LOCK_FILE not in within or mode & stat.S_ISVTX):
        raise ConfigurationError(
            f"node.data_dir {folder}: readable by others (mode {stat.S_IMODE(mode):o}) and not only"
            f" Airloom's; use a folder for Airloom alone, or run: chmod 700 {folder}"
        )
    folder.chmod(0o700)
    for path in folder.rglob("*"):
        if not path.is_symlink():
            path.chmod(stat.S_IMODE(path.stat().st_mode) & ~_OTHERS)


def _id_in(descriptor: int, entropy: Entropy) -> str:
    """The stored id; an incompletely written one is replaced."""
    found = os.pread(descriptor, 32, 0)
    if not _ID.fullmatch(found):
        found = entropy.random_bytes(16).hex().encode()
        os.pwrite(descriptor, found, 0)
        os.fsync(descriptor)
    return found.decode()
