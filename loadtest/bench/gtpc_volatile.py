"""Airloom's gateway without durability: the real node, front end and session service, over stores in memory.

Rules: a separate process with the arguments ``ADDRESS SIMS SESSIONS PEER``; it prints a line when it serves,
and ends with its input. It is as `airloom serve`, but store, outbox, stream and counter table are in this
process's memory, and nothing is fsynced.
"""

import asyncio
import gc
import sys
from collections.abc import Sequence
from ipaddress import IPv4Address

import uvloop

from airloom.app.adapters import Adapters
from airloom.app.node import Node
from airloom.cli.serve import GC_THRESHOLDS
from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.network import UdpNetwork
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.config import Config, GatewayConfig, NodeConfig
from gtp.userplane.counter_table import CounterTable, over_buffer, table_bytes
from loadtest.bench.gtpc_store import seed


async def _serve(address: str, sims: int, sessions: int, peer: str) -> None:
    clock = SystemClock()
    engine = MemoryEngine(disk=Disk(), clock=clock, is_shared=False)
    await seed(engine, sims=sims, sessions=sessions, peer=peer)
    table = bytearray(table_bytes(2 * sims))

    def open_counters(_: str) -> CounterTable:
        return over_buffer(table)

    node = Node(
        config=Config(
            node=NodeConfig(roles=("gateway",)), gateway=GatewayConfig(address=IPv4Address(address))
        ),
        adapters=Adapters(
            clock=clock,
            entropy=SystemEntropy(),
            network=UdpNetwork(),
            store=WideColumnStore(engine=engine, clock=clock),
            stream=MemoryStream(disk=MemoryDisk(), clock=clock),
            objects=MemoryObjectStore(),
            open_counters=open_counters,
            left_counters=open_counters,
            token_key=bytes(32),
        ),
    )
    await node.start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    running = asyncio.create_task(node.run())
    print('"ready"', flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    running.cancel()
    await asyncio.wait((running,))
    await node.aclose()


def run(argv: Sequence[str]) -> None:
    """Serve until the input ends."""
    address, sims, sessions, peer = argv
    uvloop.run(_serve(address, int(sims), int(sessions), peer))


if __name__ == "__main__":
    run(sys.argv[1:])
