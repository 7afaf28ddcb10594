"""SORACOM's sandbox operations: operators and SIMs from nothing, statistics by hand.

Rules: they are served only where the configuration says sandbox, and then to anybody, so what they make is
bounded; coupons, orders and Beam have no meaning here, and say so.
"""

from aiohttp import web

from api.calls import Call, answer, instant
from api.identity import credentials_view
from api.models import (
    SandboxCreateSubscriberRequest,
    SandboxInitRequest,
    SandboxInsertAirStatsRequest,
)
from api.views import in_stock_view
from core.domain.reasons import RequestRefusal
from core.domain.speed import SPEEDS_KBPS
from core.domain.usage import Volume
from core.errors import Refused
from core.services.customers.identity import TOKEN_LIFETIME_DEFAULT_S

SANDBOX_OPERATORS_MAX, SANDBOX_SIMS_MAX = 100, 1_000
"""Operators that are open; SIMs of each, and in stock."""


async def not_supported(call: Call) -> web.Response:
    """For every operation that is not offered; 405 where another method of the path is."""
    allowed = await call.allowed_methods()
    if allowed:
        raise web.HTTPMethodNotAllowed(call.request.method, allowed)
    what = f"{call.request.method} {call.request.path[:200]}".encode(errors="replace").decode()
    raise Refused(RequestRefusal.NOT_SUPPORTED, f"{what} is not offered by this server.")


async def init(call: Call) -> web.Response:
    """A new operator, signed in."""
    body = await call.body(SandboxInitRequest)
    identity = call.services.identity
    if not body.password:
        raise Refused(RequestRefusal.INVALID_FIELD, "password: must not be empty")
    there = await call.services.operators.page(after="", limit=SANDBOX_OPERATORS_MAX)
    if len(there.items) >= SANDBOX_OPERATORS_MAX:
        raise Refused(
            RequestRefusal.LIMIT_REACHED, f"a sandbox has at most {SANDBOX_OPERATORS_MAX} operators"
        )
    operator = await identity.create_operator(body.email, body.password)
    credentials = identity.issue(operator, TOKEN_LIFETIME_DEFAULT_S)
    return answer(credentials_view(credentials), 201)


async def delete_operator(call: Call) -> web.Response:
    """The caller's own: its SIMs are terminated and their sessions end."""
    call.check_operator()
    await call.services.operators.close_whole(call.operator_id)
    return web.Response()


async def create_subscriber(call: Call) -> web.Response:
    """A SIM in stock and the secret that registers it."""
    body = await call.body(SandboxCreateSubscriberRequest)
    for owner, whose in ((call.operator_id, "an operator"), ("", "the stock")):
        if await call.services.sims.count(owner) >= SANDBOX_SIMS_MAX:
            raise Refused(
                RequestRefusal.LIMIT_REACHED, f"{whose} of a sandbox has at most {SANDBOX_SIMS_MAX} SIMs"
            )
    made = await call.services.sims.create_in_stock(
        subscription=body.subscription, bundles=tuple(body.bundles or ())
    )
    return answer(in_stock_view(made.sim, made.registration_secret))


async def insert_air_stats(call: Call) -> web.Response:
    """Usage at a moment, once."""
    imsi = call.path("imsi")
    body = await call.body(SandboxInsertAirStatsRequest)
    await call.services.sims.id_of_imsi(call.operator_id, imsi)
    unknown = set(body.dataTrafficStatsMap) - set(SPEEDS_KBPS)
    if unknown:
        raise Refused(RequestRefusal.INVALID_FIELD, "dataTrafficStatsMap: no such speed class")
    volumes = {
        name: Volume(
            traffic.uploadByteSizeTotal,
            traffic.downloadByteSizeTotal,
            traffic.uploadPacketSizeTotal,
            traffic.downloadPacketSizeTotal,
        )
        for name, traffic in body.dataTrafficStatsMap.items()
    }
    at = instant("unixtime", body.unixtime)
    await call.services.stats.insert(call.operator_id, imsi, at, volumes)
    return web.Response()
