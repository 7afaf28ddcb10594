"""What every stream must do, whatever keeps it.

Rule: a stream is reached through the port alone, and reopened by ``World.reopen``. What may differ (the
number of shards of a hosted stream) is asked of ``shards``.
"""

import asyncio
import hashlib
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from core.adapters.stream.kinesis import KinesisStream
from core.adapters.stream.log import LogStream
from core.adapters.stream.memory import MemoryDisk, MemoryStream
from core.domain.message import StreamRecord
from core.errors import ConfigurationError, PositionLost, SourceGone, Unavailable
from core.ports.stream import (
    PUT_BYTES_MAX,
    RECORD_BYTES_MAX,
    RECORDS_PER_PUT_MAX,
    IteratorType,
    StoredRecord,
    Stream,
)
from loadtest.external import kinesis


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    def monotonic(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass(slots=True)
class World:
    stream: Stream
    make: Callable[[int], Awaitable[Stream]]
    is_hosted: bool = False

    async def reopen(self, shards: int = 4) -> Stream:
        await self.stream.aclose()
        self.stream = await self.make(shards)
        return self.stream


HOSTED = [pytest.param(name, marks=[pytest.mark.e2e, pytest.mark.kinesis]) for name in kinesis.SERVERS]


@pytest.fixture(scope="module")
def endpoint_of() -> Iterator[Callable[[str], str]]:
    """Each server is started once, when the first test wants it."""
    with ExitStack() as servers:
        endpoints: dict[str, str] = {}

        def start(name: str) -> str:
            if name not in endpoints:
                endpoints[name] = servers.enter_context(kinesis.served(name))
            return endpoints[name]

        yield start


@pytest.fixture(params=["memory", "log", *HOSTED])
async def world(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    endpoint_of: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    disk = MemoryDisk()
    endpoint, name = "", f"stream-{secrets.token_hex(4)}"
    if request.param in kinesis.SERVERS:
        for variable, value in kinesis.ENVIRONMENT.items():
            monkeypatch.setenv(variable, value)
        endpoint = endpoint_of(request.param)
        await kinesis.create_stream(endpoint, name, shards=4)

    async def make(shards: int) -> Stream:
        if endpoint:
            return await KinesisStream.open(name=name, region=kinesis.REGION, endpoint=endpoint)
        if request.param == "memory":
            return MemoryStream(disk=disk, clock=SystemClock(), shards=shards)
        return await LogStream.open(folder=tmp_path / "stream", clock=SystemClock(), shards=shards)

    world = World(await make(4), make, is_hosted=bool(endpoint))
    yield world
    await world.stream.aclose()


async def read_all(stream: Stream, *, limit: int = 1_000) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    for shard in await stream.shards():
        iterator = await stream.iterator(shard.shard_id, IteratorType.TRIM_HORIZON)
        while (result := await stream.read(iterator, limit=limit)).records:
            found += result.records
            iterator = result.next_iterator
    return found


def records(keys: int, each: int) -> list[StreamRecord]:
    return [StreamRecord(f"4401000000000{n % keys:02d}", b"%d" % (n // keys)) for n in range(keys * each)]


async def test_each_record_is_where_its_result_says(world: World) -> None:
    batch = records(17, 5)
    results = await world.stream.put(batch)
    places = {(found.shard_id, found.sequence_number): found for found in await read_all(world.stream)}
    assert len(places) == len(batch) == len(results)
    for record, result in zip(batch, results, strict=True):
        found = places[result.shard_id, result.sequence_number]
        assert (found.partition_key, found.data) == (record.partition_key, record.data)
        assert found.arrived.tzinfo is not None


async def test_order_per_key_within_and_across_puts(world: World) -> None:
    for part in range(5):
        await world.stream.put(
            [StreamRecord(f"k{n % 7}", b"%d" % (part * 100 + n // 7)) for n in range(7 * 20)]
        )
    by_key: dict[str, list[int]] = {}
    for found in await read_all(world.stream, limit=13):
        by_key.setdefault(found.partition_key, []).append(int(found.data))
    assert len(by_key) == 7
    for values in by_key.values():
        assert values == [part * 100 + n for part in range(5) for n in range(20)]


async def test_a_key_falls_where_its_md5_does(world: World) -> None:
    shards = sorted(await world.stream.shards(), key=lambda shard: shard.hash_key_start)
    assert shards[0].hash_key_start == 0
    assert shards[-1].hash_key_end == 2**128 - 1
    for left, right in pairwise(shards):
        assert right.hash_key_start == left.hash_key_end + 1
    keys = [f"44010{n:010d}" for n in range(60)]
    results = await world.stream.put([StreamRecord(key, b"x") for key in keys])
    ranges = {shard.shard_id: shard for shard in shards}
    for key, result in zip(keys, results, strict=True):
        value = int(hashlib.md5(key.encode(), usedforsecurity=False).hexdigest(), 16)
        assert ranges[result.shard_id].hash_key_start <= value <= ranges[result.shard_id].hash_key_end
    assert len({result.shard_id for result in results}) == len(shards)


async def test_hash_ranges_by_vectors_of_rfc_1321(world: World) -> None:
    """RFC 1321 §A.5: MD5("a") = 0cc1…, MD5("abc") = 9001…, MD5("message digest") = f96b…."""
    shards = list(await world.stream.shards())
    if len(shards) != 4:
        pytest.fail("these vectors are for four shards")
    results = await world.stream.put([StreamRecord(key, b"") for key in ("a", "abc", "message digest")])
    assert [result.shard_id for result in results] == [shards[n].shard_id for n in (0, 2, 3)]


async def test_sequence_numbers_rise_as_numbers(world: World) -> None:
    for _ in range(3):
        results = await world.stream.put([StreamRecord("one", b"x")] * 9)
        assert all(result.sequence_number.isdecimal() for result in results)
    numbers = [int(found.sequence_number) for found in await read_all(world.stream)]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 27


async def test_iterators_of_all_kinds(world: World) -> None:
    stream = world.stream
    placed = await stream.put([StreamRecord("one", b"%d" % n) for n in range(12)])
    shard_id = placed[0].shard_id

    async def read(kind: IteratorType, number: str = "") -> list[int]:
        result = await stream.read(await stream.iterator(shard_id, kind, number))
        return [int(record.data) for record in result.records]

    assert await read(IteratorType.TRIM_HORIZON) == list(range(12))
    assert await read(IteratorType.AT_SEQUENCE_NUMBER, placed[9].sequence_number) == [9, 10, 11]
    assert await read(IteratorType.AFTER_SEQUENCE_NUMBER, placed[9].sequence_number) == [10, 11]
    assert await read(IteratorType.AFTER_SEQUENCE_NUMBER, placed[11].sequence_number) == []
    latest = await stream.iterator(shard_id, IteratorType.LATEST)
    assert (await stream.read(latest)).records == ()
    await stream.put([StreamRecord("one", b"12")])
    result = await stream.read(latest)
    assert [record.data for record in result.records] == [b"12"]
    assert (await stream.read(result.next_iterator)).records == ()
    assert (await stream.read(latest)).records == result.records  # an iterator is a place, not a cursor


async def test_limit_of_a_read(world: World) -> None:
    placed = await world.stream.put([StreamRecord("one", b"%d" % n) for n in range(10)])
    iterator = await world.stream.iterator(placed[0].shard_id, IteratorType.TRIM_HORIZON)
    result = await world.stream.read(iterator, limit=4)
    assert [int(record.data) for record in result.records] == [0, 1, 2, 3]
    result = await world.stream.read(result.next_iterator, limit=4)
    assert [int(record.data) for record in result.records] == [4, 5, 6, 7]


@pytest.mark.parametrize(("kind", "number"), [
    (IteratorType.AT_SEQUENCE_NUMBER, ""),
    (IteratorType.AT_SEQUENCE_NUMBER, "-1"),
    (IteratorType.AFTER_SEQUENCE_NUMBER, "abc"),
    (IteratorType.AFTER_SEQUENCE_NUMBER, "٣"),
])  # fmt: skip
async def test_what_is_no_sequence_number(world: World, kind: IteratorType, number: str) -> None:
    shard = (await world.stream.shards())[0]
    with pytest.raises(PositionLost, match="sequence number"):
        await world.stream.iterator(shard.shard_id, kind, number)


async def test_what_does_not_exist(world: World) -> None:
    stream = world.stream
    with pytest.raises(SourceGone):
        await stream.iterator("shardId-000000000099", IteratorType.LATEST)
    for iterator in ("", ":", "garbage", "shardId-000000000000:", "shardId-000000000000:x"):
        with pytest.raises(ValueError):
            await stream.read(iterator)


@pytest.mark.parametrize("number", ["1000000", "9" * 19])
async def test_a_checkpoint_that_is_none_of_this_streams(world: World, number: str) -> None:
    """It is beyond the end, or of another stream: what there is is read from the oldest record on."""
    placed = await world.stream.put([StreamRecord("one", b"%d" % n) for n in range(3)])
    shard_id = placed[0].shard_id
    with pytest.raises(PositionLost):
        await world.stream.iterator(shard_id, IteratorType.AFTER_SEQUENCE_NUMBER, number)
    iterator = await world.stream.iterator(shard_id, IteratorType.TRIM_HORIZON)
    assert len((await world.stream.read(iterator)).records) == 3


BIG = b"x" * (RECORD_BYTES_MAX - 1)


@pytest.mark.parametrize("batch", [
    [],
    [StreamRecord("k", b"")] * (RECORDS_PER_PUT_MAX + 1),
    [StreamRecord("k", b"small"), StreamRecord("kk", BIG)],
    [StreamRecord("é", BIG)],  # two bytes of UTF-8
    [StreamRecord("k", BIG)] * 5 + [StreamRecord("k", b"")],
    [StreamRecord("", b"x")],
    [StreamRecord("k" * 257, b"x")],
], ids=["none", "501", "1 MiB", "key counts", "5 MiB", "no key", "long key"])  # fmt: skip
async def test_a_put_over_a_limit_stores_nothing(world: World, batch: list[StreamRecord]) -> None:
    with pytest.raises(ValueError):
        await world.stream.put(batch)
    assert await read_all(world.stream) == []


@pytest.mark.parametrize("batch", [
    [StreamRecord("k", b"")] * RECORDS_PER_PUT_MAX,
    [StreamRecord("k", BIG)] * (PUT_BYTES_MAX // RECORD_BYTES_MAX),
    [StreamRecord("é" * 256, b"x")],
], ids=["500", "5 MiB", "256 characters"])  # fmt: skip
async def test_a_put_at_a_limit(world: World, batch: list[StreamRecord]) -> None:
    results = await world.stream.put(batch)
    assert not any(result.error for result in results)
    assert [found.data for found in await read_all(world.stream)] == [record.data for record in batch]


async def test_reopened_stream_goes_on(world: World) -> None:
    first = await world.stream.put(records(5, 4))
    before = await read_all(world.stream)
    stream = await world.reopen()
    assert await read_all(stream) == before
    second = await stream.put(records(5, 4))
    for old, new in zip(first, second, strict=True):
        assert old.shard_id == new.shard_id
        assert int(new.sequence_number) > int(old.sequence_number)
    assert len(await read_all(stream)) == 40


async def test_number_of_shards_is_fixed(world: World) -> None:
    if world.is_hosted:
        return  # what a hosted stream has is its operator's to say, by other means
    await world.stream.put(records(2, 2))
    with pytest.raises(ConfigurationError, match=r"^stream.shards: 3, but .* 4 shards; set it to that$"):
        await world.reopen(3)


async def test_concurrent_puts_are_all_there_and_each_in_order(world: World) -> None:
    async def writer(name: int) -> None:
        for part in range(10):
            batch = [StreamRecord(f"w{name}", b"%d" % (part * 10 + n)) for n in range(10)]
            assert not any(result.error for result in await world.stream.put(batch))

    async with asyncio.TaskGroup() as group:
        for name in range(20):
            group.create_task(writer(name))
    by_key: dict[str, list[int]] = {}
    for found in await read_all(world.stream):
        by_key.setdefault(found.partition_key, []).append(int(found.data))
    assert by_key == {f"w{name}": list(range(100)) for name in range(20)}


async def test_closing_twice_and_putting_after(world: World) -> None:
    await world.stream.aclose()
    await world.stream.aclose()
    with pytest.raises(Unavailable):
        await world.stream.put(records(1, 1))
