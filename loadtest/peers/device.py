"""A simulated device: sends datagrams to a UDP entry point through its session and waits for the answers.

Rules: it repeats a message only on request, so that losses show; it counts inner octets itself, in both
directions; each payload begins with its number, so that the far end detects loss and reordering. Each message
has its own source port, which identifies its answer.
"""

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address

from mqtt_bridge.inner import Fault, UdpDatagram, build_udp, parse

FIRST_PORT = 40_000
PORTS = 20_000
"""Messages that may wait for an answer at a time."""
ANSWER_S = 5.0


class SimulatedDevice:
    """One device. ``send_up`` takes an inner packet; the owner hands what comes down to ``receive``."""

    def __init__(
        self,
        *,
        send_up: Callable[[bytes], None],
        ue_address: IPv4Address,
        entry_address: IPv4Address,
        entry_port: int,
    ) -> None:
        self._send_up = send_up
        self._ue_address = ue_address
        self._entry_address = entry_address
        self._entry_port = entry_port
        self._waiting: dict[int, asyncio.Future[bytes]] = {}
        self._next_port = FIRST_PORT
        self.sent = 0
        self.answered = 0
        self.unexpected = 0
        self.bytes_up = 0
        self.bytes_down = 0

    async def send(
        self, content: bytes = b"", *, answer_s: float = ANSWER_S, retries: int = 0
    ) -> bytes | None:
        """Send ``<number> <content>``; the answer, or nothing when none came. A retry is the same message."""
        number = self.sent
        self.sent += 1
        return await self.send_raw(b"%d %s" % (number, content), answer_s=answer_s, retries=retries)

    async def send_raw(self, payload: bytes, *, answer_s: float = ANSWER_S, retries: int = 0) -> bytes | None:
        """Send exactly this payload; raises ``ValueError`` when every port waits for an answer."""
        port = self._free_port()
        packet = self._packet(payload, port)
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting[port] = answer
        try:
            for _ in range(1 + retries):
                self._transmit(packet)
                done, _ = await asyncio.wait([answer], timeout=answer_s)
                if done:
                    self.answered += 1
                    return answer.result()
            return None
        finally:
            del self._waiting[port]

    def receive(self, packet: bytes) -> None:
        """A packet that came down."""
        self.bytes_down += len(packet)
        parsed = parse(packet)
        if isinstance(parsed, Fault) or not isinstance(parsed, UdpDatagram):
            self.unexpected += 1
            return
        answer = self._waiting.get(parsed.destination_port)
        is_ours = parsed.destination == self._ue_address and parsed.source == self._entry_address
        if answer is None or answer.done() or not is_ours or parsed.source_port != self._entry_port:
            self.unexpected += 1
            return
        answer.set_result(parsed.payload)

    def _transmit(self, packet: bytes) -> None:
        self.bytes_up += len(packet)
        self._send_up(packet)

    def _packet(self, payload: bytes, port: int) -> bytes:
        return build_udp(
            UdpDatagram.between(self._ue_address, port, self._entry_address, self._entry_port, payload),
        )

    def _free_port(self) -> int:
        if len(self._waiting) >= PORTS:
            raise ValueError(f"{PORTS} messages wait for an answer")
        while True:  # in turn, so that a late or doubled answer never meets the next message
            port, self._next_port = self._next_port, FIRST_PORT + (self._next_port + 1 - FIRST_PORT) % PORTS
            if port not in self._waiting:
                return port
