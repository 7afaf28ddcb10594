"""A flipped bit anywhere in the embedded stream, an end torn anywhere: no record is lost but the one hit, and
never in silence.
"""

import asyncio
import shutil
from pathlib import Path

import pytest

from core.adapters.stream.frames import HEAD_BYTES, encode, head_of_segment, scan
from core.adapters.stream.log import LogStream
from core.adapters.stream.reader import LogReader
from core.adapters.stream.segments import Part, ShardLog
from core.domain.message import StreamRecord
from core.ports.stream import IteratorType, ReadResult
from tests.contract.test_stream import SystemClock

DATA = [b"first", b"", b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0", b"x" * 40, b"fifth", b"last one"]
FRAMES = [encode(number, 1_000, b"440100000000001", data) for number, data in enumerate(DATA, 7)]
SEGMENT = head_of_segment(7) + b"".join(FRAMES)
ENDS = [HEAD_BYTES + sum(map(len, FRAMES[:n])) for n in range(len(FRAMES) + 1)]
OF_0_2_0 = bytes.fromhex(
    "6169726c6f6f6d310000002650c5de3d000000000000000700000000000003e8000f3434303130303030303030303030"
    "316669727374000000219cc9852c000000000000000800000000000003e8000f34343031303030303030303030303100"
    "000035c96d8cdc000000000000000900000000000003e8000f3434303130303030303030303030310000000000000000"
    "000000000000000000000000000000497d24b354000000000000000a00000000000003e8000f34343031303030303030"
    "303030303178787878787878787878787878787878787878787878787878787878787878787878787878787878000000"
    "265c0afad5000000000000000b00000000000003e8000f343430313030303030303030303031666966746800000029af"
    "b39788000000000000000c00000000000003e8000f3434303130303030303030303030316c617374206f6e65"
)
"""The same records in a segment as 0.2.0 wrote it."""


def hit(offset: int) -> int:
    """The number of the record that an octet belongs to; 0 for the head."""
    return next((7 + n for n, end in enumerate(ENDS[1:]) if ENDS[0] <= offset < end), 0)


def numbers_in(content: bytes) -> tuple[list[int], int]:
    found = scan(content, 7)
    return [number for run in found.runs for number, _ in run.places], found.lost


def flipped(offset: int, bit: int) -> bytes:
    return SEGMENT[:offset] + bytes([SEGMENT[offset] ^ (1 << bit)]) + SEGMENT[offset + 1 :]


def test_every_flipped_bit_costs_the_record_hit_and_is_noticed() -> None:
    for offset in range(HEAD_BYTES, len(SEGMENT)):
        for bit in range(8):
            kept, lost = numbers_in(flipped(offset, bit))
            assert kept == [n for n in range(7, 13) if n != hit(offset)], (offset, bit)
            assert lost == 1, (offset, bit)


def test_every_torn_end_loses_nothing_that_was_whole_and_is_no_damage() -> None:
    for length in range(len(SEGMENT) + 1):
        for rest in (b"", bytes(4_096)):
            content = SEGMENT[:length] + rest
            whole = [n for n, frame in enumerate(FRAMES) if content[ENDS[n] : ENDS[n + 1]] == frame]
            kept, lost = numbers_in(content)
            assert kept == [7 + n for n in whole], (length, len(rest))
            assert lost <= bool(rest), "zeros behind a torn record may also have been one"


def test_what_is_between_damaged_records_is_found() -> None:
    for one in range(6):
        for other in range(6):
            content = bytearray(SEGMENT)
            content[ENDS[one] + 2] ^= 0x40
            content[ENDS[other] + 9] ^= 0x02
            kept, lost = numbers_in(bytes(content))
            assert kept == [n for n in range(7, 13) if n not in (7 + one, 7 + other)]
            if max(one, other) < 5:  # of two at the end, one at least is noticed, or none: it looks torn
                assert lost == 6 - len(kept)


def read(log: ShardLog) -> Part:
    return log.read(0, 1_000, 10**6)


def test_a_shard_opens_on_every_flipped_octet_and_its_numbers_rise(tmp_path: Path) -> None:
    """The file as it was is kept; what was written afterwards is there at the next start, nothing twice."""
    for offset in range(len(SEGMENT)):
        folder = tmp_path / f"{offset}"
        folder.mkdir()
        bit = offset % 8
        (folder / f"{7:020d}.log").write_bytes(flipped(offset, bit))
        wanted = [n for n in range(7, 13) if n != hit(offset)]
        for life in range(2):
            log = ShardLog(
                folder=folder, segment_bytes_max=10_000, retention_s=1e12, retention_bytes_max=10**9
            )
            assert [frame[0] for frame in read(log).frames] == wanted, offset
            assert (log.lost, len(log.damage)) == ((0, 0) if life else (int(offset >= HEAD_BYTES), 1)), offset
            number = log.append([(b"k", b"new")], 1)
            assert number > 12
            log.sync()
            wanted.append(number)
            log.close()
        assert [path.read_bytes() for path in folder.glob("*.lost-1")] == [flipped(offset, bit)]
        shutil.rmtree(folder)


def opened(folder: Path, content: bytes, *, is_last: bool = True) -> ShardLog:
    """A shard that has this as its segment from record 7 on, and perhaps one behind it."""
    (folder / f"{7:020d}.log").write_bytes(content)
    if not is_last:
        (folder / f"{13:020d}.log").write_bytes(head_of_segment(13))
    return ShardLog(folder=folder, segment_bytes_max=10_000, retention_s=1e12, retention_bytes_max=10**9)


async def read_beside(folder: Path, shard_id: str) -> ReadResult:
    """By the reader that has no lock on it."""
    reader = LogReader(folder=folder, shards=1)
    return await reader.read(await reader.iterator(shard_id, IteratorType.TRIM_HORIZON))


@pytest.mark.parametrize("is_last", [True, False])
def test_a_segment_of_0_2_0_is_read_and_gone_on_with(tmp_path: Path, is_last: bool) -> None:
    shard = tmp_path / "shardId-000000000000"
    shard.mkdir()
    log = opened(shard, OF_0_2_0, is_last=is_last)
    assert (log.damage, [frame[3] for frame in read(log).frames]) == ([], DATA)
    assert log.append([(b"k", b"new")], 1) == 13
    log.sync()
    log.close()
    again = ShardLog(folder=shard, segment_bytes_max=1, retention_s=1e12, retention_bytes_max=10**9)
    assert (again.damage, [frame[3] for frame in read(again).frames]) == ([], [*DATA, b"new"])
    again.append([(b"k", b"newer")], 1)
    again.sync()
    again.close()
    assert (shard / f"{7:020d}.log").read_bytes().startswith(OF_0_2_0)
    assert (shard / f"{14:020d}.log").read_bytes().startswith(head_of_segment(14))
    found = asyncio.run(read_beside(tmp_path, shard.name))
    assert ([record.data for record in found.records], found.lost) == ([*DATA, b"new", b"newer"], 0)


def test_a_segment_of_0_2_0_with_a_flipped_octet_is_reported(tmp_path: Path) -> None:
    for offset in range(len(OF_0_2_0)):
        folder = tmp_path / f"{offset}"
        folder.mkdir()
        log = opened(folder, OF_0_2_0[:offset] + bytes([OF_0_2_0[offset] ^ 3]) + OF_0_2_0[offset + 1 :])
        wanted = [n for n in range(7, 13) if n != hit(offset + HEAD_BYTES - 8) or offset < 8]
        assert [frame[0] for frame in read(log).frames] == wanted, offset
        assert (log.lost, len(log.damage)) == (int(offset >= 8), 1), offset
        log.close()


def test_a_damaged_head_of_an_older_segment_is_reported_and_costs_no_record(tmp_path: Path) -> None:
    for offset in range(HEAD_BYTES):
        for mask in (1 << offset % 8, 3):
            folder = tmp_path / f"{offset}-{mask}"
            folder.mkdir()
            content = SEGMENT[:offset] + bytes([SEGMENT[offset] ^ mask]) + SEGMENT[offset + 1 :]
            log = opened(folder, content, is_last=False)
            assert [frame[0] for frame in read(log).frames] == list(range(7, 13)), offset
            assert ["at its head" in line for line in log.damage] == [True], offset
            log.close()


def test_an_older_segment_cut_anywhere_holds_up_nothing_behind_it(tmp_path: Path) -> None:
    for length in range(len(SEGMENT)):
        folder = tmp_path / f"{length}"
        folder.mkdir()
        log = opened(folder, SEGMENT[:length], is_last=False)
        assert log.append([(b"k", b"new")], 1) == 13
        log.sync()
        found = read(log)
        whole = sum(end <= length for end in ENDS[1:])
        assert [frame[0] for frame in found.frames] == [*range(7, 7 + whole), 13], length
        assert found.lost or log.damage or length in ENDS, length
        log.close()


def test_a_head_of_which_the_disk_has_a_part_loses_nothing(tmp_path: Path) -> None:
    for length in range(HEAD_BYTES + 1):
        folder = tmp_path / f"{length}"
        folder.mkdir()
        log = opened(folder, SEGMENT[:length])
        assert (log.damage, log.lost, log.append([(b"k", b"new")], 1)) == ([], 0, 7), length
        log.sync()
        log.close()
        assert (folder / f"{7:020d}.log").read_bytes().startswith(head_of_segment(7))


@pytest.mark.parametrize("more", [b"\xaa", bytes(10), bytes(4_096), FRAMES[2], FRAMES[1] + FRAMES[2]])
def test_octets_put_between_whole_records_cost_none(tmp_path: Path, more: bytes) -> None:
    """A page of zeros, or what was written before once more."""
    for number, end in enumerate(ENDS[:-1]):
        if more in SEGMENT[end:]:
            continue  # records that come before their turn are damage that costs those between
        folder = tmp_path / f"{number}"
        folder.mkdir()
        content = SEGMENT[:end] + more + SEGMENT[end:]
        (folder / f"{7:020d}.log").write_bytes(content)
        wanted = list(range(7, 13))
        for life in range(2):
            log = ShardLog(
                folder=folder, segment_bytes_max=10_000, retention_s=1e12, retention_bytes_max=10**9
            )
            assert [frame[0] for frame in read(log).frames] == wanted, number
            assert (log.lost, len(log.damage)) == (0, 0 if life else 1), number
            wanted.append(log.append([(b"k", b"new")], 1))
            log.sync()
            log.close()
        assert [path.read_bytes() for path in folder.glob("*.lost-1")] == [content]


async def stored(folder: Path, count: int) -> list[int]:
    """Put so many records; their numbers."""
    stream = await LogStream.open(folder=folder, clock=SystemClock(), shards=1)
    results = await stream.put([StreamRecord("k", b"%d" % n) for n in range(count)])
    await stream.aclose()
    return [int(result.sequence_number) for result in results]


@pytest.mark.parametrize("how", ["removed", "older", "killed and older", "emptied"])
async def test_numbers_never_fall_nor_come_twice(tmp_path: Path, how: str) -> None:
    folder, copy = tmp_path / "stream", tmp_path / "copy"
    given = await stored(folder, 5)
    shutil.copytree(folder, copy)
    marks = tmp_path / "stream.numbers"
    stream = await LogStream.open(folder=folder, clock=SystemClock(), shards=1)
    results = await stream.put([StreamRecord("k", b"later")] * 10)
    given += [int(result.sequence_number) for result in results]
    killed = marks.read_bytes()
    await stream.aclose()
    if how == "emptied":
        for path in folder.glob("*/*.log"):
            path.unlink()
    else:
        shutil.rmtree(folder)
    if how in ("older", "killed and older"):
        shutil.copytree(copy, folder)
    if how == "killed and older":
        marks.write_bytes(killed)
    stream = await LogStream.open(folder=folder, clock=SystemClock(), shards=1)
    missing = {"removed": "1 to 15", "older": "6 to 15", "killed and older": "", "emptied": "1 to 15"}[how]
    assert stream.lost == bool(missing), "a mark that was set ahead does not show what was stored"
    assert missing in "".join(stream.damage)
    shard_id = (await stream.shards())[0].shard_id
    kept = await stream.read(await stream.iterator(shard_id, IteratorType.TRIM_HORIZON))
    assert len(kept.records) == (5 if "older" in how else 0)
    results = await stream.put([StreamRecord("k", b"new")] * 3)
    assert min(int(result.sequence_number) for result in results) > max(given)
    await stream.aclose()
    assert min(await stored(folder, 1)) > max(int(result.sequence_number) for result in results)


async def test_a_store_that_is_newer_than_folder_and_marks_says_where_numbers_begin(tmp_path: Path) -> None:
    stream = await LogStream.open(
        folder=tmp_path / "stream", clock=SystemClock(), shards=1, numbers_from={"shardId-000000000000": 501}
    )
    results = await stream.put([StreamRecord("k", b"x")])
    assert results[0].sequence_number == "501"
    await stream.aclose()


@pytest.mark.parametrize("damage", [b"", b"nonsense", b"00000000 {}"])
async def test_marks_that_are_damaged_are_said_and_begun_anew(tmp_path: Path, damage: bytes) -> None:
    await stored(tmp_path / "stream", 5)
    (tmp_path / "stream.numbers").write_bytes(damage)
    stream = await LogStream.open(folder=tmp_path / "stream", clock=SystemClock(), shards=1)
    assert ["damaged" in line for line in stream.damage] == [True]
    results = await stream.put([StreamRecord("k", b"x")])
    assert results[0].sequence_number == "6"
    await stream.aclose()


async def test_every_flipped_bit_of_the_small_files_lets_the_stream_open(tmp_path: Path) -> None:
    folder = tmp_path / "stream"
    await stored(folder, 2)
    for path in (folder / "stream.json", tmp_path / "stream.numbers"):
        whole = path.read_bytes()
        for offset in range(len(whole)):
            path.write_bytes(whole[:offset] + bytes([whole[offset] ^ 4]) + whole[offset + 1 :])
            stream = await LogStream.open(folder=folder, clock=SystemClock(), shards=1)
            shard_id = (await stream.shards())[0].shard_id
            found = await stream.read(await stream.iterator(shard_id, IteratorType.TRIM_HORIZON))
            assert [record.data for record in found.records] == [b"0", b"1"], offset
            await stream.aclose()
            path.write_bytes(whole)
