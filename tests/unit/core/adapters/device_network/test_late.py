"""An device network that is slow, or fails at first: what is to be served is served once it is there."""

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address

import pytest

from core.adapters.device_network.late import BEING_MADE, RETRY_FIRST_S, START_S, LateNetwork
from core.errors import ConfigurationError
from core.ports.device_network import ConnectionFactory
from loadtest.simulation.virtual import run_virtual

HERE = IPv4Address("100.127.9.9")


class Network:
    """Implements ``DeviceNetwork`` in memory."""

    def __init__(self) -> None:
        self.ports: list[int] = []
        self.sent: list[bytes] = []
        self.deliver: Callable[[bytes], None] = lambda _: None
        self.is_closed = False

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        await asyncio.sleep(0)
        self.ports.append(port)

    def on_packet(self, deliver: Callable[[bytes], None]) -> None:
        self.deliver = deliver

    def send(self, packet: bytes) -> bool:
        self.sent.append(packet)
        return True

    async def aclose(self) -> None:
        self.is_closed = True


class Maker:
    """Takes some time, and fails a given number of times."""

    def __init__(
        self, *, takes_s: float = 0.0, failures: int = 0, error: type[Exception] = ConfigurationError
    ) -> None:
        self.takes_s, self.failures, self.error = takes_s, failures, error
        self.tries = 0
        self.network = Network()

    async def __call__(self) -> Network:
        self.tries += 1
        await asyncio.sleep(self.takes_s)
        if self.tries <= self.failures:
            raise self.error(f"not now ({(self.tries + 1) // 2})")
        return self.network


def now() -> float:
    return asyncio.get_running_loop().time()


@pytest.mark.parametrize(
    "maker",
    [
        Maker(),
        Maker(takes_s=100),
        Maker(failures=3),
        Maker(takes_s=20, failures=1),
        Maker(failures=3, error=OSError),
    ],
)
def test_it_is_there_at_the_last(maker: Maker) -> None:
    async def main() -> None:
        late, got, told = LateNetwork(maker), list[bytes](), list[str]()
        late.on_packet(got.append)
        await late.serve(HERE, 80, asyncio.Protocol)
        await late.wait(insist=False)
        assert now() <= START_S, "a start does not wait endlessly"
        is_late = bool(late.why_not)
        assert is_late is bool(maker.failures or maker.takes_s)
        assert late.send(b"early") is not is_late
        await late.serve(HERE, 23_080, asyncio.Protocol)
        running = asyncio.create_task(late.run(told.append))
        await asyncio.sleep(1_000)
        assert running.done()
        assert late.why_not == ""
        assert maker.network.ports == [80, 23_080]
        maker.network.deliver(b"down")
        assert late.send(b"up")
        assert (got, maker.network.sent[-1]) == ([b"down"], b"up")
        reasons = {0: [], 1: ["not now (1)"], 3: ["not now (1)", "not now (2)"]}[maker.failures]
        wanted = [f"devices are served by UDP only: {why}; retrying" for why in reasons]
        assert told == wanted + ["devices are now served by TCP, HTTP and MQTT too"] * is_late
        await late.aclose()
        assert maker.network.is_closed

    run_virtual(main)


def test_tries_are_further_and_further_apart() -> None:
    async def main() -> None:
        maker = Maker(failures=1_000)
        late = LateNetwork(maker)
        running = asyncio.create_task(late.run(lambda _: None))
        await asyncio.sleep(RETRY_FIRST_S + 1)
        assert maker.tries == 2
        await asyncio.sleep(3_600)
        assert 12 <= maker.tries <= 20
        running.cancel()
        await late.aclose()

    run_virtual(main)


def test_who_insists_waits_for_it_and_is_told_why_not() -> None:
    async def main() -> None:
        late = LateNetwork(Maker(takes_s=100))
        await late.wait(insist=True)
        assert (now(), late.why_not) == (100, "")
        refused = LateNetwork(Maker(takes_s=1, failures=1))
        with pytest.raises(ConfigurationError, match="not now"):
            await refused.wait(insist=True)
        await refused.aclose()

    run_virtual(main)


def test_who_ends_meanwhile_does_not_wait() -> None:
    async def main() -> None:
        maker = Maker(takes_s=100)
        late = LateNetwork(maker)
        await asyncio.sleep(1)
        assert late.why_not == BEING_MADE
        await late.aclose()
        assert now() == 1
        assert not maker.network.ports

    run_virtual(main)
