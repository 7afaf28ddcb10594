"""The TCP entry point on real sockets: lines, their order, the window, and lines that never end."""

import asyncio
from typing import Any

import pytest

from mqtt_bridge.edge.tcp import LINE_BYTES_MAX, Lines
from mqtt_bridge.edge.tcp import WINDOW as TCP_WINDOW
from tests.support.edge import TCP, edge, until


async def test_lines_are_answered_in_order_and_the_last_needs_no_end() -> None:
    async with edge() as made:
        reader, writer = await made.open(TCP)
        writer.write(b"one\r\n\r\n\ntwo\nthr")
        await asyncio.sleep(0.05)
        writer.write(b"ee")
        writer.write_eof()
        assert await reader.read() == b"200\r\n" * 3
        assert made.payloads() == [b"one", b"two", b"three"]


async def test_lines_are_not_read_past_the_window() -> None:
    async with edge() as made:
        made.stream.is_flowing.clear()
        reader, writer = await made.open(TCP)
        writer.write(b"".join(b"%d\n" % number for number in range(TCP_WINDOW + 30)))
        await until(lambda: made.delivery.waiting == TCP_WINDOW)
        await asyncio.sleep(0.05)
        assert made.delivery.waiting == TCP_WINDOW
        made.stream.is_flowing.set()
        for _ in range(TCP_WINDOW + 30):
            assert await reader.readline() == b"200\r\n"


async def test_a_line_without_end_is_refused() -> None:
    async with edge() as made:
        reader, writer = await made.open(TCP)
        writer.write(b"good\n" + b"x" * (LINE_BYTES_MAX + 1))
        assert await reader.read() == b"200\r\n413\r\n"
        assert made.payloads() == [b"good"]


def test_lines_of_any_pieces() -> None:
    lines = Lines()
    for octet in b"a\r\n\nbc\nd":
        lines.receive_data(bytes((octet,)))
    found = [lines.next_line(), lines.next_line(), lines.next_line(), lines.next_line(is_over=True)]
    assert found == [b"a", b"bc", None, b"d"]


class Moved(bytearray):
    """A buffer that counts the octets that are moved or looked through."""

    octets = 0

    def __iadd__(self, data: Any) -> Any:  # type: ignore[misc]  # __add__ is not used
        Moved.octets += len(data)
        return super().__iadd__(data)

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        Moved.octets += len(part) if isinstance(at, slice) else 1
        return part

    def find(self, sought: Any, *range_: int) -> int:  # type: ignore[override]  # where it ends is ours to count
        at = super().find(sought, *range_)
        begin, end = (*range_, len(self), len(self))[:2]
        Moved.octets += max((min(end, len(self)) if at < 0 else at) - begin, 0)
        return at

    def partition(self, separator: Any) -> Any:
        parts = super().partition(separator)
        Moved.octets += sum(map(len, parts))
        return tuple(map(Moved, parts))


@pytest.mark.parametrize("unit", [b"\n", b"\r\n", b"\r", b"a\n", b"a\n\n\n", b"a" * 50_000 + b"\n"])
@pytest.mark.parametrize("piece", [1, 1_000, 256_000])
def test_lines_are_cut_with_work_in_proportion(
    unit: bytes, piece: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqtt_bridge.edge.tcp.bytearray", Moved, raising=False)
    data = unit * (50_000 // len(unit) + 1)
    Moved.octets = 0
    lines = Lines()
    for at in range(0, len(data), piece):
        lines.receive_data(data[at : at + piece])
        while lines.next_line() is not None:
            pass
    assert Moved.octets <= 6 * len(data)


@pytest.mark.parametrize("burst", [b"\n" * 256_000, b"\r\n" * 128_000])
async def test_empty_lines_are_passed_over(burst: bytes) -> None:
    async with edge() as made:
        reader, writer = await made.open(TCP)
        writer.write(burst + b"one\n" + burst + b"two\n")
        assert await reader.readexactly(10) == b"200\r\n" * 2
        assert made.payloads() == [b"one", b"two"]


async def test_a_line_that_never_ends_costs_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mqtt_bridge.edge.tcp.UNFINISHED_S_MAX", 0.3)
    async with edge() as made:
        slow, writer = await made.open(TCP)
        patient, patient_writer = await made.open(TCP)
        patient_writer.write(b"one\n")
        assert await patient.readexactly(5) == b"200\r\n"
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                while not slow.at_eof():
                    writer.write(b"x")
                    await asyncio.sleep(0.05)
            raise ConnectionError
        patient_writer.write(b"two\n")
        assert await patient.readexactly(5) == b"200\r\n", "silence between lines is none of it"
