"""Two inside networks, wire to wire: the kernel's TCP between namespaces of our own, as whoever runs this."""

import asyncio
import os
import subprocess
import sys
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from core.adapters.inside.make import MTU_BYTES
from core.adapters.inside.namespace import NamespaceNetwork
from core.errors import ConfigurationError
from loadtest.serving import ROOT

pytestmark = pytest.mark.e2e

PLATFORM, DEVICES = IPv4Network("100.127.0.0/16"), IPv4Network("10.128.0.0/9")
ENTRY, DEVICE = IPv4Address("100.127.9.9"), IPv4Address("10.200.3.4")
OCTETS = os.urandom(3_000_000)


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
    platform = await NamespaceNetwork.open(local=PLATFORM, remote=[DEVICES], listeners=[(ENTRY, 80)])
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
    assert max(sizes) <= MTU_BYTES
    writer.close()
    await asyncio.wait_for(gone.wait(), 5)
    await devices.aclose()
    await platform.aclose()


async def test_tcp_between_namespaces() -> None:
    await exchange()


@pytest.mark.root
def test_the_same_as_an_ordinary_user(tmp_path: Path) -> None:
    """Root's own namespaces need no user namespace; whoever is not root needs one."""
    tmp_path.chmod(0o777)
    program = (
        "import os; os.setgid(65534); os.setuid(65534)\n"
        "import asyncio; from tests.e2e.test_inside_network import exchange; asyncio.run(exchange())"
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


async def test_what_cannot_be_made_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(ConfigurationError, match="the inside network could not be made: it did not answer"):
        await NamespaceNetwork.open(local=PLATFORM, remote=[DEVICES])
