"""`./run demo`: the whole thread alive in a minute, and the table that proves it.

SIMs are registered through the REST API and attach over GTP and RADIUS. The devices behind GTP send messages
through their tunnels and get an answer for each. Then what the devices counted is compared with the stream,
the meter and the bill. The server is a child process on real sockets; the devices' own counts are kept apart
from it.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import secrets
import signal
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import aiomqtt
from rich.console import Console
from rich.live import Live
from rich.table import Table

from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.domain.session import Access
from core.errors import ConfigurationError
from core.ports.stream import StoredRecord
from loadtest.api_client import ApiClient, ApiError
from loadtest.external import cassandra, kinesis
from loadtest.folders import temporary_folder
from loadtest.layouts import Layout, in_one, spread
from loadtest.outcome import is_subsequence, payloads_by_imsi, quantity_of_csv, read_stream, total_of_stats
from loadtest.peers.gtp import GtpPeer, NotAnswered, Refusal
from loadtest.peers.nas import AccessDenied, Nas, NasSession
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.peers.ue import UserEquipment, UserEquipments
from loadtest.serving import DidNotStart, endpoint_of, free_gateway_address, radius_clients

T = TypeVar("T")
Peer = TypeVar("Peer", bound=GtpPeer[Any])

APN = "soracom.io"
KINESIS_SHARDS = 4
NAS_SECRET = secrets.token_hex(16)
METER_TIMEOUT_S = 10.0
KEPT_EVERY_S = 5.0
"""Between two messages of a device that stays."""
EX_INTERRUPTED = 130
PROTOCOLS = ("mqtt", "http", "tcp", "udp")
DEVICES_NEED = (
    "mqtt, http and tcp: no network namespace could be created for the devices, so all of them use udp"
)


@dataclass(slots=True)
class Meter:
    """A device behind a NAS, which carries and counts its traffic by itself."""

    sim_id: str
    session: NasSession

    @property
    def bytes_up(self) -> int:
        """What the NAS counted."""
        return self.session.up_bytes

    @property
    def bytes_down(self) -> int:
        """What the NAS counted."""
        return self.session.down_bytes


@dataclass(slots=True)
class Stage:
    """One line of the live view."""

    name: str
    total: int
    done: int = 0
    began: float = 0.0
    seconds: float = 0.0


class Progress:
    """What has been done so far, drawn live on a terminal and as plain lines on stderr elsewhere."""

    def __init__(self, *, live: bool) -> None:
        self._console = Console(stderr=not live)
        self._stages: list[Stage] = []
        self._live = Live(console=self._console, get_renderable=self._table, refresh_per_second=8)
        self._is_live = live

    @contextlib.contextmanager
    def shown(self) -> Any:
        """The live view is on the screen inside."""
        with self._live if self._is_live else contextlib.nullcontext():
            yield self

    @contextlib.asynccontextmanager
    async def stage(self, name: str, total: int = 1) -> AsyncIterator[Stage]:
        """Run one stage; its line stays."""
        stage = Stage(name, total, began=time.monotonic())
        self._stages.append(stage)
        yield stage
        stage.done, stage.seconds = stage.total, time.monotonic() - stage.began
        if not self._is_live:
            self._console.print(f"{name}: {stage.total} in {stage.seconds:.1f} s", highlight=False)

    async def each(self, stage: Stage, step: Awaitable[T]) -> T:
        """Await one step of a stage and move its line on."""
        result = await step
        stage.done += 1
        return result

    def _table(self) -> Table:
        """The progress; redrawn continuously, so that the seconds of a long stage advance."""
        table = Table("stage", "done", "of", "seconds", title="Airloom demo")
        for stage in self._stages:
            seconds = stage.seconds or time.monotonic() - stage.began
            table.add_row(stage.name, str(stage.done), str(stage.total), f"{seconds:.1f}")
        return table


async def demo(options: argparse.Namespace, progress: Progress) -> dict[str, Any]:
    """Run everything once; returns the comparison of all counts."""
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGTERM, signal.SIGHUP):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    async with contextlib.AsyncExitStack() as stack:
        folder = stack.enter_context(temporary_folder("demo"))
        with progress.shown():
            environment, stream = await _surroundings(options, progress, stack)
            layout = (spread if options.layout == "spread" else in_one)(folder, environment)
            stack.push_async_callback(layout.stop)
            async with progress.stage("served, ready", len(layout.nodes)):
                await layout.start()
            customer = await stack.enter_async_context(ApiClient(layout.endpoint))
            sims = await _registered(options, progress, customer)
            result = await _drive(options, progress, layout, customer=customer, sims=sims, stream=stream)
        if not options.json:
            _print_proof(result)
        if options.keep:
            await _go_on(layout, folder, customer, sims, stream)
        return result


@dataclass(frozen=True, slots=True)
class DemoStream:
    """The stream's records are read back from here: a Kinesis data stream, or else the node's own log."""

    name: str = ""
    endpoint: str = ""

    async def records(self, layout: Layout) -> list[StoredRecord]:
        """All of them."""
        if self.name:
            return await kinesis.read_stream(self.endpoint, self.name)
        return await read_stream(layout.api.data_dir)


async def _surroundings(
    options: argparse.Namespace, progress: Progress, stack: contextlib.AsyncExitStack
) -> tuple[dict[str, str], DemoStream]:
    """The nodes' configuration, and the stream; starts Cassandra and Kinesis for a spread layout."""
    environment = {
        "AIRLOOM_USAGE__REPORT_INTERVAL_S": "0.5",
        "AIRLOOM_GATEWAY__SESSIONS_MAX": "4096",
        "AIRLOOM_RADIUS__CLIENTS": radius_clients(NAS_SECRET),
    }
    is_kinesis, endpoint = options.stream == "kinesis", options.endpoint
    if options.layout == "spread":
        if why := cassandra.why_not() or ("" if endpoint else kinesis.why_not()):
            raise DidNotStart(f"--layout spread: {why}")
        is_kinesis = True
        async with progress.stage("Cassandra, one node"):
            environment |= await cassandra.stored(stack, "airloom_demo")
        if not endpoint:
            async with progress.stage("Kinesis, a local one"):
                endpoint = await asyncio.to_thread(stack.enter_context, kinesis.served("kinesis-local"))
    if not is_kinesis:
        return environment, DemoStream()
    stream = DemoStream(f"airloom-demo-{secrets.token_hex(4)}", endpoint)
    async with progress.stage("Kinesis stream made"):
        await kinesis.create_stream(endpoint, stream.name, shards=KINESIS_SHARDS)
    stack.push_async_callback(kinesis.delete_stream, endpoint, stream.name)
    environment |= {"AIRLOOM_STREAM__KINESIS": stream.name, "AIRLOOM_STREAM__ENDPOINT": endpoint}
    return environment | (kinesis.ENVIRONMENT if endpoint else {}), stream


