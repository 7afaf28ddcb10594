"""The operations whose cost is counted, each as a context that gives a batch to repeat.

Rules: requests are made before they are counted, as the benchmarks beside this one make them; an answer that
is not the wanted one is an error. ``BATCH`` of them come at once, as under load, so that a commit, a put into
the stream and a wake-up are shared as they are there; of an operator's calls, one comes after the other.
"""

import asyncio
import time as time_
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from aiohttp import helpers, web

from airloom.app.measuring import make_telemetry
from airloom.app.readiness import NodeReadiness
from airloom.app.serving import make_api, make_customers
from core.adapters.http_server import ClientConnection, Clients
from loadtest.bench.cost_counting import Counts, SeededEntropy, rest
from loadtest.bench.cost_devices import g_pdu, publish, udp_message
from loadtest.bench.cost_world import BATCH, PEER, SECRET, Batch, Transport, World, serving, until
from loadtest.bench.gtpc_load import VERSIONS, accepted_teids
from loadtest.bench.gtpc_store import APN, imsi_of
from loadtest.bench.radius_load import access_requests, interim_updates
from loadtest.folders import temporary_folder
from loadtest.peers.nas import Nas, NasSession
from radius.codec import Code

WARM = 2
COUNTED = 2
"""Batches."""
NAS = "127.0.3.1"
OPERATOR_SIMS = 100
PACE_S = 0.2
"""Between an operator's calls, of which there may be so many in a second."""

Setting = AbstractAsyncContextManager[Batch]


@contextmanager
def _place(*, durable: bool) -> Iterator[Path | None]:
    if not durable:
        yield None
        return
    with temporary_folder("cost") as folder:
        yield folder


# -- GTP-C ----------------------------------------------------------------------------------------------


@asynccontextmanager
async def creates(counts: Counts, *, version: int, durable: bool) -> AsyncIterator[Batch]:
    """Sessions of SIMs that attach for the first time since the start."""
    make = VERSIONS[version][0]
    numbers = range(BATCH * (WARM + COUNTED))
    requests = [make(imsi_of(number), number, number + 1, PEER) for number in numbers]
    with _place(durable=durable) as folder:
        async with serving(counts, folder, "gateway") as world:

            async def batch(number: int) -> int:
                part = requests[BATCH * number : BATCH * (number + 1)]
                answers = await world.exchange(part, (PEER, 2123), 2123)
                return len(accepted_teids(version, answers))

            yield batch


# -- RADIUS ---------------------------------------------------------------------------------------------


@asynccontextmanager
async def _radius(counts: Counts) -> AsyncIterator[tuple[World, list[NasSession]]]:
    with _place(durable=True) as folder:
        async with serving(counts, folder, "gateway", "aaa") as world:
            gateway = str(world.config.gateway.address)
            nas = Nas(
                network=world.network,
                address=NAS,
                authentication=(gateway, 1812),
                accounting=(gateway, 1813),
                secret=SECRET,
                entropy=SeededEntropy(),
            )
            async with nas.running():
                sessions = [await nas.attach(imsi=imsi_of(number), apn=APN) for number in range(BATCH)]
                yield world, sessions


async def _asked(world: World, requests: Sequence[bytes], port: int, code: Code) -> int:
    answers = await world.exchange(requests, (NAS, 0), port)
    if any(answer[0] != code for answer in answers):
        raise RuntimeError(f"an answer other than {code.name}")
    return len(answers)


@asynccontextmanager
async def authentication(counts: Counts) -> AsyncIterator[Batch]:
    """Access-Requests of SIMs whose rows are in memory."""
    async with _radius(counts) as (world, sessions):
        batches = [
            [request.data for request in access_requests(sessions, apn=APN, secret=SECRET)]
            for _ in range(WARM + COUNTED)
        ]

        async def batch(number: int) -> int:
            return await _asked(world, batches[number], 1812, Code.ACCESS_ACCEPT)

        yield batch


