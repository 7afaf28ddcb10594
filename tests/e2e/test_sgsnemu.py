"""A GTPv1 client by others attaches, pings a host on the far side and detaches; what was captured at its
side, what was metered and what was billed is the same number, added up by code that shares nothing.
"""

import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtest.api_client import ApiClient
from loadtest.external import sgsnemu
from loadtest.external.namespaces import GATEWAY, Lab
from loadtest.outcome import quantity_of_csv, total_of_stats
from loadtest.serving import ROOT
from loadtest.simulation.ledger import ledger_of_capture

PINGS = 10
INSIDE = "AIRLOOM_INSIDE_LAB"


async def attach_and_ping(lab: Lab, folder: Path) -> None:
    """Runs inside the radio network's namespace, from which the API is reached too."""
    served = lab.served(
        folder / "var",
        {
            "AIRLOOM_GATEWAY__TUN": "airloom0",
            "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            "AIRLOOM_API__SANDBOX_PLMN": "90170",  # sgsnemu loses the leading zeros of an IMSI
        },
    )
    await served.start()
    try:
        async with ApiClient(served.endpoint) as customer:
            await customer.sign_up("lab@example.com", "Aa1-sgsnemu-laboratory")
            sim = await customer.new_sim()
            imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
            capture = folder / "ran.pcap"
            async with sgsnemu.captured(lab, capture):
                printed = await sgsnemu.ping(lab, folder, imsi=imsi, apn="internet", count=PINGS)
            assert f"{PINGS} packets received, 0% packet loss" in printed, printed
            assert "Received delete PDP context response. Cause value: 128" in printed, printed
            ledger = ledger_of_capture(capture, GATEWAY)
            packets = Counter(ledger.up_packets) + Counter(ledger.down_packets)
            assert packets.total() == 2 * PINGS
            assert len(packets) == 1, "one device, one address"
            totals = await total_of_stats(customer, sim["simId"])
            assert totals == {"upload": ledger.up_bytes.total(), "download": ledger.down_bytes.total()}
            csv = await customer.month_csv(datetime.now(UTC).strftime("%Y%m"))
            assert quantity_of_csv(csv) == ledger.total_bytes > 0
            events = await customer.call("GET", f"/sims/{sim['simId']}/events/sessions")
            assert [event["event"] for event in events] == ["Deleted", "Created"]
            tshark_finds_nothing_malformed(capture)
    finally:
        await served.stop()


def tshark_finds_nothing_malformed(capture: Path) -> None:
    """Both sides' messages as they were on the wire."""
    found = subprocess.run(
        ["tshark", "-r", str(capture), "-Y", "_ws.malformed || _ws.expert.severity >= 0x600000"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout == ""


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.program("sgsnemu", "tcpdump", "ip", "ping", "tshark")
def test_captured_is_metered_is_billed(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from loadtest.external.namespaces import Lab\n"
        "from tests.e2e.test_sgsnemu import attach_and_ping\n"
        "asyncio.run(attach_and_ping(Lab.entered(sys.argv[1]), Path(sys.argv[2])))"
    )
    with Lab() as lab:
        ended = subprocess.run(
            lab.command(lab.ran, sys.executable, "-c", program, lab.mark, str(tmp_path)),
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=150,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr
