"""Two customers: whatever one has, the other cannot see, change or tell from what does not exist.

Rule: the matrix is made from the routes themselves, and the routes are those that the application serves; a
route without a row here fails.
"""

import re
from datetime import timedelta
from typing import Any

from pydantic import BaseModel

from api import models
from api.app import make_application
from api.routes import DOWNLOAD, NOT_SUPPORTED, ROUTES, SANDBOX_ROUTES, Route
from tests.support.api import PASSWORD, ApiWorld, Tenant, make_world, tenants

OFFERED = (*ROUTES, *SANDBOX_ROUTES)
EVERY = (*OFFERED, DOWNLOAD, NOT_SUPPORTED)
HEALTH = {(method, path) for method in ("GET", "HEAD") for path in ("/healthz", "/readyz")}
"""Nobody's: whether this node works."""
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
    "name": "userdata",
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
    "putConfigurationParameters": [{"key": "userdata", "value": "stolen"}],
    "sandboxInsertAirStats": {"unixtime": 1, "dataTrafficStatsMap": {"s1.fast": {"uploadByteSizeTotal": 9}}},
    "auth": {"email": "other@example.com", "password": PASSWORD},
    "createGroup": {"tags": {"name": "pumps"}},
    "sandboxCreateSubscriber": {},
    "sandboxInitializeOperator": {
        "email": "third@example.com", "password": PASSWORD, "authKeyId": "keyId-x", "authKey": "secret-x",
    },
}  # fmt: skip
EVER = {"period": "day", "from": 0, "to": 9_999_999_999}
QUERIES: dict[str, dict[str, Any]] = {
    "getAirStatsOfSim": EVER,
    "getAirStats": EVER,
    "exportBilling": {"export_mode": "sync"},
    "exportLatestBilling": {"export_mode": "sync"},
}
OWN_ONLY = {
    "listSims", "listSubscribers", "listGroups", "listVirtualPrivateGatewayIpAddressMapEntries",
    "getBillingHistory", "getLatestBilling", "exportLatestBilling", "getBilling", "getBillingPerDay",
    "exportBilling", "auth", "createGroup", "sandboxCreateSubscriber", "sandboxInitializeOperator", "logout",
}  # fmt: skip
"""Name no id of anybody's: each is asked of its caller alone, before another has anything and after."""
STATIC = "/virtual_private_gateways/default/ip_address_map"
REFUSED = {"sandboxGetSignupToken", "sandboxInsertBeamStats", "sandboxCreateCoupon", "sandboxShipOrder"}
"""Not offered to anybody."""


async def possessions(world: ApiWorld, owner: Tenant, number: int = 1) -> dict[str, str]:
    """One of everything that a path can name; with an open session and usage."""

    async def done(method: str, path: str, body: Any = None) -> Any:
        answer = await owner.call(method, path, body)
        assert answer.status < 300, (path, answer)
        return answer.body

    sim = await owner.new_sim()
    sim_id = sim["simId"]
    imsi = next(iter(sim["profiles"][sim_id]["subscribers"]))
    await done("PUT", f"/sims/{sim_id}/tags", [{"tagName": "name", "tagValue": "pump"}])
    group = await done("POST", "/groups", {"tags": {"name": "pumps"}})
    await done("POST", f"/sims/{sim_id}/set_group", {"groupId": group["groupId"]})
    parameter = [{"key": "userdata", "value": "pump 7"}]
    await done("PUT", f"/groups/{group['groupId']}/configuration/SoracomAir", parameter)
    await done("POST", STATIC, {"key": sim_id, "ipAddress": f"10.127.0.{7 + number}"})
    traffic = {"s1.fast": {"uploadByteSizeTotal": 10_000_000}}
    at = int(world.clock.now().timestamp())
    usage = {"unixtime": at, "dataTrafficStatsMap": traffic}
    await done("POST", f"/sandbox/stats/air/subscribers/{imsi}", usage)
    stored = await world.store.sims.get(sim_id)
    assert stored is not None
    await world.connect(stored, number)
    key = await done("POST", f"/operators/{owner.operator_id}/auth_keys")
    exported = await done("POST", "/bills/202611/export")
    return {
        "sim_id": sim_id,
        "imsi": imsi,
        "group_id": group["groupId"],
        "operator_id": owner.operator_id,
        "auth_key_id": key["authKeyId"],
        "exported_file_id": exported["exportedFileId"],
        "key": imsi,
    }


async def everything(owner: Tenant, ids: dict[str, str]) -> list[Any]:
    """All that the owner can see."""
    paths = (
        "/sims", "/subscribers", "/groups", f"/groups/{ids['group_id']}/subscribers",
        f"/operators/{ids['operator_id']}", f"/operators/{ids['operator_id']}/auth_keys",
        f"/sims/{ids['sim_id']}/events/sessions", "/bills", "/bills/latest", "/bills/202611",
        "/bills/202611/daily", STATIC,
    )  # fmt: skip
    return [
        *[await owner.get(path) for path in paths],
        await owner.get(f"/stats/air/sims/{ids['sim_id']}", **EVER),
    ]


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


