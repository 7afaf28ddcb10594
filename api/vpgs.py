"""Operations of VirtualPrivateGateway: static addresses of SIMs.

Rule: an operator has one, named ``default``; there is no other.
"""

from aiohttp import web

from api.calls import Call, answer, nothing, page
from api.models import PutIpAddressMapEntryRequest
from api.views import ip_address_map_entry_view
from core.domain.reasons import RequestRefusal
from core.errors import Refused

DEFAULT = "default"


async def list_ip_address_map_entries(call: Call) -> web.Response:
    """By address, in pages."""
    _check_vpg(call)
    found = await call.services.sims.with_static_address(call.operator_id, after=call.after, limit=call.limit)
    return page(call, [ip_address_map_entry_view(sim) for sim in found.items], found.next_key)


async def put_ip_address_map_entry(call: Call) -> web.Response:
    """Give a SIM a static address; the one that it had before is free."""
    _check_vpg(call)
    body = await call.body(PutIpAddressMapEntryRequest)
    sim_id = await _sim_id(call, body.key)
    sim = await call.services.sims.set_static_address(call.operator_id, sim_id, body.ipAddress)
    return answer(ip_address_map_entry_view(sim))


async def delete_ip_address_map_entry(call: Call) -> web.Response:
    """Take the static address from a SIM, from its next session on."""
    _check_vpg(call)
    sim_id = await _sim_id(call, call.path("key"))
    await call.services.sims.remove_static_address(call.operator_id, sim_id)
    return nothing()


def _check_vpg(call: Call) -> None:
    if call.path("vpg_id") != DEFAULT:
        raise Refused(RequestRefusal.NOT_FOUND, "No such VPG found.")


async def _sim_id(call: Call, key: str) -> str:
    """The operator's SIM with this IMSI or this SIM id."""
    try:
        return await call.services.sims.id_of_imsi(call.operator_id, key)
    except Refused:
        return (await call.services.sims.get(call.operator_id, key)).sim_id
