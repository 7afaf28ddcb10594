"""Two device networks, wire to wire: the kernel's TCP between own namespaces, as the user who runs this."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from core.adapters.device_network import late, namespace
from core.adapters.device_network.namespace import NamespaceNetwork
from core.errors import ConfigurationError
from loadtest.serving import ROOT

pytestmark = pytest.mark.e2e

PLATFORM, DEVICES = IPv4Network("100.127.0.0/16"), IPv4Network("10.128.0.0/9")
ENTRY, DEVICE = IPv4Address("100.127.9.9"), IPv4Address("10.200.3.4")
OCTETS = os.urandom(3_000_000)
MTU_BYTES = 1_311


class Echo(asyncio.Protocol):
    peers: list[tuple[str, int]] = []  # noqa: RUF012 - what all connections came from

    def __init__(self, gone: asyncio.Event) -> None:
        self.gone = gone

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.peers.append(transport.get_extra_info("peername"))

    def connection_lost(self, error: Exception | None) -> None:
        self.gone.set()

    def data_received(self, data: bytes) -> None:
        self.transport.write(data)  # type: ignore[attr-defined]  # a socket's transport writes


async def exchange() -> None:
    """A device sends megabytes and has them back; every packet fits a tunnel."""
    platform = await NamespaceNetwork.open(
        local=PLATFORM, remote=[DEVICES], mtu_bytes=MTU_BYTES, listeners=[(ENTRY, 80)]
    )
    devices = await NamespaceNetwork.open(local=DEVICES, remote=[PLATFORM], clients=[DEVICE])
    sizes: set[int] = set()

    def carry(packet: bytes, to: NamespaceNetwork) -> None:
        sizes.add(len(packet))
        to.send(packet)

    platform.on_packet(lambda packet: carry(packet, devices))
    devices.on_packet(lambda packet: carry(packet, platform))
    gone = asyncio.Event()
    await platform.serve(ENTRY, 80, lambda: Echo(gone))
    with pytest.raises(ConfigurationError):
        await platform.serve(ENTRY, 81, lambda: Echo(gone))
    (client,) = devices.clients
    await asyncio.get_running_loop().sock_connect(client, (str(ENTRY), 80))
    reader, writer = await asyncio.open_connection(sock=client)
    writer.write(OCTETS)
    assert await asyncio.wait_for(reader.readexactly(len(OCTETS)), 60) == OCTETS
    assert Echo.peers[-1][0] == str(DEVICE)
    assert max(sizes) == MTU_BYTES
    writer.close()
    await asyncio.wait_for(gone.wait(), 5)
    await devices.aclose()
    await platform.aclose()


async def test_tcp_between_namespaces() -> None:
    await exchange()


@pytest.mark.root
def test_the_same_as_an_ordinary_user(tmp_path: Path) -> None:
    """Root needs no user namespace; other users do."""
    tmp_path.chmod(0o777)
    program = (
        "import os; os.setgid(65534); os.setuid(65534)\n"
        "import asyncio; from tests.e2e.test_device_network import exchange; asyncio.run(exchange())"
    )
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HOME": str(tmp_path),
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    become = "import os; os.setgid(65534); os.setuid(65534); os.execv"
    probe = f"{become}({sys.executable!r}, [{sys.executable!r}, '-c', 'import asyncio, {__name__}'])"
    if subprocess.run([sys.executable, "-c", probe], env=environment, cwd=ROOT, check=False).returncode:
        pytest.skip("an ordinary user may not read this interpreter or this clone")
    ended = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=90,
    )
    assert ended.returncode == 0, ended.stderr


SLOW = """#!/bin/sh
echo $$ >> {folder}/started
if [ ! -e {folder}/may ]; then exec sleep 600; fi
exec {python} "$@"
"""


def children(folder: Path) -> list[int]:
    started = folder / "started"
    return list(map(int, started.read_text().split())) if started.exists() else []


def is_alive(process_id: int) -> bool:
    return Path(f"/proc/{process_id}").exists()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():  # noqa: ASYNC110 - what is waited for is no event of ours
            await asyncio.sleep(0.05)


async def test_a_child_that_hangs_is_ended_and_another_makes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = tmp_path / "python"
    slow.write_text(SLOW.format(folder=tmp_path, python=sys.executable))
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    monkeypatch.setattr(namespace, "READY_TIMEOUT_S", 3.0)
    monkeypatch.setattr(late, "START_S", 1.0)
    monkeypatch.setattr(late, "RETRY_FIRST_S", 0.1)
    network = late.LateNetwork(
        partial(NamespaceNetwork.open, local=PLATFORM, remote=[DEVICES], listeners=[(ENTRY, 80)])
    )
    gone, told = asyncio.Event(), list[str]()
    await network.wait(insist=False)
    assert network.why_not == late.BEING_MADE
    await network.serve(ENTRY, 80, lambda: Echo(gone))
    running = asyncio.create_task(network.run(told.append))
    await until(lambda: bool(told))
    assert "no answer within 3 s" in told[0]
    monkeypatch.setattr(namespace, "READY_TIMEOUT_S", 100.0)
    (tmp_path / "may").touch()
    await asyncio.wait_for(running, 120)
    assert told[-1] == "devices are now served by TCP, HTTP and MQTT too"
    assert network.send(b"\x45" + bytes(39))
    await network.aclose()
    assert len(children(tmp_path)) > 1
    assert not any(map(is_alive, children(tmp_path)))


async def test_who_ends_meanwhile_ends_the_child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = tmp_path / "python"
    slow.write_text(SLOW.format(folder=tmp_path, python=sys.executable))
    slow.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(slow))
    network = late.LateNetwork(partial(NamespaceNetwork.open, local=PLATFORM, remote=[DEVICES]))
    await until(lambda: bool(children(tmp_path)))
    await network.aclose()
    await until(lambda: not any(map(is_alive, children(tmp_path))))


async def test_what_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigurationError, match="the device network could not be created: no answer"):
        await NamespaceNetwork.open(local=PLATFORM, remote=[DEVICES])
