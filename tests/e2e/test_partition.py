"""Two gateway nodes that cannot reach each other or the store, or that hang: never two owners.

Hosts in network namespaces on one Ethernet; a cut is a wrong station address in a neighbour table, so packets
are lost without an error. Outside observation shows who answers: Echo Requests go to each host by its station
address.
"""

import asyncio
import json
import signal
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from ipaddress import IPv4Address
from itertools import groupby
from pathlib import Path

import pytest

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.store.cassandra import migrate
from core.services.cluster.lease_seeking import GONE_AFTER_S
from core.services.gateway.lease_term import LEASE_S
from loadtest.api_client import ApiClient
from loadtest.external import cassandra
from loadtest.external.namespaces import Lab, Segment
from loadtest.outcome import total_of_stats
from loadtest.peers.sgsn import Sgsn
from loadtest.proofs.kill import Talker, attach_talker, udp_packet
from loadtest.proofs.kill_nodes import QUERY
from mqtt_bridge.edge.dns import DNS_PORT
from tests.e2e.test_moving_address import GATEWAYS, KEYSPACE, NAME_SERVER, node, run_in

SGSN = "10.97.0.3"
NOBODY = "02:00:00:00:00:99"
ASK_S = 0.02
TAKEN_WITHIN_S = GONE_AFTER_S + 6.0
"""With what a starved machine adds to reading the sessions back."""
BACK_WITHIN_S = 2 * LEASE_S


class Watcher:
    """The answers to Echo Requests for a gateway, with their times, by host."""

    def __init__(self, segment: Segment, gateway: str) -> None:
        self.answers: list[tuple[float, str]] = []
        self._stations = {host[-1]: station_of(host, Segment.DEVICE) for host in segment.hosts}
        self._own = station_of(segment.peer, "br0")
        self._gateway = IPv4Address(gateway)
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        self._raw.bind(("br0", 0))

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["Watcher"]:
        loop, sockets = asyncio.get_running_loop(), []
        for host, station in self._stations.items():
            answered = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            answered.bind((SGSN, 0))
            answered.setblocking(False)
            loop.add_reader(answered, self._on_answer, answered, host)
            sockets.append((answered, station))
        asking = asyncio.create_task(self._ask(sockets))
        try:
            yield self
        finally:
            asking.cancel()
            for answered, _ in sockets:
                loop.remove_reader(answered)
                answered.close()

    def _on_answer(self, answered: socket.socket, host: str) -> None:
        answered.recv(2_048)
        self.answers.append((time.monotonic(), host))

    async def _ask(self, sockets: list[tuple[socket.socket, bytes]]) -> None:
        echo = bytes.fromhex("320100040000000000010000")
        while True:
            for answered, station in sockets:
                packet = udp_packet(IPv4Address(SGSN), self._gateway, 2123, echo)
                port = struct.pack("!H", answered.getsockname()[1])
                self._raw.send(station + self._own + b"\x08\x00" + packet[:20] + port + packet[22:])
            await asyncio.sleep(ASK_S)

    async def until(self, host: str, within_s: float) -> float:
        """Until this host answers; how long that took."""
        began = time.monotonic()
        async with asyncio.timeout(within_s):
            while not any(who == host for at, who in reversed(self.answers) if at > began):  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.02)
        return time.monotonic() - began

    def owners(self) -> str:
        """Who answered, one after the other."""
        return "".join(host for host, _ in groupby(host for _, host in self.answers))


def station_of(namespace: str, device: str) -> bytes:
    shown = subprocess.run(
        ["ip", "-n", namespace, "-json", "link", "show", "dev", device], capture_output=True, check=True
    )
    return bytes.fromhex(json.loads(shown.stdout)[0]["address"].replace(":", ""))


def cut(namespace: str, *addresses: str) -> None:
    """What this host sends to them goes nowhere."""
    for address in addresses:
        _neighbour("replace", namespace, address, "lladdr", NOBODY, "nud", "permanent")


def heal(namespace: str, *addresses: str) -> None:
    for address in addresses:
        _neighbour("delete", namespace, address)


def _neighbour(what: str, namespace: str, address: str, *how: str) -> None:
    _ip("-n", namespace, "neigh", what, address, "dev", Segment.DEVICE, *how)


def _ip(*argv: str) -> None:
    subprocess.run(["ip", *argv], check=True, capture_output=True)


async def traffic(talker: Talker) -> None:
    """Requests up and answers down, endlessly."""
    query = udp_packet(talker.context.ue_address, NAME_SERVER, DNS_PORT, QUERY)
    while True:
        talker.peer.send_up(talker.context, query)
        await asyncio.sleep(ASK_S)


