"""Layouts of Airloom for a run: all roles in one process, or each role on its own nodes.

Rule: a layout is child processes on this machine's loopback addresses. Its user knows only the addresses of
its protocols and its counts; it ends with its context manager.
"""

import asyncio
import json
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp

from loadtest.external import cassandra, kinesis
from loadtest.serving import DidNotStart, Served, free_gateway_address, free_tcp_port

HELD_S = 20.0
"""How long a gateway instance may be without a holder."""
Gateways = Mapping[str, tuple[str, ...]]
"""Virtual gateways and their protocols."""
Nodes = Mapping[str, tuple[str, str]]
"""Nodes: their roles and their preferred gateway, both as in the environment."""
EACH_ROLE: Nodes = {
    "gateway-1": ("gateway", "vg-1"),
    "gateway-2": ("gateway", "vg-2"),
    "aaa-1": ("aaa", "vg-3"),
    "edge-1": ("edge", ""),
    "api-1": ("api", ""),
    "meter-1": ("meter", ""),
}
ONE_PROTOCOL_EACH: Gateways = {"vg-1": ("gtp",), "vg-2": ("gtp",), "vg-3": ("radius",)}


@dataclass(frozen=True, slots=True)
class Layout:
    """Nodes by name; ``api`` and ``edge`` are among them. ``gtp`` are the addresses of GTP, ``radius`` the
    one of RADIUS.
    """

    nodes: Mapping[str, Served]
    api: Served
    edge: Served
    gtp: tuple[str, ...]
    radius: str
    secret: str = field(default="", repr=False)
    """Of the control channels."""

    @property
    def endpoint(self) -> str:
        """The API's."""
        return self.api.endpoint

    @property
    def contacts(self) -> dict[str, str]:
        """Each node's control channel."""
        return {name: f"http://127.0.0.1:{node.control_port}" for name, node in self.nodes.items()}

    @property
    def ready_after_s(self) -> float:
        """How long the slowest node took to be ready."""
        return max(node.ready_after_s for node in self.nodes.values())

    async def start(self) -> None:
        """All nodes at once; raises ``DidNotStart`` with the name of the one that did not."""

        async def begin(name: str, node: Served) -> None:
            try:
                await node.start()
            except DidNotStart as error:
                raise DidNotStart(f"{name}: {error}") from error

        starts = [begin(name, node) for name, node in self.nodes.items()]
        for outcome in await asyncio.gather(*starts, return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def stop(self) -> None:
        """All nodes in order."""
        for node in self.nodes.values():
            await node.stop()

    async def gauge(self, name: str) -> int:
        """The sum of a metric over its labels and over the nodes."""
        read = [asyncio.to_thread(node.metrics) for node in self.nodes.values()]
        return int(
            sum(
                value
                for metrics in await asyncio.gather(*read)
                for series, value in metrics.items()
                if series.startswith(name)
            )
        )

    async def holders_of(self, gateway_id: str) -> list[str]:
        """The nodes that say that they hold a gateway."""

        async def says_so(http: aiohttp.ClientSession, contact: str) -> bool:
            try:
                async with http.get(f"{contact}/control/node") as answer:
                    return gateway_id in (await answer.json())["gateways"]
            except aiohttp.ClientError:
                return False

        headers = {"Authorization": f"Bearer {self.secret}"}
        async with aiohttp.ClientSession(headers=headers) as http:
            said = await asyncio.gather(*(says_so(http, contact) for contact in self.contacts.values()))
        return [name for name, is_holder in zip(self.nodes, said, strict=True) if is_holder]

    async def holder_of(self, gateway_id: str) -> str:
        """The node that holds it; waits until one does."""
        async with asyncio.timeout(HELD_S):
            while not (holders := await self.holders_of(gateway_id)):  # noqa: ASYNC110 - on other processes
                await asyncio.sleep(0.05)
        return holders[0]


async def shared_parts(stack: AsyncExitStack, name: str, *, shards: int) -> dict[str, str]:
    """A Cassandra and a Kinesis for as long as ``stack`` is open, tables and stream made; what points nodes
    to them. Both are called ``name``.
    """
    environment = await cassandra.stored(stack, name)
    endpoint = await asyncio.to_thread(stack.enter_context, kinesis.served("kinesis-local"))
    await kinesis.create_stream(endpoint, name, shards=shards)
    return environment | {
        "AIRLOOM_STREAM__KINESIS": name,
        "AIRLOOM_STREAM__ENDPOINT": endpoint,
        **kinesis.ENVIRONMENT,
    }


def in_one(folder: Path, environment: Mapping[str, str]) -> Layout:
    """Every role in one process."""
    served = Served(
        folder,
        gateway_address=free_gateway_address(),
        api_port=free_tcp_port("127.0.0.1", 8080),
        environment=environment,
    )
    return Layout({"node-1": served}, served, served, (served.gateway_address,), served.gateway_address)


def spread(
    folder: Path,
    environment: Mapping[str, str],
    *,
    nodes: Nodes = EACH_ROLE,
    gateways: Gateways = ONE_PROTOCOL_EACH,
) -> Layout:
    """Several nodes, by default one for each role and two gateways that stand in for each other.

    ``environment`` names the store and the stream that they share.
    """
    addresses = {name: free_gateway_address(f"127.0.{5 + number}") for number, name in enumerate(gateways)}
    instances = [
        {"id": name, "address": addresses[name], "protocols": protocols}
        for name, protocols in gateways.items()
    ]
    control = dict(zip(nodes, _free_tcp_ports(len(nodes)), strict=True))
    edges = [f"http://127.0.0.1:{control[name]}" for name, (roles, _) in nodes.items() if "edge" in roles]
    secret = secrets.token_hex(16)
    served = {
        name: Served(
            folder / name,
            gateway_address=next(iter(addresses.values())),
            api_port=free_tcp_port("127.0.0.1", 8080),
            control_port=control[name],
            environment={
                **environment,
                "AIRLOOM_NODE__NAME": name,
                "AIRLOOM_NODE__ROLES": roles,
                **({"AIRLOOM_NODE__PREFERRED_GATEWAYS": preferred} if preferred else {}),
                "AIRLOOM_CONTROL__SECRET": secret,
                "AIRLOOM_GATEWAY__INSTANCES": json.dumps(instances),
                "AIRLOOM_EDGE__NODES": ",".join(edges),
            },
        )
        for name, (roles, preferred) in nodes.items()
    }

    def first(role: str) -> Served:
        return next(served[name] for name, (roles, _) in nodes.items() if role in roles.split(","))

    def with_protocol(protocol: str) -> tuple[str, ...]:
        return tuple(addresses[name] for name, protocols in gateways.items() if protocol in protocols)

    return Layout(
        served, first("api"), first("edge"), with_protocol("gtp"), with_protocol("radius")[0], secret
    )


def _free_tcp_ports(count: int) -> list[int]:
    ports: list[int] = []
    while len(ports) < count:
        port = free_tcp_port("127.0.0.1", 0)
        if port not in ports:
            ports.append(port)
    return ports
