"""The simulated environment itself: time jumps, random numbers repeat, the network has faults."""

import asyncio
import random
import time

import pytest

from core.ports.network import Address
from loadtest.simulation.virtual import NetworkFaults, Stalled, VirtualClock, VirtualNetwork, run_virtual


def test_hours_pass_in_no_time() -> None:
    async def main() -> float:
        await asyncio.sleep(36_000)
        return VirtualClock().monotonic()

    began = time.monotonic()
    assert run_virtual(main) == pytest.approx(36_000)
    assert time.monotonic() - began < 5


def test_a_run_that_cannot_end_says_so() -> None:
    async def main() -> None:
        await asyncio.Event().wait()

    with pytest.raises(Stalled):
        run_virtual(main)


def _exchange(seed: int, faults: NetworkFaults) -> tuple[list[bytes], str]:
    async def main() -> tuple[list[bytes], str]:
        network = VirtualNetwork(random.Random(seed), faults)
        arrived: list[bytes] = []

        def receiver(data: bytes, source: Address) -> None:
            arrived.append(data)

        await network.open_datagram(("127.0.0.2", 1), receiver)
        socket = await network.open_datagram(("127.0.0.1", 1), receiver)
        for number in range(200):
            socket.send(number.to_bytes(2, "big"), ("127.0.0.2", 1))
            await asyncio.sleep(0.01)
        await asyncio.sleep(10)
        return arrived, network.trace

    return run_virtual(main)


def test_the_same_seed_is_the_same_run() -> None:
    faults = NetworkFaults(loss=0.1, duplication=0.1, delay_s_max=0.1)
    assert _exchange(7, faults) == _exchange(7, faults)
    assert _exchange(7, faults) != _exchange(8, faults)


def test_faults_lose_double_and_reorder() -> None:
    arrived, _ = _exchange(1, NetworkFaults(loss=0.2, duplication=0.2, delay_s_max=0.1))
    assert len(set(arrived)) < 200
    assert len(arrived) > len(set(arrived))
    assert arrived != sorted(arrived)
    arrived, _ = _exchange(1, NetworkFaults())
    assert arrived == [number.to_bytes(2, "big") for number in range(200)]
