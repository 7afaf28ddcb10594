"""A virtual gateway's address moves between two hosts of one network, and an SGSN on it goes on.

Two nodes in network namespaces of their own over a real Cassandra. The one that holds the gateway is killed:
its kernel still has the address, and takes it away when the tenure would have ended; the other one has
announced it by then.
"""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from core.adapters.address_mover.interface import InterfaceMover
from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.store.cassandra import migrate
from core.errors import ConfigurationError
from core.services.gateway.lease_term import LEASE_S
from loadtest.customer import Customer
from loadtest.external import cassandra
from loadtest.external.namespaces import Lab, Segment
from loadtest.peers.sgsn import Sgsn
from loadtest.proofs.killing import Talker, attach_talker, udp_packet
from loadtest.proofs.killing_nodes import QUERY
from loadtest.serving import ROOT, Served
from mqtt_bridge.edge.dns import DNS_PORT

KEYSPACE, SECRET = "airloom_moving", "the secret of all nodes"
GATEWAYS = {"vg-1": "10.97.0.101", "vg-2": "10.97.0.102"}
NAME_SERVER = IPv4Address("100.127.0.53")
PROBE_S, GAP_S_MAX, KERNEL_S = 0.02, 3.0, 3.0


def node(segment: Segment, number: int, folder: Path, store: dict[str, str]) -> Served:
    name, (home, address) = f"node-{number + 1}", list(GATEWAYS.items())[number]
    virtual = [
        {"id": each, "address": at, "ue_pool": f"10.{128 + place}.0.0/16"}
        for place, (each, at) in enumerate(GATEWAYS.items())
    ]
    return Served(
        folder / name,
        gateway_address=address,
        api_port=8080,
        api_host=Segment.HOSTS[number],
        prefix=tuple(Lab.command(segment.hosts[number])),
        environment={
            **store,
            "AIRLOOM_NODE__NAME": name,
            "AIRLOOM_NODE__ROLES": "gateway,edge,api" if number else "gateway,edge",
            "AIRLOOM_NODE__HOME": home,
            "AIRLOOM_CONTROL__HOST": Segment.HOSTS[number],
            "AIRLOOM_CONTROL__SECRET": SECRET,
            "AIRLOOM_GATEWAY__VIRTUAL": json.dumps(virtual),
            "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            "AIRLOOM_GATEWAY__ADDRESS_MOVER": "interface",
            "AIRLOOM_GATEWAY__ADDRESS_INTERFACE": Segment.DEVICE,
            "AIRLOOM_EDGE__INSIDE": "off",
        },
    )


@asynccontextmanager
async def asking(talker: Talker) -> AsyncIterator[list[float]]:
    """The device asks the gateway's name server again and again: when it was answered."""
    context, came = talker.context, [time.monotonic()]
    context.on_down = lambda _: came.append(time.monotonic())
    query = udp_packet(context.ue_address, NAME_SERVER, DNS_PORT, QUERY)

    async def ask() -> None:
        while True:
            talker.peer.send_up(context, query)
            await asyncio.sleep(PROBE_S)

    task = asyncio.create_task(ask())
    try:
        yield came
    finally:
        task.cancel()


async def gap_s(came: list[float], since: int) -> float:
    """The longest time without an answer from then on, once there are some again."""
    async with asyncio.timeout(20):
        while len(came) < since + 50:  # noqa: ASYNC110 - the condition is another process's
            await asyncio.sleep(0.1)
    return max(later - earlier for earlier, later in zip(came[since - 1 :], came[since:], strict=False))


async def wait_until(segment: Segment, host: str, address: str, *, has: bool) -> float:
    """Until a host has it, or has it no more; how long that took."""
    began = time.monotonic()
    async with asyncio.timeout(30):
        while (address in segment.addresses(host)) is not has:  # noqa: ASYNC110 - the kernel's condition
            await asyncio.sleep(0.1)
    return time.monotonic() - began


