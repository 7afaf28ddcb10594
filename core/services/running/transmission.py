"""The shell of a protocol's machine that speaks in datagrams: the same for every protocol.

Rules:

- After each call into the machine there is one to ``transmit``: what is to be decided is handed out, what is
  to be sent is sent, its timer is set (``core.services.running.timer``).
- Events wait until ``run`` runs; what the machine answers by itself is sent before.
- An event may be answered while it is being handed out: what follows from the answer is sent afterwards.
"""

from collections.abc import Callable, Sequence
from typing import Generic, Protocol, TypeVar

from core.ports.clock import Clock
from core.ports.network import Address
from core.services.running.timer import Timed, Timer

Event = TypeVar("Event")
Event_co = TypeVar("Event_co", covariant=True)

Send = Callable[[bytes, Address], object]


class Machine(Timed, Protocol[Event_co]):
    """A protocol without I/O."""

    def receive_datagram(self, data: bytes, addr: Address, now: float) -> None:
        """Take one datagram in; never raises."""
        ...

    def next_event(self) -> Event_co | None:
        """The next thing to decide, or nothing."""
        ...

    def datagrams_to_send(self) -> Sequence[tuple[bytes, Address]]:
        """What to send now, and where."""
        ...


class Transmission(Generic[Event]):
    """Drives one machine; ``handle`` is called with each event and does not wait. ``shortest_s`` as in
    ``Timer``.
    """

    def __init__(
        self,
        machine: Machine[Event],
        *,
        clock: Clock,
        handle: Callable[[Event], None],
        shortest_s: float = 0.0,
    ) -> None:
        self._machine = machine
        self._clock = clock
        self._handle = handle
        self._timer = Timer(machine, clock=clock, shortest_s=shortest_s, then=self.transmit)
        self._send: Send | None = None
        self._is_running = False
        self._is_handing_out = False

    def send_by(self, send: Send | None) -> None:
        """Send by this from now on; ``None``: what is to be sent is lost."""
        self._send = send

    async def run(self) -> None:
        """Hand out events and keep the timer until cancelled; raises what the machine or ``handle``
        raises.
        """
        self._is_running = True
        try:
            self.transmit()
            await self._timer.run()
        finally:
            self._is_running = False

    def receive(self, data: bytes, addr: Address) -> None:
        """A datagram has come."""
        self._machine.receive_datagram(data, addr, self._clock.monotonic())
        self.transmit()

    def transmit(self) -> None:
        """After each call into the machine."""
        if self._is_handing_out:
            return
        machine = self._machine
        self._is_handing_out = True
        try:
            while self._is_running and (event := machine.next_event()) is not None:
                self._handle(event)
        finally:
            self._is_handing_out = False
        send = self._send
        for data, peer in machine.datagrams_to_send():
            if send is not None:
                send(data, peer)
        self._timer.rearm()
