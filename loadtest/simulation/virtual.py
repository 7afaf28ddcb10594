"""A simulated environment: virtual time, seeded randomness, a network with faults by seed.

Rules: the same seed gives the same run, to the byte. Time passes only when no task can run, so hours take
milliseconds. Code that runs here may wait only on asyncio and ports, never on a thread or a socket.
"""

import asyncio
import hashlib
import random
import selectors
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

from core.errors import ConfigurationError
from core.ports.clock import Clock
from core.ports.network import Address, DatagramSocket, Receiver

T = TypeVar("T")


class Stalled(Exception):
    """Everything waits and no timer is set: the run would never end."""


class _VirtualSelector(selectors.SelectSelector):
    """Lets the loop's time jump to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stalled("no timer is set and nothing is ready")
        self.now += max(timeout, 0.0)
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is a number."""

    def __init__(self) -> None:
        self._virtual = _VirtualSelector()
        super().__init__(self._virtual)

    def time(self) -> float:
        """Seconds of virtual time."""
        return self._virtual.now


def run_virtual(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run to the end in virtual time."""
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(main())


class VirtualClock:
    """Implements ``Clock`` on the loop's time; wall time starts at ``epoch``."""

    def __init__(self, epoch: datetime = datetime(2026, 11, 30, 23, 50, tzinfo=UTC)) -> None:
        self._epoch = epoch

    def now(self) -> datetime:
        """UTC."""
        return self._epoch + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """The loop's time."""
        return asyncio.get_running_loop().time()


class SkewedClock:
    """A node's wall clock that may be wrong by ``skew``; its monotonic clock is right."""

    def __init__(self, true: Clock) -> None:
        self._true = true
        self.skew = timedelta()

    def now(self) -> datetime:
        """UTC, as this node takes it for."""
        return self._true.now() + self.skew

    def monotonic(self) -> float:
        """The loop's time."""
        return self._true.monotonic()


class SeededEntropy:
    """Implements ``Entropy`` from a seed."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def random_bytes(self, length: int) -> bytes:
        """The next bytes of the sequence."""
        return self._rng.randbytes(length)


@dataclass(frozen=True, slots=True)
class NetworkFaults:
    """How often a datagram is lost or doubled, and how long one may take (which is what reorders)."""

    loss: float = 0.0
    duplication: float = 0.0
    delay_s_max: float = 0.0


PERFECT = NetworkFaults()


class VirtualNetwork:
    """Implements ``Network`` between sockets of one run; every datagram goes into ``trace``'s hash.

    ``faults`` may be changed while it runs. ``tap`` sees each datagram as it is sent.
    """

    def __init__(self, rng: random.Random, faults: NetworkFaults = PERFECT) -> None:
        self._rng = rng
        self._bound: dict[Address, Receiver] = {}
        self._trace = hashlib.sha256()
        self._last_port = 49_151
        self.faults = faults
        self.cut_off: set[str] = set()
        """Hosts that nothing reaches, and from which nothing comes."""
        self.tap: Callable[[bytes, Address, Address], None] | None = None

    @property
    def trace(self) -> str:
        """The hash of everything sent so far and when."""
        return self._trace.hexdigest()

    async def open_datagram(self, address: Address, receiver: Receiver) -> DatagramSocket:
        """Bind; raises ``ConfigurationError`` when taken."""
        if address[1] == 0:
            self._last_port += 1
            address = (address[0], self._last_port)
        if address in self._bound:
            raise ConfigurationError(f"{address[0]}:{address[1]} is in use")
        self._bound[address] = receiver
        return _VirtualSocket(self, address)

    def unbind(self, address: Address) -> None:
        """What is on its way to it is lost."""
        self._bound.pop(address, None)

    def unplug(self, host: str) -> None:
        """Every socket of a host is gone."""
        for address in [bound for bound in self._bound if bound[0] == host]:
            self.unbind(address)

    def send(self, data: bytes, source: Address, to: Address) -> None:
        """Lose, duplicate, delay or deliver, at random."""
        loop = asyncio.get_running_loop()
        self._trace.update(f"{loop.time():.6f} {source} {to} ".encode() + data)
        if self.tap is not None:
            self.tap(data, source, to)
        if self._rng.random() < self.faults.loss or {source[0], to[0]} & self.cut_off:
            return
        copies = 2 if self._rng.random() < self.faults.duplication else 1
        for _ in range(copies):
            delay_s = self._rng.random() * self.faults.delay_s_max
            loop.call_later(delay_s, self._deliver, data, source, to)

    def _deliver(self, data: bytes, source: Address, to: Address) -> None:
        if receiver := self._bound.get(to):
            receiver(data, source)


class _VirtualSocket:
    def __init__(self, network: VirtualNetwork, address: Address) -> None:
        self._network: VirtualNetwork | None = network
        self._address = address

    @property
    def address(self) -> Address:
        return self._address

    def send(self, data: bytes, to: Address) -> bool:
        if self._network is None:
            return False
        self._network.send(data, self._address, to)
        return True

    def close(self) -> None:
        if self._network is not None:
            self._network.unbind(self._address)
            self._network = None