async def _registered(
    options: argparse.Namespace, progress: Progress, customer: ApiClient
) -> list[dict[str, Any]]:
    await customer.sign_up(f"demo-{secrets.token_hex(4)}@example.com", f"Aa1-{secrets.token_urlsafe(12)}")
    async with progress.stage("SIMs registered through the API", options.sims) as stage:
        return [await progress.each(stage, customer.new_sim()) for _ in range(options.sims)]


@dataclass(slots=True)
class Fleet:
    """The SIMs while they are attached; ``not_run`` says which programs their devices do without, and why."""

    ues: list[UserEquipment]
    meters: list[Meter]
    nas: Nas
    programs: UserEquipments
    not_run: list[str]


@contextlib.asynccontextmanager
async def _attached(
    progress: Progress, layout: Layout, sims: Sequence[dict[str, Any]]
) -> AsyncIterator[Fleet]:
    """A third of the SIMs by each kind of attach, their programs connected."""
    async with (
        _peer(Sgsn, layout.gtp[0], "127.0.1").running() as sgsn,
        _peer(Sgw, layout.gtp[-1], "127.0.2").running() as sgw,
        _nas(layout.radius).running() as nas,
    ):
        shares: tuple[tuple[str, GtpPeer[Any], Sequence[dict[str, Any]]], ...] = (
            ("GTPv1", sgsn, sims[::3]),
            ("GTPv2", sgw, sims[1::3]),
        )
        ues = []
        for name, peer, share in shares:
            async with progress.stage(f"attached over {name}", len(share)) as stage:
                ues += [await progress.each(stage, _attach(peer, sim)) for sim in share]
        async with progress.stage("attached over RADIUS", len(sims[2::3])) as stage:
            meters = [await progress.each(stage, _attach_by_radius(nas, sim)) for sim in sims[2::3]]
        programs = UserEquipments(ues)
        try:
            async with progress.stage("devices connected", len(ues)):
                not_run = await _start_programs(layout, programs)
            yield Fleet(ues, meters, nas, programs, not_run)
        finally:
            await programs.aclose()


