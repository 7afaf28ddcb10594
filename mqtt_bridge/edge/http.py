"""The HTTP entry point and the metadata service, on aiohttp.

Rules: ``POST /`` is a message, its answer 204 after the stream accepted (Funnel's and the unified endpoint's
shape); the metadata service shows a device its own SIM alone. Who asks is the connection's session,
never anything in the request. A head, and then a body, must be whole within ``UNFINISHED_S_MAX``. A body in
gzip or deflate is the message that it holds. An answer that is no message's is taken from the SIM's budget.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from aiohttp import HttpVersion11, web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from core.domain.reasons import RequestRefusal
from core.domain.session import Session
from core.errors import Refused, Unavailable
from mqtt_bridge.connections import UNFINISHED_S_MAX, DeviceConnection, DeviceConnections

SOURCE_PROTOCOL = "http"
BODY_BYTES_MAX = 131_072
CODINGS = ("identity", "gzip", "deflate")
RETRY_AFTER_S = "1"
_CLIENTS_FAULTS = (HttpProcessingError, web.RequestPayloadError, ConnectionError)
NOT_ALLOWED = "You are not allowed to access Metadata Server."
NO_SUCH_KEY = "Specified key does not exist."


class Metadata:
    """What a device may know of its SIM: ``subscriber`` as the API shows it, and the group's ``userdata``."""

    def __init__(self, *, subscriber: Mapping[str, Any], userdata: str | None) -> None:
        self.subscriber = subscriber
        self.userdata = userdata


MetadataOf = Callable[[Session], Awaitable[Metadata | None]]
"""The metadata of a session's SIM; ``None``: its group does not allow it."""


