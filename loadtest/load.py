"""`./run load`: loads an Airloom with SIMs that attach, send messages and detach, and reports its figures.

Without --endpoint it starts its own Airloom with embedded defaults, and stops it afterwards. With --endpoint
it uses SIMs of the customer whose auth key it is given. With --config or --contact, by which it reaches a
node's control channel, it imports missing SIMs, and creates a customer if it has no key; without either and
without a key the sandbox must be on. SIMs attach by GTPv1, GTPv2 or RADIUS at a fixed rate; each device sends
messages by MQTT, HTTP, TCP and UDP at a fixed rate, however long answers take. Thresholds decide the exit
code.
"""

import argparse
import asyncio
import json
import os
import platform
import secrets
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import aiohttp
import aiomqtt

from airloom.cli.client import DEFAULT_ENDPOINT, CliError, Profile, load_profile, profile_path
from airloom.cli.node import where_of
from core.adapters.clock import SystemEntropy
from core.adapters.network import UdpNetwork
from core.errors import ConfigurationError
from loadtest.api_client import ApiClient, ApiError
from loadtest.folders import temporary_folder
from loadtest.installation import Installation
from loadtest.measure import Step, Threshold
from loadtest.peers.gtp import GtpPeer, NotAnswered, Refusal
from loadtest.peers.nas import AccessDenied, Nas, NasSession
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.peers.ue import NoSocketLeft, UserEquipment, UserEquipments
from loadtest.report import as_lines, as_page
from loadtest.serving import (
    DidNotStart,
    Served,
    endpoint_of,
    free_gateway_address,
    free_tcp_port,
    radius_clients,
)

APN = "soracom.io"
ACCESSES = ("gtpv1", "gtpv2", "radius")
PROTOCOLS = ("mqtt", "http", "tcp", "udp")
INTERIM_S = 5.0
PROGRESS_S = 5.0
RECONNECT_S = 1.0
"""Between two tries."""
RECONNECTS_MAX = 8
"""Of one device in a run: so many sockets are made for it beforehand."""
EX_THRESHOLD, EX_USAGE = 99, 2
SIMS_MAX, RATE_MAX = 100_000, 10_000.0
FAILURES = (
    Refusal, NotAnswered, AccessDenied, OSError, TimeoutError, ValueError, aiohttp.ClientError,
    aiomqtt.MqttError,
)  # fmt: skip
"""What a step may end with and be counted as an error."""


@dataclass(frozen=True, slots=True)
class Target:
    """The Airloom that is driven."""

    endpoint: str
    gateway: str
    radius: str
    radius_secret: str = field(repr=False)
    auth_key_id: str = ""
    auth_key: str = field(default="", repr=False)
    installation: Installation | None = None


