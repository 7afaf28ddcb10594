"""`airloom serve`: one node, by default with every role on the embedded defaults, until it is told to stop.

Rules: it says that it is ready in one line on stdout, once everything is open; what it cannot use it says in
one line on stderr, with the fix, and ends with 78 (EX_CONFIG) before anything is half-written.
"""

import asyncio
import gc
import json
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import uvloop
from aiohttp import web

from core.adapters.clock import SystemClock
from core.adapters.http_server import Clients, connections_of, listening, raise_open_files
from core.app.adapters import default_adapters
from core.app.node import Node
from core.app.readiness import NodeReadiness
from core.app.serving import first_run, make_api, make_control_channel, make_identity, make_telemetry
from core.config import ApiConfig, Config, ControlConfig
from core.config_file import load
from core.errors import ConfigurationError, LeaseLost, Unavailable, first_of, ungrouped
from core.telemetry import Metric

LABELS = {
    "roles": "roles",
    "api": "API",
    "gtp_c": "GTP-C",
    "gtp_u": "GTP-U",
    "stand_by": "stand-by for",
    "edge": "device edge",
}
OF_NODE_MAX = 1_024
"""Connections of one address to the control channel: nodes may share one."""
EX_OK, EX_UNAVAILABLE, EX_CONFIG = 0, 69, 78
DRAIN_S = 20.0
GC_THRESHOLDS = (3_000, 4, 1_000)
"""A collection takes some 0.3 us for each object that came to stay since the last: young ones are looked at
in small parts, and what was read back never (``gc.freeze``)."""


def serve(config_file: Path | None, *, roles: Sequence[str] = (), as_json: bool = False) -> int:
    """Serve until SIGTERM or SIGINT; the exit code."""
    try:
        config = load(config_file, roles=roles)
        with ungrouped():
            return uvloop.run(_serve(config, lambda: load(config_file, roles=roles), as_json=as_json))
    except ConfigurationError as error:
        return _end(EX_CONFIG, str(error))
    except (Unavailable, LeaseLost) as error:
        return _end(EX_UNAVAILABLE, str(error))


async def _serve(config: Config, load_again: Callable[[], Config], *, as_json: bool) -> int:
    stopped, hung_up = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopped.set)
    loop.add_signal_handler(signal.SIGHUP, hung_up.set)
    async with AsyncExitStack() as open_parts:
        connections_max = connections_of(raise_open_files())
        adapters = await open_parts.enter_async_context(default_adapters(config))
        node = Node(config=config, adapters=adapters, tell=_tell)
        open_parts.push_async_callback(node.aclose)
        telemetry = make_telemetry(node)
        readiness = NodeReadiness(config=config, adapters=adapters, node=node)

        async def listen(
            application: web.Application, section: str, where: ApiConfig | ControlConfig
        ) -> None:
            of_address = where.connections_per_address if isinstance(where, ApiConfig) else OF_NODE_MAX
            clients = Clients(most=connections_max, most_of_address=of_address)
            telemetry.watch_each(Metric.HTTP_FAULTS, lambda: clients.faults, listener=section)
            telemetry.watch(Metric.HTTP_CONNECTIONS, lambda: float(clients.open), listener=section)
            await open_parts.enter_async_context(
                listening(application, section=section, host=where.host, port=where.port, clients=clients)
            )

        async def reload() -> list[str]:
            return node.reload(await asyncio.to_thread(load_again))

        if config.control.contact:
            channel = make_control_channel(
                config, adapters, node, telemetry, readiness=readiness, drain=stopped.set, reload=reload
            )
            await listen(channel, "control", config.control)
        gc.collect()
        gc.disable()  # what is read back stays: to go through it again and again is half the time of a start
        recovered = await node.start()
        for lost in node.lost_counts:
            _tell(lost)
        owner: dict[str, str] = {}
        if "api" in config.node.roles:
            identity = make_identity(adapters)
            owner = await first_run(adapters, identity)
            application = make_api(config, adapters, node, identity, telemetry=telemetry, readiness=readiness)
            await readiness.look()
            await listen(application, "api", config.api)
        gc.freeze()
        gc.enable()
        gc.set_threshold(*GC_THRESHOLDS)
        running = asyncio.create_task(node.run())
        _say_ready(config, node, recovered, owner, readiness.entries, as_json=as_json)
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
            _tell(f"read again: {', '.join(await reload()) or 'nothing'} changed")
        except ConfigurationError as error:
            for line in str(error).splitlines():
                _tell(f"not taken over: {line}")


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
        _tell("not everything could be handed over in time; the slot tables keep what was counted")


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


def _tell(line: str) -> None:
    at = SystemClock().now().isoformat(timespec="milliseconds")
    sys.stderr.write(f"{at} airloom serve: {line}\n")
    sys.stderr.flush()


def _say_ready(
    config: Config, node: Node, recovered: int, owner: dict[str, str], entries: str, *, as_json: bool
) -> None:
    served = _served(config, node, entries)
    if as_json:
        facts: dict[str, object] = {"ready": True, **served, "sessions": recovered}
        lines = [json.dumps(facts | ({"first_run": owner} if owner else {}))]
    else:
        told = "; ".join(f"{LABELS[what]} {where}" for what, where in served.items())
        folder = config.node.data_dir.absolute()
        lines = [f"ready: {told}; {recovered} sessions read back; data in {folder}"]
        lines += [f"first run, told once: {name} {value}" for name, value in owner.items()]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()


def _served(config: Config, node: Node, entries: str) -> dict[str, str]:
    """What this node's roles have open now, and where."""
    roles, gateway = config.node.roles, config.gateway
    facts = {"roles": ", ".join(roles)}
    if "api" in roles:
        facts["api"] = f"http://{config.api.host}:{config.api.port}"
    if "gateway" in roles:
        addresses = [each.addresses for each in config.holdable if each.id in node.held]
        facts["gtp_c"] = ", ".join(f"{each[0]}:{gateway.control_port}" for each in addresses) or "none"
        facts["gtp_u"] = ", ".join(f"{each[-1]}:{gateway.user_port}" for each in addresses) or "none"
        if waiting := [gateway_id for gateway_id in node.holdings.states if gateway_id not in node.held]:
            facts["stand_by"] = ", ".join(waiting)
    facts["edge"] = entries if "edge" in roles else ", ".join(config.edge.nodes) or "none"
    return facts


def _end(code: int, why: str) -> int:
    for line in why.splitlines():
        sys.stderr.write(f"airloom serve: {line}\n")
    return code
