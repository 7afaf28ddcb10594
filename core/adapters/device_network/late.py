"""A device network that is created in the background and retried until it works.

Rules: what is to be served is kept and served once the network is there; until then packets for it are lost,
as packets are. The child that makes it ends when it has handed the sockets over; they alone keep the network
alive, so that nothing can take it away afterwards.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address

from core.errors import ConfigurationError
from core.ports.device_network import ConnectionFactory, DeviceNetwork

START_S = 10.0
"""How long a node's start waits for it: on a machine that is not busy it takes a third of a second."""
RETRY_FIRST_S, RETRY_S_MAX = 10.0, 300.0
"""Between tries, doubling: each is a process that is started."""
BEING_MADE = "still being created"


class LateNetwork:
    """Implements ``RetriedDeviceNetwork``. ``make`` raises ``ConfigurationError``."""

    def __init__(self, make: Callable[[], Awaitable[DeviceNetwork]]) -> None:
        self._make = make
        self._network: DeviceNetwork | None = None
        self._served: list[tuple[IPv4Address, int, ConnectionFactory]] = []
        self._deliver: Callable[[bytes], None] = lambda _: None
        self._first = asyncio.create_task(self._try())
        self.why_not = BEING_MADE

    async def wait(self, *, insist: bool) -> None:
        """Wait for the first try, at most ``START_S``; with ``insist`` until it ends, and raise its
        ``ConfigurationError``.
        """
        await asyncio.wait((self._first,), timeout=None if insist else START_S)
        if insist:
            self._first.result()

    async def run(self, tell: Callable[[str], None]) -> None:
        """Try until it exists; ``tell`` logs each new reason."""
        was_late, logged, pause_s = not self._first.done(), "", RETRY_FIRST_S
        attempt: Awaitable[None] = self._first
        while True:
            try:
                await attempt
            except ConfigurationError as error:
                if str(error) != logged:
                    logged = str(error)
                    tell(f"devices are served by UDP only: {logged}; retrying")
            else:
                break
            await asyncio.sleep(pause_s)
            attempt, pause_s = self._try(), min(2 * pause_s, RETRY_S_MAX)
        if was_late or logged:
            tell("devices are now served by TCP, HTTP and MQTT too")

    async def serve(self, address: IPv4Address, port: int, factory: ConnectionFactory) -> None:
        """Accept connections there, as soon as the network is there and until ``aclose``."""
        self._served.append((address, port, factory))
        if self._network is not None:
            await self._network.serve(address, port, factory)

    def on_packet(self, deliver: Callable[[bytes], None]) -> None:
        """Hand each IP packet for a device to ``deliver``."""
        self._deliver = deliver
        if self._network is not None:
            self._network.on_packet(deliver)

    def send(self, packet: bytes) -> bool:
        """An IP packet from a device."""
        return self._network is not None and self._network.send(packet)

    async def aclose(self) -> None:
        """Let the network go, or the try to make it."""
        self._first.cancel()
        with suppress(asyncio.CancelledError, ConfigurationError):
            await self._first
        if self._network is not None:
            await self._network.aclose()

    async def _try(self) -> None:
        self.why_not = BEING_MADE
        try:
            network = await self._make()
        except (ConfigurationError, OSError) as error:  # the host may lack processes or open files just now
            self.why_not = str(error)
            raise ConfigurationError(str(error)) from error
        network.on_packet(self._deliver)
        for address, port, factory in self._served:  # what is added meanwhile is reached too
            await network.serve(address, port, factory)
        self._network, self.why_not = network, ""
