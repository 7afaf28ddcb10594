"""Three network namespaces in a row for the user plane benchmark: partner network, gateway, internet.

Rules: everything lives in namespaces that carry this process's id, and goes away with ``Lab.close``; no
route, device or setting of the host is touched. ``ran (r0) — (g0) gw (g1) — (i0) inet``.
"""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

PEER = "10.99.0.100"
OSMO = "10.99.0.1"
OURS = "10.99.0.2"
OURS_VOLATILE = "10.99.0.3"
FAR = "10.98.0.2"
SINK = "10.98.1.1"
"""Behind ``inet``, which does not forward: counted as received by its device, then dropped."""
OSMO_POOL = "10.45.0.0/16"
OUR_POOL = "10.128.0.0/9"

_OSMO_CONFIGURATION = """
log stderr
 logging level all error
line vty
 no login
ggsn ggsn0
 gtp state-dir {folder}
 gtp bind-ip {address}
 apn internet
  gtpu-mode tun
  tun-device tun4
  type-support v4
  ip prefix dynamic {pool}
  ip ifconfig {pool}
  no shutdown
 default-apn internet
 no shutdown ggsn
"""


class Lab:
    """The namespaces and the processes in them; a context manager that leaves nothing behind."""

    def __init__(self) -> None:
        self._prefix = f"airloom{os.getpid()}"
        self._processes: list[subprocess.Popen[str]] = []
        self._folder = tempfile.TemporaryDirectory()

    def __enter__(self) -> "Lab":
        try:
            self._build()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process, then take the namespaces away."""
        for process in self._processes:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                with suppress(BrokenPipeError):
                    _pipe(pipe).close()
        for name in ("ran", "gw", "inet"):
            subprocess.run(["ip", "netns", "del", self._name(name)], check=False, capture_output=True)
        self._folder.cleanup()

    def _build(self) -> None:
        for name in ("ran", "gw", "inet"):
            _run("ip", "netns", "add", self._name(name))
            self._ip(name, "link", "set", "lo", "up")
        self._link(
            ("ran", "r0", (f"{PEER}/24",)),
            ("gw", "g0", tuple(f"{each}/24" for each in (OSMO, OURS, OURS_VOLATILE))),
        )
        self._link(("inet", "i0", (f"{FAR}/24",)), ("gw", "g1", ("10.98.0.1/24",)))
        self._ip("gw", "route", "add", "10.98.1.0/24", "via", FAR)
        self._ip("inet", "route", "add", "default", "via", "10.98.0.1")
        self._in("gw", "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")

    def start_osmo_ggsn(self, program: str, cpu: int) -> int:
        """The peer, pinned; returns its process id."""
        configuration = Path(self._folder.name) / "osmo-ggsn.cfg"
        text = _OSMO_CONFIGURATION.format(folder=self._folder.name, address=OSMO, pool=OSMO_POOL)
        configuration.write_text(text)
        command = ["taskset", "-c", str(cpu), program, "-c", str(configuration)]
        return self._start("gw", command).pid

    def kill(self, pid: int) -> None:
        """End one of them."""
        for process in self._processes:
            if process.pid == pid:
                process.kill()
                process.wait()

    def start_module(self, namespace: str, module: str, *arguments: str, cpu: int) -> "Child":
        """A module of the benchmarks, pinned."""
        command = ["taskset", "-c", str(cpu), sys.executable, "-m", module, *arguments]
        return Child(self._start(namespace, command))

    def start_child(self, namespace: str, role: str, ask: dict[str, Any]) -> "Child":
        """One of ``userplane_children``."""
        process = self._start(namespace, [sys.executable, "-m", "loadtest.bench.userplane_children", role])
        child = Child(process)
        child.tell(ask)
        return child

    def received_packets(self, namespace: str, device: str) -> int:
        """What a device received so far (the kernel's interface counter)."""
        output = self._ip(namespace, "-s", "-j", "link", "show", "dev", device)
        return int(json.loads(output)[0]["stats64"]["rx"]["packets"])

    def inside(self, namespace: str) -> tuple[str, ...]:
        """What a command is prefixed with to run in a namespace."""
        return ("nsenter", f"--net=/run/netns/{self._name(namespace)}")

    def _start(self, namespace: str, command: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*self.inside(namespace), *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if sys.executable in command else subprocess.DEVNULL,
            text=True,
        )
        self._processes.append(process)
        return process

    def _link(self, left: tuple[str, str, Sequence[str]], right: tuple[str, str, Sequence[str]]) -> None:
        peer = ("peer", "name", right[1], "netns", self._name(right[0]))
        self._ip(left[0], "link", "add", left[1], "type", "veth", *peer)
        for namespace, device, addresses in (left, right):
            for address in addresses:
                self._ip(namespace, "address", "add", address, "dev", device)
            self._ip(namespace, "link", "set", device, "up")

    def _ip(self, namespace: str, *arguments: str) -> str:
        return _run("ip", "-n", self._name(namespace), *arguments)

    def _in(self, namespace: str, *command: str) -> str:
        return _run("nsenter", f"--net=/run/netns/{self._name(namespace)}", *command)

    def _name(self, namespace: str) -> str:
        return f"{self._prefix}-{namespace}"


class Child:
    """A process that answers JSON with JSON."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.pid = process.pid
        self._process = process

    def tell(self, ask: dict[str, Any]) -> None:
        """One line to its standard input."""
        _pipe(self._process.stdin).write(json.dumps(ask) + "\n")
        _pipe(self._process.stdin).flush()

    def answer(self) -> Any:
        """Its next line; raises ``RuntimeError`` when it has ended without one."""
        line = _pipe(self._process.stdout).readline()
        if not line:
            raise RuntimeError("a process of the benchmark ended early; its message stands above")
        return json.loads(line)

    def wait(self) -> None:
        """Until it has ended."""
        self._process.wait()

    def end_input(self) -> None:
        """Ask it to end."""
        _pipe(self._process.stdin).close()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process so far (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _pipe(end: IO[str] | None) -> IO[str]:
    assert end is not None, "every process of the lab has pipes"
    return end


def _run(*command: str) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
