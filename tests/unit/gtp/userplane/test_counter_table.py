"""The counter table: what survives what."""

import base64
import errno
import os
import signal
import subprocess
import sys
import textwrap
import time
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from core.domain.usage import SegmentLabel, Volume
from core.errors import ConfigurationError
from core.ports.user_plane import Counters, Segment
from gtp.userplane import counter_table as counter_table_module
from gtp.userplane.counter_table import (
    LOST_FILES_MAX,
    CounterTable,
    Origin,
    open_file,
    over_buffer,
    table_bytes,
)

NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)
LATER = datetime(2026, 12, 1, tzinfo=UTC)
A, B, C = SegmentLabel("s1.slow", "44010"), SegmentLabel("s1.fast", "44020"), SegmentLabel("s1.fast", "")


def take(table: CounterTable, session_id: str = "a" * 32) -> int:
    return table.take(
        session_id=session_id, imsi="440100000000001", operator_id="OP0000000001", epoch=7, label=A, begun=NOW
    )


def add(table: CounterTable, slot: int, up: int, down: int = 0) -> None:
    at = table.counters_at(slot)
    for word, value in enumerate((up, 1, down, 1 if down else 0)):
        table.words[at + word] += value


def moved(table: CounterTable) -> list[str]:
    return [session_id for part in table.moved() for session_id in part]


def test_what_was_counted_since_it_was_last_asked_has_moved() -> None:
    table = over_buffer(bytearray(table_bytes(2 * counter_table_module.LOOK_SLOTS)))
    names = [f"{number:032x}" for number in range(counter_table_module.LOOK_SLOTS + 2)]
    taken = [take(table, name) for name in names]
    assert moved(table) == []
    add(table, taken[1], 100)
    add(table, taken[-1], 0, 50)
    assert moved(table) == [names[1], names[-1]]
    assert moved(table) == []
    table.free(names[1])
    again = take(table, "b" * 32)
    assert again == taken[1]
    add(table, again, 1)
    assert moved(table) == ["b" * 32], "it has counted as much as the one before had"


def test_after_a_kill_all_that_ever_counted_has_moved() -> None:
    buffer = bytearray(table_bytes(2))
    table = over_buffer(buffer)
    add(table, take(table), 100)
    assert moved(table) == ["a" * 32]
    assert moved(over_buffer(buffer)) == ["a" * 32]


def snapshots_while(buffer: bytearray, act: Callable[[], None]) -> list[bytes]:
    """The buffer after every bytecode of the module: whatever a kill may leave."""
    seen = [bytes(buffer)]

    def trace(frame: FrameType, _event: str, _argument: Any) -> Any:
        if frame.f_code.co_filename != counter_table_module.__file__:
            return None
        frame.f_trace_opcodes = True
        if (now := bytes(buffer)) != seen[-1]:
            seen.append(now)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        act()
    finally:
        sys.settrace(before)
    seen.append(bytes(buffer))
    return seen


def reopened(snapshot: bytes) -> CounterTable:
    table = over_buffer(bytearray(snapshot))
    assert table.opening.origin is Origin.RESUMED, table.opening.why
    return table


def read(table: CounterTable, slot: int) -> Counters:
    return table.read(slot, NOW)


def test_begin_segment_torn_at_any_point_is_before_or_after() -> None:
    buffer = bytearray(table_bytes(2))
    table = over_buffer(buffer)
    slot = take(table)
    add(table, slot, 100, 10)
    table.begin_segment(slot, B, NOW)
    add(table, slot, 30)
    old = read(table, slot)
    snapshots = snapshots_while(buffer, lambda: table.begin_segment(slot, C, LATER))
    assert len(snapshots) > 8, "every store must be seen on its own"
    outcomes = set()
    for snapshot in snapshots:
        found = read(reopened(snapshot), slot)
        if found.current.number == 2:
            assert (found.current.volume, found.current.label) == (Volume(30, 0, 1, 0), B)
            assert found.previous in (None, old.previous)
        else:
            assert (found.current.number, found.current.label, found.current.begun) == (3, C, LATER)
            assert found.current.volume.is_zero
            assert found.previous is not None
            assert found.previous.volume == Volume(30, 0, 1, 0)
        outcomes.add(found.current.number)
    assert outcomes == {2, 3}


