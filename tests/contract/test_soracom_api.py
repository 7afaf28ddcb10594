"""The API's answers, checked exactly against SORACOM's own definition: no null, no value and no field that it
does not have, and no query parameter that is unknown or has no effect.

The definition cannot be shipped (docs/api.md says where it comes from): it is read from
``$AIRLOOM_SHARED/api``, or from ``shared/api`` beside the project. Without it these tests are reported as not
run.
"""

import os
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from openapi_schema_validator import OAS30ReadValidator

from api.routes import ROUTES, SANDBOX_ROUTES, Route
from tests.support.api import Answer, ApiWorld, Tenant, make_world, tenants
from tests.unit.api.test_tenancy import FREE, REFUSED, possessions

ROOT = Path(__file__).parents[2]
FOLDER = Path(os.environ.get("AIRLOOM_SHARED", ROOT.parent / "shared")) / "api"
DEFINITIONS = (FOLDER / "soracom-api.en.yaml", FOLDER / "soracom-sandbox-api.en.yaml")

pytestmark = pytest.mark.skipif(
    not all(path.exists() for path in DEFINITIONS),
    reason=f"needs {' and '.join(path.name for path in DEFINITIONS)} in {FOLDER}, from the repository"
    " soracom/soracom-cli (generators/assets); AIRLOOM_SHARED names the folder above another api/",
)


@cache
def definition(sandbox: bool) -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.load(DEFINITIONS[sandbox].read_text(), yaml.CSafeLoader)
    return loaded


def operation(route: Route) -> dict[str, Any]:
    found: dict[str, Any] = definition(route in SANDBOX_ROUTES)["paths"][route.path][route.method.lower()]
    return found


@pytest.mark.parametrize("route", (*ROUTES, *SANDBOX_ROUTES), ids=lambda route: route.operation_id)
def test_each_route_is_the_contracts(route: Route) -> None:
    wanted = operation(route)
    assert wanted["operationId"] == route.operation_id
    if route not in SANDBOX_ROUTES:
        assert bool(wanted.get("security")) is route.needs_token
    assert set(re.findall(r"{(\w+)}", route.path)) == {
        parameter["name"] for parameter in wanted.get("parameters", []) if parameter["in"] == "path"
    }


ALIASES = {"listSubscribers": {"type_filter"}}
"""Names that older clients send."""


@pytest.mark.parametrize("route", (*ROUTES, *SANDBOX_ROUTES), ids=lambda route: route.operation_id)
def test_each_query_parameter_of_the_contract_is_heeded_and_no_other(route: Route) -> None:
    parameters = operation(route).get("parameters", [])
    known = {parameter["name"] for parameter in parameters if parameter["in"] == "query"}
    assert set(route.query or ()) == known | ALIASES.get(route.operation_id, set())


@pytest.mark.parametrize(
    ("name", "body", "found"),
    [
        ("getSim", {"simId": "1", "groupId": None}, "groupId"),
        ("getSim", {"simId": "1", "status": "instock"}, "status"),
        ("getSim", {"profiles": {"1": {"nickname": "x"}}}, "nickname"),
        ("listSims", [{"sessionStatus": {"imei": None}}], "imei"),
        ("getBilling", {"paymentStatus": None}, "paymentStatus"),
    ],
)
def test_what_the_contract_does_not_have_is_found(name: str, body: Any, found: str) -> None:
    route = next(route for route in ROUTES if route.operation_id == name)
    assert any(found in error for error in errors_of(route, Answer(200, body, {})))


def errors_of(route: Route, answer: Answer) -> Iterator[str]:
    """What the contract has against an answer; nothing when it is as described."""
    responses = operation(route)["responses"]
    described = responses.get(str(answer.status))
    if described is None:
        yield f"{answer.status} is not among {sorted(responses)}"
        return
    schema = described.get("content", {}).get("application/json", {}).get("schema")
    if schema is None:
        if answer.body not in (b"", None):
            yield f"no body is described, there is {answer.body!r}"
        return
    components = definition(route in SANDBOX_ROUTES)["components"]
    validator = OAS30ReadValidator({**schema, "components": components})
    for error in validator.iter_errors(answer.body):
        yield f"{'/'.join(map(str, error.absolute_path))}: {error.message[:200]}"
    yield from unknown_fields(answer.body, schema, components)


OURS = {"primaryImsi", "cause"}
"""Fields that SORACOM answers and its definition lacks."""


