"""What a newcomer meets: what is wrong with a command is said in one line, with the fix."""

import asyncio
from pathlib import Path

import aiohttp
import pytest

from loadtest import demo, load
from loadtest.external.kinesis import create_stream
from loadtest.peers.ue import NoSocketLeft, UserEquipment, UserEquipments
from loadtest.serving import DidNotStart


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        (demo.main, ["--endpoint", "http://127.0.0.1:1"], "add --stream kinesis"),
        (demo.main, ["--sims", "abc"], "'abc' must be a number, 6 or more"),
        (demo.main, ["--sims", "5"], "'5' must be a number, 6 or more"),
        (demo.main, ["--messages", "0"], "'0' must be a number, 1 or more"),
        (demo.main, ["--stream", "kinesis", "--endpoint", "here:4567"], "expected http://HOST:PORT"),
        (load.main, ["--endpoint", "127.0.0.1:8080"], "expected http://HOST:PORT"),
        (load.main, ["--local", "127.0.77.21"], "name two, --local 127.0.77.21,ANOTHER"),
        (load.main, ["--local", "here"], "write 10.0.0.5"),
    ],
)
def test_what_cannot_be_is_refused_with_the_fix(
    command: object, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert callable(command)
    with pytest.raises(SystemExit, match="2"):
        command(arguments)
    assert says in " ".join(capsys.readouterr().err.split())


def test_a_profile_that_is_not_there_drives_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AIRLOOM_PROFILE_DIR", str(tmp_path))
    assert load.main(["--profile", "nope"]) == 1
    assert "load: profile 'nope': there is no" in capsys.readouterr().err


def test_help_shows_what_can_be_typed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load.main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    assert "'message.errors<=0.1%'" in shown
    with pytest.raises(SystemExit):
        demo.main(["--help"])
    assert "6 or more" in capsys.readouterr().out


async def test_a_kinesis_that_is_not_there_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with pytest.raises(DidNotStart, match="Could not connect to the endpoint"):
        await create_stream("http://127.0.0.1:1", "none", shards=1)


class BrokenProgram:
    """A device's program whose connection is gone."""

    closed = 0

    async def open(self) -> "BrokenProgram":
        raise ConnectionResetError

    async def send(self, payload: bytes) -> bool:
        raise aiohttp.ClientError

    async def aclose(self) -> None:
        self.closed += 1
        raise ConnectionResetError


async def test_a_program_that_broke_is_ended_before_another_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = BrokenProgram(), BrokenProgram()
    programs = iter([second])
    ues = UserEquipments(())
    monkeypatch.setattr(ues, "_program_of", lambda _: next(programs))
    ue = UserEquipment.__new__(UserEquipment)
    ue.program = first
    with pytest.raises(ConnectionResetError):
        await asyncio.wait_for(ues.start_program(ue), 5)
    assert first.closed == 1
    assert ue.program is second


async def test_a_device_connects_as_often_as_there_are_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    ues = UserEquipments(())
    monkeypatch.setattr(ues, "_stack", object())
    monkeypatch.setattr(ues, "_sockets", {"1": []})
    ue = UserEquipment.__new__(UserEquipment)
    ue.imsi, ue.protocol, ue.program = "1", "tcp", None
    with pytest.raises(NoSocketLeft):
        await ues.start_program(ue)
