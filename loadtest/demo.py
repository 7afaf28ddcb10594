"""`./run demo`: the whole thread alive in a minute, and the table that proves it.

SIMs are registered through the REST API, attach over GTP, send messages through their tunnels and get an
answer for each; then what the devices counted is compared with the stream, the meter and the bill. The
server is a child process on real sockets; the devices' own counts are kept apart from it.
"""

import argparse
import asyncio
import contextlib
import json
import secrets
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.network import UdpNetwork
from loadtest.checks import Proof, bill_of_csv, read_stream
from loadtest.customer import Customer
from loadtest.peers.device import Device
from loadtest.peers.sgsn import Sgsn
from loadtest.serving import DidNotStart, Served, as_json, free_gateway_address, free_tcp_port

SGSN_ADDRESS = "127.0.1.1"
METER_TIMEOUT_S = 10.0
NOT_RUN = ["gtpv2", "radius", "mqtt", "http", "tcp"]
"""Doors and entry points that this version does not have; the demo says so rather than stay silent."""


@dataclass(slots=True)
class Stage:
    """One line of the live view."""

    name: str
    total: int
    done: int = 0
    began: float = 0.0
    seconds: float = 0.0


@dataclass(slots=True)
class Progress:
    """What has been done so far, drawn live on a terminal and as plain lines elsewhere."""

    console: Console
    stages: list[Stage] = field(default_factory=list)
    live: Live | None = None

    @contextlib.asynccontextmanager
    async def stage(self, name: str, total: int = 1) -> AsyncIterator[Stage]:
        """Run one stage; its line stays."""
        stage = Stage(name, total, began=time.monotonic())
        self.stages.append(stage)
        self.draw()
        yield stage
        stage.done = stage.total
        stage.seconds = time.monotonic() - stage.began
        self.draw()
        if self.live is None:
            self.console.print(f"{name}: {stage.total} in {stage.seconds:.1f} s")

    def draw(self) -> None:
        """Show where it stands."""
        if self.live is None:
            return
        table = Table("stage", "done", "of", "seconds", title="Airloom demo")
        for stage in self.stages:
            seconds = stage.seconds or time.monotonic() - stage.began
            table.add_row(stage.name, str(stage.done), str(stage.total), f"{seconds:.1f}")
        self.live.update(table)


async def demo(options: argparse.Namespace, progress: Progress) -> Proof:
    """Run everything once; the proof tells whether it adds up."""
    data_dir = Path(tempfile.mkdtemp(prefix="airloom-demo-"))
    served = Served(
        data_dir,
        gateway_address=free_gateway_address(),
        api_port=free_tcp_port("127.0.0.1", 8080),
        environment={"AIRLOOM_USAGE__REPORT_INTERVAL_S": "1", "AIRLOOM_GATEWAY__SESSIONS_MAX": "4096"},
    )
    try:
        async with progress.stage("serve"):
            await served.start()
        async with Customer(served.endpoint) as customer:
            proof = await _drive(options, progress, served, customer)
            if options.keep and proof.ok:
                await _keep(progress.console, served, customer)
            return proof
    finally:
        await served.stop()
        shutil.rmtree(data_dir, ignore_errors=True)


async def _drive(
    options: argparse.Namespace, progress: Progress, served: Served, customer: Customer
) -> Proof:
    password = secrets.token_urlsafe(12)
    await customer.sign_up(f"demo-{secrets.token_hex(4)}@example.com", f"Aa1-{password}")
    async with progress.stage("SIMs registered", options.sims) as stage:
        sims = [await _ticked(customer.new_sim(), stage, progress) for _ in range(options.sims)]
    sgsn = Sgsn(
        network=UdpNetwork(),
        address=SGSN_ADDRESS,
        gateway=served.gateway_address,
        clock=SystemClock(),
        entropy=SystemEntropy(),
    )
    async with sgsn.running():
        async with progress.stage("attached over GTPv1", options.sims) as stage:
            contexts = [
                await _ticked(sgsn.attach(imsi=_imsi(sim), apn="soracom.io"), stage, progress) for sim in sims
            ]
        devices = [
            Device(context=context, imsi=_imsi(sim)) for context, sim in zip(contexts, sims, strict=True)
        ]
        sent = options.sims * options.messages
        async with progress.stage("messages acknowledged", sent) as stage:
            await asyncio.gather(*(_talk(device, options.messages, stage, progress) for device in devices))
        open_sessions = served_gauge(await asyncio.to_thread(served.metrics), "airloom_sessions_open")
        async with progress.stage("detached", options.sims) as stage:
            for context in contexts:
                await _ticked(sgsn.detach(context), stage, progress)
    async with progress.stage("metered"):
        metered = await _metered(customer, sims, sum(device.total_bytes for device in devices))
    month = datetime.now(UTC).strftime("%Y%m")
    async with progress.stage("billed"):
        csv = await customer.month_csv(month)
    async with progress.stage("read back from the stream"):
        records = await read_stream(served.data_dir)
    gauges = await asyncio.to_thread(served.metrics)
    return Proof(
        sims=len(sims),
        attached={"gtpv1": int(open_sessions)},
        acknowledged={device.imsi: list(device.acknowledged) for device in devices},
        sent_messages=sent,
        records=records,
        sent_bytes=sum(device.total_bytes for device in devices),
        metered_bytes=metered,
        billed_bytes=bill_of_csv(csv),
        leaks={
            "teids": int(served_gauge(gauges, "airloom_teids_lent")),
            "addresses": int(served_gauge(gauges, "airloom_addresses_lent")),
            "sessions": int(served_gauge(gauges, "airloom_sessions_open")),
        },
        not_run=NOT_RUN,
        ready_after_s=served.ready_after_s,
    )