def unknown_fields(value: Any, schema: dict[str, Any], components: dict[str, Any]) -> Iterator[str]:
    """Fields of an answer, at any depth, that an object of the contract does not have."""
    if "$ref" in schema:
        schema = components["schemas"][schema["$ref"].rpartition("/")[2]]
    properties, others = schema.get("properties", {}), schema.get("additionalProperties")
    if isinstance(value, list):
        for item in value:
            yield from unknown_fields(item, schema.get("items", {}), components)
    elif isinstance(value, dict) and properties:
        for name, item in value.items():
            if name in properties:
                yield from unknown_fields(item, properties[name], components)
            elif others is None and name not in OURS:
                yield f"{name}: not in the contract"
    elif isinstance(value, dict) and isinstance(others, dict):
        for item in value.values():
            yield from unknown_fields(item, others, components)


ORDER = (
    "auth",
    "getOperator",
    "listOperatorAuthKeys",
    "generateOperatorAuthKey",
    "deleteOperatorAuthKey",
    "registerSubscriber",
    "registerSim",
    "listSims",
    "getSim",
    "deleteSimSession",
    "listSimSessionEvents",
    "activateSim",
    "deactivateSim",
    "setSimToStandby",
    "suspendSim",
    "updateSimSpeedClass",
    "setSimImeiLock",
    "unsetSimImeiLock",
    "unsetSimGroup",
    "setSimGroup",
    "putSimTags",
    "deleteSimTag",
    "putVirtualPrivateGatewayIpAddressMapEntry",
    "listVirtualPrivateGatewayIpAddressMapEntries",
    "deleteVirtualPrivateGatewayIpAddressMapEntry",
    "listSubscribers",
    "getSubscriber",
    "listGroups",
    "createGroup",
    "getGroup",
    "listSubscribersInGroup",
    "putGroupTags",
    "deleteGroupTag",
    "putConfigurationParameters",
    "deleteConfigurationParameter",
    "deleteConfigurationNamespace",
    "sandboxInsertAirStats",
    "getAirStatsOfSim",
    "getAirStats",
    "getBillingHistory",
    "getLatestBilling",
    "getBilling",
    "getBillingPerDay",
    "exportBilling",
    "exportLatestBilling",
    "getExportedFile",
    "enableSimTermination",
    "disableSimTermination",
    "enableSimTermination",
    "terminateSim",
    "deleteGroup",
    "updateOperatorPassword",
    "sandboxCreateSubscriber",
    "sandboxInitializeOperator",
    "logout",
)
"""Each operation once, so that each succeeds on what those before it left."""


async def details(world: ApiWorld, one: Tenant, ids: dict[str, str]) -> dict[str, dict[str, Any]]:
    """By operation: its body, and the path's values and the query where they are not the usual ones."""
    made, second = [(await one.call("POST", "/sandbox/subscribers/create", {})).body for _ in range(2)]
    second_id = await world.store.sims.sim_id_of_imsi(second["imsi"])
    now = int(world.clock.now().timestamp())
    traffic = {"s1.fast": {"uploadByteSizeTotal": 10, "downloadByteSizeTotal": 5}}
    tag = {"path": {"tag_name": "name"}, "body": [{"tagName": "name", "tagValue": "x"}]}
    span = {"query": {"period": "day", "from": 0, "to": now}}
    password = "correct horse"
    keys = {"authKeyId": "keyId-x", "authKey": "secret-x"}
    month = {"path": {"yyyyMM": world.clock.now().strftime("%Y%m")}}
    return {
        "auth": {"body": {"email": one.email, "password": password}},
        "registerSubscriber": {
            "path": {"imsi": made["imsi"]},
            "body": {"registrationSecret": made["registrationSecret"]},
        },
        "registerSim": {
            "path": {"sim_id": second_id},
            "body": {"registrationSecret": second["registrationSecret"]},
        },
        "updateSimSpeedClass": {"body": {"speedClass": "s1.fast"}},
        "setSimImeiLock": {"body": {"imei": "490154203237518"}},
        "setSimGroup": {"body": {"groupId": ids["group_id"]}},
        **{name: tag for name in ("putSimTags", "deleteSimTag", "putGroupTags", "deleteGroupTag")},
        "createGroup": {"body": {"tags": {"name": "x"}}},
        "putVirtualPrivateGatewayIpAddressMapEntry": {"body": {"key": ids["key"], "ipAddress": "10.127.0.7"}},
        "putConfigurationParameters": {"body": [{"key": "userdata", "value": "x"}]},
        "sandboxInsertAirStats": {"body": {"unixtime": now - 600, "dataTrafficStatsMap": traffic}},
        "getAirStatsOfSim": span,
        "getAirStats": span,
        **{name: month for name in ("getBilling", "getBillingPerDay", "exportBilling")},
        "updateOperatorPassword": {"body": {"currentPassword": password, "newPassword": "Aa1-new-horse"}},
        "sandboxCreateSubscriber": {"body": {"subscription": "plan01s"}},
        "sandboxInitializeOperator": {"body": {"email": "third@example.com", "password": password, **keys}},
    }


