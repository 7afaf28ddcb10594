"""Whatever a client sends: an answer of the contract's shape that names the field, never a 5xx."""

import io
import json
from datetime import timedelta
from typing import Any

import jwt
import pytest
from yarl import URL

from api.app import BODY_BYTES_MAX
from api.routes import ROUTES, SANDBOX_ROUTES
from tests.support.api import KEY, PASSWORD, Answer, Tenant, make_world, tenants
from tests.unit.api.test_tenancy import ABSENT, BODIES, FREE, path_of, possessions

WRONG: tuple[Any, ...] = (
    None,
    True,
    7,
    -1,
    1.5,
    "",
    "x" * 2_000,
    [],
    [[]],
    {},
    {"a": {}},
    ["a", 1],
    "\0",
    "é\u202e",
)
DEEP = b"[" * 100_000 + b"]" * 100_000
NOT_JSON = (
    b"{",
    b"\xff\xfe",
    b'{"a": NaN}',
    b"null",
    b"[]",
    b'"text"',
    b"0",
    DEEP,
    b'{"a":' * 50_000,
    b"1" * 100_000,
)
LARGE = b'{"a":"' + b"x" * 10_000_000 + b'"}'
WITH_BODY: dict[str, Any] = {
    **BODIES,
    "auth": {"email": "one@example.com", "password": PASSWORD, "tokenTimeoutSeconds": 60},
    "registerSim": {"registrationSecret": "none", "groupId": "g", "tags": {"name": "x"}},
    "setSimGroup": {"groupId": "g"},
    "putVirtualPrivateGatewayIpAddressMapEntry": {"key": "001010000000001", "ipAddress": "10.127.0.9"},
    "createGroup": {"tags": {"name": "x"}, "configuration": {"SoracomAir": {"userdata": "x"}}},
    "sandboxInitializeOperator": {
        "email": "new@example.com", "password": PASSWORD, "authKeyId": "keyId-x", "authKey": "secret-x",
    },
    "sandboxCreateSubscriber": {"subscription": "plan01s", "bundles": ["b"]},
    "sandboxInsertAirStats": {
        "unixtime": 1, "dataTrafficStatsMap": {"s1.fast": {"uploadByteSizeTotal": 1}},
    },
}  # fmt: skip
"""A good body of each operation that reads one."""
ALL = {route.operation_id: route for route in (*ROUTES, *SANDBOX_ROUTES)}


def check(answer: Answer, what: object) -> None:
    """Done, or refused by the client's own fault in the contract's shape."""
    assert answer.status < 500, (what, answer)
    if answer.status >= 400:
        assert set(answer.body) == {"code", "message"}, (what, answer)
        assert answer.body["message"], what


def broken_bodies(body: Any) -> list[Any]:
    """The good body with each of its values replaced by each wrong one, and with each field missing."""
    found: list[Any] = list(WRONG)
    items = body.items() if isinstance(body, dict) else enumerate(body)
    for key, value in items:
        replacements = list(WRONG)
        if isinstance(value, dict | list):
            replacements += broken_bodies(value)
        for wrong in replacements:
            found.append(
                {**body, key: wrong} if isinstance(body, dict) else [*body[:key], wrong, *body[key + 1 :]]
            )
        if isinstance(body, dict):
            found.append({name: kept for name, kept in body.items() if name != key})
    return found


def test_each_operation_that_reads_a_body_is_here() -> None:
    no_body = {"status", "get", "list", "delete", "enable", "disable", "unset", "logout"}
    silent = {
        name
        for name, route in ALL.items()
        if route.method in ("POST", "PUT") and name not in WITH_BODY and not name.startswith(tuple(no_body))
    }
    assert silent == {
        "activateSim", "deactivateSim", "setSimToStandby", "suspendSim", "terminateSim",
        "generateOperatorAuthKey", "exportLatestBilling", "exportBilling", "sandboxGetSignupToken",
        "sandboxInsertBeamStats", "sandboxCreateCoupon", "sandboxShipOrder",
    }  # fmt: skip


@pytest.mark.parametrize("operation_id", WITH_BODY)
async def test_wrong_types_in_every_field(operation_id: str) -> None:
    world, route = make_world(), ALL[operation_id]
    async with tenants(world) as (one, _):
        ids = await possessions(world, one)
        for body in broken_bodies(WITH_BODY[operation_id]):
            raw = json.dumps(body).encode()
            answer = await one.call(route.method, path_of(route, ids), data=raw)
            if answer.status == 429:  # argon2 has a bound of its own, and says so
                continue
            check(answer, (operation_id, body))
        assert (await Tenant(one.http, one.endpoint).call("POST", "/auth", login(one))).status == 200


def login(tenant: Tenant) -> dict[str, str]:
    return {"email": tenant.email, "password": PASSWORD}


@pytest.mark.parametrize("operation_id", WITH_BODY)
async def test_what_is_no_json_and_what_is_too_large(operation_id: str) -> None:
    world, route = make_world(), ALL[operation_id]
    async with tenants(world) as (one, _):
        ids = await possessions(world, one)
        for raw in NOT_JSON:
            check(await one.call(route.method, path_of(route, ids), data=raw), (operation_id, raw[:20]))
        answer = await one.call(route.method, path_of(route, ids), data=io.BytesIO(LARGE))
        assert answer.status == 413, answer
        assert str(BODY_BYTES_MAX) in answer.body["message"]


