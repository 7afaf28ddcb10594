"""sgsnemu (Debian package osmo-ggsn): an SGSN and a phone by others."""

import asyncio
import contextlib
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from loadtest.parts.namespaces import FAR_HOST, GATEWAY, SGSN, Lab

RUN_TIMEOUT_S = 90
"""It lingers for some 20 s after its context is deleted."""
CAPTURE_START_S = 0.7
DETACH_S = 5.0
INTERFACE = "tun0"


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


@contextlib.asynccontextmanager
async def attached(lab: Lab, folder: Path, *, imsi: str, apn: str) -> AsyncIterator[str]:
    """Inside, the device is up: an interface with its address, and every route leads into the tunnel.

    What is yielded is the device's address.
    """
    state = folder / f"sgsnemu-{imsi}"
    state.mkdir()
    process = await asyncio.create_subprocess_exec(
        *lab.command(lab.ran, "sgsnemu"),
        *("--listen", SGSN, "--remote", GATEWAY, "--apn", apn, "--imsi", imsi, "--msisdn", "819012345678"),
        *("--statedir", str(state), "--pidfile", str(state / "pid")),
        *("--createif", "--defaultroute"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(RUN_TIMEOUT_S):
            address = await _address_of(lab, process)
        yield address
    finally:
        if process.returncode is None:
            process.terminate()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(process.wait(), DETACH_S)
        if process.returncode is None:
            process.kill()
            await process.wait()


async def _address_of(lab: Lab, process: asyncio.subprocess.Process) -> str:
    """Its interface's, once it is up: what it prints is buffered for as long as it runs."""
    while process.returncode is None:
        await asyncio.sleep(0.1)
        shown = await asyncio.create_subprocess_exec(
            *lab.command(lab.ran, "ip", "-o", "-4", "address", "show", "dev", INTERFACE),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        printed, _ = await shown.communicate()
        if match := re.search(r"inet (\d+\.\d+\.\d+\.\d+)", printed.decode()):
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
