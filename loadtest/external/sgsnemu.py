"""sgsnemu (Debian package osmo-ggsn): an SGSN and a phone by others."""

import asyncio
import contextlib
import re
import shutil
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

from loadtest.external.namespaces import FAR_HOST, GATEWAY, SGSN, Lab

RUN_TIMEOUT_S = 90
"""It lingers for some 20 s after its context is deleted."""
CAPTURE_START_S = 0.7
DETACH_S = 5.0
INTERFACE = "tun0"
PING_BYTES = 84
"""Of its echo request, and of the reply."""
FIRST_REPLY_S = 10.0
PRINTED_LINES_MAX = 20


def why_not() -> str:
    """Why it cannot be run here; empty when it can."""
    missing = [program for program in ("sgsnemu", "tcpdump", "ping") if not shutil.which(program)]
    return f"programs missing: {', '.join(missing)}" if missing else ""


async def ping(lab: Lab, folder: Path, *, imsi: str, apn: str, count: int) -> str:
    """Create a context, ping the far host through it, delete the context; what it printed."""
    state = folder / f"sgsnemu-{imsi}"
    state.mkdir()
    process = await asyncio.create_subprocess_exec(
        *lab.command(lab.ran, "sgsnemu"),
        *("--listen", SGSN, "--remote", GATEWAY, "--apn", apn, "--imsi", imsi, "--msisdn", "819012345678"),
        *("--statedir", str(state), "--pidfile", str(state / "pid")),
        *("--pinghost", FAR_HOST, "--pingcount", str(count), "--pingrate", "10"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), RUN_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")


async def many(lab: Lab, folder: Path, *, listen: str, imsi: str, contexts: int, hold_s: int) -> str:
    """Create so many contexts, of this IMSI and every tenth after it (it counts the filler as a digit), ping
    the far host from each by turns, and delete them some seconds later; what it printed.
    """
    state = folder / f"sgsnemu-{imsi}"
    state.mkdir()
    process = await asyncio.create_subprocess_exec(
        *lab.command(lab.ran, "sgsnemu"),
        *("--listen", listen, "--remote", GATEWAY, "--imsi", imsi, "--contexts", str(contexts)),
        *("--statedir", str(state), "--pidfile", str(state / "pid"), "--timelimit", str(hold_s)),
        *("--pinghost", FAR_HOST, "--pingrate", "50", "--pingquiet"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), hold_s + RUN_TIMEOUT_S)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return output.decode(errors="replace")


@contextlib.asynccontextmanager
async def attached(
    lab: Lab, folder: Path, *, imsi: str, apn: str, pdp_type: str = "v4"
) -> AsyncIterator[str]:
    """Inside, the device is up: an interface with its address, and every route leads into the tunnel.

    What is yielded is the device's address. ``pdp_type``: ``v4`` or ``v6``.
    """
    state = folder / f"sgsnemu-{imsi}"
    state.mkdir()
    process = await asyncio.create_subprocess_exec(
        *lab.command(lab.ran, "sgsnemu"),
        *("--listen", SGSN, "--remote", GATEWAY, "--apn", apn, "--imsi", imsi, "--msisdn", "819012345678"),
        *("--statedir", str(state), "--pidfile", str(state / "pid")),
        *("--pdp-type", pdp_type, "--createif", "--defaultroute"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            address = await _address_of(lab, process, pdp_type)
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), DETACH_S)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _address_of(lab: Lab, process: asyncio.subprocess.Process, pdp_type: str) -> str:
    """Its interface's, once it is up: what it prints is buffered for as long as it runs."""
    found = r"inet (\d+\.\d+\.\d+\.\d+)" if pdp_type == "v4" else r"inet6 ([0-9a-f:]+)/\d+ scope global"
    while process.returncode is None:
        await asyncio.sleep(0.1)
        shown = await asyncio.create_subprocess_exec(
            *lab.command(lab.ran, "ip", "-o", f"-{pdp_type[1]}", "address", "show", "dev", INTERFACE),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        printed, _ = await shown.communicate()
        if match := re.search(found, printed.decode()):
            return match[1]
    assert process.stdout is not None
    raise RuntimeError(f"sgsnemu ended: {(await process.stdout.read()).decode(errors='replace')}")


@contextlib.asynccontextmanager
async def captured(lab: Lab, path: Path) -> AsyncIterator[Path]:
    """What crosses the SGSN's interface inside, into a pcap file: the independent ledger."""
    process = await asyncio.create_subprocess_exec(
        *lab.command(lab.ran, "tcpdump", "-i", "r0", "-w", str(path), "-U", "-s", "0", "udp"),
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        await asyncio.sleep(CAPTURE_START_S)
        yield path
        await asyncio.sleep(CAPTURE_START_S)
    finally:
        process.terminate()
        await process.wait()


@dataclass(slots=True)
class Pings:
    """What one that pings for as long as it is let saw. Each packet has ``PING_BYTES`` inner octets."""

    replies: int = 0
    transmitted: int = 0
    gap_s_max: float = 0.0
    """The longest time without a reply, after the first."""
    is_deleted: bool = False
    """Its Delete PDP Context Request was accepted in the end: the context was still known."""
    printed: list[str] = field(default_factory=list)
    last: float = 0.0

    def handle(self, line: str, now: float) -> None:
        """A line of its output."""
        self.printed = [*self.printed[-PRINTED_LINES_MAX:], line]
        if f"{PING_BYTES} bytes from" in line:
            self.gap_s_max = max(self.gap_s_max, now - self.last) if self.replies else 0.0
            self.replies, self.last = self.replies + 1, now
        elif match := re.match(r"(\d+) packets transmitted in", line):
            self.transmitted = int(match[1])
        elif "Received delete PDP context response. Cause value: 128" in line:
            self.is_deleted = True


@contextlib.asynccontextmanager
async def pinging(
    folder: Path, *, listen: str, gateway: str, imsi: str, apn: str, host: str, rate: int
) -> AsyncIterator[Pings]:
    """On the loopback: create a context and ping through it, ``rate`` times a second; at the end of the block
    stop, and delete it. Raises ``RuntimeError`` when no reply comes at first.
    """
    state = folder / f"sgsnemu-{imsi}"
    state.mkdir()
    process = await asyncio.create_subprocess_exec(
        *("stdbuf", "-oL", "sgsnemu", "--listen", listen, "--remote", gateway, "--apn", apn, "--imsi", imsi),
        *("--msisdn", "819012345678", "--statedir", str(state), "--pidfile", str(state / "pid")),
        *("--pinghost", host, "--pingcount", str(10**9), "--pingrate", str(rate)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    pings, lines = Pings(), process.stdout

    async def read() -> None:
        while line := await lines.readline():
            pings.handle(line.decode(errors="replace").strip(), time.monotonic())

    reading = asyncio.create_task(read())
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_REPLY_S):
                while not pings.replies and process.returncode is None:  # noqa: ASYNC110 - of a process
                    await asyncio.sleep(0.05)
        if not pings.replies:
            raise RuntimeError(f"sgsnemu: {' | '.join(pings.printed)}")
        yield pings
        process.terminate()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(DETACH_S):
                while not pings.is_deleted:  # noqa: ASYNC110 - what it prints last
                    await asyncio.sleep(0.05)
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await reading
