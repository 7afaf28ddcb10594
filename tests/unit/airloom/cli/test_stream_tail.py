"""`airloom stream tail` beside a stream that is being written, and what it shows of a record."""

# ruff: noqa: ASYNC240 - nothing else runs in these loops

import base64
import json
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from airloom.cli.program import app
from core.adapters.stream import reader as reading
from core.adapters.stream.frames import HEAD_BYTES
from core.adapters.stream.log import LogStream
from core.adapters.stream.reader import LogReader
from core.domain.message import StreamRecord
from core.errors import ConfigurationError, SourceGone
from core.ports.stream import IteratorType, StoredRecord
from tests.contract.test_stream import SystemClock

HOSTILE = b"up\x1b[2Jdown\n"
"""A terminal would obey it."""
IMSI, OTHER = "440100000000001", "440100000000002"


def message(imsi: str, payload: bytes) -> StreamRecord:
    record = {"imsi": imsi, "simId": f"sim-{imsi}", "recordId": "r", "sourceProtocol": "udp"}
    record["payloads"] = base64.b64encode(payload).decode()
    return StreamRecord(imsi, json.dumps(record).encode())


@pytest.fixture
async def stream(tmp_path: Path) -> AsyncIterator[LogStream]:
    """It stays open, as under a running node."""
    opened = await LogStream.open(
        folder=tmp_path / "stream", clock=SystemClock(), shards=2, segment_bytes_max=2_000
    )
    yield opened
    await opened.aclose()


async def read_on(reader: LogReader, places: dict[str, str], *, limit: int = 1_000) -> list[StoredRecord]:
    found: list[StoredRecord] = []
    while True:
        before = len(found)
        for shard_id, iterator in places.items():
            result = await reader.read(iterator, limit=limit)
            places[shard_id] = result.next_iterator
            found += result.records
        if len(found) == before:
            return found


@pytest.mark.parametrize("limit", [1, 7, 1_000])
async def test_the_reader_sees_what_the_stream_has_and_goes_on_with_what_comes(
    tmp_path: Path, stream: LogStream, limit: int
) -> None:
    reader = await LogReader.open(tmp_path / "stream")
    shard_ids = [shard.shard_id for shard in await reader.shards()]
    oldest = {each: await reader.iterator(each, IteratorType.TRIM_HORIZON) for each in shard_ids}
    for part in range(3):
        wanted = [message(f"{n}", b"%d %d" % (part, n)) for n in range(40)]
        latest = {each: await reader.iterator(each, IteratorType.LATEST) for each in shard_ids}
        placed = await stream.put(wanted)
        expected = {(result.shard_id, result.sequence_number) for result in placed}
        for places in (oldest, latest):
            found = await read_on(reader, places, limit=limit)
            assert {(record.shard_id, record.sequence_number) for record in found} == expected
            assert len(found) == 40
    assert len(list((tmp_path / "stream").glob("*/*.log"))) > 4, "over several segments"


async def test_the_reader_writes_nothing_and_takes_a_torn_end_for_what_is_on_its_way(
    tmp_path: Path, stream: LogStream
) -> None:
    await stream.put([message(IMSI, b"whole")])
    (path,) = [each for each in tmp_path.glob("stream/*/*.log") if each.stat().st_size > HEAD_BYTES]
    with path.open("ab") as file:
        file.write(b"\0\0\0\x40half a record")
    before = {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()}
    reader = await LogReader.open(tmp_path / "stream")
    iterator = await reader.iterator(path.parent.name, IteratorType.TRIM_HORIZON)
    for _ in range(2):
        result = await reader.read(iterator)
        assert (len(result.records), result.lost) == (1, 0)
    assert {each: each.read_bytes() for each in tmp_path.rglob("*") if each.is_file()} == before


async def test_the_reader_passes_over_a_segment_that_retention_takes_while_it_reads(
    tmp_path: Path, stream: LogStream, monkeypatch: pytest.MonkeyPatch
) -> None:
    await stream.put([message(IMSI, b"whole")])
    (path,) = [each for each in tmp_path.glob("stream/*/*.log") if each.stat().st_size > HEAD_BYTES]
    monkeypatch.setattr(reading, "segments_in", lambda _: [(1, tmp_path / "gone.log"), (1, path)])
    reader = await LogReader.open(tmp_path / "stream")
    iterator = await reader.iterator(path.parent.name, IteratorType.TRIM_HORIZON)
    assert len((await reader.read(iterator)).records) == 1


async def test_a_shard_whose_folder_is_gone_is_a_source_that_is_gone(
    tmp_path: Path, stream: LogStream
) -> None:
    reader = await LogReader.open(tmp_path / "stream")
    iterator = await reader.iterator((await reader.shards())[0].shard_id, IteratorType.TRIM_HORIZON)
    shutil.rmtree(tmp_path / "stream")
    with pytest.raises(SourceGone):
        await reader.read(iterator)


async def test_the_reader_passes_over_damage_and_says_so(tmp_path: Path, stream: LogStream) -> None:
    await stream.put([message(IMSI, b"%d" % n) for n in range(5)])
    (path,) = [each for each in tmp_path.glob("stream/*/*.log") if each.stat().st_size > HEAD_BYTES]
    content = bytearray(path.read_bytes())
    content[40] ^= 1
    path.write_bytes(content)
    reader = await LogReader.open(tmp_path / "stream")
    result = await reader.read(await reader.iterator(path.parent.name, IteratorType.TRIM_HORIZON))
    assert (len(result.records), result.lost) == (4, 1)


async def test_a_folder_without_a_stream_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no stream of a node"):
        await LogReader.open(tmp_path / "nothing")


def tail(folder: Path, *options: str) -> list[str]:
    ended = CliRunner().invoke(app, ["stream", "tail", "--no-follow", "--data-dir", str(folder), *options])
    assert ended.exit_code == 0, ended.output
    return ended.stdout.splitlines()


@pytest.fixture
async def written(tmp_path: Path, stream: LogStream) -> Path:
    event = {"imsi": IMSI, "recordId": "e", "sessionEvent": {"event": "Created", "apn": "a.example"}}
    await stream.put([StreamRecord(IMSI, json.dumps(event).encode())])
    await stream.put([message(IMSI, b"hello")])
    await stream.put([message(OTHER, b"\x00\x01\xff"), message(OTHER, HOSTILE)])
    await stream.put([StreamRecord("other", b"\xff\xfe"), StreamRecord("other", b'{"deviceId": 1}')])
    return tmp_path


def test_what_it_prints(written: Path) -> None:
    lines = [line[24:] for line in tail(written)]
    assert sorted(lines) == sorted([
        f"{IMSI} udp: hello",
        f"{OTHER} udp: base64:AAH/",
        f"{OTHER} udp: base64:{base64.b64encode(HOSTILE).decode()}",
        "other foreign record: base64://4=",
        'other foreign record: {"deviceId": 1}',
    ])  # fmt: skip


def test_one_sim_with_its_events(written: Path) -> None:
    lines = [line[24:] for line in tail(written, "--imsi", IMSI, "--events")]
    assert lines == [f"{IMSI} session event: Created a.example", f"{IMSI} udp: hello"]
    assert len(tail(written, "--sim-id", f"sim-{OTHER}")) == 2


def test_json_has_the_whole_record(written: Path) -> None:
    (line,) = tail(written, "--imsi", IMSI, "--json")
    told = json.loads(line)
    assert (told["payload"], told["partitionKey"], told["record"]["simId"]) == ("hello", IMSI, f"sim-{IMSI}")
    assert told["sequenceNumber"].isdecimal()
