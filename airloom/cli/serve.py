"""`airloom serve`: one node, by default with every role on the embedded defaults, until it gets a stop
signal.

Rules: it says that it is ready in one line on stdout, once everything is open; what it cannot use it says in
one line on stderr, with the fix, and ends with 78 (EX_CONFIG) before anything is half-written. No secret is
among what it says.
"""

import asyncio
import gc
import json
import shlex
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from functools import partial
from pathlib import Path

import uvloop
from aiohttp import web

from airloom.app.adapters import default_adapters
from airloom.app.measuring import make_telemetry
from airloom.app.node import Node
from airloom.app.readiness import NodeReadiness
from airloom.app.serving import add_metrics, make_api, make_control_channel, make_customers
from airloom.cli.client import EX_CONFIG, EX_UNAVAILABLE
from core.adapters import own_socket
from core.adapters.clock import SystemClock
from core.adapters.http_server import Clients, connections_of, listening, raise_open_files
from core.config import Config
from core.config_file import exposed, load
from core.errors import ConfigurationError, LeaseLost, Unavailable, first_of, ungrouped
from core.telemetry import Metric, Telemetry

LABELS = {
    "roles": "roles",
    "api": "API",
    "metrics": "metrics",
    "gtp_c": "GTP-C",
    "gtp_u": "GTP-U",
    "stand_by": "stand-by for",
    "edge": "device edge",
}
OF_NODE_MAX = 1_024
"""Connections of one address to the control channel, or for metrics: nodes may share one."""
EX_OK = 0
DRAIN_S = 20.0
GC_THRESHOLDS = (3_000, 4, 1_000)
"""A collection takes some 0.3 us for each object that came to stay since the last: young ones are looked at
in small parts, and what was read back never (``gc.freeze``)."""

THREAD_SWITCH_S = 0.0005
"""So long a thread that runs Python keeps the event loop's waiting (``sys.setswitchinterval``). By default it
is 5 ms, for which an attach would wait each time that a thread of the store makes rows."""


