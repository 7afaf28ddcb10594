"""Links between nodes as WebSockets (RFC 6455) on their control channels.

Rules: what waits to be sent is bounded, and goes out in as few writes as it can; an end that falls silent is
given up after a missed heartbeat.
"""

import asyncio
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import TypeAlias

import aiohttp
from aiohttp import web

from core.errors import Unavailable

WAITING_BYTES_MAX = 4 * 1_048_576
MESSAGE_BYTES_MAX = 65_535
FRAME_BYTES_MAX = 2 * WAITING_BYTES_MAX
"""Of one WebSocket message, which carries all that waited."""
HEARTBEAT_S = 2.0
CONNECT_S = 2.0
EDGE_PATH = "/control/edge"
_LENGTH = struct.Struct("!H")

Socket: TypeAlias = aiohttp.ClientWebSocketResponse | web.WebSocketResponse


class WebSocketLink:
    """Implements ``Link`` over an open WebSocket; ``run`` drives it."""

    def __init__(self, socket: Socket) -> None:
        self._socket = socket
        self._waiting = bytearray()
        self._something = asyncio.Event()

    def send(self, message: bytes) -> bool:
        """Queue it with what waits."""
        if self._socket.closed or len(self._waiting) + len(message) > WAITING_BYTES_MAX:
            return False
        self._waiting += _LENGTH.pack(len(message)) + message
        self._something.set()
        return True

    async def run(self) -> None:
        """Send what waits, until cancelled or the socket breaks."""
        with suppress(ConnectionError):
            while not self._socket.closed:
                await self._something.wait()
                self._something.clear()
                frame, self._waiting = bytes(self._waiting), bytearray()
                await self._socket.send_bytes(frame)

    async def messages(self) -> AsyncIterator[bytes]:
        """The messages of each frame; a frame that is cut short ends the link."""
        async for received in self._socket:
            if received.type is not aiohttp.WSMsgType.BINARY:
                return
            frame: bytes = received.data
            at = 0
            while at < len(frame):
                begins = at + _LENGTH.size
                if begins > len(frame):
                    return
                (length,) = _LENGTH.unpack_from(frame, at)
                at = begins + length
                if at > len(frame):
                    return
                yield frame[begins:at]


class NoLinks:
    """Implements ``Links`` for a node without a control channel."""

    def connect(self, contact: str) -> AbstractAsyncContextManager[WebSocketLink]:
        """There are no other nodes; raises ``Unavailable``."""
        raise Unavailable("control.secret is not set: no other node can be reached")


class WebSocketLinks:
    """Implements ``Links``. ``secret`` is what all nodes share."""

    def __init__(self, *, secret: str) -> None:
        self._headers = {"Authorization": f"Bearer {secret}"}

    @asynccontextmanager
    async def connect(self, contact: str) -> AsyncIterator[WebSocketLink]:
        """Connect to a node's control channel."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)
        async with aiohttp.ClientSession(headers=self._headers, timeout=timeout) as http:
            try:
                async with asyncio.timeout(CONNECT_S):
                    socket = await http.ws_connect(
                        f"{contact}{EDGE_PATH}", heartbeat=HEARTBEAT_S, max_msg_size=FRAME_BYTES_MAX
                    )
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise Unavailable(f"{contact}: {error!r}") from error
            async with socket, asyncio.TaskGroup() as tasks:
                link = WebSocketLink(socket)
                sending = tasks.create_task(link.run())
                try:
                    yield link
                finally:
                    sending.cancel()


async def serve_link(
    request: web.Request, serve: Callable[[WebSocketLink], Awaitable[None]]
) -> web.WebSocketResponse:
    """The other end: accept a WebSocket and let ``serve`` work with the link until it breaks."""
    socket = web.WebSocketResponse(heartbeat=HEARTBEAT_S, max_msg_size=FRAME_BYTES_MAX)
    await socket.prepare(request)
    async with asyncio.TaskGroup() as tasks:
        link = WebSocketLink(socket)
        sending = tasks.create_task(link.run())
        try:
            await serve(link)
        finally:
            sending.cancel()
    return socket
