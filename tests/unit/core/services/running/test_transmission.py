"""The shell of a protocol's machine: what is handed out, sent and timed, and when."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable

import pytest

from core.ports.network import Address
from core.services.running.timer import Timer
from core.services.running.transmission import Transmission
from loadtest.simulation.virtual import VirtualClock, run_virtual

PEER = ("127.0.3.1", 40_000)
SHORTEST_S = 3.0


class Echo:
    """Asks whether to echo each datagram, and echoes it again ``SHORTEST_S`` after it was answered.
    ``looks``: how often it was asked for its timer.
    """

    def __init__(self) -> None:
        self.events: deque[bytes] = deque()
        self.outgoing: list[tuple[bytes, Address]] = []
        self.due: deque[tuple[float, bytes]] = deque()
        self.rung: list[float] = []
        self.looks = 0

    def receive_datagram(self, data: bytes, addr: Address, now: float) -> None:
        if data == b"at once":
            self.outgoing.append((data, addr))
        else:
            self.events.append(data)

    def answer(self, data: bytes, now: float) -> None:
        self.outgoing.append((data, PEER))
        self.due.append((now + SHORTEST_S, data))

    def next_event(self) -> bytes | None:
        return self.events.popleft() if self.events else None

    def datagrams_to_send(self) -> list[tuple[bytes, Address]]:
        outgoing, self.outgoing = self.outgoing, []
        return outgoing

    def get_timer(self) -> float | None:
        self.looks += 1
        return self.due[0][0] if self.due else None

    def handle_timer(self, now: float) -> None:
        self.rung.append(now)
        while self.due and self.due[0][0] <= now:
            self.outgoing.append((b"again " + self.due.popleft()[1], PEER))


class Stage:
    """A transmission of an ``Echo``; what it sends, and when."""

    def __init__(self) -> None:
        self.clock = VirtualClock()
        self.machine = Echo()
        self.heeded: list[bytes] = []
        self.transmission: Transmission[bytes] = Transmission(
            self.machine, clock=self.clock, shortest_s=SHORTEST_S, heed=self.heed
        )
        self.transmission.send_by(self.send)
        self.sent: list[tuple[float, bytes]] = []

    def heed(self, event: bytes) -> None:
        self.heeded.append(event)
        self.machine.answer(event, self.clock.monotonic())
        self.transmission.transmit()

    def send(self, data: bytes, to: Address) -> None:
        assert to == PEER
        self.sent.append((round(self.clock.monotonic(), 2), data))


def play(script: Callable[[Stage], Awaitable[None]], *, is_running: bool = True) -> None:
    async def main() -> None:
        stage = Stage()
        running = asyncio.create_task(stage.transmission.run()) if is_running else None
        await asyncio.sleep(0)
        await script(stage)
        if running is not None:
            running.cancel()
            await asyncio.wait([running])

    run_virtual(main)


def test_what_is_answered_at_once_is_sent_at_once_and_its_time_is_kept() -> None:
    async def script(stage: Stage) -> None:
        stage.transmission.receive(b"one", PEER)
        assert stage.sent == [(0, b"one")]
        await asyncio.sleep(2)
        stage.transmission.receive(b"two", PEER)
        await asyncio.sleep(10)
        assert stage.sent == [(0, b"one"), (2, b"two"), (3, b"again one"), (5, b"again two")]

    play(script)


def test_events_wait_until_it_runs_and_what_needs_no_decision_does_not() -> None:
    async def script(stage: Stage) -> None:
        for data in (b"one", b"at once"):
            stage.transmission.receive(data, PEER)
        assert (stage.heeded, stage.sent) == ([], [(0, b"at once")])
        running = asyncio.create_task(stage.transmission.run())
        await asyncio.sleep(1)
        assert (stage.heeded, stage.sent[1:]) == ([b"one"], [(0, b"one")])
        running.cancel()
        await asyncio.wait([running])
        stage.transmission.receive(b"two", PEER)
        await asyncio.sleep(60)
        assert (stage.heeded, stage.machine.rung) == ([b"one"], [])

    play(script, is_running=False)


def test_a_machine_without_a_time_is_never_asked_and_one_with_is_asked_once() -> None:
    async def script(stage: Stage) -> None:
        await asyncio.sleep(3_600)
        assert (stage.machine.rung, stage.machine.looks) == ([], 1)
        for number in range(100):
            stage.transmission.receive(bytes((number,)), PEER)
        assert stage.machine.looks == 2
        await asyncio.sleep(3_600)
        assert (len(stage.machine.rung), stage.machine.due) == (1, deque())

    play(script)


def test_without_a_socket_what_is_to_be_sent_is_lost() -> None:
    async def script(stage: Stage) -> None:
        stage.transmission.send_by(None)
        stage.transmission.receive(b"one", PEER)
        stage.transmission.send_by(stage.send)
        stage.transmission.transmit()
        assert stage.sent == []

    play(script)


def test_a_fault_ends_it() -> None:
    class Broken(Echo):
        def handle_timer(self, now: float) -> None:
            raise RuntimeError("broken")

    async def main() -> None:
        machine = Broken()
        timer = Timer(machine, clock=VirtualClock(), shortest_s=SHORTEST_S)
        machine.due.append((1.0, b""))
        with pytest.raises(RuntimeError, match="broken"):
            await timer.run()
        timer.rearm()
        await asyncio.sleep(10)

    run_virtual(main)


@pytest.mark.parametrize("shortest_s", [0.0, SHORTEST_S])
def test_a_time_that_moved_earlier_is_met(shortest_s: float) -> None:
    """The machine's first time is far off; the next is nearer."""

    async def main() -> None:
        machine, clock = Echo(), VirtualClock()
        timer = Timer(machine, clock=clock, shortest_s=shortest_s)
        machine.due.append((100.0, b"far"))
        running = asyncio.create_task(timer.run())
        await asyncio.sleep(10)
        assert len(machine.rung) == (10 // shortest_s if shortest_s else 0)
        machine.due.appendleft((clock.monotonic() + SHORTEST_S, b"near"))
        timer.rearm()
        await asyncio.sleep(SHORTEST_S + 0.01)
        assert [data for data, _ in machine.datagrams_to_send()] == [b"again near"]
        await asyncio.sleep(100)
        assert [data for data, _ in machine.datagrams_to_send()] == [b"again far"]
        if not shortest_s:
            assert [round(at) for at in machine.rung] == [13, 100]
        running.cancel()
        await asyncio.wait([running])

    run_virtual(main)


def test_a_time_that_moved_later_rings_once_in_vain() -> None:
    async def main() -> None:
        machine = Echo()
        timer = Timer(machine, clock=VirtualClock())
        machine.due.append((10.0, b""))
        running = asyncio.create_task(timer.run())
        await asyncio.sleep(1)
        machine.due[0] = (20.0, b"")
        for _ in range(100):
            timer.rearm()
        await asyncio.sleep(60)
        assert [round(at) for at in machine.rung] == [10, 20]
        running.cancel()
        await asyncio.wait([running])

    run_virtual(main)
