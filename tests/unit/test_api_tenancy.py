"""Two customers: whatever one has, the other cannot see, change or tell from what does not exist.

Rule: the matrix is made from the routes themselves; a route without a row here fails.
"""

from datetime import timedelta
from typing import Any

from core.api.routes import NOT_SUPPORTED, ROUTES, SANDBOX_ROUTES, Route
from tests.support.api import ApiWorld, Tenant, make_world, tenants

ABSENT = {
    "sim_id": "8981100000000000000",
    "imsi": "001019999999999",
    "group_id": "no-such-group",
    "operator_id": "OP9999999999",
    "auth_key_id": "keyId-none",
    "exported_file_id": "none",
    "key": "001019999999999",
}
"""Ids that never were."""
FREE = {
    "tag_name": "name",
    "namespace": "SoracomAir",
    "name": "useCustomDns",
    "yyyyMM": "202611",
    "email": "a@b.c",
    "vpg_id": "default",
}
"""Path values that are nobody's."""
BODIES: dict[str, Any] = {
    "updateOperatorPassword": {"currentPassword": "correct horse", "newPassword": "Aa1-battery-staple"},
    "registerSim": {"registrationSecret": "none"},
    "registerSubscriber": {"registrationSecret": "none"},
    "updateSimSpeedClass": {"speedClass": "s1.fast"},
    "setSimImeiLock": {"imei": "490154203237518"},
    "putSimTags": [{"tagName": "name", "tagValue": "stolen"}],
    "putGroupTags": [{"tagName": "name", "tagValue": "stolen"}],
    "putConfigurationParameters": [{"key": "useCustomDns", "value": True}],
    "sandboxInsertAirStats": {"unixtime": 1, "dataTrafficStatsMap": {}},
}
QUERIES: dict[str, dict[str, Any]] = {
    "getAirStatsOfSim": {"period": "day", "from": 0, "to": 1},
    "getAirStats": {"period": "day", "from": 0, "to": 1},
}
OWN_ONLY = {
    "auth", "logout", "listSims", "listSubscribers", "listGroups", "createGroup", "sandboxCreateSubscriber",
    "listVirtualPrivateGatewayIpAddressMapEntries",
    "getBillingHistory", "getLatestBilling", "exportLatestBilling", "getBilling", "getBillingPerDay",
    "exportBilling", "sandboxInitializeOperator",
}  # fmt: skip
"""Name no id of anybody's; what they give back is looked at below."""
STATIC = "/virtual_private_gateways/default/ip_address_map"
REFUSED = {"sandboxGetSignupToken", "sandboxInsertBeamStats", "sandboxCreateCoupon", "sandboxShipOrder"}
"""Not offered to anybody."""


async def possessions(world: ApiWorld, owner: Tenant) -> dict[str, str]:
    """One of everything that a path can name."""
    sim = await owner.new_sim()
    await owner.call("PUT", f"/sims/{sim['simId']}/tags", [{"tagName": "name", "tagValue": "pump"}])
    group = (await owner.call("POST", "/groups", {"tags": {"name": "pumps"}})).body
    await owner.call("POST", f"/sims/{sim['simId']}/set_group", {"groupId": group["groupId"]})
    parameter = [{"key": "useCustomDns", "value": False}]
    await owner.call("PUT", f"/groups/{group['groupId']}/configuration/SoracomAir", parameter)
    static = {"key": sim["simId"], "ipAddress": "10.127.0.8"}
    await owner.call("POST", STATIC, static)
    key = (await owner.call("POST", f"/operators/{owner.operator_id}/auth_keys")).body
    exported = (await owner.call("POST", "/bills/202611/export")).body["exportedFileId"]
    return {
        "sim_id": sim["simId"],
        "imsi": next(iter(sim["profiles"][sim["simId"]]["subscribers"])),
        "group_id": group["groupId"],
        "operator_id": owner.operator_id,
        "auth_key_id": key["authKeyId"],
        "exported_file_id": exported,
        "key": next(iter(sim["profiles"][sim["simId"]]["subscribers"])),
    }


async def everything(owner: Tenant, ids: dict[str, str]) -> list[Any]:
    """All that the owner can see."""
    paths = (
        "/sims", "/subscribers", "/groups", f"/groups/{ids['group_id']}/subscribers",
        f"/operators/{ids['operator_id']}", f"/operators/{ids['operator_id']}/auth_keys",
        f"/sims/{ids['sim_id']}/events/sessions", "/bills/202611/daily", STATIC,
    )  # fmt: skip
    return [await owner.get(path) for path in paths]