async def _drive(
    options: argparse.Namespace,
    progress: Progress,
    layout: Layout,
    *,
    customer: ApiClient,
    sims: Sequence[dict[str, Any]],
    stream: DemoStream,
) -> dict[str, Any]:
    async with _attached(progress, layout, sims) as fleet:
        attached = {
            access.value: await layout.gauge(f'airloom_sessions_open{{access="{access.value}"}}')
            for access in Access
        }
        async with progress.stage("messages acknowledged", len(fleet.ues) * options.messages) as stage:
            await asyncio.gather(*(_talk(ue, options.messages, stage) for ue in fleet.ues))
            await fleet.programs.stop_programs()
        async with progress.stage("reported by the NAS", len(fleet.meters)) as stage:
            for meter in fleet.meters:
                await progress.each(stage, _carry(fleet.nas, meter))
        async with progress.stage("detached", options.sims) as stage:
            for ue in fleet.ues:
                await progress.each(stage, ue.peer.detach(ue.context))
            for meter in fleet.meters:
                await progress.each(stage, fleet.nas.detach(meter.session))
    devices: list[UserEquipment | Meter] = [*fleet.ues, *fleet.meters]
    sent_bytes = sum(device.bytes_up + device.bytes_down for device in devices)
    async with progress.stage("metered, according to the API"):
        metered = await _metered(customer, [device.sim_id for device in devices], sent_bytes)
    async with progress.stage("billed, according to the CSV"):
        billed = quantity_of_csv(await customer.month_csv(datetime.now(UTC).strftime("%Y%m")))
    async with progress.stage("read back from the stream"):
        records = await stream.records(layout)
        messages = _compare(fleet.ues, payloads_by_imsi(records))
    leaks = {
        "teids": await layout.gauge('airloom_allocated{resource="teids"}'),
        "addresses": await layout.gauge('airloom_allocated{resource="addresses"}'),
        "sessions": await layout.gauge("airloom_sessions_open"),
    }
    result = {
        "sims": len(sims),
        "attached": attached,
        "messages": messages,
        "bytes": {"sent": sent_bytes, "metered": metered, "billed": billed},
        "leaks": leaks,
        "ready_after_s": round(layout.ready_after_s, 2),
        "not_run": fleet.not_run,
    }
    return {**result, "ok": _adds_up(result)}


def _adds_up(result: dict[str, Any]) -> bool:
    messages, octets = result["messages"], result["bytes"]
    return bool(
        all(result["attached"].values())
        and sum(result["attached"].values()) == result["sims"]
        and (all(messages["by"].values()) or result["not_run"])
        and messages["sent"] == messages["acked"] == messages["in_stream"] > 0
        and messages["lost"] == messages["out_of_order"] == 0
        and octets["sent"] == octets["metered"] == octets["billed"] > 0
        and not any(result["leaks"].values())
    )


def _peer(kind: type[Peer], gateway: str, network: str) -> Peer:
    """A simulated peer on the first address of this /24 that is free."""
    return kind(
        network=UdpNetwork(),
        address=free_gateway_address(network),
        gateway=gateway,
        entropy=SystemEntropy(),
    )


def _nas(gateway: str) -> Nas:
    return Nas(
        network=UdpNetwork(),
        address=free_gateway_address("127.0.3"),
        authentication=(gateway, 1812),
        accounting=(gateway, 1813),
        secret=NAS_SECRET.encode(),
        entropy=SystemEntropy(),
    )


async def _attach_by_radius(nas: Nas, sim: dict[str, Any]) -> Meter:
    return Meter(sim["simId"], await nas.attach(imsi=_imsi_of(sim), apn=APN))


