"""The environment in which the cost of an operation is counted: a node, its network, and its clients.

Rules: everything is the product's own code except clock, randomness and sockets. ``volatile`` keeps store,
stream and slots in memory, as ``loadtest.bench.gtpc_volatile`` does; ``durable`` is the embedded store and
stream. An operation ends when its answer is sent and its remaining work (its event in the outbox) is done.
"""

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any

from airloom.app.adapters import Adapters
from airloom.app.node import Node
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.store.engine import Engine
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.sqlite import SqliteEngine
from core.adapters.store.wide_column import WideColumnStore
from core.adapters.stream.log import LogStream
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.config import Config, GatewayConfig, NodeConfig, RadiusConfig
from core.domain.account import Operator
from core.ports.network import Address
from core.ports.stream import Stream
from gtp.userplane.counter_table import CounterTable, open_file, over_buffer, table_bytes
from loadtest.bench.cost_counting import (
    CountedClock,
    CountedEngine,
    CountedStream,
    Counts,
    SeededEntropy,
    count_statements,
    rest,
)
from loadtest.bench.gtpc_store import OPERATOR_ID, seed
from loadtest.simulation.virtual import PERFECT, VirtualNetwork

GATEWAY, PEER = "127.9.0.1", "127.9.0.2"
SIMS = 256
SLOTS = 2 * SIMS
SETTLE_S = 0.2
"""Of the loop's time: longer than the relay of events gathers."""
SECRET = b"the secret of the bench"
BATCH = 64
"""Operations that come at once."""
TURNS_MAX = 1_000

Batch = Callable[[int], Awaitable[int]]
"""Does the batch of this number, whole; how many operations it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """One node that serves, and what it stands on."""

    config: Config
    adapters: Adapters
    node: Node
    network: VirtualNetwork
    counts: Counts

    async def exchange(self, requests: Sequence[bytes], source: Address, port: int) -> list[bytes]:
        """Send all at once; the answers, when everything has come to rest."""
        answers: list[bytes] = []
        bound = await self.network.open_datagram(source, lambda data, _: answers.append(data))
        for request in requests:
            bound.send(request, (GATEWAY, port))
        await rest(SETTLE_S)
        bound.close()
        if len(answers) != len(requests):
            raise RuntimeError(f"{len(answers)} answers to {len(requests)} requests")
        return answers


@asynccontextmanager
async def serving(counts: Counts, folder: Path | None, *roles: str) -> AsyncIterator[World]:
    """A node over stores in ``folder``, or in memory."""
    async with AsyncExitStack() as stack:
        clock, network = CountedClock(), VirtualNetwork(random.Random(1), PERFECT)
        engine, stream, open_counters = await _kept(stack, counts, clock, folder)
        await seed(engine, sims=SIMS, sessions=0, peer=PEER)
        store, now = WideColumnStore(engine=engine, clock=clock), clock.now()
        await store.accounts.put_operator(Operator(OPERATOR_ID, "owner@example.com", now, now))
        adapters = Adapters(
            clock=clock,
            entropy=SeededEntropy(),
            network=network,
            store=store,
            stream=stream,
            objects=MemoryObjectStore(),
            open_counters=open_counters,
            left_counters=open_counters,
            token_key=bytes(32),
        )
        clients = [{"network": "127.0.0.0/8", "secret": SECRET.decode()}] if "aaa" in roles else []
        config = Config(
            node=NodeConfig.model_validate({"roles": roles}),
            gateway=GatewayConfig(address=IPv4Address(GATEWAY), sessions_max=SLOTS),
            radius=RadiusConfig.model_validate({"clients": clients}),
        )
        node = Node(config=config, adapters=adapters)
        await node.start()
        stack.push_async_callback(node.aclose)
        running = asyncio.create_task(node.run())
        stack.push_async_callback(_cancel, running)
        await rest(SETTLE_S)
        yield World(config=config, adapters=adapters, node=node, network=network, counts=counts)


async def _kept(
    stack: AsyncExitStack, counts: Counts, clock: CountedClock, folder: Path | None
) -> tuple[Engine, Stream, Callable[[str], CounterTable]]:
    """Store, stream and slots."""
    if folder is None:
        table = bytearray(table_bytes(SLOTS))
        memory = MemoryEngine(disk=Disk(), clock=clock, is_shared=False)
        return (
            CountedEngine(memory, counts),
            MemoryStream(disk=MemoryDisk(), clock=clock),
            lambda _: over_buffer(table),
        )
    sqlite = await SqliteEngine.open(path=folder / "airloom.db", clock=clock)
    stack.push_async_callback(sqlite.aclose)
    count_statements([sqlite._writes._connection, sqlite._reads._connection], counts)
    stream = await LogStream.open(folder=folder / "stream", clock=clock, shards=4)
    stack.push_async_callback(stream.aclose)
    return (
        CountedEngine(sqlite, counts),
        CountedStream(stream, counts),
        lambda gateway_id: open_file(folder / f"{gateway_id}.slots", capacity=SLOTS),
    )


async def _cancel(running: "asyncio.Task[None]") -> None:
    running.cancel()
    await asyncio.wait((running,))


@dataclass(slots=True, eq=False)
class Transport:
    """Of a device's connection that is none."""

    peer: str
    written: bytearray = field(default_factory=bytearray)
    is_over: bool = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """Where the device is."""
        return (self.peer, 1) if name == "peername" else default

    def write(self, data: bytes) -> None:
        """Kept."""
        self.written += data

    def writelines(self, parts: Sequence[bytes]) -> None:
        """Kept."""
        for part in parts:
            self.written += part

    def is_closing(self) -> bool:
        """Whether ``set`` was called."""
        return self.is_over

    def close(self) -> None:
        """End the wait."""
        self.is_over = True

    abort = close

    def pause_reading(self) -> None:
        """Nothing comes but what is given."""

    def resume_reading(self) -> None:
        """The same."""


async def until(is_done: Callable[[], bool]) -> None:
    """Let time pass, in steps of a millisecond; raises ``RuntimeError`` when it is never done."""
    for _ in range(TURNS_MAX):
        if is_done():
            return
        await rest(0.001)
    raise RuntimeError("it was not answered")