@asynccontextmanager
async def interim(counts: Counts) -> AsyncIterator[Batch]:
    """Interim-Updates, each answered after the commit that holds it."""
    async with _radius(counts) as (world, sessions):
        batches = [
            [
                request.data
                for request in interim_updates(sessions, octets=1_000 * (number + 1), apn=APN, secret=SECRET)
            ]
            for number in range(WARM + COUNTED)
        ]

        async def batch(number: int) -> int:
            return await _asked(world, batches[number], 1813, Code.ACCOUNTING_RESPONSE)

        yield batch


# -- the API --------------------------------------------------------------------------------------------


@asynccontextmanager
async def api(counts: Counts, *, path: str, calls: int) -> AsyncIterator[Batch]:
    """``GET`` by an operator with 100 SIMs, over one connection that stays, from the embedded store."""
    with _place(durable=True) as folder, mock.patch.object(helpers, "time", _ClockOfHeaders):
        async with serving(counts, folder, "api") as world:
            customers = make_customers(world.config, world.adapters, world.node)
            operator = await customers.identity.create_operator("bench@example.com")
            for _ in range(OPERATOR_SIMS):
                made = await customers.sims.create_in_stock(subscription="plan01s")
                sim_id = made.sim.sim_id
                await customers.sims.register(operator.operator_id, sim_id, made.registration_secret)
            signed_in = customers.identity.issue(operator, 3_600)
            request = (
                f"GET /v1{path.format(sim_id=sim_id)} HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                f"X-Soracom-API-Key: {signed_in.api_key}\r\nX-Soracom-Token: {signed_in.token}\r\n\r\n"
            ).encode()
            application = make_api(
                world.config,
                world.adapters,
                world.node,
                customers,
                telemetry=make_telemetry(world.node, customers.guesses),
                readiness=NodeReadiness(config=world.config, adapters=world.adapters, node=world.node),
            )
            runner = web.AppRunner(application, access_log=None)
            await runner.setup()
            assert runner.server is not None, "it has been set up"
            clients = Clients(most=8, most_of_address=8)
            protocol: Any = ClientConnection(runner.server, clients, asyncio.get_running_loop())
            transport = Transport("127.0.0.2")
            protocol.connection_made(transport)

            async def batch(_: int) -> int:
                for _ in range(calls):
                    transport.written.clear()
                    protocol.data_received(request)
                    await until(lambda: _is_whole(transport.written))
                    await rest(PACE_S)
                return calls

            yield batch
            protocol.connection_lost(None)
            await runner.cleanup()


class _ClockOfHeaders:
    """In the place of aiohttp's ``time``: a Date header is made once a second, at which call is chance."""

    time = (1_800_000_000).conjugate
    gmtime = time_.gmtime


def _is_whole(answer: bytearray) -> bool:
    head, _, body = bytes(answer).partition(b"\r\n\r\n")
    if not body:
        return False
    if not head.startswith(b"HTTP/1.1 200 "):
        raise RuntimeError(head.decode())
    length = next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return len(body) == int(length.split(b":")[1])


OPERATIONS: dict[str, Callable[[Counts], Setting]] = {
    "GTPv1 create, volatile": partial(creates, version=1, durable=False),
    "GTPv1 create, durable": partial(creates, version=1, durable=True),
    "GTPv2 create, volatile": partial(creates, version=2, durable=False),
    "GTPv2 create, durable": partial(creates, version=2, durable=True),
    "RADIUS authentication": authentication,
    "RADIUS interim, durable": interim,
    "MQTT publish, QoS 1": publish,
    "UDP message": udp_message,
    "G-PDU up": partial(g_pdu, up=True),
    "G-PDU down": partial(g_pdu, up=False),
    "API getSim": partial(api, path="/sims/{sim_id}", calls=8),
    "API page of 100 SIMs": partial(api, path="/sims?limit=100", calls=2),
}
