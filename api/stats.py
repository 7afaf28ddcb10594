"""Operations of Stats: how much SIMs used."""

from collections.abc import Iterable

from aiohttp import web

from api.calls import Call, answer, instant
from api.views import air_stats_view
from core.services.metering.stats import Period


async def get_air_stats_of_sim(call: Call) -> web.Response:
    """Of all identities of a SIM."""
    sim = await call.services.sims.get(call.operator_id, call.path("sim_id"))
    return await _air_stats(call, [subscriber.imsi for subscriber in sim.subscribers])


async def get_air_stats(call: Call) -> web.Response:
    """Of one IMSI."""
    imsi = call.path("imsi")
    await call.services.sims.id_of_imsi(call.operator_id, imsi)
    return await _air_stats(call, [imsi])


async def _air_stats(call: Call, imsis: Iterable[str]) -> web.Response:
    period = call.query_choice("period", Period)
    since = instant("from", call.query_integer("from"))
    until = instant("to", call.query_integer("to"))
    lines = await call.services.stats.of_imsis(call.operator_id, imsis, period, since, until)
    return answer([air_stats_view(line, period) for line in lines])
