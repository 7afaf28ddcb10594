"""The customer API as an aiohttp application.

Rules: every answer is the contract's JSON, errors included; the reason of an internal error is in the log and
not in the answer; a body is at most 1 MiB.
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
"""Before the answer 429: a client that ignores ``Retry-After`` costs no more than an answer a second for each
of its connections.
"""
RETRY_AFTER_S = 1

_log = logging.getLogger(__name__)


def make_application(services: ApiServices) -> web.Application:
    """Every route of the contract that is offered, ``/healthz`` and ``/readyz``."""
    application = web.Application(
        middlewares=[_outermost(services.limits.loop_turns)], client_max_size=BODY_BYTES_MAX
    )
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

    async def handle(request: web.Request) -> web.StreamResponse:
        response: web.StreamResponse
        try:
            with ungrouped():
                response = await _called(route, services, request)
        except Refused as refusal:
            response = await _refused(request, refusal)
        except Unavailable as error:
            trouble.tell(route.operation_id, f"{route.operation_id}: {error}")
            response = to_response(UNAVAILABLE, "The service is temporarily unavailable. Please try again.")
            response.headers["Retry-After"] = str(RETRY_AFTER_S)
        except Exception as error:
            response = _fault(request, error)
        services.on_answer(route.operation_id, response.status)
        return response

    return handle


async def _refused(request: web.Request, refusal: Refused) -> web.Response:
    if not isinstance(refusal.reason, RequestRefusal):
        return _fault(request, refusal)
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
        return await route.handler(_checked(route, Call(services, request, None)))
    claims = await services.identity.authenticate(
        request.headers.get("X-Soracom-API-Key", "")[:CREDENTIAL_CHARACTERS_MAX],
        request.headers.get("X-Soracom-Token", ""),
    )
    cost = cost_of(route.operation_id, request.query.get("limit"))
    async with services.limits.turn(claims.operator_id, cost) as headers:
        response = await route.handler(_checked(route, Call(services, request, claims)))
        response.headers.update(headers)
        return response


def _checked(route: Route, call: Call) -> Call:
    """The call; raises ``Refused(INVALID_FIELD)`` for a query parameter that the operation does not have."""
    if route.query is not None:
        call.check_query(route.query)
    return call


def _outermost(loop_turns: LoopTurns) -> Middleware:
    """Each request begins in a turn of its own; what no route answers is answered here."""

    @web.middleware
    async def handle(request: web.Request, handler: WebHandler) -> web.StreamResponse:
        await loop_turns.next()
        try:
            return await handler(request)
        except Exception as error:
            return _fault(request, error)

    return handle


def _fault(request: web.Request, error: Exception) -> web.Response:
    """The answer to what a handler did not foresee, or no route has; raises what is the listener's to count:
    the client is gone, or its body is not encoded as it says.
    """
    if isinstance(error, web.HTTPRequestEntityTooLarge):
        fault = FAULTS[RequestRefusal.BODY_TOO_LARGE]
        return to_response(fault, f"The body is larger than {BODY_BYTES_MAX} bytes.")
    if isinstance(error, web.HTTPNotFound):
        return to_response(
            FAULTS[RequestRefusal.NOT_SUPPORTED],
            "No such path. Operations are below /v1, for example GET /v1/sims.",
        )
    if isinstance(error, web.HTTPMethodNotAllowed):
        allowed = ", ".join(sorted(error.allowed_methods))
        response = to_response(
            METHOD_NOT_ALLOWED, f"{request.method} is not supported on this path; use {allowed}."
        )
        response.headers["Allow"] = allowed
        return response
    if isinstance(error, web.HTTPException) and error.status < 500:
        return to_response(UNREADABLE, error.reason or "The request is malformed.")
    if isinstance(
        error, web.HTTPException | ConnectionError | web.PayloadAccessError | web.RequestPayloadError
    ):
        raise error
    _log.error("%s %r", request.method, request.path, exc_info=error)
    return to_response(INTERNAL, "Internal error.")