async def move_it(segment: Segment, folder: Path) -> None:
    """Runs in the peers' namespace, where Cassandra is too."""
    a, b = segment.hosts
    first = GATEWAYS["vg-1"]
    with ExitStack() as stack:
        (server,) = stack.enter_context(cassandra.served(network="10.97.0"))
        await migrate(address=cassandra.address_of([server], KEYSPACE), replication_factor=1)
        store = {"STORE__CASSANDRA": server.host, "STORE__PORT": server.port, "STORE__KEYSPACE": KEYSPACE}
        environment = {f"AIRLOOM_{name}": str(value) for name, value in store.items()}
        environment["AIRLOOM_OBJECTS__FOLDER"] = str(folder / "objects")
        nodes = [node(segment, number, folder, environment) for number in range(2)]
        sgsn = Sgsn(network=UdpNetwork(), address=Segment.PEER, gateway=first, entropy=SystemEntropy())
        try:
            for each in nodes:
                await each.start()
            assert (first in segment.addresses(a), first in segment.addresses(b)) == (True, False)
            async with Customer(nodes[1].endpoint) as customer, sgsn.running():
                await customer.sign_up("moved@example.com", "Aa1-the-address-moves")
                talker = await attach_talker(customer, sgsn)
                async with asking(talker) as came:
                    await asyncio.sleep(1)
                    since = len(came)
                    assert since > 10, "answered before anything happens"
                    await nodes[0].kill()
                    assert first in segment.addresses(a), "the kernel keeps it"
                    killed_gap_s = await gap_s(came, since)
                    assert first in segment.addresses(b)
                    left_s = await wait_until(segment, a, first, has=False)
                    since = len(came)
                    await nodes[0].start()
                    await wait_until(segment, a, first, has=True)
                    assert first not in segment.addresses(b), "it let go before it handed over"
                    await gap_s(came, len(came))
                    handed_back_gap_s = await gap_s(came, since)
                    assert await sgsn.echo() == 1
                events = await customer.call("GET", f"/sims/{talker.sim_id}/events/sessions")
                assert [event["event"] for event in events] == ["Created"]
                assert sgsn.error_indications == 0
        finally:
            for each in nodes:
                await each.stop()
    assert first not in segment.addresses(a), "who ends in order lets go"
    print(f"killed {killed_gap_s:.2f} s, handed back {handed_back_gap_s:.2f} s, left behind {left_s:.1f} s")  # noqa: T201 - the parent reads it
    assert max(killed_gap_s, handed_back_gap_s) < GAP_S_MAX
    assert left_s < LEASE_S + KERNEL_S


def run_in(*before: str, code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        cwd=ROOT,
    )


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.cassandra
@pytest.mark.program("ip")
def test_an_address_moves_with_its_gateway(tmp_path: Path) -> None:
    with Segment() as segment:
        code = (
            "import asyncio; from pathlib import Path; from loadtest.external.namespaces import Segment\n"
            "from tests.e2e.test_moving_address import move_it\n"
            f"asyncio.run(move_it(Segment({segment.mark!r}), Path({str(tmp_path)!r})))"
        )
        ran = run_in(*Lab.command(segment.peer), code=code)
    logs = "\n".join(each.read_text()[-3_000:] for each in sorted(tmp_path.glob("*/serve.log")))
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr[-3_000:]}\n{logs}"
    print(ran.stdout)  # noqa: T201 - shown with -s


async def open_without_privilege() -> None:
    if os.geteuid() == 0:
        os.setuid(65_534)
    try:
        await InterfaceMover.open("lo")
    except ConfigurationError as error:
        print(error)  # noqa: T201 - the parent reads it


@pytest.mark.e2e
def test_without_privilege_one_line_says_so() -> None:
    code = (
        "import asyncio; from tests.e2e.test_moving_address import open_without_privilege as it;"
        " asyncio.run(it())"
    )
    said = run_in(code=code).stdout
    assert said == (
        "gateway.address_interface lo: the process needs NET_ADMIN and NET_RAW; run as root or grant both\n"
    )


@pytest.mark.e2e
@pytest.mark.root
async def test_an_interface_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="eth77: there is no such interface"):
        await InterfaceMover.open("eth77")
