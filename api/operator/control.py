"""The control channel of a node: requests of the other nodes, of operators and of load balancers.

Rules: every call but the health checks carries the secret that all nodes share, unless it comes by the socket
that only the operator's own account can open; a watching connection is never closed from here without a
``bye``, because its end is how others learn that this process is gone.
"""

import asyncio
import hmac
import json
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from enum import Enum
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TypeVar

from aiohttp import web

from api.operator.bearers import AddBearer, ChangeBearer, RemoveBearer, read
from api.operator.customers import CustomerOperations, page_limit
from api.operator.operations import Operations, TraceQuery
from api.operator.rows import Row
from api.queries import demand_known
from api.ready import Readiness, readyz
from api.sources import source_of
from core.adapters.links import EDGE_PATH, serve_link
from core.domain.reasons import RequestRefusal
from core.domain.session import Access, CloseReason
from core.errors import ConfigurationError, Refused, Unavailable, ungrouped
from core.ports.links import Link
from core.services.customers.guesses import Guess, Guesses
from core.services.sessions.search import PAGE_DEFAULT, SessionQuery

BODY_BYTES_MAX = 4_096
SHOWN_MAX = 64
"""Characters of a value that are repeated in an error."""
Choice = TypeVar("Choice", bound=Enum)
HEARTBEAT_S = 5.0
"""A watcher that went away without a word is noticed by then."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ControlServices:
    """What a node does when it is asked."""

    name: str
    secret: str | None = field(repr=False)
    """``None``: only this host's operator reaches the channel, so no secret is asked for."""
    guesses: Guesses
    customers: CustomerOperations
    gateways: Callable[[], dict[str, int]]
    """Of each gateway instance held, how many sessions are open."""
    fences: Callable[[], dict[str, int]]
    """Of each, the fence of its lease term: a node that reports a higher one holds it now."""
    readiness: Callable[[str], Readiness]
    places: Callable[[], dict[str, str]]
    """Of each gateway instance that it could hold, how it is with it."""
    hand_over: Callable[[str], Awaitable[None]]
    end_sessions_of: Callable[[str, str, CloseReason], Awaitable[int]]
    refresh_sessions_of: Callable[[str, str], Awaitable[None]]
    group_changed: Callable[[str, str, str], Awaitable[None]]
    drain: Callable[[], None]
    reload: Callable[[], Awaitable[list[str]]]
    """Reads the configuration again; the keys that changed. Raises ``ConfigurationError``."""
    operations: Operations
    billing: Callable[[], Awaitable[Row]]
    """Versions of the tariff, how far months are closed, and usage that came too late for its bill."""
    serve_link: Callable[[Link], Awaitable[None]] | None
    """Takes in what another node's devices send to the platform, until the link breaks; none: no edge."""
    standing: Callable[[], dict[str, str]] = dict
    """The loops that cannot go on now, and why."""


