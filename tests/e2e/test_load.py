"""`./run load` against an Airloom of its own: figures, thresholds, a page, and its exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.load import EX_THRESHOLD
from loadtest.serving import ROOT

pytestmark = pytest.mark.e2e


def test_a_load_is_driven_and_judged(tmp_path: Path) -> None:
    ended = subprocess.run(
        [
            sys.executable, "-m", "loadtest.load", "--sims", "12", "--duration", "3", "--message-rate", "5",
            "--access", "gtpv1=1,gtpv2=1,radius=1", "--html", str(tmp_path / "page.html"), "--json",
            "--threshold", "message.errors<=0%", "--threshold", "attach.p50<1us",
        ],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )  # fmt: skip
    assert ended.returncode == EX_THRESHOLD, ended.stderr
    result = json.loads(ended.stdout.splitlines()[-1])
    assert result["thresholds"] == {"message.errors<=0%": True, "attach.p50<1us": False}
    steps = result["steps"]
    assert {name: steps[name]["count"] for name in steps if name.startswith("attach")} == {
        "attach.gtpv1": 4,
        "attach.gtpv2": 4,
        "attach.radius": 4,
    }
    messages = sum(steps[name]["count"] for name in steps if name.startswith("message"))
    assert messages == 8 * 3 * 5
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
