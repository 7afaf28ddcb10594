"""A store of every engine for each test that asks for ``world``."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.adapters.store.cassandra import CassandraAddress, migrate
from loadtest.external import cassandra
from tests.contract.stores import OPENERS, World, cassandra_opener, empty_tables
from tests.contract.three_nodes import ThreeNodes, patient_opener

IS_THREE = os.environ.get("AIRLOOM_CASSANDRA_NODES") == "3"
"""`./run prove store`: over three nodes, of which one is killed in the midst of the tests and comes back."""
opener = patient_opener if IS_THREE else cassandra_opener


@pytest.fixture(scope="session")
def cassandra_address() -> Iterator[Callable[[], CassandraAddress]]:
    """Empty tables on a cluster that is started when the first test wants it."""
    with ExitStack() as parts:
        clusters: list[Callable[[], CassandraAddress]] = []

        def start() -> Callable[[], CassandraAddress]:
            if IS_THREE:
                three = ThreeNodes(parts.enter_context(cassandra.served(3, is_quick=True)))
                parts.callback(three.demand_killed)
                return three.next_address
            address = cassandra.address_of(parts.enter_context(cassandra.served(is_quick=True)), "airloom")
            assert asyncio.run(migrate(address=address, replication_factor=1)) == 0

            def emptied() -> CassandraAddress:
                empty_tables(address)
                return address

            return emptied

        def next_address() -> CassandraAddress:
            if not clusters:
                clusters.append(start())
            return clusters[0]()

        yield next_address


SERVED = [pytest.param("cassandra", marks=[pytest.mark.e2e, pytest.mark.cassandra])]


@pytest.fixture(params=[*sorted(OPENERS), *SERVED])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, cassandra_address: Callable[[], CassandraAddress]
) -> AsyncIterator[World]:
    if request.param == "cassandra":
        made = World(opener(await asyncio.to_thread(cassandra_address)))
    else:
        made = World(OPENERS[request.param](tmp_path))
    await made.open()
    yield made
    await made.store.aclose()
