"""The log of `airloom serve` when its stdout or stderr cannot be written."""

import errno
import io
import os
import sys

import pytest

from airloom.cli.serve import _tell


class _Unwritable(io.StringIO):
    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = number

    def flush(self) -> None:
        raise OSError(self._number, os.strerror(self._number))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_a_log_that_cannot_be_written_ends_nothing(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """It is on the disk that is full, or its reader is gone."""
    log = _Unwritable(number)
    monkeypatch.setattr(sys, "stderr", log)
    _tell("the store cannot write")
    assert "airloom serve: the store cannot write" in log.getvalue()
