"""The customer API as an aiohttp application.

Rules: nothing leaves but the contract's JSON, errors included; an error of ours is logged with its reason
and told without it; a body is at most 1 MiB.
"""

import asyncio
import logging

from aiohttp import web
from aiohttp.typedefs import Handler as WebHandler
from aiohttp.typedefs import Middleware

from api.calls import ApiServices, Call, answer
from api.errors import FAULTS, INTERNAL, METHOD_NOT_ALLOWED, UNAVAILABLE, UNREADABLE, to_response
from api.limits import LoopTurns, TooMany, cost_of
from api.ready import readyz
from api.routes import DOWNLOAD, NOT_SUPPORTED, ROUTES, SANDBOX_ROUTES, Route
from core.domain.reasons import RequestRefusal
from core.errors import Refused, Unavailable, ungrouped
from core.services.running.recurring import Recurring

BODY_BYTES_MAX = 1_048_576
CREDENTIAL_CHARACTERS_MAX = 4_096
"""Of the API key's and the token's header."""
HELD_S = 1.0
"""Before the answer 429: who does not wait as it says still costs no more than an answer a second for each
of its connections.
"""
RETRY_AFTER_S = 1

_log = logging.getLogger(__name__)


def make_application(services: ApiServices) -> web.Application:
    """Every route of the contract that is offered, ``/healthz`` and ``/readyz``."""
    in_turn = _in_turn(services.limits.loop_turns)
    application = web.Application(middlewares=[in_turn, _errors], client_max_size=BODY_BYTES_MAX)
    trouble = Recurring(say=_log.warning, clock=services.clock)
    sandbox = SANDBOX_ROUTES if services.sandbox else ()
    for route in (*ROUTES, DOWNLOAD, *sandbox, NOT_SUPPORTED):
        application.router.add_route(route.method, f"/v1{route.path}", _serve(route, services, trouble))

    async def healthz(_: web.Request) -> web.Response:
        return answer({"status": "ok"})

    application.router.add_get("/healthz", healthz)
    application.router.add_get("/readyz", readyz(services.readiness))
    return application


def _serve(route: Route, services: ApiServices, trouble: Recurring) -> WebHandler:
    """A handler that authenticates, calls, turns refusals and faults into answers and counts them all."""

    async def call(request: web.Request) -> web.StreamResponse:
        try:
            return await _answered(route, services, request)
        except Unavailable as error:
            trouble.tell(route.operation_id, f"{route.operation_id}: {error}")
            response = to_response(UNAVAILABLE, "The service is temporarily unavailable. Please try again.")
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
            return response

    async def handle(request: web.Request) -> web.StreamResponse:
        response = await _errors(request, call)
        services.on_answer(route.operation_id, response.status)
        return response

    return handle


async def _answered(route: Route, services: ApiServices, request: web.Request) -> web.StreamResponse:
    try:
        with ungrouped():
            return await _called(route, services, request)
    except Refused as refusal:
        if not isinstance(refusal.reason, RequestRefusal):
            raise
        if refusal.reason is RequestRefusal.TOO_MANY_REQUESTS:
            await asyncio.sleep(HELD_S)
        response = to_response(FAULTS[refusal.reason], refusal.detail or refusal.reason.value)
        if isinstance(refusal, TooMany):
            response.headers.update(refusal.headers)
        elif refusal.retry_after_s:
            response.headers["Retry-After"] = str(refusal.retry_after_s)
        return response


async def _called(route: Route, services: ApiServices, request: web.Request) -> web.StreamResponse:
    if not route.needs_token:
        return await _handled(route, Call(services, request, None))
    claims = await services.identity.authenticate(
        request.headers.get("X-Soracom-API-Key", "")[:CREDENTIAL_CHARACTERS_MAX],
        request.headers.get("X-Soracom-Token", ""),
    )
    cost = cost_of(route.operation_id, request.query.get("limit"))
    async with services.limits.turn(claims.operator_id, cost) as headers:
        response = await _handled(route, Call(services, request, claims))
        response.headers.update(headers)
        return response


async def _handled(route: Route, call: Call) -> web.StreamResponse:
    if route.query is not None:
        call.check_query(route.query)
    return await route.handler(call)


def _in_turn(loop_turns: LoopTurns) -> Middleware:
    @web.middleware
    async def handle(request: web.Request, handler: WebHandler) -> web.StreamResponse:
        await loop_turns.next()
        return await handler(request)

    return handle


@web.middleware
async def _errors(request: web.Request, handler: WebHandler) -> web.StreamResponse:
    """What a handler did not foresee, or there is none for."""
    try:
        return await handler(request)
    except web.HTTPRequestEntityTooLarge:
        fault = FAULTS[RequestRefusal.BODY_TOO_LARGE]
        return to_response(fault, f"The body is larger than {BODY_BYTES_MAX} bytes.")
    except web.HTTPNotFound:
        return to_response(
            FAULTS[RequestRefusal.NOT_SUPPORTED],
            "No such path. Operations are below /v1, for example GET /v1/sims.",
        )
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        response = to_response(
            METHOD_NOT_ALLOWED, f"{request.method} is not supported on this path; use {allowed}."
        )
        response.headers["Allow"] = allowed
        return response
    except web.HTTPException as error:
        if error.status >= 500:
            raise
        return to_response(UNREADABLE, error.reason or "The request is malformed.")
    except (ConnectionError, web.PayloadAccessError, web.RequestPayloadError):
        raise  # the client is gone, or its body is no body: the listener counts it
    except Exception:
        _log.exception("%s %r", request.method, request.path)
        return to_response(INTERNAL, "Internal error.")