async def _carry(nas: Nas, meter: Meter) -> None:
    """Some traffic through the NAS, which it reports twice: by an Interim-Update and a Stop."""
    meter.session.carry(1_000 + secrets.randbelow(1_000), 5_000 + secrets.randbelow(50_000))
    await nas.report(meter.session)
    meter.session.carry(secrets.randbelow(1_000), secrets.randbelow(1_000))


def _imsi_of(sim: dict[str, Any]) -> str:
    return str(next(iter(next(iter(sim["profiles"].values()))["subscribers"])))


async def _attach(peer: GtpPeer[Any], sim: dict[str, Any]) -> UserEquipment:
    return await UserEquipment.attach(peer, sim_id=sim["simId"], imsi=_imsi_of(sim), apn=APN)


async def _start_programs(layout: Layout, ues: UserEquipments) -> list[str]:
    """Each device speaks by one of the protocols that are served; what is not run, and why."""
    if not layout.edge.entries.startswith("udp alone"):
        with contextlib.suppress(ConfigurationError):
            await ues.start_programs(PROTOCOLS)
            return []
    await ues.start_programs(("udp",))
    return [DEVICES_NEED]


async def _talk(ue: UserEquipment, count: int, stage: Stage) -> None:
    """One message after the other, each answered before the next."""
    for number in range(count):
        if await ue.say(b'{"device":"%s","number":%d}' % (ue.imsi.encode(), number)):
            stage.done += 1


async def _metered(customer: ApiClient, sim_ids: Sequence[str], expected: int) -> int:
    """Usage in the statistics API, which is there once the meter has reported it."""
    deadline = time.monotonic() + METER_TIMEOUT_S
    while True:
        totals = [sum((await total_of_stats(customer, sim_id)).values()) for sim_id in sim_ids]
        if sum(totals) == expected or time.monotonic() > deadline:
            return sum(totals)
        await asyncio.sleep(0.2)


def _compare(ues: Sequence[UserEquipment], stored: dict[str, list[bytes]]) -> dict[str, Any]:
    """Compares messages that devices sent, and their answers, with the stream."""
    in_stream = {ue.imsi: stored.get(ue.imsi, []) for ue in ues}
    return {
        "sent": sum(len(ue.sent) for ue in ues),
        "acked": sum(len(ue.acknowledged) for ue in ues),
        "in_stream": sum(map(len, in_stream.values())),
        "lost": sum(len(set(ue.acknowledged) - set(in_stream[ue.imsi])) for ue in ues),
        "by": {
            protocol: sum(len(ue.acknowledged) for ue in ues if ue.protocol == protocol)
            for protocol in PROTOCOLS
        },
        "out_of_order": sum(not is_subsequence(in_stream[ue.imsi], ue.sent) for ue in ues),
    }


async def _go_on(
    layout: Layout, folder: Path, customer: ApiClient, sims: Sequence[dict[str, Any]], stream: DemoStream
) -> None:
    """Attach again and keep talking, so that there is something to look at, until the node ends."""
    async with _attached(Progress(live=False), layout, sims) as fleet, asyncio.TaskGroup() as tasks:
        talking = [tasks.create_task(_keep_talking(ue)) for ue in fleet.ues]
        _print_how_to_go_on(layout, folder, customer, stream)
        await layout.api.ended()
        for task in talking:
            task.cancel()


async def _keep_talking(ue: UserEquipment) -> None:
    for number in itertools.count():
        reading = {"device": ue.imsi, "number": number, "temperature": 15 + secrets.randbelow(100) / 10}
        with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError, aiomqtt.MqttError):
            await ue.say(json.dumps(reading).encode())
        await asyncio.sleep(KEPT_EVERY_S)


