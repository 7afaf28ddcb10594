"""A served Airloom as a child process: started, awaited, killed, started again on what it left."""

import argparse
import asyncio
import json
import os
import re
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.client import HTTPConnection
from pathlib import Path

from core.adapters.own_socket import reachable

ROOT = Path(__file__).resolve().parent.parent
READY_TIMEOUT_S = 60.0
METRICS_S = 5.0
ENDS_WITH_US = (
    "import ctypes, os, signal, sys; "
    "ctypes.CDLL(None).prctl(1, signal.SIGTERM); "  # PR_SET_PDEATHSIG (prctl(2)) stays over execve
    "os.execv(sys.argv[1], sys.argv[1:])"
)
"""What a child runs first, so that it ends in order when a load test is killed, and is not left behind."""
LAUNCHER = (sys.executable, "-ISc", ENDS_WITH_US) if sys.platform == "linux" else ()


class DidNotStart(Exception):
    """The child ended or stayed silent; the message is what it said last."""


_RESERVED: set[str] = set()
"""What this process has reserved, until it ends."""


def _reserve(name: str) -> bool:
    """Reserve an address or port for this process; false where another process has it. Two load tests that
    start together would otherwise both find it free before either binds it. An abstract socket (unix(7)) goes
    with its process, and is seen in its own network namespace alone.
    """
    if name in _RESERVED:
        return True
    mark = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        mark.bind(f"\0airloom-loadtest-{name}")
    except OSError:
        mark.close()
        return False
    mark.detach()  # it stays open as long as the process lives
    _RESERVED.add(name)
    return True


def free_tcp_port(host: str, wanted: int) -> int:
    """``wanted``, or any free one where that is taken or reserved by another load test."""
    for port in (wanted, 0) if _reserve(f"{host}:{wanted}") else (0,):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                continue
            bound: int = probe.getsockname()[1]
            return bound
    raise DidNotStart(f"no free TCP port on {host}")


UDP_PORTS = (2123, 2152, 1812, 1813, 3799)
"""GTP-C, GTP-U, RADIUS authentication, accounting and Disconnect."""
NAS_NETWORK = "127.0.3.0/24"


def free_gateway_address(network: str = "127.0.0") -> str:
    """The first address of a /24 on which the ports of GTP and RADIUS are free; reserved for this process."""
    for last in range(1, 200):
        address = f"{network}.{last}"
        if all(_is_udp_free(address, port) for port in UDP_PORTS) and _reserve(address):
            return address
    raise DidNotStart(f"UDP {', '.join(map(str, UDP_PORTS))} are taken on every {network}.x")


def endpoint_of(text: str) -> str:
    """An API's endpoint, as a command's option names it; raises ``ArgumentTypeError``."""
    if text and not re.fullmatch(r"https?://[^/]+/?", text):
        raise argparse.ArgumentTypeError(f"{text!r}: expected http://HOST:PORT")
    return text.rstrip("/")


def radius_clients(secret: str, network: str = NAS_NETWORK) -> str:
    """``AIRLOOM_RADIUS__CLIENTS`` for one subnet."""
    return json.dumps([{"network": network, "secret": secret}])


def _is_udp_free(address: str, port: int) -> bool:
    with socket.socket(type=socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, port))
        except OSError:
            return False
        return True


@dataclass(slots=True)
class Served:
    """One ``serve`` on one data folder; ``prefix`` puts it into a network namespace.

    It ends with the thread that started it. With a ``control_port`` other nodes reach it there. What an
    operator asks goes by the socket in its folder, and so are its metrics read. It has the sandbox, and no
    port for metrics.
    """

    data_dir: Path
    gateway_address: str
    api_port: int
    api_host: str = "127.0.0.1"
    prefix: tuple[str, ...] = ()
    control_port: int = 0
    module: str = "airloom"
    """What is run: another version of the same command in its place."""
    environment: Mapping[str, str] = field(default_factory=dict)
    ready_timeout_s: float = READY_TIMEOUT_S
    process: asyncio.subprocess.Process | None = None
    ready_after_s: float = 0.0
    entries: str = ""
    """The entry points that devices find, as it says itself."""

    @property
    def endpoint(self) -> str:
        """The API's."""
        return f"http://{self.api_host}:{self.api_port}"

    @property
    def variables(self) -> dict[str, str]:
        """The environment that it runs in."""
        control = {"AIRLOOM_CONTROL__PORT": str(self.control_port)} if self.control_port else {}
        return {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "AIRLOOM_NODE__DATA_DIR": str(self.data_dir),
            "AIRLOOM_GATEWAY__ADDRESS": self.gateway_address,
            "AIRLOOM_API__HOST": self.api_host,
            "AIRLOOM_API__PORT": str(self.api_port),
            "AIRLOOM_API__SANDBOX": "true",
            "AIRLOOM_API__SANDBOX_EXPOSED": "true",
            "AIRLOOM_METRICS__PORT": "0",
            **control,
            **self.environment,
        }

    async def start(self) -> None:
        """Start and wait until it says that it is ready; raises ``DidNotStart``."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        self.data_dir.chmod(0o700)
        began = time.monotonic()
        with (self.data_dir / "serve.log").open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *self.prefix,
                *LAUNCHER,
                sys.executable,
                "-m",
                self.module,
                "serve",
                "--json",
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env=self.variables,
                cwd=self.data_dir,
            )
        assert self.process.stdout is not None
        try:
            async with asyncio.timeout(self.ready_timeout_s):
                line = await self.process.stdout.readline()
        except TimeoutError:
            await self.kill()
            line = b""
        if not line.strip():
            raise DidNotStart(self._last_words())
        self.ready_after_s = time.monotonic() - began
        self.entries = str(json.loads(line)["edge"])

    async def kill(self) -> None:
        """``kill -9``: nothing is flushed or reported."""
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(signal.SIGKILL)
            await self.process.wait()

    async def drain(self) -> None:
        """As an operator does it; raises ``DidNotStart`` with what it says when it was not drained."""
        command = (sys.executable, "-m", self.module, "node", "drain")
        asked = await asyncio.create_subprocess_exec(
            *command, env=self.variables, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
        )
        _, said = await asked.communicate()
        if asked.returncode:
            raise DidNotStart(f"not drained: {said.decode().strip()}")
        await self.ended()

    async def ended(self) -> None:
        """Wait until it ends by itself."""
        if self.process is not None:
            await self.process.wait()

    async def stop(self) -> int:
        """End it in order; its exit code."""
        if self.process is None:
            return 0
        if self.process.returncode is None:
            self.process.terminate()
        return await self.process.wait()

    def metrics(self) -> dict[str, float]:
        """What /metrics says now; series with labels under ``name{labels}``. Blocks: call from a thread."""
        try:
            with reachable(self.data_dir) as address, socket.socket(socket.AF_UNIX) as own:
                own.settimeout(METRICS_S)
                own.connect(address)
                asking = HTTPConnection("localhost")
                asking.sock = own
                asking.request("GET", "/metrics")
                text = asking.getresponse().read().decode()
        except OSError as error:
            raise DidNotStart(f"{self.data_dir}: no metrics: {error.strerror or error}") from error
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def _last_words(self) -> str:
        text = (self.data_dir / "serve.log").read_text(errors="replace").strip()
        return text.splitlines()[-1] if text else "serve ended without output"
