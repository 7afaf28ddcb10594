"""The `airloom` command, in a thread beside the loop of whatever it asks."""

import asyncio
import os
import sys
from pathlib import Path

import pytest

from airloom.cli.program import main
from tests.support.cli import Airloom, Ended


@pytest.fixture
def airloom(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Airloom:
    """The command, in a thread beside the API's loop, with a home of its own."""
    for name in ("AIRLOOM_ENDPOINT", "AIRLOOM_AUTH_KEY_ID", "AIRLOOM_AUTH_KEY", "AIRLOOM_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AIRLOOM_PROFILE_DIR", str(tmp_path / "profiles"))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")

    async def call(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["airloom", *arguments])
        capsys.readouterr()
        umask = os.umask(0o077)
        os.umask(umask)
        code = await asyncio.to_thread(_exit_code)
        os.umask(umask)
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Ended(code, out, err)

    return call


def _exit_code() -> int:
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