def _print_how_to_go_on(layout: Layout, folder: Path, customer: ApiClient, stream: DemoStream) -> None:
    """What to type; the credentials lie in a file that only its owner reads."""
    own = f"  ./run airloom stream tail --data-dir {layout.api.data_dir}\n"
    messages = own if not stream.name else ""
    names = {
        "AIRLOOM_ENDPOINT": layout.endpoint,
        "AIRLOOM_AUTH_KEY_ID": customer.auth_key_id,
        "AIRLOOM_AUTH_KEY": customer.auth_key,
    }
    file = folder / "customer.env"
    file.touch(mode=0o600)
    file.write_text("".join(f"export {name}={value}\n" for name, value in names.items()))
    print(
        f"\nAirloom continues to serve at {layout.endpoint}. Its devices are attached again, and each sends a"
        f" message every {KEPT_EVERY_S:g} s.\nIn another terminal, be the customer:\n\n"
        f"  . {file}\n"
        "  ./run airloom sims list\n"
        "  ./run airloom bills get-latest\n"
        f"{messages}\n"
        f"Ctrl-C ends it and removes its data ({folder}).",
        flush=True,
    )


def _print_proof(result: dict[str, Any]) -> None:
    messages, octets = result["messages"], result["bytes"]
    table = Table("what", "sent", "acknowledged / metered", "stored / billed", "difference", title="Proof")
    table.add_row(
        "messages",
        str(messages["sent"]),
        str(messages["acked"]),
        str(messages["in_stream"]),
        f"{messages['lost']} lost, {messages['out_of_order']} out of order",
    )
    difference = max(abs(octets["sent"] - octets[key]) for key in ("metered", "billed"))
    table.add_row(
        "octets", str(octets["sent"]), str(octets["metered"]), str(octets["billed"]), str(difference)
    )
    leaks = ", ".join(f"{name} {count}" for name, count in result["leaks"].items())
    table.add_row("left over", "", "", "", leaks)
    console = Console()
    console.print(table)
    by = ", ".join(f"{count} by {protocol}" for protocol, count in messages["by"].items() if count)
    attached = ", ".join(f"{count} by {access}" for access, count in result["attached"].items())
    console.print(f"SIMs attached: {attached}; messages: {by}", highlight=False)
    for what in result["not_run"]:
        console.print(f"[yellow]not run:[/yellow] {what}", highlight=False)
    console.print("[green]All counts agree.[/green]" if result["ok"] else "[red]The counts differ.[/red]")


def _six_or_more(text: str) -> int:
    if not text.isdigit() or int(text) < 6:
        raise argparse.ArgumentTypeError(
            f"{text!r} must be a number, 6 or more: each kind of attach and of message gets a share"
        )
    return int(text)


def _one_or_more(text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} must be a number, 1 or more")
    return int(text)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, compare; exit code 0 when all counts agree."""
    parser = argparse.ArgumentParser(
        prog="./run demo", description=(__doc__ or "").split("\n\n", 1)[1].replace("\n", " ")
    )
    parser.add_argument("--sims", type=_six_or_more, default=20, help="how many SIMs, 6 or more (default 20)")
    parser.add_argument(
        "--messages", type=_one_or_more, default=50, help="messages from each GTP device (default 50)"
    )
    parser.add_argument(
        "--stream", choices=("log", "kinesis"), default="log", help="the embedded log (default), or Kinesis"
    )
    parser.add_argument(
        "--layout",
        choices=("one", "spread"),
        default="one",
        help="all in one process (default), or two gateways and a node each for RADIUS, edge, API and meter"
        " over a real Cassandra and a Kinesis, which it starts itself (./run test fetches them)",
    )
    parser.add_argument(
        "--endpoint",
        type=endpoint_of,
        default="",
        help="with --stream kinesis: another server than Amazon's, http://HOST:PORT",
    )
    parser.add_argument("--json", action="store_true", help="print the result as one JSON object last")
    parser.add_argument("--keep", action="store_true", help="continue to serve, and print how to use it")
    options = parser.parse_args(argv)
    if options.endpoint and options.stream != "kinesis" and options.layout != "spread":
        parser.error("--endpoint is where the Kinesis is: add --stream kinesis, or leave it out")
    progress = Progress(live=not options.json and sys.stdout.isatty())
    try:
        result = asyncio.run(demo(options, progress))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0 if options.keep else EX_INTERRUPTED
    except (DidNotStart, ConfigurationError, NotAnswered, Refusal, AccessDenied, ApiError, OSError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    if options.json:
        print(json.dumps(result, separators=(",", ":")))
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