def path_of(route: Route, ids: dict[str, str]) -> str:
    return route.path.format(**{**FREE, **ids})


async def ask(
    tenant: Tenant, route: Route, ids: dict[str, str], headers: dict[str, str] | None = None
) -> Any:
    named = {
        "setSimGroup": {"groupId": ids["group_id"]},
        "putVirtualPrivateGatewayIpAddressMapEntry": {"key": ids["key"], "ipAddress": "10.127.0.9"},
    }
    body = named.get(route.operation_id, BODIES.get(route.operation_id))
    return await tenant.call(
        route.method, path_of(route, ids), body, headers=headers, **QUERIES.get(route.operation_id, {})
    )


async def test_another_customers_ids_are_as_if_they_never_were() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        ids = await possessions(world, one)
        before = await everything(one, ids)
        for route in (*ROUTES, *SANDBOX_ROUTES):
            if route.operation_id in OWN_ONLY | REFUSED:
                continue
            assert "{" in route.path, f"{route.operation_id}: say in this test what keeps it apart"
            foreign = await ask(other, route, ids)
            absent = await ask(other, route, {**ids, **ABSENT, "operator_id": ABSENT["operator_id"]})
            assert foreign.status == 404, (route.operation_id, foreign)
            assert foreign.body == absent.body, route.operation_id
        assert await everything(one, ids) == before


async def test_own_id_beside_a_foreign_one_is_not_enough() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        ids, own = await possessions(world, one), await possessions(world, other)
        before = await everything(one, ids)
        stolen = await other.call("POST", f"/sims/{own['sim_id']}/set_group", {"groupId": ids["group_id"]})
        key = await other.call("DELETE", f"/operators/{own['operator_id']}/auth_keys/{ids['auth_key_id']}")
        made = (await other.call("POST", "/sandbox/subscribers/create", {})).body
        body = {"registrationSecret": made["registrationSecret"], "groupId": ids["group_id"]}
        registered = await other.call("POST", f"/subscribers/{made['imsi']}/register", body)
        assert {stolen.status, key.status, registered.status} == {404}
        static = {"key": own["key"], "ipAddress": "10.127.0.8"}
        taken = await other.call("POST", STATIC, static)
        assert (taken.status, taken.body["message"]) == (400, "ipAddress: it is another SIM's.")
        assert await everything(one, ids) == before


async def test_lists_show_ones_own() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        ids = await possessions(world, one)
        for path in ("/sims", "/subscribers", "/groups", "/bills/202611/daily", STATIC):
            found = await other.get(path)
            assert found in ([], {"billList": []}), path
        own = await other.new_sim()
        assert [sim["simId"] for sim in await other.get("/sims")] == [own["simId"]]
        assert ids["sim_id"] not in str(await other.get("/sims", last_evaluated_key="0"))


async def test_without_credentials_nothing_is_told() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        ids = await possessions(world, one)
        mixed = {**one.headers, "X-Soracom-Token": other.headers["X-Soracom-Token"]}
        for headers in ({}, {"X-Soracom-Token": one.headers["X-Soracom-Token"]}, mixed):
            for route in (*ROUTES, *SANDBOX_ROUTES):
                if route.needs_token:
                    answer = await ask(one, route, ids, headers)
                    assert (answer.status, answer.body["code"]) == (401, "AIR0001"), route.operation_id


async def test_the_link_of_an_export_is_unguessable_and_ends() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        link = (await one.call("POST", "/bills/202611/export", export_mode="sync")).body["url"]
        async with one.http.get(link) as answer:
            assert answer.status == 200
        start, token = link.rsplit("/", 1)
        swapped = token[:9] + ("A" if token[9] != "A" else "B") + token[10:]
        for broken in (swapped, token[:-8], token[8:], "A" * len(token)):
            async with one.http.get(f"{start}/{broken}") as answer:
                assert answer.status == 404
        world.advance(timedelta(hours=2))
        async with one.http.get(link) as answer:
            assert answer.status == 404


def test_whoever_needs_no_token_is_known() -> None:
    free = {
        route.operation_id for route in (*ROUTES, *SANDBOX_ROUTES, NOT_SUPPORTED) if not route.needs_token
    }
    assert free == {"auth", "sandboxInitializeOperator", "sandboxGetSignupToken", "notSupported"}
