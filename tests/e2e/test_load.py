"""`./run load` against an Airloom of its own: figures, thresholds, a page, and its exit code."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from loadtest.api_client import ApiClient
from loadtest.installation import Installation
from loadtest.load import EX_THRESHOLD
from loadtest.serving import ROOT, Served, free_gateway_address, free_tcp_port

pytestmark = pytest.mark.e2e


async def test_an_airloom_without_a_sandbox_is_driven_by_what_its_operator_gives(tmp_path: Path) -> None:
    """First by its configuration, which brings a customer and SIMs in; then by a customer's key alone."""
    served = Served(
        tmp_path / "var",
        gateway_address=free_gateway_address(),
        api_port=free_tcp_port("127.0.0.1", 0),
        environment={"AIRLOOM_API__SANDBOX": "false"},
    )
    await served.start()
    file = tmp_path / "airloom.toml"
    await asyncio.to_thread(file.write_text, f'[node]\ndata_dir = "{served.data_dir}"\n')
    where = ("--endpoint", served.endpoint, "--gateway", served.gateway_address)
    try:
        refused = await asyncio.to_thread(_load, *where)
        assert refused.returncode == 1
        assert "has its sandbox off: give a customer's --auth-key-id" in refused.stderr
        first = await asyncio.to_thread(_load, *where, "--config", str(file))
        assert first.returncode == 0, first.stderr
        installation = Installation.in_folder(served.data_dir)
        key_id, key = await installation.create_operator("load@example.com")
        async with ApiClient(served.endpoint) as customer:
            await customer.sign_in(key_id, key)
            too_few = await asyncio.to_thread(_load, *where, AIRLOOM_AUTH_KEY_ID=key_id, AIRLOOM_AUTH_KEY=key)
            assert "the customer has 0 SIMs that can attach, not 4" in too_few.stderr
            await installation.bring_in(customer.operator_id, 6)
            assert len(await customer.idle_sims(10)) == 6
        second = await asyncio.to_thread(_load, *where, AIRLOOM_AUTH_KEY_ID=key_id, AIRLOOM_AUTH_KEY=key)
        assert second.returncode == 0, second.stderr
    finally:
        await served.stop()


def _load(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    wanted = ["--sims", "4", "--duration", "1", "--threshold", "attach.gtpv2.count>=2", "--mix", "udp=1"]
    return subprocess.run(
        [sys.executable, "-m", "loadtest.load", *wanted, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


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
    rate = sum(steps[name]["rate"] for name in steps if name.startswith("message"))
    assert messages / rate == pytest.approx(3.0, abs=0.5), "over the time of talk, not of the whole run"
    assert (tmp_path / "page.html").read_text().startswith("<!doctype html>")