def test_take_torn_at_any_point_is_free_or_whole() -> None:
    buffer = bytearray(table_bytes(2))
    table = over_buffer(buffer)
    slot = take(table)
    add(table, slot, 100)
    table.begin_segment(slot, B, NOW)
    table.free("a" * 32)
    slots: list[int] = []
    snapshots = snapshots_while(buffer, lambda: slots.append(take(table, "b" * 32)))
    assert slots == [slot]
    for snapshot in snapshots:
        again = reopened(snapshot)
        if again.in_use:
            found = read(again, slot)
            assert (found.session_id, found.previous, found.current.number) == ("b" * 32, None, 1)
            assert found.current.volume.is_zero
    assert reopened(snapshots[-1]).in_use == 1


_COUNTER = """
    import sys
    from datetime import UTC, datetime
    from pathlib import Path
    from core.domain.usage import SegmentLabel
    from gtp.userplane.counter_table import open_file
    table = open_file(Path(sys.argv[1]), capacity=8)
    at = [table.find(f"{n:032x}") for n in range(3)]
    now = datetime.now(UTC)
    label = SegmentLabel("s")
    for n in range(3):
        if at[n] is None:
            who = {"session_id": f"{n:032x}", "imsi": "1", "operator_id": "OP"}
            at[n] = table.take(**who, epoch=1, label=label, begun=now)
    print("counting", flush=True)
    turn = 0
    while True:
        turn += 1
        for slot in at:
            word = table.counters_at(slot)
            table.words[word] += 10
            table.words[word + 1] += 1
        if turn % 50 == 0:
            table.begin_segment(at[turn // 50 % 3], label, now)
        if turn % 1000 == 0:
            print(*(table.words[table.counters_at(slot)] for slot in at), flush=True)
"""