class Run:
    """One load test, and what it measures."""

    def __init__(self, options: argparse.Namespace, target: Target) -> None:
        self._options = options
        self._target = target
        self._began = time.monotonic()
        self._ues: list[UserEquipment] = []
        self._at_nas: list[tuple[Nas, NasSession]] = []
        names = [f"attach.{a}" for a in ACCESSES] + [f"message.{p}" for p in PROTOCOLS]
        self.steps = {name: Step(name) for name in [*names, "reconnect", "report.radius", "detach"]}
        self._together = UserEquipments(())
        self._given_up = 0

    @property
    def elapsed_s(self) -> float:
        """Since the first attach was due."""
        return time.monotonic() - self._began

    async def run(self) -> None:
        """Register, attach, talk, detach."""
        options = self._options
        async with AsyncExitStack() as parts:
            customer = await parts.enter_async_context(ApiClient(self._target.endpoint))
            await self._sign_in(customer)
            tell(f"getting {options.sims} SIMs ready")
            sims = await self._sims(customer)
            peers = await self._start_peers(parts)
            self._began = time.monotonic()
            with self._asking_for("attach"):
                await self._attach_all(sims, peers)
            self._together = UserEquipments(self._ues)
            parts.push_async_callback(self._together.aclose)
            await self._start_programs()
            with self._asking_for("message", "reconnect", "report"):
                await self._talk_for(options.duration)
            with suppress(*FAILURES):
                await self._together.stop_programs()
            with self._asking_for("detach"):
                await self._detach_all()

    async def _sign_in(self, customer: ApiClient) -> None:
        target, email = self._target, f"load-{secrets.token_hex(4)}@example.com"
        if target.auth_key_id:
            await customer.sign_in(target.auth_key_id, target.auth_key)
        elif target.installation is not None:
            await customer.sign_in(*await target.installation.create_operator(email))
        else:
            try:
                await customer.sign_up(email, f"Aa1-{secrets.token_urlsafe(12)}")
            except ApiError as error:
                if error.code != "AIR0011":
                    raise
                raise DidNotStart(
                    f"{target.endpoint} has its sandbox off: give a customer's --auth-key-id with"
                    " AIRLOOM_AUTH_KEY, or --profile; or its --config or --contact, to have a customer made"
                ) from error

    async def _sims(self, customer: ApiClient) -> list[dict[str, Any]]:
        """The customer's own, and where there are too few some that are brought in, or the sandbox's."""
        wanted, installation = self._options.sims, self._target.installation
        if installation is None and not self._target.auth_key_id:
            return [await customer.new_sim() for _ in range(wanted)]
        sims = await customer.idle_sims(wanted)
        if len(sims) < wanted and installation is not None:
            await installation.bring_in(customer.operator_id, wanted - len(sims))
            sims = await customer.idle_sims(wanted)
        if len(sims) < wanted:
            raise DidNotStart(
                f"the customer has {len(sims)} SIMs that can attach, not {wanted}; import some, lower --sims,"
                " or name its configuration with --config"
            )
        return sims

    async def _start_peers(self, parts: AsyncExitStack) -> dict[str, Any]:
        target = self._target
        common: dict[str, Any] = {"network": UdpNetwork(), "entropy": SystemEntropy()}
        peers: dict[str, Any] = {}
        gtp: dict[str, tuple[type[GtpPeer[Any]], str]] = {
            "gtpv1": (Sgsn, "127.0.1"),
            "gtpv2": (Sgw, "127.0.2"),
        }
        local = list(self._options.local)
        for access, (kind, network) in gtp.items():
            if access in self._options.access:
                address = local.pop(0) if local else free_gateway_address(network)
                peer = kind(address=address, gateway=target.gateway, **common)
                peers[access] = await parts.enter_async_context(peer.running())
        if "radius" in self._options.access:
            nas = Nas(
                address=(*self._options.local, "")[0] or free_gateway_address("127.0.3"),
                authentication=(target.radius, 1812),
                accounting=(target.radius, 1813),
                secret=target.radius_secret.encode(),
                **common,
            )
            peers["radius"] = await parts.enter_async_context(nas.running())
        return peers

    async def _attach_all(self, sims: list[dict[str, Any]], peers: dict[str, Any]) -> None:
        """Each is due at its time, whatever the ones before it take."""
        accesses = islice(cycle(_in_shares(self._options.access)), len(sims))
        async with asyncio.TaskGroup() as tasks:
            for number, (sim, access) in enumerate(zip(sims, accesses, strict=True)):
                due = number / self._options.attach_rate
                await asyncio.sleep(max(0.0, due - self.elapsed_s))
                tasks.create_task(self._attach(access, peers[access], sim, due))

    async def _attach(self, access: str, peer: Any, sim: dict[str, Any], due: float) -> None:
        sim_id = sim["simId"]
        imsi = next(iter(next(iter(sim["profiles"].values()))["subscribers"]))
        if isinstance(peer, Nas):
            session = await self._timed(f"attach.{access}", due, peer.attach(imsi=imsi, apn=APN))
            if session is not None:
                self._at_nas.append((peer, session))
            return
        attaching = UserEquipment.attach(peer, sim_id=sim_id, imsi=imsi, apn=APN)
        ue = await self._timed(f"attach.{access}", due, attaching)
        if ue is not None:
            self._ues.append(ue)

    async def _detach_all(self) -> None:
        for ue in self._ues:
            await self._timed("detach", self.elapsed_s, ue.peer.detach(ue.context))
        for nas, session in self._at_nas:
            await self._timed("detach", self.elapsed_s, nas.detach(session))

    @contextmanager
    def _asking_for(self, *names: str) -> Iterator[None]:
        """The requests inside count as these steps: their rates refer to this time, not to the whole run."""
        began = self.elapsed_s
        yield
        for step in self.steps.values():
            if step.name.partition(".")[0] in names:
                step.asked_s = self.elapsed_s - began

    async def _start_programs(self) -> None:
        protocols = _in_shares(self._options.mix)
        try:
            await self._together.start_programs(protocols, sockets_each=1 + RECONNECTS_MAX)
        except ConfigurationError as error:
            tell(f"{error}; every device speaks udp")
            await self._together.start_programs(("udp",))

    async def _talk_for(self, duration_s: float) -> None:
        began, apart = self.elapsed_s, 1 / self._options.message_rate / max(1, len(self._ues))
        async with asyncio.TaskGroup() as tasks:
            telling = tasks.create_task(self._tell_progress())
            talking = [
                tasks.create_task(self._talk(ue, began + number * apart, began + duration_s))
                for number, ue in enumerate(self._ues)
            ]
            talking += [
                tasks.create_task(self._report(nas, session, began + duration_s))
                for nas, session in self._at_nas
            ]
            if talking:
                await asyncio.wait(talking)
            telling.cancel()

    async def _talk(self, ue: UserEquipment, first: float, until: float) -> None:
        """A message at each of its times; one that takes too long makes the next ones late."""
        due, number = first, 0
        while due < until:
            await asyncio.sleep(max(0.0, due - self.elapsed_s))
            payload = f"{number} ".encode().ljust(self._options.payload_bytes, b".")
            is_good = await self._timed(f"message.{ue.protocol}", due, ue.say(payload))
            if is_good is None and ue.protocol != "udp" and not await self._reconnect(ue, until):
                return
            due, number = due + 1 / self._options.message_rate, number + 1

    async def _reconnect(self, ue: UserEquipment, until: float) -> bool:
        """As a device does whose connection broke: again and again, from its next port."""
        began = self.elapsed_s
        while self.elapsed_s < until:
            try:
                await self._together.start_program(ue)
            except NoSocketLeft:
                self._given_up += 1
                return False
            except FAILURES:
                self.steps["reconnect"].failed(self.elapsed_s)
                await asyncio.sleep(RECONNECT_S)
            else:
                self.steps["reconnect"].done(self.elapsed_s, self.elapsed_s - began)
                return True
        return False

    async def _report(self, nas: Nas, session: NasSession, until: float) -> None:
        due = self.elapsed_s + INTERIM_S
        while due < until:
            await asyncio.sleep(max(0.0, due - self.elapsed_s))
            session.carry(1_000, 10_000)
            await self._timed("report.radius", due, nas.report(session))
            due += INTERIM_S

    async def _timed(self, name: str, due: float, step: Awaitable[Any]) -> Any:
        """Await a step; ``None`` when it failed. A refusal is a failure too."""
        why = "the request was refused"
        try:
            result = await step
        except FAILURES as error:
            result, why = False, str(error) or type(error).__name__
        if result is False:
            if not self.steps[name].errors:
                tell(f"{name}: first error: {why}")
            self.steps[name].failed(self.elapsed_s)
            return None
        self.steps[name].done(self.elapsed_s, self.elapsed_s - due)
        return result

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            done = sum(s.latencies.count for name, s in self.steps.items() if name.startswith("message"))
            errors = sum(step.errors for step in self.steps.values())
            gone = f", {self._given_up} devices gave up" if self._given_up else ""
            tell(f"{self.elapsed_s:.0f} s: {done} messages, {errors} errors{gone}")