class _Connection(RequestHandler):
    """aiohttp's side of a connection, with a deadline for the head of each request."""

    __slots__ = ("_deadline",)

    def __init__(self, server: web.Server) -> None:
        loop = asyncio.get_running_loop()
        super().__init__(server, loop=loop, access_log=None)  # type: ignore[arg-type]  # None: it keeps none
        self._deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The device connected."""
        super().connection_made(transport)
        self.await_head()

    def connection_lost(self, error: BaseException | None) -> None:
        """The device is gone."""
        self.head_is_whole()
        super().connection_lost(error)

    def log_exception(self, *args: Any, **named: Any) -> None:
        """What a device sends wrongly, or not to its end, is its fault; a traceback for each would fill the
        disk.
        """
        if not isinstance(named.get("exc_info"), _CLIENTS_FAULTS):
            super().log_exception(*args, **named)

    def await_head(self) -> None:
        """A request may come, within ``UNFINISHED_S_MAX``; none where the device is gone."""
        if self.transport is None:
            return
        self._deadline = asyncio.get_running_loop().call_later(UNFINISHED_S_MAX, self._give_up)

    def head_is_whole(self) -> None:
        """It is there, or will not come."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        """Close it, so that a device sees the end of an idle connection; cut off one that reads no answer."""
        transport = self.transport
        if transport is not None and transport.get_write_buffer_size():
            transport.abort()
        elif transport is not None:
            transport.close()


class _Service:
    """What both have in common: whose request it is, its deadline, and what an error costs."""

    def __init__(self, connections: DeviceConnections) -> None:
        self._connections = connections
        self._server = web.Server(self._on_request)

    def __call__(self, _: DeviceConnection) -> asyncio.Protocol:
        """Serve one connection."""
        return _Connection(self._server)

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        connection = cast("_Connection", request.protocol)
        connection.head_is_whole()
        session = self._connections.session(request.transport)
        try:
            if session is None:
                raise web.HTTPForbidden
            return await self._answer(request, session)
        except web.HTTPException:
            if session is None or not self._connections.may_answer(session):
                connection.close()  # after this answer; the next connection is in the budget too
            raise
        finally:
            connection.await_head()

    async def _answer(self, request: web.BaseRequest, session: Session) -> web.StreamResponse:
        raise NotImplementedError


class HttpEntryPoint(_Service):
    """Takes messages; ``url`` is its name in the record."""

    def __init__(self, *, url: str, connections: DeviceConnections) -> None:
        super().__init__(connections)
        self._url = url

    async def _answer(self, request: web.BaseRequest, session: Session) -> web.StreamResponse:
        if request.path != "/":
            raise web.HTTPNotFound(text=f"{request.path}: messages are posted to /")
        if request.method not in ("POST", "PUT"):
            raise web.HTTPMethodNotAllowed(request.method, ("POST", "PUT"))
        payload = await _body(request)
        try:
            message = self._connections.message(session, SOURCE_PROTOCOL, self._url, payload)
            await self._connections.delivery.deliver(message)
        except Refused as refusal:
            if refusal.reason is RequestRefusal.INVALID_FIELD:
                raise web.HTTPBadRequest(text=refusal.detail) from None
            raise web.HTTPServiceUnavailable(headers={"Retry-After": RETRY_AFTER_S}) from None
        except Unavailable:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": RETRY_AFTER_S}) from None
        return web.Response(status=204)


async def _body(request: web.BaseRequest) -> bytes:
    """What the message is; raises the answer to a request whose head already says that it is none."""
    coding = request.headers.get("Content-Encoding", "identity").lower()
    if coding not in CODINGS:
        raise web.HTTPUnsupportedMediaType(text=f"Content-Encoding: {coding}; send {', '.join(CODINGS)}")
    if (request.content_length or 0) > BODY_BYTES_MAX:
        raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, request.content_length or 0)
    await _expect(request)
    body = bytearray()
    try:
        async with asyncio.timeout(UNFINISHED_S_MAX):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, len(body))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    except web.RequestPayloadError as error:
        raise web.HTTPBadRequest(text=str(error)) from None
    return bytes(body)


async def _expect(request: web.BaseRequest) -> None:
    """Tell a device that waits for it to send the body (RFC 9110 §10.1.1); HTTP/1.0 has no such word."""
    expected = request.headers.get("Expect", "").lower()
    if request.version < HttpVersion11 or not expected:
        return
    if expected != "100-continue":
        raise web.HTTPExpectationFailed(text=f"Expect: {expected}; 100-continue is what can be met")
    if request.transport is not None:
        request.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")


class MetadataService(_Service):
    """``/v1/subscriber``, ``/v1/subscriber.KEY`` with dots into depth, and ``/v1/userdata``; read alone."""

    def __init__(self, *, connections: DeviceConnections, metadata_of: MetadataOf) -> None:
        super().__init__(connections)
        self._metadata_of = metadata_of

    async def _answer(self, request: web.BaseRequest, session: Session) -> web.StreamResponse:
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD"))
        if not self._connections.may_answer(session):
            raise web.HTTPTooManyRequests(headers={"Retry-After": RETRY_AFTER_S})
        try:
            metadata = await self._metadata_of(session)
        except Unavailable:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": RETRY_AFTER_S}) from None
        if metadata is None:
            raise web.HTTPForbidden(text=NOT_ALLOWED)
        value = _value(request.path, metadata)
        return web.Response(text=value) if isinstance(value, str) else web.json_response(value)


def _value(path: str, metadata: Metadata) -> Any:
    """What a path names; raises ``HTTPNotFound``."""
    name, _, dotted = path.removeprefix("/v1/").partition(".")
    if path == "/v1/userdata" and metadata.userdata is not None:
        return metadata.userdata
    if not path.startswith("/v1/") or name != "subscriber":
        raise web.HTTPNotFound(text=NO_SUCH_KEY)
    value: Any = metadata.subscriber
    for key in dotted.split(".") if dotted else ():
        if not isinstance(value, Mapping) or key not in value:
            raise web.HTTPNotFound(text=NO_SUCH_KEY)
        value = value[key]
    return value
