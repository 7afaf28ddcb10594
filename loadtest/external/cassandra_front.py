"""A front of a Cassandra node that loses answers, by seed: what a driver meets on a bad day.

Rules: frames are read by position (native protocol v4, §2), nothing of a driver or of Airloom is used; only
prepared statements and batches meet faults. What is ``unavailable`` never reached the node; what is
``timed_out``, ``lost`` or ``cut`` off was carried out, and its answer says otherwise or never comes.
"""

import asyncio
import random
import struct
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

FRAME = struct.Struct("!BBhBI")  # version, flags, stream, opcode, length
ANSWER_V4 = 0x84
ERROR, EXECUTE, BATCH = 0x00, 0x0A, 0x0D
UNAVAILABLE, WRITE_TIMEOUT = 0x1000, 0x1100
LOCAL_QUORUM = 0x0006


@dataclass(slots=True)
class FrontFaults:
    """How often each happens, as a share of statements, and how long an answer takes; may be changed."""

    unavailable: float = 0.0
    timed_out: float = 0.0
    lost: float = 0.0
    cut: float = 0.0
    delay_s: float = 0.0


class CassandraFront:
    """Stands before one node; ``happened`` counts what it did, ``waiting_max`` the most answers that its
    clients waited for at a time.
    """

    def __init__(self, host: str, port: int, faults: FrontFaults, seed: int) -> None:
        self._target = (host, port)
        self._dice = random.Random(seed)
        self.faults = faults
        self.happened: Counter[str] = Counter()
        self.waiting_max = 0
        self._waiting: Counter[asyncio.StreamWriter] = Counter()

    @asynccontextmanager
    async def served(self, host: str, port: int) -> AsyncIterator[None]:
        """It listens inside."""
        self._open: set[asyncio.StreamWriter] = set()
        server = await asyncio.start_server(self._serve, host, port)
        try:
            yield
        finally:
            server.close()
            for writer in list(self._open):
                writer.transport.abort()
            while self._open:  # noqa: ASYNC110 - their tasks are the server's
                await asyncio.sleep(0.01)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open.add(writer)
        fates: dict[int, str] = {}
        there, back = await asyncio.open_connection(*self._target)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._requests(reader, back, writer, fates))
                both.create_task(self._answers(there, writer, fates))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            self._open.discard(writer)
            del self._waiting[writer]
            for end in (writer, back):
                end.transport.abort()

    async def _requests(
        self,
        reader: asyncio.StreamReader,
        node: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        fates: dict[int, str],
    ) -> None:
        while True:
            head, stream, opcode, body = await _frame(reader)
            fate = self._fate() if opcode in (EXECUTE, BATCH) else ""
            if opcode in (EXECUTE, BATCH):
                self._waiting[client] += 1
                self.waiting_max = max(self._waiting.total(), self.waiting_max)
            if fate == "unavailable":
                self._waiting[client] -= 1
                client.write(_error(stream, UNAVAILABLE, struct.pack("!Hii", LOCAL_QUORUM, 2, 1)))
                continue
            fates[stream] = fate if opcode in (EXECUTE, BATCH) else "passed on"
            node.write(head + body)

    async def _answers(
        self, reader: asyncio.StreamReader, client: asyncio.StreamWriter, fates: dict[int, str]
    ) -> None:
        loop = asyncio.get_running_loop()
        while True:
            head, stream, _, body = await _frame(reader)
            fate = fates.pop(stream, "passed on")
            if fate == "passed on":
                client.write(head + body)
            else:
                loop.call_later(self.faults.delay_s, self._answer, client, fate, stream, head + body)

    def _answer(self, client: asyncio.StreamWriter, fate: str, stream: int, answer: bytes) -> None:
        if client not in self._open:
            return  # the caller no longer waits for it
        self._waiting[client] -= 1
        if fate == "cut":
            client.transport.abort()
        elif fate == "timed_out":
            what = struct.pack("!Hii", LOCAL_QUORUM, 1, 2) + _string("SIMPLE")
            answer = _error(stream, WRITE_TIMEOUT, what)
        if fate not in ("cut", "lost"):
            client.write(answer)

    def _fate(self) -> str:
        dice = self._dice.random()
        for fate in ("unavailable", "timed_out", "lost", "cut"):
            dice -= getattr(self.faults, fate)
            if dice < 0:
                self.happened[fate] += 1
                return fate
        return ""


async def _frame(reader: asyncio.StreamReader) -> tuple[bytes, int, int, bytes]:
    head = await reader.readexactly(FRAME.size)
    _, _, stream, opcode, length = FRAME.unpack(head)
    return head, stream, opcode, await reader.readexactly(length)


def _error(stream: int, code: int, what: bytes) -> bytes:
    body = struct.pack("!i", code) + _string("by the front") + what
    return FRAME.pack(ANSWER_V4, 0, stream, ERROR, len(body)) + body


def _string(text: str) -> bytes:
    return struct.pack("!H", len(text)) + text.encode()
