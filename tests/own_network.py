"""A pytest plugin for `./run test`: each worker of pytest-xdist has a network of its own.

So end-to-end tests run side by side, and meet on no port, address or device. It needs root.
"""

import ctypes
import os
import subprocess

import pytest

CLONE_NEWNET = 0x40000000
"""Of unshare(2); Python has ``os.unshare`` from 3.12 on."""


def pytest_configure(config: pytest.Config) -> None:
    """While the worker has neither threads that use a socket nor children: they would stay outside."""
    if not hasattr(config, "workerinput"):
        return
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"no network namespace for a test worker: {os.strerror(number)}")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
