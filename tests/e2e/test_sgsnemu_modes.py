"""The modes of a GTPv1 client by others: a phone with an interface of its own, fifty contexts, two thousand.

Rule: each test runs inside the radio network's namespace of a lab of its own; the interface of ``sgsnemu
--createif`` is a real one, and what goes through it are programs by others.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv6Address, IPv6Network
from pathlib import Path

import pytest

from core.adapters.clock import SystemClock
from core.adapters.store.sqlite import SqliteEngine
from loadtest.bench.gtpc_store import imsi_of, seed
from loadtest.external import sgsnemu
from loadtest.external.namespaces import FAR_HOST, GATEWAY, SGSN, SGW, Lab
from loadtest.serving import ROOT
from loadtest.simulation.ledger import all_metered, ledger_of_capture, open_sessions

PLMN = "90170"
"""sgsnemu loses the leading zeros of an IMSI."""
FILE_BYTES = 300_000
REPORT_S, HOLD_S = 0.5, 30
PREFIXES = IPv6Network("2001:db8::/32")
FAR_IPV6, NEAR_IPV6 = "2600:98::2", "2600:98::1"
NOTHING_MORE: Mapping[str, str] = {}


@asynccontextmanager
async def gateway(
    lab: Lab, folder: Path, sims: int, more: Mapping[str, str] = NOTHING_MORE
) -> AsyncIterator[Path]:
    """A gateway with so many SIMs; its store's file."""
    data = folder / "var"
    engine = await SqliteEngine.open(path=data / "airloom.db", clock=SystemClock())
    await seed(engine, sims=sims, sessions=0, peer=SGSN, plmn=PLMN)
    await engine.aclose()
    served = lab.served(
        data,
        {
            "AIRLOOM_NODE__ROLES": '["gateway"]',
            "AIRLOOM_GATEWAY__TUN": "airloom0",
            "AIRLOOM_GATEWAY__SESSIONS_MAX": str(2 * sims),
            "AIRLOOM_USAGE__REPORT_INTERVAL_S": str(REPORT_S),
            **more,
        },
        api_port=0,
    )
    await served.start()
    try:
        yield data / "airloom.db"
    finally:
        await served.stop()


