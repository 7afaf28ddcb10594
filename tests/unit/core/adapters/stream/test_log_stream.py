"""What only the log on disk has to bear: kills, torn ends, full disks, damage, its limits."""

# ruff: noqa: ASYNC220, ASYNC221, ASYNC240, ASYNC251 - nothing else runs in these loops

import asyncio
import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from core.adapters.stream.frames import decode, encode
from core.adapters.stream.log import LogStream
from core.adapters.stream.reader import LogReader
from core.adapters.stream.rules import FAILED, THROTTLED
from core.adapters.stream.segments import FOREIGN_NAMED_MAX, LOST_FILES_MAX, MARK_BYTES, ShardLog
from core.domain.message import StreamRecord
from core.errors import ConfigurationError
from core.ports.stream import IteratorType, StoredRecord


class SetClock:
    def __init__(self) -> None:
        self.at = datetime.now(UTC)  # files found at opening are as old as the disk says

    def now(self) -> datetime:
        return self.at

    def monotonic(self) -> float:
        return 0.0


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


async def read_all(stream: LogStream, shard: int = 0) -> list[StoredRecord]:
    shard_id = (await stream.shards())[shard].shard_id
    iterator = await stream.iterator(shard_id, IteratorType.TRIM_HORIZON)
    found: list[StoredRecord] = []
    while (result := await stream.read(iterator)).records:
        found += result.records
        iterator = result.next_iterator
    return found


def one(data: bytes) -> list[StreamRecord]:
    return [StreamRecord("k", data)]


CHILD = """
import asyncio, sys
from datetime import UTC, datetime
from pathlib import Path
from core.adapters.stream.log import LogStream
from core.domain.message import StreamRecord

class Clock:
    def now(self): return datetime.now(UTC)
    def monotonic(self): return 0.0

async def writer(stream, name):
    for n in range(1_000_000):
        batch = [StreamRecord(name, b"%d" % (n * 10 + i)) for i in range(10)]
        for result in await stream.put(batch):
            assert not result.error
        sys.stdout.write(f"{name} {n * 10 + 9}\\n")
        sys.stdout.flush()

async def main():
    stream = await LogStream.open(folder=Path(sys.argv[1]), clock=Clock(), shards=2, segment_bytes_max=20_000)
    async with asyncio.TaskGroup() as group:
        for name in ("a", "b", "c", "d"):
            group.create_task(writer(stream, name))

asyncio.run(main())
"""


async def test_kill_in_mid_put_loses_nothing_accepted(tmp_path: Path, clock: SetClock) -> None:
    accepted: dict[str, int] = {}
    for _ in range(3):
        child = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[5],
        )
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(0.15)
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().decode().splitlines(keepends=True)
        child.wait()
        child.stdout.close()
        last = dict(line.split() for line in lines if line.endswith("\n"))
        assert last
        stream = await LogStream.open(folder=tmp_path, clock=clock, shards=2)
        stored: dict[str, list[int]] = {}
        for shard in (0, 1):
            found = await read_all(stream, shard)
            numbers = [int(record.sequence_number) for record in found]
            assert numbers == sorted(set(numbers))
            for record in found:
                stored.setdefault(record.partition_key, []).append(int(record.data))
        for name, highest in last.items():
            begun = max(i for i, value in enumerate(stored[name]) if value == 0)  # this child's first
            run = stored[name][begun:]
            assert run == list(range(len(run)))
            assert len(run) > int(highest)
        accepted.update({name: int(value) for name, value in last.items()})
        await stream.aclose()
    assert accepted


@pytest.mark.parametrize("tail", ["cut", "flipped", "zeros", "garbage", "lying length"])
async def test_torn_tail_is_cut_and_the_log_goes_on(tmp_path: Path, clock: SetClock, tail: str) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    for n in range(5):
        await stream.put(one(b"%d" % n))
    await stream.aclose()
    path = next(tmp_path.glob("*/*.log"))
    whole = path.read_bytes()
    torn = {
        "cut": whole[:-3],
        "flipped": whole[:-1] + bytes([whole[-1] ^ 1]),
        "zeros": whole + bytes(4_096),
        "garbage": whole + os.urandom(100),
        "lying length": whole + b"\xff\xff\xff\xff" + bytes(50),
    }[tail]
    path.write_bytes(torn)
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    kept = 4 if tail in ("cut", "flipped") else 5
    assert [int(found.data) for found in await read_all(stream)] == list(range(kept))
    results = await stream.put(one(b"next"))
    assert int(results[0].sequence_number) > 5, "what was given out once is not given out again"
    await stream.aclose()
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    assert (await read_all(stream))[-1].data == b"next"
    await stream.aclose()