def test_the_application_serves_no_route_that_is_not_looked_at_here() -> None:
    routes = make_application(make_world().services).router.routes()
    served = {(each.method, each.resource.canonical) for each in routes if each.resource is not None}
    known = {(each.method, "/v1" + re.sub(r":[^}]*", "", each.path)) for each in EVERY}
    assert served == known | HEALTH
    assert OWN_ONLY | REFUSED <= {each.operation_id for each in OFFERED}


def test_each_id_in_a_body_is_tried_here() -> None:
    """With another's id in it: below, or by what ``ask`` names."""
    bodies = [
        each for each in vars(models).values() if isinstance(each, type) and issubclass(each, BaseModel)
    ]
    names = {
        (body.__name__, name)
        for body in bodies
        for name in body.model_fields
        if re.search(r"(Id|[kK]ey|imsi)$", name)
    }
    assert names == {
        ("RegisterRequest", "groupId"),
        ("SetGroupRequest", "groupId"),
        ("PutIpAddressMapEntryRequest", "key"),
        ("AuthRequest", "operatorId"),
        *(
            (body, name)
            for body in ("AuthRequest", "SandboxInitRequest")
            for name in ("authKeyId", "authKey")
        ),
        ("ParameterUpdate", "key"),  # names a setting
    }


async def test_another_customers_ids_are_as_if_they_never_were() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        ids = await possessions(world, one)
        before = await everything(one, ids)
        for route in OFFERED:
            if route.operation_id in OWN_ONLY | REFUSED:
                continue
            assert "{" in route.path, f"{route.operation_id}: say in this test what keeps it apart"
            foreign = await ask(other, route, ids)
            absent = await ask(other, route, ABSENT)
            assert foreign.status == 404, (route.operation_id, foreign)
            assert foreign.body == absent.body, route.operation_id
        assert await everything(one, ids) == before


async def test_own_id_beside_a_foreign_one_is_not_enough() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        ids, own = await possessions(world, one), await possessions(world, other, 2)
        before = await everything(one, ids)
        stolen = await other.call("POST", f"/sims/{own['sim_id']}/set_group", {"groupId": ids["group_id"]})
        key = await other.call("DELETE", f"/operators/{own['operator_id']}/auth_keys/{ids['auth_key_id']}")
        made = (await other.call("POST", "/sandbox/subscribers/create", {})).body
        body = {"registrationSecret": made["registrationSecret"], "groupId": ids["group_id"]}
        registered = await other.call("POST", f"/subscribers/{made['imsi']}/register", body)
        assert {stolen.status, key.status, registered.status} == {404}
        made_out = {"email": other.email, "password": PASSWORD, "operatorId": ids["operator_id"]}
        assert (await other.call("POST", "/auth", made_out)).status == 401
        static = {"key": own["key"], "ipAddress": "10.127.0.8"}
        taken = await other.call("POST", STATIC, static)
        assert (taken.status, taken.body["message"]) == (400, "ipAddress: already assigned to another SIM.")
        assert await everything(one, ids) == before


async def test_what_names_nobody_shows_and_changes_ones_own_alone() -> None:
    """Asked by one customer before another has anything, and after."""
    world = make_world()
    async with tenants(world) as (one, other):
        routes = sorted((each for each in OFFERED if each.operation_id in OWN_ONLY), key=is_last)
        reading = [each for each in routes if each.method == "GET"]
        before = {each.operation_id: await ask(other, each, ABSENT) for each in reading}
        ids = await possessions(world, one)
        theirs = await everything(one, ids)
        for route in routes:
            name, answer = route.operation_id, await ask(other, route, ABSENT)
            assert answer.status < 300, (name, answer)
            told = str(answer.body)
            if route in reading:
                assert answer.body == before[name].body, name
            if "last_evaluated_key" in (route.query or ()):
                for key in ("0", "10.127.0.7", *ids.values()):
                    page = await other.call("GET", path_of(route, ABSENT), last_evaluated_key=key)
                    told += str(page.body)
            if "url" in told:
                async with one.http.get(answer.body["url"]) as file:
                    told += await file.text()
            assert not [each for each in ids.values() if each in told], name
        assert await everything(one, ids) == theirs
        bill = await one.get("/bills/202611")
        assert bill["amount"] > 0, "there is something to be seen"


def is_last(route: Route) -> bool:
    return route.operation_id == "logout"


async def test_without_credentials_nothing_is_told() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        ids = await possessions(world, one)
        mixed = {**one.headers, "X-Soracom-Token": other.headers["X-Soracom-Token"]}
        for headers in ({}, {"X-Soracom-Token": one.headers["X-Soracom-Token"]}, mixed):
            for route in OFFERED:
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
    free = {route.operation_id for route in EVERY if not route.needs_token}
    assert free == {"auth", "sandboxInitializeOperator", "sandboxGetSignupToken", "download", "notSupported"}
