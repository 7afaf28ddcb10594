"""Datagram sockets over the loopback, on both event loops."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
import uvloop

from core.adapters.network import DATAGRAMS_PER_TURN_MAX, UdpNetwork
from core.errors import ConfigurationError
from core.ports.network import Address

Loop = Callable[[], asyncio.AbstractEventLoop]
LOOPS: dict[str, Loop] = {"asyncio": asyncio.SelectorEventLoop, "uvloop": uvloop.new_event_loop}
WAIT_S = 5.0


@pytest.fixture(params=LOOPS)
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, None]], None]:
    def run_on_loop(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main)

    return run_on_loop


Run = Callable[[Coroutine[Any, Any, None]], None]


async def until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(WAIT_S):
        while not true():  # noqa: ASYNC110 - the condition is the kernel's, there is no event
            await asyncio.sleep(0.001)


def test_datagrams_arrive_whole_and_with_their_source(run: Run) -> None:
    async def main() -> None:
        got: list[tuple[bytes, Address]] = []
        network = UdpNetwork()
        left = await network.open_datagram(("127.0.0.1", 0), lambda data, source: got.append((data, source)))
        right = await network.open_datagram(("127.0.0.1", 0), lambda _data, _source: None)
        sizes = (0, 1, 1_400, 60_000)
        assert all(right.send(bytes(size), left.address) for size in sizes)
        await until(lambda: len(got) == len(sizes))
        assert got == [(bytes(size), right.address) for size in sizes]
        left.close()
        left.close()
        right.close()

    run(main())


def test_one_turn_reads_a_burst_and_no_more(run: Run) -> None:
    async def main() -> None:
        got: list[int] = []
        turn = 0

        def next_turn() -> None:
            nonlocal turn
            turn += 1
            if len(got) < 2 * DATAGRAMS_PER_TURN_MAX:
                asyncio.get_running_loop().call_soon(next_turn)

        network = UdpNetwork()
        left = await network.open_datagram(("127.0.0.1", 0), lambda _data, _source: got.append(turn))
        right = await network.open_datagram(("127.0.0.1", 0), lambda _data, _source: None)
        for _ in range(2 * DATAGRAMS_PER_TURN_MAX):
            assert right.send(b"x", left.address)
        next_turn()
        await until(lambda: len(got) == 2 * DATAGRAMS_PER_TURN_MAX)
        assert sorted(got.count(turn) for turn in set(got)) == [DATAGRAMS_PER_TURN_MAX] * 2
        left.close()
        right.close()

    run(main())


def test_what_the_kernel_refuses_is_counted_and_never_raised(run: Run) -> None:
    async def main() -> None:
        opened = await UdpNetwork().open_datagram(("127.0.0.1", 0), lambda _data, _source: None)
        nowhere = (("127.0.0.1", 0), ("127.0.0.1", 70_000))
        for to in nowhere:
            assert not opened.send(b"x", to)
        assert not opened.send(bytes(70_000), opened.address)
        assert getattr(opened, "send_failures") == len(nowhere) + 1  # noqa: B009 - not in the port
        opened.close()
        assert not opened.send(b"x", ("127.0.0.1", 9))

    run(main())


def test_a_receiver_may_close_its_socket(run: Run) -> None:
    async def main() -> None:
        got: list[bytes] = []

        def receive(data: bytes, _source: Address) -> None:
            got.append(data)
            left.close()

        network = UdpNetwork()
        left = await network.open_datagram(("127.0.0.1", 0), receive)
        right = await network.open_datagram(("127.0.0.1", 0), lambda _data, _source: None)
        for _ in range(3):
            right.send(b"x", left.address)
        await until(lambda: bool(got))
        await asyncio.sleep(0.01)
        assert got == [b"x"]
        right.close()

    run(main())


@pytest.mark.parametrize(
    ("address", "fix"),
    [
        (("198.51.100.1", 2_152), "not an address of this host"),
        (("127.0.0.1", 70_000), "configure"),
        (("no such host.", 2_152), "configure"),
    ],
)
async def test_an_address_that_cannot_be_bound_is_told_in_one_line(address: Address, fix: str) -> None:
    with pytest.raises(ConfigurationError, match=fix) as error:
        await UdpNetwork().open_datagram(address, lambda _data, _source: None)
    assert f"{address[0]}:{address[1]}" in str(error.value)
    assert "\n" not in str(error.value)


async def test_an_address_in_use_is_told_in_one_line() -> None:
    first = await UdpNetwork().open_datagram(("127.0.0.1", 0), lambda _data, _source: None)
    with pytest.raises(ConfigurationError, match=f"127.0.0.1:{first.address[1]} .* in use; stop the program"):
        await UdpNetwork().open_datagram(first.address, lambda _data, _source: None)
    first.close()