async def output_of(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    output, _ = await asyncio.wait_for(process.communicate(), 60)
    assert process.returncode == 0, output.decode(errors="replace")
    return output.decode()


@asynccontextmanager
async def far_program(lab: Lab, *command: str) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(
        *lab.command(lab.inet, *command),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await asyncio.sleep(1.5)
        yield
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def use_an_interface(lab: Lab, folder: Path) -> None:
    far = folder / "far"
    far.mkdir()
    content = bytes(range(250)) * (FILE_BYTES // 250)
    (far / "file").write_bytes(content)
    capture = folder / "ran.pcap"
    web = (sys.executable, "-m", "http.server", "8000", "--bind", FAR_HOST, "--directory", str(far))
    async with (
        gateway(lab, folder, 10) as store,
        far_program(lab, *web),
        far_program(lab, "iperf3", "--server", "--bind", FAR_HOST),
        sgsnemu.captured(lab, capture),
        sgsnemu.attached(lab, folder, imsi=imsi_of(3, PLMN), apn="internet") as address,
    ):
        own = lab.command(lab.ran)
        pinged = await output_of(*own, "ping", "-c", "5", "-i", "0.2", "-I", address, FAR_HOST)
        assert "5 received, 0% packet loss" in pinged, pinged
        fetched = folder / "fetched"
        url = f"http://{FAR_HOST}:8000/file"
        await output_of(
            *own, "curl", "-sf", "--max-time", "30", "--interface", address, "-o", str(fetched), url
        )
        assert fetched.read_bytes() == content
        for direction in ((), ("--reverse",)):
            measured = json.loads(
                await output_of(
                    *own,
                    *("iperf3", "--client", FAR_HOST, "--bind", address, "--json", *direction),
                    *("--time", "2", "--bitrate", "4M"),
                )
            )
            assert measured["end"]["sum_received"]["bytes"] > FILE_BYTES
        await asyncio.sleep(4 * REPORT_S)
        ((session_id, stored_address),) = open_sessions(store).items()
        assert stored_address == address
        metered = all_metered(store)[session_id]
    ledger = ledger_of_capture(capture, GATEWAY)
    assert metered == (ledger.up_bytes[address], ledger.down_bytes[address])


async def ping_by_ipv6(lab: Lab, folder: Path) -> None:
    capture = folder / "ran.pcap"
    for namespace, device, address in ((lab.inet, "i0", FAR_IPV6), (lab.gw, "g1", NEAR_IPV6)):
        await output_of("ip", "-n", namespace, "address", "add", f"{address}/64", "dev", device, "nodad")
    await output_of(*lab.command(lab.gw, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"))
    await output_of("ip", "-n", lab.inet, "route", "add", str(PREFIXES), "via", NEAR_IPV6)
    more = {"AIRLOOM_GATEWAY__UE_PREFIXES": str(PREFIXES)}
    async with (
        gateway(lab, folder, 10, more) as store,
        sgsnemu.captured(lab, capture),
        sgsnemu.attached(lab, folder, imsi=imsi_of(3, PLMN), apn="internet", pdp_type="v6") as address,
    ):
        assert IPv6Address(address) in PREFIXES
        own = lab.command(lab.ran)
        pinged = await output_of(*own, "ping", "-6", "-c", "5", "-i", "0.2", "-I", address, FAR_IPV6)
        assert "5 received, 0% packet loss" in pinged, pinged
        await asyncio.sleep(4 * REPORT_S)
        (metered,) = all_metered(store).values()
    ledger = ledger_of_capture(capture, GATEWAY)
    assert metered == (ledger.up_bytes[address], ledger.down_bytes[address])
    assert ledger.down_packets[address] >= 5


async def ping_from_fifty(lab: Lab, folder: Path) -> None:
    capture = folder / "ran.pcap"
    async with gateway(lab, folder, 500) as store, sgsnemu.captured(lab, capture):
        printed = await sgsnemu.many(
            lab, folder, listen=SGSN, imsi=imsi_of(5, PLMN), contexts=50, hold_s=HOLD_S // 3
        )
        assert "Received create PDP context response" in printed, printed
        assert open_sessions(store) == {}, "all were deleted"
        metered = all_metered(store)
    ledger = ledger_of_capture(capture, GATEWAY)
    assert len(ledger.up_bytes) == len(ledger.down_bytes) == 50, "each has an address of its own, and answers"
    assert sum(map(sum, metered.values())) == ledger.total_bytes


async def create_two_thousand(lab: Lab, folder: Path) -> None:
    most: list[int] = []

    async def count(store: Path) -> None:
        while max(most, default=0) < 2_000:
            await asyncio.sleep(0.5)
            most.append(len(await asyncio.to_thread(open_sessions, store)))

    async with gateway(lab, folder, 10_000) as store:
        counting = asyncio.create_task(count(store))
        printed = await asyncio.gather(
            sgsnemu.many(lab, folder, listen=SGSN, imsi=imsi_of(0, PLMN), contexts=1_000, hold_s=HOLD_S),
            sgsnemu.many(lab, folder, listen=SGW, imsi=imsi_of(5, PLMN), contexts=1_000, hold_s=HOLD_S),
        )
        counting.cancel()
        assert max(most) == 2_000, (most[-5:], [each[-500:] for each in printed])
        for _ in range(20):
            if not (left := open_sessions(store)):
                break
            await asyncio.sleep(0.5)
        assert left == {}, len(left)


def run_inside(step: str, folder: Path, timeout_s: float = 150) -> None:
    """Run one of the functions above inside a lab."""
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from loadtest.external.namespaces import Lab\n"
        f"from tests.e2e.test_sgsnemu_modes import {step}\n"
        f"asyncio.run({step}(Lab.entered(sys.argv[1]), Path(sys.argv[2])))"
    )
    with Lab() as lab:
        ended = subprocess.run(
            lab.command(lab.ran, sys.executable, "-c", program, lab.mark, str(folder)),
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=timeout_s,
        )
    assert ended.returncode == 0, ended.stdout + ended.stderr


pytestmark = [pytest.mark.e2e, pytest.mark.root]


@pytest.mark.program("sgsnemu", "tcpdump", "ip", "ping", "curl", "iperf3")
def test_a_phone_with_an_interface_pings_fetches_and_measures_through_the_tunnel(tmp_path: Path) -> None:
    run_inside("use_an_interface", tmp_path)


@pytest.mark.program("sgsnemu", "tcpdump", "ip", "ping")
def test_a_phone_of_ipv6_pings_through_the_tunnel_and_every_octet_is_metered(tmp_path: Path) -> None:
    run_inside("ping_by_ipv6", tmp_path)


@pytest.mark.program("sgsnemu", "tcpdump", "ip")
def test_fifty_contexts_of_one_sgsn_ping_each_from_its_own_address(tmp_path: Path) -> None:
    run_inside("ping_from_fifty", tmp_path)


@pytest.mark.program("sgsnemu", "ip")
def test_two_thousand_contexts_of_two_sgsns_are_held_at_once_and_all_go(tmp_path: Path) -> None:
    run_inside("create_two_thousand", tmp_path, timeout_s=240)
