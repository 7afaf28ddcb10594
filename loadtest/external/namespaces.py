"""Network namespaces: several hosts on one machine, made by a test and gone with it.

::

    ran 10.99.0.2 ── 10.99.0.1 gw 10.98.0.1 ── 10.98.0.2 inet

Rule: nothing of the machine's own network is touched; every namespace carries this process's id in its
name, so that runs side by side do not meet.
"""

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

from loadtest.serving import Served

GATEWAY = "10.99.0.1"
SGSN = "10.99.0.2"
SGW = "10.99.0.3"
FAR_HOST = "10.98.0.2"
COMMAND_TIMEOUT_S = 20


def why_not() -> str:
    """Why namespaces cannot be made here; empty when they can."""
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = subprocess.run(["ip", "netns", "list"], capture_output=True, check=False)
    return "" if probe.returncode == 0 else "the ip command (Debian package iproute2) is missing"


class Lab:
    """Three hosts: the radio network's, the gateway's, and one on the internet side."""

    def __init__(self, mark: str = "") -> None:
        self.mark = mark or str(os.getpid())
        self.ran, self.gw, self.inet = (f"al{self.mark}-{name}" for name in ("ran", "gw", "inet"))

    def __enter__(self) -> "Lab":
        """Build it."""
        for name in (self.ran, self.gw, self.inet):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        self._wire(self.ran, "r0", f"{SGSN}/24", "g0", f"{GATEWAY}/24")
        _ip("-n", self.ran, "address", "add", f"{SGW}/24", "dev", "r0")
        self._wire(self.inet, "i0", f"{FAR_HOST}/24", "g1", "10.98.0.1/24")
        _ip("-n", self.inet, "route", "add", "default", "via", "10.98.0.1")
        _run(self.command(self.gw, "sysctl", "-qw", "net.ipv4.ip_forward=1"))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it; stop its processes first."""
        for name in (self.ran, self.gw, self.inet):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    @classmethod
    def entered(cls, mark: str) -> "Lab":
        """The lab that another process built, by its mark: for a program that runs inside it."""
        return cls(mark)

    def served(self, data_dir: Path, environment: Mapping[str, str], *, api_port: int = 8080) -> Served:
        """A ``serve`` of the gateway's host, not yet started."""
        prefix = tuple(self.command(self.gw))
        return Served(data_dir, GATEWAY, api_port, GATEWAY, prefix, environment=environment)

    @staticmethod
    def command(namespace: str, *argv: str) -> list[str]:
        """The command line that runs ``argv`` inside a namespace."""
        return ["ip", "netns", "exec", namespace, *argv]

    def _wire(self, outer: str, near: str, near_address: str, far: str, far_address: str) -> None:
        _ip("link", "add", near, "netns", outer, "type", "veth", "peer", "name", far, "netns", self.gw)
        for namespace, device, address in ((outer, near, near_address), (self.gw, far, far_address)):
            _ip("-n", namespace, "address", "add", address, "dev", device)
            _ip("-n", namespace, "link", "set", device, "up")


class Segment:
    """Hosts on one Ethernet: ``peer`` with the bridge, the others on ``eth0``.

    ::

        peer 10.97.0.1 ══╤══ 10.97.0.11 a
                         └── 10.97.0.12 b
    """

    PEER = "10.97.0.1"
    HOSTS = ("10.97.0.11", "10.97.0.12")
    DEVICE = "eth0"

    def __init__(self, mark: str = "") -> None:
        self.mark = mark or str(os.getpid())
        self.peer = f"al{self.mark}-peer"
        self.hosts = tuple(f"al{self.mark}-{name}" for name in ("a", "b"))

    def __enter__(self) -> "Segment":
        """Build it."""
        for name in (self.peer, *self.hosts):
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", self.peer, "link", "add", "br0", "type", "bridge")
        _ip("-n", self.peer, "address", "add", f"{self.PEER}/24", "dev", "br0")
        _ip("-n", self.peer, "link", "set", "br0", "up")
        for number, (host, address) in enumerate(zip(self.hosts, self.HOSTS, strict=True)):
            far = ("peer", "name", self.DEVICE, "netns", host)
            _ip("link", "add", f"p{number}", "netns", self.peer, "type", "veth", *far)
            _ip("-n", self.peer, "link", "set", f"p{number}", "master", "br0", "up")
            _ip("-n", host, "address", "add", f"{address}/24", "dev", self.DEVICE)
            _ip("-n", host, "link", "set", self.DEVICE, "up")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Remove it; stop its processes first."""
        for name in (self.peer, *self.hosts):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def addresses(self, host: str) -> list[str]:
        """What a host has on its device."""
        shown = _run([*Lab.command(host), "ip", "-4", "-brief", "address", "show", "dev", self.DEVICE])
        return [each.partition("/")[0] for each in shown.split()[2:]]


def _ip(*argv: str) -> None:
    _run(["ip", *argv])


def _run(argv: Sequence[str]) -> str:
    return subprocess.run(argv, check=True, capture_output=True, timeout=COMMAND_TIMEOUT_S, text=True).stdout
