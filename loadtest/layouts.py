"""How Airloom is laid out for a run: all in one process, or each role on nodes of its own.

Rule: a layout is children on this machine's loopback addresses; whoever drives it knows only where its doors
are, what it counts, and that it ends with its block.
"""

import asyncio
import json
import secrets
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from loadtest.parts import cassandra, kinesis
from loadtest.serving import DidNotStart, Served, free_gateway_address, free_tcp_port


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

    @property
    def endpoint(self) -> str:
        """The API's."""
        return self.api.endpoint

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


def spread(folder: Path, environment: Mapping[str, str]) -> Layout:
    """Two gateways that stand in for each other, one node each for RADIUS, edge, API and meter.

    ``environment`` names the store and the stream that they share.
    """
    addresses = {"vg-1": free_gateway_address("127.0.5"), "vg-2": free_gateway_address("127.0.6")}
    addresses["vg-3"] = free_gateway_address("127.0.7")
    virtual = [
        {"id": name, "address": address, "ue_pool": f"10.{128 + number}.0.0/16", "doors": [door]}
        for number, ((name, address), door) in enumerate(
            zip(addresses.items(), ("gtp", "gtp", "radius"), strict=True)
        )
    ]
    roles = {
        "gateway-1": ("gateway", "vg-1"),
        "gateway-2": ("gateway", "vg-2"),
        "aaa-1": ("aaa", "vg-3"),
        "edge-1": ("edge", ""),
        "api-1": ("api", ""),
        "meter-1": ("meter", ""),
    }
    control = dict(zip(roles, _free_tcp_ports(len(roles)), strict=True))
    secret = secrets.token_hex(16)
    nodes = {
        name: Served(
            folder / name,
            gateway_address=addresses["vg-1"],
            api_port=free_tcp_port("127.0.0.1", 8080),
            control_port=control[name],
            environment={
                **environment,
                "AIRLOOM_NODE__NAME": name,
                "AIRLOOM_NODE__ROLES": role,
                **({"AIRLOOM_NODE__HOME": home} if home else {}),
                "AIRLOOM_CONTROL__SECRET": secret,
                "AIRLOOM_GATEWAY__VIRTUAL": json.dumps(virtual),
                "AIRLOOM_EDGE__NODES": f"http://127.0.0.1:{control['edge-1']}",
            },
        )
        for name, (role, home) in roles.items()
    }
    return Layout(
        nodes, nodes["api-1"], nodes["edge-1"], (addresses["vg-1"], addresses["vg-2"]), addresses["vg-3"]
    )


def _free_tcp_ports(count: int) -> list[int]:
    ports: list[int] = []
    while len(ports) < count:
        port = free_tcp_port("127.0.0.1", 0)
        if port not in ports:
            ports.append(port)
    return ports