@pytest.mark.parametrize("content", [b"", b"airl", bytes(8), bytes(100)])
async def test_segment_whose_beginning_never_reached_the_disk(
    tmp_path: Path, clock: SetClock, content: bytes
) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    await stream.put(one(b"0"))
    await stream.aclose()
    folder = next(tmp_path.glob("shardId*"))
    (folder / f"{2:020d}.log").write_bytes(content)
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    results = await stream.put(one(b"1"))
    assert results[0].sequence_number == "2"
    assert [found.data for found in await read_all(stream)] == [b"0", b"1"]
    await stream.aclose()


async def test_foreign_file_is_refused(tmp_path: Path, clock: SetClock) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    await stream.aclose()
    path = next(tmp_path.glob("*/*.log"))
    path.write_bytes(b"something else entirely")
    with pytest.raises(ConfigurationError, match="not a segment"):
        await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    assert path.read_bytes() == b"something else entirely"


FOREIGN = ["x.log", "00000000000000000001.log.bak", "\u0660" * 19 + "\u0661.log", "-1.log", f"{0:020d}.log"]


@pytest.mark.parametrize("name", [*FOREIGN, f"{5:020d}.log/"])
async def test_what_is_not_named_as_a_segment_is_told_and_left_alone(
    tmp_path: Path, clock: SetClock, name: str
) -> None:
    folder = tmp_path / "stream"
    await (await LogStream.open(folder=folder, clock=clock, shards=1)).aclose()
    shard = next(folder.glob("shardId-*"))
    foreign = shard / name
    if name.endswith("/"):
        foreign.mkdir()
    else:
        foreign.write_bytes(b"somebody's")
    (folder / "shardId-of-an-older-time").mkdir()
    (folder / "stream.json").write_bytes(b"damaged, so that the folders of shards are looked at")
    for life in range(2):
        stream = await LogStream.open(folder=folder, clock=clock, shards=1)
        told = [line for line in stream.damage if foreign.name in line]
        assert [line.partition(": ")[0] for line in told] == [str(shard)]
        assert stream.lost == 0
        await stream.put(one(b"%d" % life))
        wanted = [b"%d" % n for n in range(life + 1)]
        assert [found.data for found in await read_all(stream)] == wanted
        reader = await LogReader.open(folder)
        result = await reader.read(await reader.iterator(shard.name, IteratorType.TRIM_HORIZON))
        assert ([found.data for found in result.records], result.lost) == (wanted, 0)
        await stream.aclose()
    assert foreign.is_dir() or foreign.read_bytes() == b"somebody's"


async def test_of_many_foreign_files_some_are_named(tmp_path: Path, clock: SetClock) -> None:
    await (await LogStream.open(folder=tmp_path, clock=clock, shards=1)).aclose()
    shard = next(tmp_path.glob("shardId-*"))
    for number in range(FOREIGN_NAMED_MAX + 3):
        (shard / f"x{number}.log").touch()
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    assert stream.damage == (
        f"{shard}: x0.log, x1.log, x2.log, x3.log and 3 others: not part of the stream; ignored",
    )
    await stream.aclose()


async def damaged_last(folder: Path, clock: SetClock) -> Path:
    """Two records more, of which the first one has a flipped bit."""
    stream = await LogStream.open(folder=folder, clock=clock, shards=1)
    await stream.put(one(b"hit"))
    await stream.put(one(b"kept"))
    await stream.aclose()
    path = max(folder.glob("*/*.log"))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"hit")] ^= 1
    path.write_bytes(content)
    return path


async def test_a_damaged_segment_on_a_full_disk_is_set_aside_once(
    tmp_path: Path, clock: SetClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await damaged_last(tmp_path, clock)
    damaged = path.read_bytes()

    def full(descriptor: int) -> None:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(ConfigurationError, match="free some space"):
            patch.setattr(os, "fsync", full)
            await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    assert sorted(each.name for each in path.parent.iterdir()) == [f"{1:020d}.log", f"{1:020d}.lost-1"]
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    assert [found.data for found in await read_all(stream)] == [b"kept"]
    assert (len(stream.damage), stream.lost) == (1, 1)
    await stream.aclose()
    assert [each.read_bytes() for each in path.parent.glob("*.lost-*")] == [damaged]


async def test_of_damaged_segments_the_newest_are_kept(tmp_path: Path, clock: SetClock) -> None:
    damaged: list[bytes] = []
    for _ in range(LOST_FILES_MAX + 3):
        damaged.append((await damaged_last(tmp_path, clock)).read_bytes())
    await (await LogStream.open(folder=tmp_path, clock=clock, shards=1)).aclose()
    kept = {each.read_bytes() for each in tmp_path.glob("*/*.lost-*")}
    assert kept == set(damaged[-LOST_FILES_MAX:])


async def test_damage_that_comes_later_is_passed_over_and_counted_once(
    tmp_path: Path, clock: SetClock
) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1, segment_bytes_max=100)
    for n in range(12):
        await stream.put(one(b"%d" % n))
    for path in tmp_path.glob("*/*.log"):
        content = bytearray(path.read_bytes())
        if len(content) > 40:
            content[30] ^= 1
            path.write_bytes(content)
    iterator = await stream.iterator((await stream.shards())[0].shard_id, IteratorType.TRIM_HORIZON)
    found, lost = [], 0
    for _ in range(5):
        result = await stream.read(iterator)
        found += [int(record.data) for record in result.records]
        lost, iterator = lost + result.lost, result.next_iterator
    assert found
    assert found == sorted(set(found))
    assert len(found) + lost == 12
    await stream.put(one(b"12"))
    result = await stream.read(iterator)
    assert ([record.data for record in result.records], result.lost) == ([b"12"], 0)
    await stream.aclose()