def serve(config_file: Path | None, *, roles: Sequence[str] = (), as_json: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    sys.setswitchinterval(THREAD_SWITCH_S)
    try:
        config = load(config_file, roles=roles)
        if complaint := exposed(config_file):
            _tell(complaint)
        with ungrouped():
            return uvloop.run(_serve(config, config_file, roles, as_json=as_json))
    except ConfigurationError as error:
        return _end(EX_CONFIG, str(error))
    except (Unavailable, LeaseLost) as error:
        return _end(EX_UNAVAILABLE, str(error))


async def _serve(config: Config, config_file: Path | None, roles: Sequence[str], *, as_json: bool) -> int:
    stopped, hung_up = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    async with AsyncExitStack() as open_parts:
        adapters = await open_parts.enter_async_context(default_adapters(config))
        node = Node(config=config, adapters=adapters, tell=_tell)
        open_parts.push_async_callback(node.aclose)
        customers = make_customers(config, adapters, node)
        telemetry = make_telemetry(node, customers.guesses)
        readiness = NodeReadiness(config=config, adapters=adapters, node=node)
        listeners = Listeners(open_parts, telemetry)

        async def reload() -> list[str]:
            return node.reload(await asyncio.to_thread(load, config_file, roles=roles))

        channel = partial(
            make_control_channel, config, adapters, node, customers,
            readiness=readiness, drain=stopped.set, reload=reload,
        )  # fmt: skip
        if config.control.contact:
            await listeners.open(channel(), "control", config.control.host, config.control.port)
        own = channel(is_own=True)
        add_metrics(own, telemetry)
        await listeners.open_own(own, config.node.data_dir)
        if config.metrics.port:
            metrics = web.Application()
            add_metrics(metrics, telemetry)
            await listeners.open(metrics, "metrics", config.metrics.host, config.metrics.port)
        gc.collect()
        gc.disable()  # what is read back stays: to go through it again and again is half the time of a start
        recovered = await node.start()
        if "api" in config.node.roles:
            application = make_api(
                config, adapters, node, customers, telemetry=telemetry, readiness=readiness
            )
            await readiness.look()
            of_address = config.api.connections_per_address
            await listeners.open(application, "api", config.api.host, config.api.port, of_address=of_address)
        gc.freeze()
        gc.enable()
        gc.set_threshold(*GC_THRESHOLDS)
        running = asyncio.create_task(node.run())
        is_new = not (await adapters.store.accounts.open_operators(limit=1)).items
        _say_ready(config, node, recovered, as_json=as_json, is_new=is_new, config_file=config_file)
        waiting = asyncio.create_task(stopped.wait())
        for beside in (_reload_on(hung_up, reload), readiness.run()):
            open_parts.push_async_callback(_cancel, asyncio.create_task(beside))
        await asyncio.wait((running, waiting), return_when=asyncio.FIRST_COMPLETED)
        if not running.done():
            await _drain(node)
        return await _wind_down(running, waiting)


async def _reload_on(hung_up: asyncio.Event, reload: Callable[[], Awaitable[list[str]]]) -> None:
    """At each SIGHUP; a configuration that cannot be taken over changes nothing."""
    while True:
        await hung_up.wait()
        hung_up.clear()
        try:
            _tell(f"configuration reloaded: {', '.join(await reload()) or 'nothing'} changed")
        except ConfigurationError as error:
            for line in str(error).splitlines():
                _tell(f"configuration not reloaded, the previous one stays in force: {line}")


async def _cancel(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def _drain(node: Node) -> None:
    """Hand every gateway over, its counts durable; a store that does not answer is not waited for long."""
    try:
        async with asyncio.timeout(DRAIN_S):
            await node.drain()
    except TimeoutError:
        _tell(
            f"drain: not every gateway was handed over within {DRAIN_S:g} s; other nodes take over the"
            f" others when the leases expire. Unreported usage remains in the counter files (*.slots in"
            " node.data_dir) and is reported when this node starts again"
        )


async def _wind_down(running: "asyncio.Task[None]", waiting: "asyncio.Task[bool]") -> int:
    """End the loops; a loop that ended by itself is the reason to end with its error."""
    for task in (running, waiting):
        task.cancel()
    outcomes = await asyncio.gather(running, waiting, return_exceptions=True)
    failure = outcomes[0]
    if isinstance(failure, BaseExceptionGroup):
        wrong, _ = failure.split(ConfigurationError)
        if wrong is not None:
            return _end(EX_CONFIG, str(first_of(wrong)))
        lost, others = failure.split(LeaseLost)
        if others is not None:
            raise others
        if lost is not None:
            return _end(EX_UNAVAILABLE, str(first_of(lost)))
    return EX_OK


class Listeners:
    """What the node listens with for HTTP: each counted and limited by itself."""

    def __init__(self, open_parts: AsyncExitStack, telemetry: Telemetry) -> None:
        self._open_parts = open_parts
        self._telemetry = telemetry
        self._connections_max = connections_of(raise_open_files())

    async def open(
        self,
        application: web.Application,
        section: str,
        host: str,
        port: int,
        *,
        of_address: int = OF_NODE_MAX,
    ) -> None:
        """Serve there; raises ``ConfigurationError``."""
        clients = Clients(most=self._connections_max, most_of_address=of_address)
        self._telemetry.watch_each(Metric.HTTP_FAULTS, lambda: clients.faults, listener=section)
        self._telemetry.watch(Metric.HTTP_CONNECTIONS, lambda: float(clients.open), listener=section)
        await self._open_parts.enter_async_context(
            listening(application, section=section, host=host, port=port, clients=clients)
        )

    async def open_own(self, application: web.Application, folder: Path) -> None:
        """Serve on the socket in the data folder, which its owner alone reaches."""
        listener = await asyncio.to_thread(own_socket.listening, folder)
        runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
        self._open_parts.push_async_callback(runner.cleanup)
        await runner.setup()
        await web.SockSite(runner, listener).start()


def _tell(line: str) -> None:
    """A log that cannot be written, on a disk that is full or to a reader that is gone, ends nothing."""
    at = SystemClock().now().isoformat(timespec="milliseconds")
    with suppress(OSError):
        sys.stderr.write(f"{at} airloom serve: {line}\n")
        sys.stderr.flush()


def _say_ready(
    config: Config, node: Node, recovered: int, *, as_json: bool, is_new: bool, config_file: Path | None
) -> None:
    served = _served(config, node)
    if as_json:
        lines = [json.dumps({"ready": True, **served, "sessions": recovered, "is_new": is_new})]
    else:
        served_at = "; ".join(f"{LABELS[what]} {where}" for what, where in served.items())
        folder = config.node.data_dir.absolute()
        lines = [f"ready: {served_at}; {recovered} sessions read back; data in {folder}"]
        if is_new:
            named = "" if config_file is None else f" --config {shlex.quote(str(config_file))}"
            lines.append(
                f"no customer yet; create one: airloom operators create{named} --email you@example.com"
            )
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _served(config: Config, node: Node) -> dict[str, str]:
    """What this node's roles have open now, and where."""
    roles, gateway = config.node.roles, config.gateway
    facts = {"roles": ", ".join(roles)}
    if "api" in roles:
        facts["api"] = f"http://{config.api.host}:{config.api.port}"
    if config.metrics.port:
        facts["metrics"] = f"http://{config.metrics.host}:{config.metrics.port}/metrics"
    if "gateway" in roles:
        addresses = [each.addresses for each in config.holdable if each.id in node.held]
        facts["gtp_c"] = ", ".join(f"{each[0]}:{gateway.control_port}" for each in addresses) or "none"
        facts["gtp_u"] = ", ".join(f"{each[-1]}:{gateway.user_port}" for each in addresses) or "none"
        if waiting := [gateway_id for gateway_id in node.coordinator.states if gateway_id not in node.held]:
            facts["stand_by"] = ", ".join(waiting)
    facts["edge"] = node.edge.serves if "edge" in roles else ", ".join(config.edge.nodes) or "none"
    return facts


def _end(code: int, why: str) -> int:
    for line in why.splitlines():
        sys.stderr.write(f"airloom serve: {line}\n")
    return code