def _in_shares(shares: dict[str, int]) -> list[str]:
    return [name for name, share in shares.items() for _ in range(share)]


@asynccontextmanager
async def _target(options: argparse.Namespace) -> AsyncIterator[Target]:
    if options.endpoint or options.profile:
        yield _other(options)
        return
    secret = secrets.token_hex(16)
    with temporary_folder("load") as folder:
        served = Served(
            folder / "var",
            gateway_address=free_gateway_address(),
            api_port=free_tcp_port("127.0.0.1", 8080),
            environment={
                "AIRLOOM_GATEWAY__SESSIONS_MAX": str(2 * options.sims + 64),
                "AIRLOOM_RADIUS__CLIENTS": radius_clients(secret),
            },
        )
        await served.start()
        try:
            address, installation = served.gateway_address, Installation.in_folder(served.data_dir)
            yield Target(served.endpoint, address, address, secret, installation=installation)
        finally:
            await served.stop()


def _other(options: argparse.Namespace) -> Target:
    """An Airloom that is there; raises ``CliError``."""
    saved = Profile()
    if options.profile:
        folder = Path(os.environ.get("AIRLOOM_PROFILE_DIR") or Path.home() / ".airloom")
        file = profile_path(folder, options.profile)
        if not file.exists():
            raise CliError(
                f"profile {options.profile!r}: there is no {file}; save it with: airloom configure"
            )
        saved = load_profile(file)
    is_operated = options.config or options.contact
    return Target(
        options.endpoint or saved.endpoint or DEFAULT_ENDPOINT,
        options.gateway,
        options.radius or options.gateway,
        options.radius_secret,
        options.auth_key_id or saved.authKeyId,
        options.auth_key or saved.authKey,
        Installation(*where_of(options.config, options.contact)) if is_operated else None,
    )


