"""A store of every engine for each test that asks for ``world``."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from core.adapters.store.cassandra import CassandraAddress, migrate
from loadtest.parts import cassandra
from tests.contract.stores import OPENERS, World, cassandra_opener, empty_tables


@pytest.fixture(scope="session")
def cassandra_address() -> Iterator[Callable[[], CassandraAddress]]:
    """A node, started when the first test wants it."""
    with ExitStack() as parts:
        addresses: list[CassandraAddress] = []

        def start() -> CassandraAddress:
            if not addresses:
                addresses.append(cassandra.address_of(parts.enter_context(cassandra.served()), "airloom"))
                assert asyncio.run(migrate(address=addresses[0], replication_factor=1)) == 0
            return addresses[0]

        yield start


SERVED = [pytest.param("cassandra", marks=[pytest.mark.e2e, pytest.mark.cassandra])]


@pytest.fixture(params=[*sorted(OPENERS), *SERVED])
async def world(
    request: pytest.FixtureRequest, tmp_path: Path, cassandra_address: Callable[[], CassandraAddress]
) -> AsyncIterator[World]:
    if request.param == "cassandra":
        address = await asyncio.to_thread(cassandra_address)
        await asyncio.to_thread(empty_tables, address)
        made = World(cassandra_opener(address))
    else:
        made = World(OPENERS[request.param](tmp_path))
    await made.open()
    yield made
    await made.store.aclose()
