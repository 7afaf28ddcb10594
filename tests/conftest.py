"""Rules for every test.

- A blocking call of shipped code inside a running event loop fails the test (blockbuster).
- ``@pytest.mark.root`` and ``@pytest.mark.program("tshark")`` name what a test needs; without it the test is
  not run, and the end of the report says so.
- ``@pytest.mark.long`` is run with ``AIRLOOM_LONG`` set, as `./run prove store` does.
- ``@pytest.mark.kinesis`` needs the servers of ``loadtest.external.kinesis``, ``@pytest.mark.cassandra`` the
  jars of ``loadtest.external.cassandra``.
- Hypothesis runs the profile ``fast``; ``HYPOTHESIS_PROFILE=thorough`` runs more examples, with new seeds.
"""

import asyncio
import gc
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from blockbuster import BlockBuster
from botocore import session
from hypothesis import HealthCheck, settings

from airloom.cli.program import main
from loadtest.external import cassandra, kinesis
from tests.support.cli import Airloom, Ended

SHIPPED = ["airloom", "core", "api", "gtp", "radius", "mqtt_bridge", "billing"]

settings.register_profile(
    "fast",
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile("thorough", max_examples=2_000, deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fast"))


@pytest.fixture(scope="session", autouse=True)
def no_blocking_call_in_a_loop() -> Iterator[None]:
    """Only frames of shipped code count: a test may read its own files as it likes."""
    blockbuster = BlockBuster(SHIPPED)
    for function in blockbuster.functions.values():  # the SDK reads its models, before anything is served
        function.can_block_in("core/adapters/stream/kinesis.py", "open")
        function.can_block_in("core/adapters/object_store/s3.py", "open")
        function.can_block_in("core/adapters/floating_ip/ec2.py", "open")
    blockbuster.activate()
    yield
    blockbuster.deactivate()


@pytest.fixture(scope="session", autouse=True)
def one_loader_of_the_sdk() -> Iterator[None]:
    """Each session of the SDK would look through the models of all services again: tenths of a second."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session, "create_loader", cache(session.create_loader))
        yield


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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, with the reason, what this machine or user cannot run."""
    for item in items:
        for reason in _missing(item):
            item.add_marker(pytest.mark.skip(reason=reason))


def _missing(item: pytest.Item) -> Iterator[str]:
    if item.get_closest_marker("root") and os.geteuid() != 0:
        yield "needs root"
    if item.get_closest_marker("long") and not os.environ.get("AIRLOOM_LONG"):
        yield "takes long: `./run prove store` runs it"
    if item.get_closest_marker("kinesis") and (reason := kinesis.why_not()):
        yield reason
    if item.get_closest_marker("cassandra") and (reason := cassandra.why_not()):
        yield reason
    for marker in item.iter_markers("program"):
        for program in marker.args:
            if not shutil.which(program):
                yield f"needs the program {program}"


def pytest_collection_finish() -> None:
    """What was imported stays: the garbage collector need not look through it again in every test."""
    gc.collect()
    gc.freeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say plainly what was not run, and why, once for each reason."""
    skipped = [report for report in terminalreporter.stats.get("skipped", []) if report.longrepr]
    if not skipped:
        return
    reasons = Counter(_reason(report) for report in skipped)
    terminalreporter.section("not run on this machine", sep="-")
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count:>5}  {reason}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    if isinstance(report.longrepr, tuple):
        return report.longrepr[2].removeprefix("Skipped: ")
    return str(report.longrepr)