async def load(options: argparse.Namespace) -> Run:
    """Run it."""
    async with _target(options) as target:
        run = Run(options, target)
        await run.run()
        return run


def tell(text: str) -> None:
    """Progress, on stderr."""
    print(text, file=sys.stderr, flush=True)


def _shares(known: Sequence[str]) -> Any:
    def parse(text: str) -> dict[str, int]:
        shares: dict[str, int] = {}
        for item in text.split(","):
            name, _, share = item.partition("=")
            if name not in known or not (share or "1").isdigit() or not 0 <= int(share or 1) <= 1_000:
                raise argparse.ArgumentTypeError(f"{item!r}: write NAME=SHARE with {', '.join(known)}")
            shares[name] = int(share or 1)
        if not sum(shares.values()):
            raise argparse.ArgumentTypeError("at least one share must be above 0")
        return {name: share for name, share in shares.items() if share}

    return parse


def _number(kind: type[Any], least: float, most: float) -> Any:
    def parse(text: str) -> Any:
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no number") from None
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"must be {least:g} to {most:g}")
        return value

    return parse


def _addresses(text: str) -> tuple[str, ...]:
    try:
        return tuple(str(IPv4Address(each)) for each in text.split(",") if each)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}; write 10.0.0.5 or 10.0.0.5,10.0.0.6") from None