def make_control(services: ControlServices) -> web.Application:
    """``/healthz``, ``/readyz`` and ``/control/…``."""
    if services.secret == "":
        raise ConfigurationError("control.secret: must be set")
    application = web.Application(middlewares=[_errors], client_max_size=BODY_BYTES_MAX)
    channel = _Channel(services)
    application.on_shutdown.append(channel.say_bye)
    routes = application.router
    routes.add_get("/healthz", channel.healthz)
    routes.add_get("/readyz", readyz(services.readiness))
    routes.add_get("/control/node", channel.trusted(channel.node))
    routes.add_get("/control/watch", channel.trusted(channel.watch))
    routes.add_get(EDGE_PATH, channel.trusted(channel.edge))
    routes.add_post("/control/hand-over", channel.trusted(channel.hand_over))
    routes.add_post("/control/end-sessions", channel.trusted(channel.end_sessions))
    routes.add_post("/control/refresh-sessions", channel.trusted(channel.refresh_sessions))
    routes.add_post("/control/group-changed", channel.trusted(channel.group_changed))
    routes.add_post("/control/drain", channel.trusted(channel.drain))
    routes.add_post("/control/reload", channel.trusted(channel.reload))
    routes.add_get("/control/billing", channel.trusted(channel.billing))
    routes.add_get("/control/gateway/status", channel.trusted(channel.status))
    routes.add_get("/control/gateway/peers", channel.trusted(channel.peers))
    routes.add_get("/control/gateway/sessions", channel.trusted(channel.sessions))
    routes.add_get("/control/usage/quarantined", channel.trusted(channel.quarantined))
    routes.add_get("/control/gateway/trace", channel.trusted(channel.trace))
    routes.add_post("/control/gateway/restart-counter", channel.trusted(channel.raise_restart_counter))
    routes.add_post("/control/gateway/drop-peer", channel.trusted(channel.drop_peer))
    routes.add_get("/control/gateway/bearers", channel.trusted(channel.bearers))
    routes.add_post("/control/gateway/add-bearer", channel.trusted(channel.add_bearer))
    routes.add_post("/control/gateway/change-bearer", channel.trusted(channel.change_bearer))
    routes.add_post("/control/gateway/remove-bearer", channel.trusted(channel.remove_bearer))
    for method, path, handler in services.customers.routes():
        routes.add_route(method, path, channel.trusted(handler))
    return application


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class _Channel:
    def __init__(self, services: ControlServices) -> None:
        self._services = services
        self._ending = asyncio.Event()

    def trusted(self, handler: Handler) -> Handler:
        if self._services.secret is None:
            return handler
        expected = f"Bearer {self._services.secret}".encode()
        guesses = self._services.guesses

        async def handle(request: web.Request) -> web.StreamResponse:
            shown = request.headers.get("Authorization", "").encode(errors="surrogateescape")
            async with guesses.trying(Guess.CONTROL_SECRET, source=source_of(request)):
                if not hmac.compare_digest(shown, expected):
                    raise Refused(RequestRefusal.NOT_AUTHENTICATED, "control.secret is wrong")
            return await handler(request)

        return handle

    async def healthz(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"status": "ok"})

    async def node(self, _: web.Request) -> web.StreamResponse:
        services = self._services
        readiness = services.readiness("")
        return web.json_response(
            {
                "name": services.name,
                "ready": readiness.is_ready,
                "status": readiness.status,
                "parts": dict(readiness.parts),
                "places": services.places(),
                "gateways": services.gateways(),
                "fences": services.fences(),
                "standing": services.standing(),
            }
        )

    async def watch(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        with suppress(ConnectionError):  # the watcher is gone
            await response.prepare(request)
            while not self._ending.is_set():
                await response.write(b"alive\n")
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        await self._ending.wait()
            await response.write(b"bye\n")
        return response

    async def edge(self, request: web.Request) -> web.StreamResponse:
        if self._services.serve_link is None:
            raise Unavailable(f"{self._services.name} has not the role edge")
        return await serve_link(request, self._services.serve_link)

    async def hand_over(self, request: web.Request) -> web.StreamResponse:
        await self._services.hand_over(_text(await request.json(), "gateway_id"))
        return web.json_response({})

    async def end_sessions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        gateway_id, sim_id, reason = (_text(body, name) for name in ("gateway_id", "sim_id", "reason"))
        ended = await self._services.end_sessions_of(
            gateway_id, sim_id, _choice(CloseReason, "reason", reason)
        )
        return web.json_response({"ended": ended})

    async def refresh_sessions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        await self._services.refresh_sessions_of(_text(body, "gateway_id"), _text(body, "sim_id"))
        return web.json_response({})

    async def group_changed(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        gateway_id, operator_id = _text(body, "gateway_id"), _text(body, "operator_id")
        await self._services.group_changed(gateway_id, operator_id, _text(body, "group_id"))
        return web.json_response({})

    async def drain(self, _: web.Request) -> web.StreamResponse:
        self._services.drain()
        return web.json_response({})

    # -- what an operator asks --------------------------------------------------------------------------

    async def reload(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"changed": await self._services.reload()})

    async def billing(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(await self._services.billing())

    async def status(self, _: web.Request) -> web.StreamResponse:
        return web.json_response(self._services.operations.status())

    async def peers(self, _: web.Request) -> web.StreamResponse:
        return web.json_response({"peers": self._services.operations.peers()})

    async def sessions(self, request: web.Request) -> web.StreamResponse:
        return web.json_response(
            await self._services.operations.sessions(_session_query(dict(request.query)))
        )

    async def quarantined(self, request: web.Request) -> web.StreamResponse:
        demand_known(request.query, "day")
        day = _day(request.query.get("day", ""))
        return web.json_response({"quarantined": await self._services.operations.quarantined(day)})

    async def trace(self, request: web.Request) -> web.StreamResponse:
        """A line of JSON for each message, and an empty one while there are none."""
        query = _trace_query(dict(request.query))
        response = web.StreamResponse()
        with self._services.operations.trace(query) as messages, suppress(ConnectionError):
            await response.prepare(request)
            await response.write(b"\n")
            while not self._ending.is_set():
                line = b""
                with suppress(TimeoutError):
                    async with asyncio.timeout(HEARTBEAT_S):
                        line = json.dumps(await messages.get()).encode()
                await response.write(line + b"\n")
        return response

    async def raise_restart_counter(self, request: web.Request) -> web.StreamResponse:
        gateway_id = _text(await request.json(), "gateway_id")
        counter = await self._services.operations.raise_restart_counter(gateway_id)
        return web.json_response({"restart_counter": counter})

    async def drop_peer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        peer, tell_peer = _text(body, "peer"), body.get("tell_peer", True)
        if not isinstance(tell_peer, bool):
            raise ValueError("tell_peer: must be true or false")
        return web.json_response(
            {"ended": await self._services.operations.drop_peer(peer, tell_peer=tell_peer)}
        )

    async def bearers(self, request: web.Request) -> web.StreamResponse:
        demand_known(request.query, "session_id")
        session_id = _text(dict(request.query), "session_id")
        return web.json_response({"bearers": self._services.operations.bearers(session_id)})

    async def add_bearer(self, request: web.Request) -> web.StreamResponse:
        wanted = read(AddBearer, await request.json())
        return web.json_response(await self._services.operations.add_bearer(wanted))

    async def change_bearer(self, request: web.Request) -> web.StreamResponse:
        wanted = read(ChangeBearer, await request.json())
        return web.json_response(await self._services.operations.change_bearer(wanted))

    async def remove_bearer(self, request: web.Request) -> web.StreamResponse:
        await self._services.operations.remove_bearer(read(RemoveBearer, await request.json()))
        return web.json_response({})

    async def say_bye(self, _: web.Application) -> None:
        self._ending.set()


def _session_query(asked: dict[str, str]) -> SessionQuery:
    demand_known(asked, *(each.name for each in fields(SessionQuery)))
    if access := asked.get("access", ""):
        _choice(Access, "access", access)
    limit = page_limit(asked.pop("limit", str(PAGE_DEFAULT)))
    address, teid = asked.pop("address", ""), asked.pop("teid", "")
    return SessionQuery(
        **asked,
        address=_address(address) if address else None,
        teid=_teid(teid) if teid else None,
        limit=limit,
    )


def _choice(choices: type[Choice], name: str, value: str) -> Choice:
    try:
        return choices(value)
    except ValueError:
        known = ", ".join(str(each.value) for each in choices)
        raise ValueError(f"{name}: {value[:SHOWN_MAX]} must be one of {known}") from None


def _address(text: str) -> IPv4Address | IPv6Address:
    try:
        return ip_address(text)
    except ValueError:
        raise ValueError(f"address: {text[:SHOWN_MAX]} must be an IPv4 or IPv6 address") from None


def _day(text: str) -> int:
    """A day that the calendar has."""
    try:
        day = f"{datetime.strptime(text, '%Y%m%d').replace(tzinfo=UTC):%Y%m%d}"
        if day != text:  # strptime takes days of one digit
            raise ValueError
        return int(day)
    except ValueError:
        raise ValueError(f"day: {text[:SHOWN_MAX]} must be a day as yyyymmdd") from None


def _teid(text: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ValueError(f"teid: {text[:SHOWN_MAX]} must be a number, as 0x1a2b3c4d") from None


def _trace_query(asked: dict[str, str]) -> TraceQuery:
    demand_known(asked, *(each.name for each in fields(TraceQuery)))
    imsi, partner, refused = (asked.get(name, "") for name in ("imsi", "partner", "refused"))
    if imsi and not (imsi.isascii() and imsi.isdigit()):
        raise ValueError("imsi: must be digits")
    if refused not in ("", "true", "false"):
        raise ValueError("refused: must be true or false")
    if not (imsi or partner or refused == "true"):
        raise ValueError("imsi, partner or refused: at least one must be given")
    return TraceQuery(imsi=imsi, partner=partner, refused=refused == "true")


def _text(body: object, name: str) -> str:
    value = body.get(name) if isinstance(body, dict) else None
    if not isinstance(value, str):
        raise ValueError(f"{name}: must be a string")
    return value


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        with ungrouped():
            return await handler(request)
    except web.HTTPException as error:  # no such path, no such method
        headers = {name: error.headers[name] for name in ("Allow",) if name in error.headers}
        return web.json_response({"error": error.reason}, status=error.status, headers=headers)
    except RecursionError:
        return web.json_response({"error": "the body is nested too deep"}, status=400)
    except json.JSONDecodeError as error:
        return web.json_response({"error": f"body: must be JSON: {error}"}, status=400)
    except (ValueError, Unavailable, ConfigurationError) as error:
        return web.json_response({"error": str(error)}, status=_status_of(error))
    except Refused as refusal:
        wait_s = refusal.retry_after_s
        is_request = isinstance(refusal.reason, RequestRefusal)
        return web.json_response(
            {"error": (is_request and refusal.detail) or str(refusal)},
            status=_STATUSES.get(refusal.reason, 409),
            headers={"Retry-After": str(wait_s)} if wait_s else None,
        )


def _status_of(error: Exception) -> int:
    if isinstance(error, ValueError):
        return 400
    return 503 if isinstance(error, Unavailable) else 409


_STATUSES: Mapping[object, int] = {
    RequestRefusal.NOT_AUTHENTICATED: 401,
    RequestRefusal.TOO_MANY_REQUESTS: 429,
}
"""Every other refusal is 409."""
