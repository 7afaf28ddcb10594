"""Whole files under a key: a folder, and memory for tests.

Rules:

- A key is names joined by ``/``; no name is empty, begins with a dot or holds NUL, so no key leaves the
  folder or meets a file that is being written.
- A name is a file or a folder, not both: ``a`` and ``a/b`` exclude each other, as in every file system.
- Files never change: content is written to a temporary file, synced, and linked under its name atomically.
- Files have mode 0600, whatever the folder's mode: bills and dead letters are customers' data.
"""

import asyncio
import errno
import os
import secrets
import time
from contextlib import suppress
from pathlib import Path

from core.adapters.durable import sync_folder
from core.errors import ConfigurationError, LocalProtocolError, Unavailable

KEY_BYTES_MAX = 1_024
"""As in S3."""
NAME_BYTES_MAX = 255
"""One name between slashes, as file systems take it."""
LEFT_S = 86_400.0
"""What is older in the folder of what is being written was left by a process that was killed."""
_INCOMING = ".incoming"


class FolderObjectStore:
    """Implements ``ObjectStore`` in a folder. Make one with ``open``."""

    def __init__(self, *, root: Path) -> None:
        self._root = root

    @classmethod
    async def open(cls, *, root: Path) -> "FolderObjectStore":
        """Make the folder if need be; raises ``ConfigurationError`` when it cannot be written."""
        try:
            await asyncio.to_thread(_prepare, root)
        except OSError as error:
            raise ConfigurationError(
                f"object folder {root}: {error.strerror}; use a writable folder"
            ) from error
        return cls(root=root)

    async def put(self, key: str, data: bytes) -> bool:
        """Store atomically; durable on return, also if it existed already."""
        names = names_of(key)
        try:
            return await asyncio.to_thread(_put, self._root, names, data)
        except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
            raise LocalProtocolError(f"object key {key!r}: a name is a file and a folder") from error
        except OSError as error:
            raise Unavailable(
                f"object {key}: {error.strerror}", ambiguous=error.errno == errno.EIO
            ) from error

    async def get(self, key: str) -> bytes | None:
        """The content, or nothing."""
        names = names_of(key)
        try:
            return await asyncio.to_thread(self._root.joinpath(*names).read_bytes)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise Unavailable(f"object {key}: {error.strerror}") from error


class MemoryObjectStore:
    """Implements ``ObjectStore`` in a dictionary."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    async def put(self, key: str, data: bytes) -> bool:
        """Store unless it is there."""
        names = names_of(key)
        folders = {"/".join(names[:depth]) for depth in range(1, len(names))}
        if not folders.isdisjoint(self._objects) or any(k.startswith(f"{key}/") for k in self._objects):
            raise LocalProtocolError(f"object key {key!r}: a name is a file and a folder")
        if key in self._objects:
            return False
        self._objects[key] = data
        return True

    async def get(self, key: str) -> bytes | None:
        """The content, or nothing."""
        names_of(key)
        return self._objects.get(key)


def names_of(key: str) -> list[str]:
    """The names that a key is made of; raises ``LocalProtocolError``."""
    names = key.split("/")
    well_formed = all(name and name[0] != "." and "\0" not in name for name in names)
    try:
        fits = len(key.encode()) <= KEY_BYTES_MAX and all(len(n.encode()) <= NAME_BYTES_MAX for n in names)
    except UnicodeEncodeError:
        fits = False
    if not well_formed or not fits:
        raise LocalProtocolError(
            f"object key {key[:KEY_BYTES_MAX]!r}: names joined by / without leading dots"
        )
    return names


def _prepare(root: Path) -> None:
    incoming = root / _INCOMING
    incoming.mkdir(parents=True, exist_ok=True)
    if not os.access(incoming, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    for left in incoming.iterdir():  # of this node, or of one that shares the folder and may be writing now
        with suppress(OSError):
            if left.stat().st_mtime < time.time() - LEFT_S:
                left.unlink()


def _put(root: Path, names: list[str], data: bytes) -> bool:
    target = root.joinpath(*names)
    aside = root / _INCOMING / secrets.token_hex(16)
    target.parent.mkdir(parents=True, exist_ok=True)
    aside.parent.mkdir(exist_ok=True)  # it may have been removed as a leftover
    try:
        with open(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        is_new = _link(aside, target)
    finally:
        aside.unlink(missing_ok=True)
    # Also when it was there: who put it may not have come to this line yet.
    for folder in (target.parent, *target.parent.parents):
        sync_folder(folder)
        if folder == root:
            break
    return is_new


def _link(aside: Path, target: Path) -> bool:
    try:
        os.link(aside, target)
    except FileExistsError:
        if target.is_dir():
            raise
        return False
    return True