async def walk(world: ApiWorld, one: Tenant) -> dict[str, Answer]:
    """Ask for each operation; what each answered."""
    ids = await possessions(world, one)
    given = await details(world, one, ids)
    routes = {route.operation_id: route for route in (*ROUTES, *SANDBOX_ROUTES)}
    answers = {}
    for name in ORDER:
        detail = given.get(name, {})
        path = routes[name].path.format(**{**FREE, **ids, **detail.get("path", {})})
        body = detail.get("body") if routes[name].method != "DELETE" else None
        answers[name] = await one.call(routes[name].method, path, body, **detail.get("query", {}))
        assert answers[name].status < 300, (name, answers[name])
        if name == "updateOperatorPassword":
            await one.sign_in("Aa1-new-horse")
    await one.sign_up("fourth@example.com")
    answers["sandboxDeleteOperator"] = await one.call("DELETE", f"/sandbox/operators/{one.operator_id}")
    return answers


async def test_each_answer_is_as_the_contract_describes_it() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        answers = await walk(world, one)
    routes = {route.operation_id: route for route in (*ROUTES, *SANDBOX_ROUTES)}
    assert set(answers) == set(routes) - REFUSED, "each operation once"
    found = {name: list(errors_of(routes[name], answer)) for name, answer in answers.items()}
    assert {name: errors for name, errors in found.items() if errors} == {}


async def test_pages_go_on_by_the_header_and_the_link() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        made = sorted([(await one.new_sim())["simId"] for _ in range(7)])
        seen: list[str] = []
        query: dict[str, Any] = {"limit": 3}
        pages = 0
        while True:
            answer = await one.call("GET", "/sims", **query)
            seen += [sim["simId"] for sim in answer.body]
            pages += 1
            key = answer.headers.get("x-soracom-next-key")
            if not key:
                break
            link = re.fullmatch(
                r"(?:<[^>]+>; rel=prev, )?<(/v1/sims\?[^>]+)>; rel=next", answer.headers["Link"]
            )
            assert link is not None
            assert f"last_evaluated_key={key}" in link[1]
            assert "limit=3" in link[1]
            query["last_evaluated_key"] = key
        assert seen == made
        assert pages == 3


async def test_static_addresses_by_imsi_or_sim_id() -> None:
    async with tenants(make_world()) as (one, _):
        path = "/virtual_private_gateways/default/ip_address_map"
        sims = [await one.new_sim() for _ in range(3)]
        for number, sim in enumerate(sims):
            static = {"key": sim["simId"], "ipAddress": f"10.127.0.{9 - number}"}
            answer = await one.call("POST", path, static)
            assert (answer.status, answer.body["type"]) == (200, "static")
        first = await one.call("GET", path, limit=2)
        assert [entry["ipAddress"] for entry in first.body] == ["10.127.0.7", "10.127.0.8"]
        key = first.headers["x-soracom-next-key"]
        assert key == "10.127.0.8"
        (last,) = await one.get(path, last_evaluated_key=key)
        imsi = sims[0]["profiles"][sims[0]["simId"]]["primaryImsi"]
        assert (last["ipAddress"], last["key"]) == ("10.127.0.9", imsi)
        for address in ("10.127.0.0", "10.127.0.255", "10.128.0.9", "10.127.0.8"):
            refused = await one.call("POST", path, {"key": imsi, "ipAddress": address})
            assert refused.status == 400, address
        assert (await one.call("GET", path.replace("default", "other"))).status == 404
        assert (await one.call("GET", path, last_evaluated_key="x")).status == 400
        assert [(await one.call("DELETE", f"{path}/{imsi}")).status for _ in range(2)] == [204, 404]
        moved = {"key": sims[1]["simId"], "ipAddress": "10.127.0.9"}
        assert (await one.call("POST", path, moved)).status == 200
        assert [each["ipAddress"] for each in await one.get(path)] == ["10.127.0.7", "10.127.0.9"]


async def test_events_are_newest_first() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sim = await one.new_sim()
        stored = await world.store.sims.get(sim["simId"])
        assert stored is not None
        await world.connect(stored)
        assert (await one.get(f"/sims/{sim['simId']}"))["sessionStatus"]["online"] is True
        assert (await one.call("POST", f"/sims/{sim['simId']}/delete_session")).status == 200
        offline = await one.call("POST", f"/sims/{sim['simId']}/delete_session")
        assert (offline.status, offline.body["code"]) == (400, "SEM0016")
        events = await one.get(f"/sims/{sim['simId']}/events/sessions")
        assert [event["event"] for event in events] == ["Deleted", "Created"]
