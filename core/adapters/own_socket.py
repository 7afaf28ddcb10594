"""The Unix socket in a node's data folder, by which the folder's owner reaches the node.

Rules: the file system says who may connect, folder and socket are their owner's alone; a socket that a killed
process left is removed by the next one, which holds the folder's lock.
"""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from core.errors import ConfigurationError

SOCKET_FILE = "control.sock"
PATH_BYTES_MAX = 107
"""Of a socket's address (unix(7))."""


def listening(folder: Path) -> socket.socket:
    """A socket that is bound in the folder; raises ``ConfigurationError``."""
    own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with reachable(folder) as address:
            (folder / SOCKET_FILE).unlink(missing_ok=True)
            own.bind(address)
            (folder / SOCKET_FILE).chmod(0o600)
    except OSError as error:
        own.close()
        raise ConfigurationError(f"{folder / SOCKET_FILE}: {error.strerror or error}") from error
    return own


@contextmanager
def reachable(folder: Path) -> Iterator[str]:
    """The socket's address as the kernel takes it, also in a folder whose path is too long for one."""
    path = os.fspath(folder / SOCKET_FILE)
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield path
        return
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{SOCKET_FILE}"
    finally:
        os.close(descriptor)