def test_nothing_goes_back_over_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "usage.slots"
    last = [0, 0, 0]
    number = 1
    for round_ in range(4):
        command = [sys.executable, "-c", textwrap.dedent(_COUNTER), str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
            assert child.stdout is not None
            assert child.stdout.readline() == "counting\n"
            time.sleep(0.05 + 0.03 * round_)
            child.send_signal(signal.SIGKILL)
            said = [line.split() for line in child.stdout.read().splitlines() if len(line.split()) == 3]
        table = open_file(path)
        assert table.opening.origin is Origin.RESUMED
        assert table.opening.in_use == 3
        for n in range(3):
            slot = table.find(f"{n:032x}")
            assert slot is not None
            found = table.read(slot, NOW)
            up_bytes = table.words[table.counters_at(slot)]
            assert up_bytes >= last[n]
            if len(said) > 1:
                assert up_bytes >= int(said[-2][n])
            packets = table.words[table.counters_at(slot) + 1]
            missing = up_bytes - 10 * packets
            assert 0 <= missing <= 10 * (round_ + 1), "a kill loses the packet count of one packet at most"
            last[n] = up_bytes
            number = max(number, found.current.number)
        table.release()
    assert number > 2, "segments were cut, too"
    assert min(last) > 0


def test_a_table_of_another_boot_is_set_aside_and_told(tmp_path: Path) -> None:
    path = tmp_path / "usage.slots"
    table = open_file(path, capacity=4, boot_id="one")
    add(table, take(table), 100)
    table.release()
    again = open_file(path, capacity=4, boot_id="two")
    assert again.opening.origin is Origin.LOST
    assert "restarted" in again.opening.why
    assert again.opening.kept_as == tmp_path / "usage.slots.lost-1"
    assert again.in_use == 0
    again.release()
    lost = open_file(tmp_path / "usage.slots.lost-1", boot_id="one")
    assert lost.in_use == 1
    lost.release()


def damaged_at(content: bytes, at: int) -> CounterTable:
    return over_buffer(bytearray(content[:at] + bytes([content[at] ^ 0x40]) + content[at + 1 :]))


def two_segments() -> bytes:
    """A table of one slot, which has two segments."""
    buffer = bytearray(table_bytes(1))
    table = over_buffer(buffer)
    slot = take(table)
    add(table, slot, 100, 10)
    table.begin_segment(slot, B, LATER)
    return bytes(buffer)


COUNTED = range(4_096 + 8 * 2, 4_096 + 8 * 7)
"""The octets of a slot that a packet or a reading changes."""


def test_a_changed_octet_of_what_is_written_once_is_reported_and_nothing_of_the_table_believed() -> None:
    content = two_segments()
    for at in (*range(64), *range(4_096, 4_096 + 320)):
        if at not in COUNTED:
            opening = damaged_at(content, at).opening
            assert (opening.origin, "damaged" in opening.why) == (Origin.LOST, True), (at, opening)


def test_a_counter_below_its_start_is_reported() -> None:
    buffer = bytearray(two_segments())
    table = over_buffer(buffer)
    table.words[table.counters_at(table.find("a" * 32) or 0)] = 99
    assert over_buffer(buffer).opening.why == "1 of its slots are damaged"


def test_what_no_session_can_have_counted_is_reported() -> None:
    """It could not be stored, and would hold up what others counted."""
    content = two_segments()
    for word in range(2, 7):
        buffer = bytearray(content)
        over_buffer(buffer).words[4_096 // 8 + word] |= 0xC0 << 56
        opening = over_buffer(buffer).opening
        assert (opening.origin, opening.why) == (Origin.LOST, "1 of its slots are damaged"), word


def test_a_damaged_file_is_set_aside(tmp_path: Path) -> None:
    path = tmp_path / "usage.slots"
    table = open_file(path, capacity=4)
    take(table)
    table.release()
    content = bytearray(path.read_bytes())
    content[4_096] ^= 0x40
    path.write_bytes(content)
    again = open_file(path, capacity=4)
    assert (again.opening.origin, again.opening.why) == (Origin.LOST, "1 of its slots are damaged")
    assert (tmp_path / "usage.slots.lost-1").read_bytes() == content
    again.release()


FORMAT_1 = (
    "c-"
    "nLH4D#{!_hn>cU|`SyVrB*iNXpMIVITk+9hQ7$7zLwX6pVsVFbYP&C>RB!U=)mkQ7{Td!Jr3>X!JBF4I2k&figH?8YH4G*Cnzs?5"
    "@(i58@gaS{f(f0R{$!KnMed4E_N~93;Sw<_?An#%i@ddkBGIL%rgh{BoS~VEchI6HK7w_#cqDDNrs<TnB0~3&PyA#A4h-"
    "ASNb2gOSZ87C`;gannH%7Jf;10BZOdA%~w4vauZGhhJ`HUS@7-?r2^ZiU0t1DMRZl"
)
"""As 0.2.0 wrote it, of boot "boot": three slots, an open one with two segments, a closed one."""


def format_1() -> bytearray:
    return bytearray(zlib.decompress(base64.b85decode(FORMAT_1)))


def of_format_1(table: CounterTable) -> tuple[Counters, Counters]:
    first, second = (table.find(f"0193{letter * 28}") for letter in "ab")
    assert first is not None
    assert second is not None
    return table.read(first, NOW), table.read(second, NOW)


def demand_as_0_2_0_left_it(table: CounterTable) -> None:
    assert (table.opening.origin, table.opening.in_use) == (Origin.RESUMED, 2), table.opening.why
    one, other = of_format_1(table)
    assert (one.imsi, one.operator_id, one.epoch, one.is_open) == ("001010000000001", "OP0000000001", 7, True)
    assert one.current == Segment(
        2, SegmentLabel("s1.fast", "44010"), NOW.replace(hour=13), Volume(50, 600, 1, 4)
    )
    assert one.previous == Segment(1, SegmentLabel("s1.slow", "00101"), NOW, Volume(100, 300, 2, 4))
    assert one.timestamp_us == 1796047200000001
    assert other.current == Segment(1, SegmentLabel("s1.minimum"), NOW, Volume())
    assert (other.previous, other.is_open) == (None, False)


def test_a_table_of_0_2_0_goes_on_and_has_checksums_from_then_on() -> None:
    buffer = format_1()
    table = over_buffer(buffer, boot_id="boot")
    demand_as_0_2_0_left_it(table)
    slot = table.find("0193" + "a" * 28) or 0
    table.begin_segment(slot, A, LATER)
    again = over_buffer(buffer, boot_id="boot")
    assert of_format_1(again)[0].current.number == 3
    buffer[4_096 + 8 * 20] ^= 1  # a start of a segment's
    assert over_buffer(buffer, boot_id="boot").opening.origin is Origin.LOST


def test_a_table_of_0_2_0_that_is_killed_while_it_is_brought_up_goes_on() -> None:
    buffer = format_1()
    snapshots = snapshots_while(buffer, lambda: over_buffer(buffer, boot_id="boot").release())
    assert len(snapshots) > 6, "every store must be seen on its own"
    for snapshot in snapshots:
        demand_as_0_2_0_left_it(over_buffer(bytearray(snapshot), boot_id="boot"))


@pytest.mark.parametrize("word", [0, 1, 7, 8, 31])
def test_a_damaged_table_of_0_2_0_is_reported(word: int) -> None:
    """State, selector, CRC, identity, a counter's start above the counter."""
    buffer = format_1()
    buffer[4_096 + 8 * word + 4] ^= 0x40
    assert over_buffer(buffer, boot_id="boot").opening.origin is Origin.LOST


def test_a_table_cut_short_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "usage.slots"
    open_file(path, capacity=4).release()
    os.truncate(path, table_bytes(2))
    table = open_file(path, capacity=4)
    assert table.opening.why == "it was cut short"
    table.release()
    os.truncate(path, 10)
    table = open_file(path, capacity=4)
    assert table.opening.why == "it is too short"
    table.release()
    os.truncate(path, table_bytes(4) + 3)
    table = open_file(path, capacity=4)
    assert table.opening.why == "it is longer than its table"
    table.release()


def test_lost_tables_are_bounded_and_the_newest_stay(tmp_path: Path) -> None:
    path = tmp_path / "usage.slots"
    for boot in range(LOST_FILES_MAX + 4):
        open_file(path, capacity=1, boot_id=str(boot)).release()
    kept = sorted(int(p.name.rpartition("-")[2]) for p in tmp_path.glob("*.lost-*"))
    assert kept == list(range(4, LOST_FILES_MAX + 4))


def test_a_table_that_is_lost_on_a_full_disk_is_told_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "usage.slots"
    open_file(path, capacity=4, boot_id="one").release()

    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for _ in range(3):
        with monkeypatch.context() as patch, pytest.raises(ConfigurationError, match="free some space"):
            patch.setattr(os, "posix_fallocate", full)
            open_file(path, capacity=4, boot_id="two")
    again = open_file(path, capacity=4, boot_id="two")
    assert again.opening.origin is Origin.LOST, "FRESH before: that counts were lost was never said"
    assert sorted(each.name for each in tmp_path.iterdir()) == ["usage.slots", "usage.slots.lost-1"]
    again.release()


def test_an_existing_table_keeps_its_capacity(tmp_path: Path) -> None:
    path = tmp_path / "usage.slots"
    open_file(path, capacity=4).release()
    table = open_file(path, capacity=400)
    assert (table.capacity, table.opening.origin) == (4, Origin.RESUMED)
    table.release()


def test_two_processes_never_count_into_one_table(tmp_path: Path) -> None:
    path = tmp_path / "usage.slots"
    table = open_file(path, capacity=4)
    with pytest.raises(ConfigurationError, match="in use by another process"):
        open_file(path)
    table.release()


def test_a_folder_that_cannot_be_written_is_told_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError) as error:
        open_file(tmp_path / "file" / "usage.slots")
    assert "\n" not in str(error.value)
    assert "node.data_dir" in str(error.value)


def test_a_full_disk_is_found_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "usage.slots"
    with pytest.raises(ConfigurationError) as error:
        open_file(path, capacity=2**45)
    assert "node.data_dir" in str(error.value)
    assert not path.exists(), "a half-made table would count as lost the next time"


def test_what_does_not_fit_a_slot_is_refused_before_anything_is_written() -> None:
    buffer = bytearray(table_bytes(1))
    table = over_buffer(buffer)
    before = bytes(buffer)
    with pytest.raises(ValueError, match="longer"):
        take(table, "x" * 33)
    label = SegmentLabel("x" * 33)
    with pytest.raises(ValueError, match="longer"):
        table.take(session_id="a", imsi="1", operator_id="OP", epoch=1, label=label, begun=NOW)
    assert bytes(buffer) == before
    assert table.in_use == 0
    take(table)
