"""SORACOM's sandbox operations: operators and SIMs from nothing, statistics by hand.

Rule: they are served only where the configuration says sandbox; coupons, orders and Beam have no meaning
here, and say so.
"""

from aiohttp import web

from core.api.calls import Call, answer, instant
from core.api.identity import credentials_view
from core.api.models import (
    SandboxCreateSubscriberRequest,
    SandboxInitRequest,
    SandboxInsertAirStatsRequest,
)
from core.api.views import in_stock_view
from core.domain.reasons import RequestRefusal
from core.domain.speed import SPEEDS_KBPS
from core.domain.usage import Volume
from core.errors import Refused
from core.services.identity import TOKEN_LIFETIME_DEFAULT_S


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
    operator = await identity.create_operator(body.email, body.password)
    credentials = identity.issue(operator.operator_id, TOKEN_LIFETIME_DEFAULT_S)
    return answer(credentials_view(credentials), 201)


async def delete_operator(call: Call) -> web.Response:
    """The caller's own."""
    call.check_operator()
    await call.services.identity.delete_operator(call.operator_id)
    return web.Response()


async def create_subscriber(call: Call) -> web.Response:
    """A SIM in stock and the secret that registers it."""
    body = await call.body(SandboxCreateSubscriberRequest)
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
