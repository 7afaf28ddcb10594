"""Folders of load tests and proofs: what a killed run left is removed by the next, and nothing else is."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from loadtest import folders
from loadtest.folders import MARK, temporary_folder
from loadtest.serving import ROOT

MAKER = """
from loadtest.folders import temporary_folder
with temporary_folder("test") as folder:
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


@contextmanager
def run_of_another() -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that made a folder and works on."""
    with subprocess.Popen(
        [sys.executable, "-c", MAKER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout is not None
        try:
            yield process, Path(process.stdout.readline().strip())
        finally:
            process.kill()


def await_command(pid: int) -> None:
    """A process that has just begun shows no command for a moment, though ``Popen`` has returned."""
    while not Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.001)


def test_a_folder_goes_with_its_block() -> None:
    with temporary_folder("test") as folder:
        (folder / "file").touch()
        assert folder.stat().st_mode & 0o077 == 0
    assert not folder.exists()


def test_what_a_killed_run_left_goes_with_the_next_one_of_its_name() -> None:
    with run_of_another() as (process, left):
        with temporary_folder("test"):
            assert left.exists(), "its run lives"
        process.kill()
        process.wait()
        (left / "full").mkdir()
        with temporary_folder("other"):
            assert left.exists(), "it has another name"
        with temporary_folder("test"):
            assert not left.exists()


def test_where_a_process_still_works_nothing_is_removed() -> None:
    with run_of_another() as (process, left):
        process.kill()
        process.wait()
        within = left / "var"
        within.mkdir()
        for command, cwd in ((["sleep", "60"], within), (["tail", "-f", f"{left}/{MARK}"], left.parent)):
            with subprocess.Popen(command, cwd=cwd, stdout=subprocess.DEVNULL) as orphan:
                try:
                    await_command(orphan.pid)
                    with temporary_folder("test"):
                        assert within.exists(), command
                finally:
                    orphan.kill()
        with temporary_folder("test"):
            assert not left.exists()


def test_where_processes_cannot_be_seen_nothing_is_removed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with run_of_another() as (process, left):
        process.kill()
        process.wait()
        for unseen in (tmp_path / "none", tmp_path / "empty"):
            monkeypatch.setattr(folders, "PROCESSES", unseen)
            with temporary_folder("test"):
                assert left.exists()
            (tmp_path / "empty").mkdir(exist_ok=True)


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    plain, aim, link = tmp_path / "airloom-test-plain", tmp_path / "aim", tmp_path / "airloom-test-link"
    for folder in (plain, aim):
        folder.mkdir()
        (folder / "kept").touch()
    (aim / MARK).touch()
    link.symlink_to(aim)
    (marked_by_link := tmp_path / "airloom-test-marked").mkdir()
    (marked_by_link / MARK).symlink_to(aim / MARK)
    with temporary_folder("test"):
        pass
    assert all((folder / "kept").exists() for folder in (plain, aim, link))
    assert marked_by_link.exists()