async def test_a_refusal_names_the_field() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sim_id = (await one.new_sim())["simId"]
        for path, body, field in (
            ("speed", {"speedClass": 7}, "speedClass"),
            ("group", {}, "groupId"),
            ("tags", [{"tagName": "a"}], "tagValue"),
            ("tags", {"tagName": "a"}, "body: must be a list"),
        ):
            method, last = {"speed": ("POST", "update_speed_class"), "group": ("POST", "set_group")}.get(
                path, ("PUT", "tags")
            )
            answer = await one.call(method, f"/sims/{sim_id}/{last}", body)
            assert (answer.status, answer.body["code"]) == (400, "AIR0004")
            assert field in answer.body["message"]


async def test_hostile_paths_and_queries() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        await possessions(world, one)
        values = (
            "%00",
            "..%2f..%2fetc",
            "x" * 5_000,
            "%ff%fe",
            "%F0%9F%92%A3",
            "a%2Fb",
            "%25",
            "'%22;--",
            "%0d%0aX:y",
        )
        for route in (*ROUTES, *SANDBOX_ROUTES):
            for value in values:
                path = route.path
                for name in {**ABSENT, **FREE}:
                    path = path.replace(f"{{{name}}}", value)
                answer = await raw_call(one, route.method, path)
                assert answer.status < 500, (route.operation_id, value, answer)
        for value in ("-1", "0", "abc", "1" * 30, "1.5", "%00", "x" * 5_000, "[]", "%D9%A3"):
            for name in (
                "limit",
                "last_evaluated_key",
                "from",
                "to",
                "period",
                "tag_name",
                "status_filter",
                "month",
            ):
                for path in (
                    "/sims",
                    "/subscribers",
                    "/groups",
                    "/bills",
                    "/stats/air/sims/8981100000000000000",
                ):
                    answer = await raw_call(one, "GET", f"{path}?{name}={value}")
                    check(answer, (path, name, value))


async def raw_call(tenant: Tenant, method: str, path: str) -> Answer:
    """A request whose path goes out as it is written."""
    url = URL(f"{tenant.endpoint}/v1{path}", encoded=True)
    async with tenant.http.request(method, url, headers=tenant.headers) as response:
        raw = await response.read()
        body = json.loads(raw) if response.content_type == "application/json" and raw else raw
        return Answer(response.status, body, response.headers)


async def test_tokens_that_are_not_ours_or_no_longer() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        token = one.headers["X-Soracom-Token"]
        claims = jwt.decode(
            token, KEY, algorithms=["HS256"], options={"verify_exp": False, "verify_iat": False}
        )
        head, payload, signature = token.split(".")
        none = jwt.encode(claims, "", algorithm="none")
        forged = jwt.encode(claims, b"z" * 32, algorithm="HS256")
        foreign = jwt.encode({**claims, **_operator(other)}, b"k" * 31 + b"x", algorithm="HS256")
        for bad in (
            none,
            forged,
            foreign,
            f"{head}.{payload}.",
            f"{head}.{payload}.{signature}x",
            "x" * 100_000,
            "a.b.c",
            "",
        ):
            answer = await one.call("GET", "/sims", headers={**one.headers, "X-Soracom-Token": bad[:8_000]})
            assert (answer.status, answer.body["code"]) == (401, "AIR0001"), bad[:50]
        assert (await one.call("GET", "/sims")).status == 200
        assert (await one.call("POST", "/auth/logout")).status in (200, 204)
        assert (await one.call("GET", "/sims")).status == 401
        assert (await other.call("GET", "/sims")).status == 200
        world.advance(timedelta(days=3))
        assert (await other.call("GET", "/sims")).status == 401


def _operator(tenant: Tenant) -> dict[str, Any]:
    return {"operator": {"operatorId": tenant.operator_id}}


async def test_a_deleted_operator_is_gone_with_its_keys_and_tokens() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        key = (await one.call("POST", f"/operators/{one.operator_id}/auth_keys")).body
        assert (await one.call("DELETE", f"/sandbox/operators/{one.operator_id}")).status in (200, 204)
        assert (await one.call("GET", "/sims")).status == 401
        fresh = Tenant(one.http, one.endpoint)
        for body in ({"authKeyId": key["authKeyId"], "authKey": key["authKey"]}, login(one)):
            answer = await fresh.call("POST", "/auth", body)
            assert (answer.status, answer.body["code"]) == (401, "AIR0001")


async def test_a_wrong_password_is_answered_like_an_unknown_address() -> None:
    """Nobody learns from the answer which e-mail addresses have an account."""
    world = make_world()
    async with tenants(world) as (one, _):
        fresh = Tenant(one.http, one.endpoint)
        answers = []
        for email in (one.email, "nobody@example.com"):
            answers.append(
                (await fresh.call("POST", "/auth", {"email": email, "password": "wrong one"})).body
            )
        assert answers[0] == answers[1]
