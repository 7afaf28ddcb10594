"""An access point with its own TUN device: the kernel's rules route its packets differently.

Two hosts have the same address, one on the internet side and one in a customer's network; only its access
point decides which of them a device reaches.
"""

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from loadtest.api_client import ApiClient
from loadtest.external.namespaces import FAR_HOST, GATEWAY, SGSN, Lab
from loadtest.peers.gtp import PdpContext
from loadtest.peers.sgsn import Sgsn
from loadtest.proofs.kill import udp_packet
from loadtest.serving import ROOT

USER = "10.99.0.9"
METERS = "10.64.0.0/16"
PORT, WAIT_S, TRIES = 7_007, 20.0, 100
TELLER = (
    "import socket, sys\n"
    "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.bind(('10.98.0.2', 7007)); print(flush=True)\n"
    "while True: s.sendto(sys.argv[1].encode(), s.recvfrom(2048)[1])"
)
"""Answers each request with its own location."""


@contextmanager
def customers_network(lab: Lab) -> Iterator[str]:
    """A host beside the lab's, with the far host's address; what comes by device ``meters`` goes there."""
    name = f"al{lab.mark}-cust"
    try:
        for command in (
            f"netns add {name}",
            f"-n {name} link set lo up",
            f"-n {name} address add {FAR_HOST}/32 dev lo",
            f"link add c0 netns {name} type veth peer name g2 netns {lab.gw}",
            f"-n {name} address add 10.96.0.2/24 dev c0",
            f"-n {name} link set c0 up",
            f"-n {name} route add default via 10.96.0.1",
            f"-n {lab.gw} address add 10.96.0.1/24 dev g2",
            f"-n {lab.gw} link set g2 up",
            f"-n {lab.gw} address add {USER}/24 dev g0",
            f"-n {lab.gw} rule add iif meters lookup 100",
            f"-n {lab.gw} route add default via 10.96.0.2 table 100",
        ):
            subprocess.run(["ip", *command.split()], check=True)
        yield name
    finally:
        subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


async def told(sgsn: Sgsn, context: PdpContext) -> str:
    """Where the host is that the device reaches at the far host's address."""
    came: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def take(packet: bytes) -> None:
        if not came.done():
            came.set_result(packet[28:].decode())

    context.on_down = take
    for _ in range(TRIES):
        sgsn.send_up(context, udp_packet(context.ue_address, IPv4Address(FAR_HOST), PORT, b"where?"))
        await asyncio.wait([came], timeout=WAIT_S / TRIES)
        if came.done():
            return came.result()
    return "nowhere"


async def both_ways(lab: Lab, folder: Path) -> None:
    """Runs inside the radio network's namespace."""
    apns = [{"name": "internet"}, {"name": "meters", "ue_pool": METERS, "tun": "meters"}]
    served = lab.served(
        folder / "var",
        {
            "AIRLOOM_GATEWAY__TUN": "airloom0",
            "AIRLOOM_GATEWAY__USER_ADDRESS": USER,
            "AIRLOOM_GATEWAY__APNS": json.dumps(apns),
            "AIRLOOM_GATEWAY__SESSIONS_MAX": "64",
            "AIRLOOM_EDGE__DEVICE_NETWORK": "off",
        },
    )
    await served.start()
    sgsn = Sgsn(network=UdpNetwork(), address=SGSN, gateway=GATEWAY, entropy=SystemEntropy())
    try:
        async with ApiClient(served.endpoint) as customer, sgsn.running():
            await customer.sign_up("lab@example.com", "Aa1-two-ways-out")
            contexts = []
            for apn in ("internet", "meters"):
                sim = await customer.new_sim()
                imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
                contexts.append(await sgsn.attach(imsi=imsi, apn=apn))
            assert {each.gateway_user for each in contexts} == {USER}
            assert [await told(sgsn, each) for each in contexts] == ["the internet", "the customer's"]
            await served.kill()
            await served.start()
            found = [await told(sgsn, each) for each in contexts]
            assert found == ["the internet", "the customer's"], "the rule outlives the device"
    finally:
        await served.stop()


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.program("ip")
def test_an_access_point_with_a_tun_of_its_own_leaves_by_its_own_rules(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys; from pathlib import Path\n"
        "from loadtest.external.namespaces import Lab\n"
        "from tests.e2e.test_apn_tun import both_ways\n"
        "asyncio.run(both_ways(Lab.entered(sys.argv[1]), Path(sys.argv[2])))"
    )
    with Lab() as lab, customers_network(lab) as customers:
        tellers = [
            subprocess.Popen(lab.command(host, sys.executable, "-c", TELLER, where), stdout=subprocess.PIPE)
            for host, where in ((lab.inet, "the internet"), (customers, "the customer's"))
        ]
        try:
            for teller in tellers:
                assert teller.stdout is not None
                teller.stdout.readline()
            ended = subprocess.run(
                lab.command(lab.ran, sys.executable, "-c", program, lab.mark, str(tmp_path)),
                capture_output=True,
                text=True,
                check=False,
                cwd=ROOT,
                timeout=150,
            )
        finally:
            for teller in tellers:
                teller.kill()
                teller.communicate()
    assert ended.returncode == 0, ended.stdout + ended.stderr
