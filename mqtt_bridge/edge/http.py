"""The HTTP entry point and the metadata service, on aiohttp.

Rules: ``POST /`` is a message, its answer 204 after the stream accepted (Funnel's and the unified endpoint's
shape); the metadata service tells a device about its own SIM alone. Who asks is the connection's session,
never anything in the request.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aiohttp import web

from core.domain.reasons import RequestRefusal
from core.domain.session import Session
from core.errors import Refused, Unavailable
from mqtt_bridge.connections import DeviceConnections

SOURCE_PROTOCOL = "http"
BODY_BYTES_MAX = 131_072
REQUEST_S_MAX = 30.0
RETRY_AFTER_S = "1"
NOT_ALLOWED = "You are not allowed to access Metadata Server."
NO_SUCH_KEY = "Specified key does not exist."


class Metadata:
    """What a device may know of its SIM: ``subscriber`` as the API tells it, and the group's ``userdata``."""

    def __init__(self, *, subscriber: Mapping[str, Any], userdata: str | None) -> None:
        self.subscriber = subscriber
        self.userdata = userdata


MetadataOf = Callable[[Session], Awaitable[Metadata | None]]
"""The metadata of a session's SIM; ``None``: its group does not allow it."""


class HttpEntryPoint:
    """Takes messages; ``url`` is its name in the record."""

    def __init__(self, *, url: str, connections: DeviceConnections) -> None:
        self._url = url
        self._connections = connections
        self._server = web.Server(self._on_request, access_log=None)

    def __call__(self, _: Session) -> asyncio.Protocol:
        """Serve one connection."""
        return self._server()

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        session = self._connections.session(request.transport)
        if session is None:
            raise web.HTTPForbidden
        if request.path != "/":
            raise web.HTTPNotFound(text=f"{request.path}: messages are posted to /")
        if request.method not in ("POST", "PUT"):
            raise web.HTTPMethodNotAllowed(request.method, ("POST", "PUT"))
        payload = await _body(request)
        try:
            await self._connections.deliver(session, SOURCE_PROTOCOL, self._url, payload)
        except Refused as refusal:
            if refusal.reason is RequestRefusal.INVALID_FIELD:
                raise web.HTTPBadRequest(text=refusal.detail) from None
            raise web.HTTPServiceUnavailable(headers={"Retry-After": RETRY_AFTER_S}) from None
        except Unavailable:
            raise web.HTTPServiceUnavailable(headers={"Retry-After": RETRY_AFTER_S}) from None
        return web.Response(status=204)


async def _body(request: web.BaseRequest) -> bytes:
    body = bytearray()
    try:
        async with asyncio.timeout(REQUEST_S_MAX):
            async for chunk in request.content.iter_any():
                body += chunk
                if len(body) > BODY_BYTES_MAX:
                    raise web.HTTPRequestEntityTooLarge(BODY_BYTES_MAX, len(body))
    except TimeoutError:
        raise web.HTTPRequestTimeout from None
    return bytes(body)


class MetadataService:
    """``/v1/subscriber``, ``/v1/subscriber.KEY`` with dots into depth, and ``/v1/userdata``; read alone."""

    def __init__(self, *, connections: DeviceConnections, metadata_of: MetadataOf) -> None:
        self._connections = connections
        self._metadata_of = metadata_of
        self._server = web.Server(self._on_request, access_log=None)

    def __call__(self, _: Session) -> asyncio.Protocol:
        """Serve one connection."""
        return self._server()

    async def _on_request(self, request: web.BaseRequest) -> web.StreamResponse:
        session = self._connections.session(request.transport)
        if request.method not in ("GET", "HEAD"):
            raise web.HTTPMethodNotAllowed(request.method, ("GET", "HEAD"))
        try:
            metadata = await self._metadata_of(session) if session is not None else None
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
