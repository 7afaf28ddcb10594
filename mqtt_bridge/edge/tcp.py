"""The TCP entry point: a line is a message, and its answer a status on a line of its own.

Rules: lines end with LF or CR LF, the last one may end with the connection; empty ones are passed over.
Answers come in the order of the lines, ``200`` after the stream accepted; a line that is too long, and
whatever cannot be delivered now, ends the connection after a status that says so. A device is not read
while ``WINDOW`` of its lines wait, or while it does not read its answers. A line that was begun must end
within ``UNFINISHED_S_MAX``.
"""

import asyncio
import re
from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import cast

from core.domain.reasons import RequestRefusal
from core.domain.session import Session
from core.errors import Refused, Unavailable
from core.services.streaming.delivery import Outcome, Receipt
from mqtt_bridge.connections import UNFINISHED_S_MAX, DeviceConnection, DeviceConnections

SOURCE_PROTOCOL = "tcp"
LINE_BYTES_MAX = 65_536
WINDOW = 64
IDLE_S_MAX = 1_800.0
ACCEPTED, INVALID, TOO_LARGE, UNAVAILABLE = b"200", b"400", b"413", b"503"
_EMPTY_LINES = re.compile(rb"[\r\n]*\n")


class Lines:
    """Cuts octets into lines, without I/O: each octet is looked at and moved a fixed number of times."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._begin = 0
        """Of the line under way; what is before it was given out."""
        self._looked = 0
        """Up to here it has no end."""
        self.is_too_long = False
        """Whether a line passed ``LINE_BYTES_MAX`` without ending; nothing comes after it."""

    @property
    def is_begun(self) -> bool:
        """Whether there are octets of a line that is not given out."""
        return len(self._buffer) > self._begin

    def receive_data(self, data: bytes) -> None:
        """Take octets in."""
        del self._buffer[: self._begin]
        self._looked -= self._begin
        self._begin = 0
        self._buffer += data

    def next_line(self, *, is_over: bool = False) -> bytes | None:
        """The next line that is not empty; ``is_over``: what is left is one too."""
        buffer, begin = self._buffer, self._begin
        while not self.is_too_long:
            end = buffer.find(b"\n", self._looked, begin + LINE_BYTES_MAX + 1)
            if end < 0:
                self._looked = len(buffer)
                self.is_too_long = len(buffer) - begin > LINE_BYTES_MAX
                if self.is_too_long or not is_over or begin == len(buffer):
                    return None
                end = len(buffer)
            line = bytes(buffer[begin:end]).rstrip(b"\r")
            empty = _EMPTY_LINES.match(buffer, end)
            begin = self._begin = self._looked = empty.end() if empty else end
            del empty  # the buffer cannot change while a match looks at it
            if line:
                return line
        return None


@dataclass(slots=True)
class _Answer:
    status: bytes = b""


class TcpEntryPoint:
    """What all connections share: ``url`` is the entry point's name in the record."""

    def __init__(self, *, url: str, connections: DeviceConnections) -> None:
        self.url = url
        self.connections = connections

    def __call__(self, connection: DeviceConnection) -> "TcpProtocol":
        """Serve one connection."""
        return TcpProtocol(self, connection.session)


class TcpProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, entry: TcpEntryPoint, session: Session) -> None:
        self._entry = entry
        self._session = session
        self._lines = Lines()
        self._answers: deque[_Answer] = deque()
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._began: float | None = None
        """When the line under way was begun; ``None`` between lines, and while the device is not read."""
        self._is_reading = True
        self._is_heard = True
        self._is_over = False
        self._is_failed = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The device connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._watch_time()

    def data_received(self, data: bytes) -> None:
        """The device sent something."""
        self._lines.receive_data(data)
        self._pump()
        self._watch_time()

    def eof_received(self) -> bool:
        """The device sends no more and waits for its answers."""
        self._is_over = True
        self._pump()
        return True

    def pause_writing(self) -> None:
        """The device does not read: nothing more is taken from it."""
        self._is_heard = False
        self._pump()

    def resume_writing(self) -> None:
        """It reads again."""
        self._is_heard = True
        self._pump()

    def connection_lost(self, error: Exception | None) -> None:
        """The device is gone."""
        self._transport = None
        if self._timer is not None:
            self._timer.cancel()

    # -- inside ---------------------------------------------------------------------------------------

    def _watch_time(self) -> None:
        """Cut off a device that is silent, or that does not come to the end of its line."""
        loop = asyncio.get_running_loop()
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is None:
            return
        if not (self._is_reading and self._lines.is_begun):
            self._began = None
        elif self._began is None:
            self._began = loop.time()
        due = loop.time() + IDLE_S_MAX if self._began is None else self._began + UNFINISHED_S_MAX
        self._timer = loop.call_at(due, self._transport.abort)

    def _pump(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        while self._may_take() and (line := self._lines.next_line(is_over=self._is_over)) is not None:
            self._take(line)
        if self._lines.is_too_long and not self._is_failed:
            self._answers.append(_Answer(TOO_LARGE))
            self._is_failed = True
        while self._answers and (status := self._answers[0].status):
            self._answers.popleft()
            transport.write(status + b"\r\n")
        if not self._answers and (self._is_failed or self._is_over):
            transport.close()
            return
        wants_data = self._may_take()
        if wants_data != self._is_reading and not self._is_over:
            self._is_reading = wants_data
            if wants_data:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def _may_take(self) -> bool:
        return self._is_heard and not self._is_failed and len(self._answers) < WINDOW

    def _take(self, line: bytes) -> None:
        self._began = None
        answer = _Answer()
        self._answers.append(answer)
        connections, settled = self._entry.connections, partial(self._on_settled, answer)
        try:
            message = connections.message(self._session, SOURCE_PROTOCOL, self._entry.url, line)
            connections.delivery.send(message, settled, connections.clock.monotonic())
        except Refused as refusal:
            is_invalid = refusal.reason is RequestRefusal.INVALID_FIELD
            answer.status = INVALID if is_invalid else UNAVAILABLE
            self._is_failed = not is_invalid
        except Unavailable:
            answer.status, self._is_failed = UNAVAILABLE, True

    def _on_settled(self, answer: _Answer, outcome: Outcome, _: float) -> None:
        if isinstance(outcome, Receipt):
            answer.status = ACCEPTED
        elif isinstance(outcome, Refused):
            answer.status = INVALID
        else:
            answer.status, self._is_failed = UNAVAILABLE, True
        self._pump()