async def test_segments_roll_and_are_all_read(tmp_path: Path, clock: SetClock) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1, segment_bytes_max=1_000)
    for n in range(50):
        await stream.put(one(b"%050d" % n))
    assert len(list(tmp_path.glob("*/*.log"))) > 3
    for _ in range(2):
        assert [int(found.data) for found in await read_all(stream)] == list(range(50))
        shard_id = (await stream.shards())[0].shard_id
        for n in range(50):
            iterator = await stream.iterator(shard_id, IteratorType.AT_SEQUENCE_NUMBER, str(n + 1))
            result = await stream.read(iterator, limit=2)
            assert int(result.records[0].data) == n
        await stream.aclose()
        stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1, segment_bytes_max=1_000)
    await stream.aclose()


async def test_retention_by_age_and_by_size(tmp_path: Path, clock: SetClock) -> None:
    stream = await LogStream.open(
        folder=tmp_path, clock=clock, shards=1, segment_bytes_max=1_000, retention_s=3_600.0
    )
    for n in range(30):
        await stream.put(one(b"%050d" % n))
    held = await stream.iterator((await stream.shards())[0].shard_id, IteratorType.TRIM_HORIZON)
    clock.at += timedelta(seconds=3_601)
    for n in range(30, 60):
        await stream.put(one(b"%050d" % n))
    left = [int(found.data) for found in await read_all(stream)]
    assert left == list(range(left[0], 60))
    assert 0 < left[0] <= 30
    assert int((await stream.read(held)).records[0].data) == left[0]
    await stream.aclose()
    stream = await LogStream.open(
        folder=tmp_path, clock=clock, shards=1, segment_bytes_max=1_000, retention_bytes_max=3_000
    )
    for n in range(60, 90):
        results = await stream.put(one(b"%050d" % n))
    assert results[0].sequence_number == "90"
    assert sum(path.stat().st_size for path in tmp_path.glob("*/*.log")) < 4_200
    await stream.aclose()


async def test_queue_full_by_records_and_by_bytes(tmp_path: Path, clock: SetClock) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1, queue_records_max=30)
    batch = [StreamRecord("k", b"%d" % n) for n in range(20)]
    first, second, third = await asyncio.gather(*(stream.put(batch) for _ in range(3)))
    assert not any(result.error for result in first)
    assert [result.error for result in second] == [""] * 10 + [THROTTLED] * 10
    assert {result.error for result in third} == {THROTTLED}
    assert not any(result.error for result in await stream.put(batch))
    assert len(await read_all(stream)) == 50
    await stream.aclose()
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1, queue_bytes_max=100)
    results = await stream.put([StreamRecord("k", bytes(40))] * 3)
    assert [result.error for result in results] == ["", "", THROTTLED]
    await stream.aclose()


async def test_closing_writes_what_waits(tmp_path: Path, clock: SetClock) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    async with asyncio.TaskGroup() as group:
        puts = [group.create_task(stream.put(one(b"%d" % n))) for n in range(50)]
        await asyncio.sleep(0)
        await stream.aclose()
    assert [int(put.result()[0].sequence_number) for put in puts] == list(range(1, 51))


async def test_cancelled_put_hurts_nobody(tmp_path: Path, clock: SetClock) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock, shards=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0):
            await stream.put(one(b"0"))
    assert not (await stream.put(one(b"1")))[0].error
    await stream.aclose()


async def test_second_process_is_refused(tmp_path: Path, clock: SetClock) -> None:
    stream = await LogStream.open(folder=tmp_path, clock=clock)
    with pytest.raises(ConfigurationError, match="another process"):
        await LogStream.open(folder=tmp_path, clock=clock)
    await stream.aclose()
    await (await LogStream.open(folder=tmp_path, clock=clock)).aclose()


