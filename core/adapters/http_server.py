"""The HTTP server of the customer API and the control channel: slow, many or broken clients cost little.

Rules:

- A request's head must be complete ``HEAD_S`` after its first octet (or after the connection), its body
  ``BODY_S`` after its head. Between requests a connection may be idle for ``IDLE_S``, longer than a load
  balancer's limit.
- Connections are limited, in total and per address; further ones get 503 and are closed.
- Malformed requests get 400 and are counted, not logged.
- The process raises its soft limit of open files to the hard one. ``RESERVE`` of them are never used by
  clients, but by the store, the stream and the gateways' sockets.
"""

import asyncio
import resource
import socket
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, cast

from aiohttp import StreamReader, web
from aiohttp.web_protocol import RequestHandler
from aiohttp.web_request import BaseRequest

from core.errors import ConfigurationError

HEAD_S, BODY_S, IDLE_S = 10.0, 30.0, 75.0
SHUTDOWN_S = 1.0
RESERVE = 256
"""Open files that are not for HTTP clients; of a low limit, half."""
OPEN_FILES_WANTED = 1_048_576
_REFUSED = (
    b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
)


class Fault(Enum):
    """What a client did wrong, or had too much of."""

    MALFORMED = "malformed"
    INCOMPLETE = "incomplete"
    HEAD_TIMEOUT = "head_timeout"
    BODY_TIMEOUT = "body_timeout"
    TOO_MANY = "too_many"
    TOO_MANY_OF_ADDRESS = "too_many_of_address"


@dataclass(slots=True)
class Clients:
    """The connections of one listener and their limits; ``faults`` are counted since the start."""

    most: int
    most_of_address: int
    faults: Counter[str] = field(default_factory=Counter)
    of_address: Counter[str] = field(default_factory=Counter)

    @property
    def open(self) -> int:
        """How many there are."""
        return self.of_address.total()

    def count(self, fault: Fault) -> None:
        """It happened once more."""
        self.faults[fault.value] += 1

    def admit(self, address: str) -> bool:
        """Take one more in, if it may be."""
        fault: Fault | None = None
        if self.of_address[address] >= self.most_of_address:
            fault = Fault.TOO_MANY_OF_ADDRESS
        elif self.open >= self.most:
            fault = Fault.TOO_MANY
        if fault is not None:
            self.count(fault)
            return False
        self.of_address[address] += 1
        return True

    def leave(self, address: str) -> None:
        """One is gone."""
        self.of_address[address] -= 1
        if self.of_address[address] <= 0:
            del self.of_address[address]


def raise_open_files() -> int:
    """Raise the soft limit of open files to the hard one; what it is now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES_WANTED if hard == resource.RLIM_INFINITY else min(hard, OPEN_FILES_WANTED)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        return wanted
    return OPEN_FILES_WANTED if soft == resource.RLIM_INFINITY else soft


def connections_of(open_files: int) -> int:
    """How many connections each HTTP listener of the process may have."""
    return max(1, (open_files - min(RESERVE, open_files // 2)) // 4)


class ClientConnection(RequestHandler):
    """aiohttp's, with limits."""

    __slots__ = ("_address", "_clients", "_due")

    def __init__(self, server: web.Server, clients: Clients, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(
            server,
            loop=loop,
            access_log=None,  # type: ignore[arg-type]  # it takes None: no access log
            keepalive_timeout=IDLE_S,
        )
        self._clients = clients
        self._address = ""
        self._due: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Count it to its address, and time its first head; one too many is refused."""
        address = str((transport.get_extra_info("peername") or ("",))[0])
        if not self._clients.admit(address):
            self._force_close = True
            cast(asyncio.Transport, transport).write(_REFUSED)  # uvloop's is none by its type
            transport.close()
            return
        self._address = address
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Stop its timer, and free its place."""
        self._expect_nothing()
        if self._address:
            self._clients.leave(self._address)
            self._address = ""
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Time the head of a request, then its body."""
        before = self._request_count
        super().data_received(data)
        if self._request_count != before:
            self._expect_nothing()
            _, payload = self._messages[-1]
            if not payload.is_eof():
                self._expect_body(payload)
        elif self._due is None and not self._request_in_progress and not self._messages:
            self._expect_head()

    def _expect_nothing(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _expect_head(self) -> None:
        self._due = self._loop.call_later(HEAD_S, self._end, Fault.HEAD_TIMEOUT)

    def _expect_body(self, payload: StreamReader) -> None:
        def look() -> None:
            self._due = None
            if not payload.is_eof():
                self._end(Fault.BODY_TIMEOUT)

        self._due = self._loop.call_later(BODY_S, look)

    def _end(self, fault: Fault) -> None:
        self._due = None
        if fault is Fault.HEAD_TIMEOUT and self._request_in_progress:
            return  # what came was not of a head
        self._clients.count(fault)
        self.force_close()

    def log_exception(self, *args: Any, **named: Any) -> None:
        """A body that is not what its head says, or that ends too early, is the client's fault."""
        if not isinstance(named.get("exc_info"), ConnectionError | web.RequestPayloadError):
            super().log_exception(*args, **named)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """What is no HTTP, or no whole request, is the client's; everything else is ours, and logged."""
        if isinstance(exc, ConnectionError | web.PayloadAccessError | web.RequestPayloadError):
            self._clients.count(Fault.INCOMPLETE)
        elif status == 400:
            self._clients.count(Fault.MALFORMED)
        else:
            return super().handle_error(request, status, exc, message)
        response = web.Response(status=400, text="The request is malformed.\n")
        response.force_close()
        return response


@asynccontextmanager
async def listening(
    application: web.Application, *, section: str, host: str, port: int, clients: Clients
) -> AsyncIterator[None]:
    """Serve while the context is open; raises ``ConfigurationError`` where it cannot listen."""
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        loop, server = asyncio.get_running_loop(), runner.server
        assert server is not None, "it has been set up"
        try:
            listener = await loop.create_server(
                lambda: ClientConnection(server, clients, loop),
                host,
                port,
                family=socket.AF_UNSPEC,
                backlog=128,
            )
        except OSError as error:
            raise ConfigurationError(
                f"{section}.port: {host}:{port}: {error.strerror or error}; stop the process that uses it,"
                f" or set another port with AIRLOOM_{section.upper()}__PORT"
            ) from error
        try:
            yield
        finally:
            listener.close()
    finally:
        await runner.cleanup()