async def cut_them_off(segment: Segment, folder: Path, what: str) -> None:
    """Runs in the peers' namespace, where Cassandra is too."""
    a, b = segment.hosts
    await asyncio.to_thread(_ip, "address", "add", f"{SGSN}/24", "dev", "br0")
    with ExitStack() as stack:
        (server,) = stack.enter_context(cassandra.served(network="10.97.0"))
        await migrate(address=cassandra.address_of([server], KEYSPACE), replication_factor=1)
        store = {"STORE__CASSANDRA": server.host, "STORE__PORT": server.port, "STORE__KEYSPACE": KEYSPACE}
        environment = {f"AIRLOOM_{name}": str(value) for name, value in store.items()}
        environment["AIRLOOM_OBJECTS__FOLDER"] = str(folder / "objects")
        nodes = [node(segment, number, folder, environment) for number in range(2)]
        first = GATEWAYS["vg-1"]
        sgsn = Sgsn(network=UdpNetwork(), address=SGSN, gateway=first, entropy=SystemEntropy())
        try:
            for each in nodes:
                await each.start()
            async with ApiClient(nodes[1].endpoint) as customer, sgsn.running():
                await customer.sign_up("cut@example.com", "Aa1-cut-them-off")
                talkers = [await attach_talker(customer, sgsn) for _ in range(3)]
                async with Watcher(segment, first).watching() as watcher:
                    sending = [asyncio.create_task(traffic(talker)) for talker in talkers]
                    if what == "cut":
                        await only_each_other(a, b, watcher)
                        await from_store_and_other(a, b, server.host, watcher)
                    else:
                        await asyncio.sleep(3)
                        await frozen(nodes[0].process, watcher)
                    for task in sending:
                        task.cancel()
                    await asyncio.sleep(8)
                assert await sgsn.echo() == 1
                await nothing_is_missing(customer, talkers, sgsn)
        finally:
            for each in nodes:
                await each.stop()


async def only_each_other(a: str, b: str, watcher: Watcher) -> None:
    """Both reach the store: nothing happens."""
    cut(a, Segment.HOSTS[1])
    cut(b, Segment.HOSTS[0])
    await asyncio.sleep(GONE_AFTER_S + 3)
    heal(a, Segment.HOSTS[1])
    heal(b, Segment.HOSTS[0])
    assert watcher.owners() == "a"


async def from_store_and_other(a: str, b: str, server: str, watcher: Watcher) -> None:
    """It stops by itself before the other begins; cut no more, it is handed its own."""
    cut(a, server, Segment.HOSTS[1])
    cut(b, Segment.HOSTS[0])
    began = time.monotonic()
    await watcher.until("b", TAKEN_WITHIN_S)
    last = max(at for at, who in watcher.answers if who == "a")
    taken = min(at for at, who in watcher.answers if who == "b")
    assert watcher.owners() == "ab"
    await asyncio.sleep(2)
    heal(a, server, Segment.HOSTS[1])
    heal(b, Segment.HOSTS[0])
    back_s = await watcher.until("a", BACK_WITHIN_S)
    assert watcher.owners() == "aba"
    print(  # noqa: T201 - the parent reads it
        f"cut off: it stopped after {last - began:.1f} s, the other began {taken - last:.1f} s later;"
        f" healed: back after {back_s:.1f} s"
    )
    assert last - began < LEASE_S + 1


async def frozen(process: asyncio.subprocess.Process | None, watcher: Watcher) -> None:
    """It stood still while its lease ran out: what waited for it is not answered when it goes on."""
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    taken_s = await watcher.until("b", TAKEN_WITHIN_S)
    await asyncio.sleep(1)
    process.send_signal(signal.SIGCONT)
    await watcher.until("a", BACK_WITHIN_S)
    assert watcher.owners() == "aba"
    print(f"frozen: the other began after {taken_s:.1f} s")  # noqa: T201 - the parent reads it


async def nothing_is_missing(customer: ApiClient, talkers: list[Talker], sgsn: Sgsn) -> None:
    """Exact to the octet, once every node has reported its counters; no peer signalled again."""
    for talker in talkers:
        metered = await total_of_stats(customer, talker.sim_id)
        assert metered["download"] == talker.seen_bytes > 0, f"{metered}, seen {talker.seen_bytes}"
        events = await customer.call("GET", f"/sims/{talker.sim_id}/events/sessions")
        assert [event["event"] for event in events] == ["Created"]
    assert sgsn.error_indications == 0
    print(f"{sum(talker.seen_bytes for talker in talkers)} octets, difference 0")  # noqa: T201 - the parent reads it


@pytest.mark.e2e
@pytest.mark.root
@pytest.mark.cassandra
@pytest.mark.program("ip")
@pytest.mark.parametrize("what", ["cut", pytest.param("frozen", marks=pytest.mark.long)])
def test_never_two_owners(tmp_path: Path, what: str) -> None:
    with Segment() as segment:
        code = (
            "import asyncio; from pathlib import Path; from loadtest.external.namespaces import Segment\n"
            "from tests.e2e.test_partition import cut_them_off\n"
            f"asyncio.run(cut_them_off(Segment({segment.mark!r}), Path({str(tmp_path)!r}), {what!r}))"
        )
        ran = run_in(*Lab.command(segment.peer), code=code)
    logs = "\n".join(each.read_text()[-3_000:] for each in sorted(tmp_path.glob("*/serve.log")))
    assert ran.returncode == 0, f"{ran.stdout}\n{ran.stderr[-3_000:]}\n{logs}"
    print(ran.stdout)  # noqa: T201 - shown with -s