async def test_folder_that_cannot_be_used(tmp_path: Path, clock: SetClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match=r"use a writable folder") as raised:
        await LogStream.open(folder=tmp_path / "file", clock=clock)
    assert "\n" not in str(raised.value)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    if os.geteuid() != 0:
        pytest.skip("not run: mounting a small file system needs root")
    folder = tmp_path / "tmpfs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", folder], check=True)


@pytest.mark.root
async def test_read_only_folder(tmpfs: Path, clock: SetClock) -> None:
    subprocess.run(["mount", "-o", "remount,ro", tmpfs], check=True)
    with pytest.raises(ConfigurationError, match="Read-only file system") as raised:
        await LogStream.open(folder=tmpfs / "stream", clock=clock)
    assert "\n" not in str(raised.value)


@pytest.mark.root
@pytest.mark.parametrize("segment_bytes_max", [20_000, 1_000_000])
async def test_disk_full_refuses_and_stays_whole(
    tmpfs: Path, clock: SetClock, segment_bytes_max: int
) -> None:
    stream = await LogStream.open(folder=tmpfs, clock=clock, shards=1, segment_bytes_max=segment_bytes_max)
    accepted = []
    errors = set()
    for n in range(400):
        result = (await stream.put(one(b"%01000d" % n)))[0]
        if result.error:
            errors.add(result.error)
        else:
            accepted.append(n)
    assert errors == {FAILED}
    assert [int(found.data) for found in await read_all(stream)] == accepted
    await stream.aclose()
    subprocess.run(["mount", "-o", "remount,size=2m", tmpfs], check=True)
    stream = await LogStream.open(folder=tmpfs, clock=clock, shards=1)
    assert [int(found.data) for found in await read_all(stream)] == accepted
    assert (await stream.put(one(b"999")))[0].sequence_number == str(len(accepted) + 1)
    await stream.aclose()


class FailingSync(ShardLog):
    """A shard whose disk fails at will."""

    is_failing = False

    def sync(self) -> None:
        if self.is_failing:
            raise OSError(5, "Input/output error")
        super().sync()


def test_failed_sync_is_never_read_and_cut(tmp_path: Path) -> None:
    log = FailingSync(
        folder=tmp_path / "shard", segment_bytes_max=10_000, retention_s=60, retention_bytes_max=10**9
    )
    log.append([(b"k", b"0")], 1)
    log.sync()
    log.is_failing = True
    log.append([(b"k", b"lost"), (b"k", b"lost too")], 1)
    with pytest.raises(OSError):
        log.sync()
    assert [frame[3] for frame in log.read(0, 10, 1_000).frames] == [b"0"]
    log.is_failing = False
    assert log.append([(b"k", b"1")], 1) == 2
    log.sync()
    assert [(frame[0], frame[3]) for frame in log.read(0, 10, 1_000).frames] == [(1, b"0"), (2, b"1")]
    log.close()


def test_what_was_cut_never_comes_back(tmp_path: Path) -> None:
    """Records of a failed sync, one of which would fit right behind the record written in their place."""
    log = FailingSync(
        folder=tmp_path / "shard", segment_bytes_max=10_000, retention_s=60, retention_bytes_max=10**9
    )
    log.is_failing = True
    log.append([(b"k", b"lost"), (b"k", b"lost")], 1)
    with pytest.raises(OSError):
        log.sync()
    log.is_failing = False
    log.append([(b"k", b"kept")], 1)
    log.sync()
    log.close()
    log = FailingSync(
        folder=tmp_path / "shard", segment_bytes_max=10_000, retention_s=60, retention_bytes_max=10**9
    )
    assert [frame[3] for frame in log.read(0, 10, 1_000).frames] == [b"kept"]
    log.close()


def test_reader_scans_no_more_than_a_mark(tmp_path: Path) -> None:
    log = ShardLog(
        folder=tmp_path / "shard", segment_bytes_max=10**7, retention_s=60, retention_bytes_max=10**9
    )
    for n in range(200):
        log.append([(b"k", b"%02000d" % n)], 1)
        log.sync()
    piece = log._plan(150)[0]
    assert piece.number <= 150
    assert (150 - piece.number) * 2_000 <= MARK_BYTES + 2_000
    assert piece.offset > 0
    log.close()


def test_frame_of_another_number_is_none() -> None:
    frame = encode(7, 1, b"key", b"data")
    assert decode(frame, 0, 7) == ((7, 1, "key", b"data"), len(frame))
    assert decode(frame, 0, 8) is None
    assert all(decode(frame[:n], 0, 7) is None for n in range(len(frame)))


@pytest.fixture(autouse=True)
async def no_thread_is_left() -> AsyncIterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "stream-write"]