def _threshold(text: str) -> Threshold:
    try:
        return Threshold.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="./run load",
        description=(__doc__ or "").split("\n\n", 1)[1].replace("\n", " "),
        epilog="A threshold names a step (attach, attach.gtpv2, message.mqtt, reconnect, report.radius,"
        " detach) and a figure (p50, p99, p99.9, avg, max, rate, count, errors; a rate is per second of"
        " its own phase: attaching, sending or detaching): --threshold 'attach.p99<50ms'"
        " --threshold 'message.errors<=0.1%'. Exit code 99: a threshold was missed.",
    )
    everywhere = ",".join(f"{name}=1" for name in PROTOCOLS)
    add = parser.add_argument
    add("--sims", type=_number(int, 1, SIMS_MAX), default=100, help="number of SIMs (default 100)")
    add("--attach-rate", type=_number(float, 0.1, RATE_MAX), default=50.0, help="SIMs a second (default 50)")
    add("--duration", type=_number(float, 1, 86_400), default=20.0, help="seconds of messages (default 20)")
    add("--message-rate", type=_number(float, 0.001, RATE_MAX), default=1.0,
        help="messages a second of each device (default 1)")  # fmt: skip
    add("--payload-bytes", type=_number(int, 1, 60_000), default=100, help="size of a message (default 100)")
    add("--mix", type=_shares(PROTOCOLS), default=_shares(PROTOCOLS)(everywhere),
        help=f"shares of the protocols (default {everywhere})")  # fmt: skip
    add("--access", type=_shares(ACCESSES), default=_shares(ACCESSES)("gtpv1=1,gtpv2=1"),
        help="shares of the kinds of attach: gtpv1, gtpv2, radius (default gtpv1=1,gtpv2=1)")  # fmt: skip
    add("--threshold", type=_threshold, action="append", default=[], help="a condition; may be repeated")
    add("--html", type=Path, help="write a page with plots to this file")
    add("--json", action="store_true", help="print the figures as one JSON object last")
    other = parser.add_argument_group("to test another Airloom")
    other.add_argument("--endpoint", type=endpoint_of, default="", help="its API, http://HOST:PORT")
    other.add_argument("--gateway", default="127.0.0.1", help="its GTP address (default 127.0.0.1)")
    other.add_argument("--radius", default="", help="its RADIUS address (default: the GTP address)")
    other.add_argument("--radius-secret", default="", help="the secret of this host's RADIUS client")
    other.add_argument("--local", type=_addresses, default=(), metavar="ADDRESS[,ADDRESS]",
        help="address of the simulated SGSN, SGW or NAS; two if --access has gtpv1 and gtpv2")  # fmt: skip
    other.add_argument(
        "--profile", default="", help="endpoint and auth key, as `airloom configure` saved them"
    )
    other.add_argument(
        "--auth-key-id", default=os.environ.get("AIRLOOM_AUTH_KEY_ID", ""),
        help="a customer's key (or AIRLOOM_AUTH_KEY_ID); its SIMs are driven",
    )  # fmt: skip
    other.add_argument(
        "--auth-key", default=os.environ.get("AIRLOOM_AUTH_KEY", ""),
        help="its secret; prefer AIRLOOM_AUTH_KEY, because other users can see arguments",
    )  # fmt: skip
    other.add_argument("--config", type=Path, help="its airloom.toml, to import missing SIMs")
    other.add_argument("--contact", default="", help="the same by a control channel, http://HOST:PORT")
    return parser


def _facts(options: argparse.Namespace, elapsed_s: float) -> list[tuple[str, str]]:
    """What was measured, where and at which rates."""
    where = options.endpoint or "one of its own, on this machine"
    per_s = f"{options.message_rate:g}/s from each device, of {options.payload_bytes} octets"
    return [
        ("Airloom", where),
        ("driven from", f"{platform.node()}: {os.cpu_count()} cores, {platform.platform(terse=True)}"),
        ("SIMs", f"{options.sims}, {options.attach_rate:g} attaches a second, by {_shown(options.access)}"),
        ("messages", f"{per_s}, by {_shown(options.mix)}, for {options.duration:g} s"),
        ("ended", f"{time.strftime('%Y-%m-%d %H:%M UTC', time.gmtime())}, after {elapsed_s:.1f} s"),
    ]


def _shown(shares: dict[str, int]) -> str:
    return ", ".join(f"{name} {share}" for name, share in shares.items())


def main(argv: Sequence[str] | None = None) -> int:
    """Parse, run, report; exit code 99 when a threshold was missed."""
    parser = _parser()
    options = parser.parse_args(argv)
    versions = [access for access in options.access if access.startswith("gtp")]
    if options.local and len(options.local) < len(versions):
        parser.error(
            "--local: an SGSN and an SGW cannot share an address (both listen on port 2123); name two,"
            f" --local {options.local[0]},ANOTHER, or one version alone, --access gtpv2=1"
        )
    try:
        run = asyncio.run(load(options))
    except (DidNotStart, ConfigurationError, ApiError, CliError, aiohttp.ClientError) as error:
        tell(f"load: {error}")
        return 1
    steps, elapsed_s = list(run.steps.values()), run.elapsed_s
    print("\n".join(as_lines(steps, options.threshold)))
    if options.html:
        options.html.write_text(as_page(steps, elapsed_s, options.threshold, _facts(options, elapsed_s)))
        print(f"plots: {options.html}")
    kept = {threshold.text: threshold.holds(steps) for threshold in options.threshold}
    if options.json:
        figures = ("count", "rate", "errors", "avg", "p50", "p90", "p95", "p99", "max")
        measured = {s.name: {f: s.value(f) for f in figures} for s in steps if s.tried}
        print(json.dumps({"steps": measured, "thresholds": kept, "ok": all(kept.values())}))
    return 0 if all(kept.values()) else EX_THRESHOLD


if __name__ == "__main__":
    sys.exit(main())
