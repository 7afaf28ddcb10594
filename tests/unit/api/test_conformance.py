"""What clients written for SORACOM's API rely on beside the shapes of answers, and how the API says no."""

import asyncio
import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from api.routes import ROUTES, SANDBOX_ROUTES
from core.domain.usage import SegmentLabel, UsageReport, Volume, day_of
from core.ports.store import PAGE_MAX, Page
from core.services.customers.filtered import EMPTY_PAGES_MAX, SCANNED_PAGES_MAX, filtered_page
from tests.contract.test_soracom_api import walk
from tests.support.api import PASSWORD, ApiWorld, Tenant, make_world, tenants
from tests.unit.api.test_tenancy import QUERIES, path_of, possessions


def links(headers: Mapping[str, str]) -> dict[str, str]:
    """The keys by relation, read as soracom-sdk-go reads them."""
    found = {}
    for link in headers["Link"].split(",") if "Link" in headers else ():
        target, rel = link.split(";")
        query = parse_qs(urlsplit(target.strip(" <>")).query, keep_blank_values=True)
        found[rel.split("=")[1]] = query["last_evaluated_key"][0]
    return found


async def test_where_nothing_is_the_way_to_something_is_told() -> None:
    async with tenants(make_world()) as (one, _):
        for path in ("/", "/v1", "/openapi.json"):
            async with one.http.get(f"{one.endpoint}{path}") as answered:
                message = (await answered.json())["message"]
                assert answered.status == 404
            assert (path, message) == (
                path,
                "No such path. Operations are below /v1, for example GET /v1/sims.",
            )


async def test_any_page_but_an_only_one_has_links() -> None:
    async with tenants(make_world()) as (one, _):
        made = sorted([(await one.new_sim())["simId"] for _ in range(5)])
        assert links((await one.call("GET", "/sims")).headers) == {}
        assert links((await one.call("GET", "/subscribers", status_filter="ready|active")).headers) == {}
        filtered: dict[str, Any] = {"status_filter": "ready,active"}
        for path, more in (("/sims", {}), ("/subscribers", filtered)):
            found, key, seen = [], "", []
            while True:
                page = await one.call("GET", path, limit=2, last_evaluated_key=key, **more)
                found.append(links(page.headers))
                seen += [sim["simId"] for sim in page.body]
                if not (key := page.headers.get("x-soracom-next-key", "")):
                    break
            expected = [{"next": made[1]}, {"prev": "", "next": made[3]}, {"prev": ""}]
            assert (found, seen) == (expected, made)


async def test_a_parameter_that_an_operation_does_not_know_is_refused() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        ids = await possessions(world, one)
        for route in (*ROUTES, *SANDBOX_ROUTES):
            query = {**QUERIES.get(route.operation_id, {}), "sort": "name"}
            answer = await one.call(route.method, path_of(route, ids), **query)
            assert (answer.status, answer.body["code"]) == (400, "AIR0004"), route.operation_id
            assert answer.body["message"].startswith("sort: unknown query parameter"), route.operation_id
            assert all(name in answer.body["message"] for name in route.query or ())


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("/sims", "limit=0", "limit: must be 1 or more"),
        ("/sims", "limit=-1", "limit: must be 1 or more"),
        ("/sims", "limit=", "limit: must be a whole number"),
        ("/sims", "limit=1&limit=2", "limit: given more than once"),
        ("/subscribers", "limit=101", "limit: must be 1 to 100"),
        ("/subscribers", "status_filter=broken", "status_filter: no such status"),
        ("/subscribers", "tag_value_match_mode=", "tag_value_match_mode: must be one of exact, prefix"),
        ("/groups", "tag_value_match_mode=like", "tag_value_match_mode: must be one of exact, prefix"),
        ("/sims/{}/events/sessions", "to=999999999999999999", "to: timestamp out of range"),
        ("/stats/air/sims/{}", "from=0&to=1&period=", "period: must be one of minutes, day, month"),
        ("/bills/latest/export", "export_mode=", "export_mode: must be one of async, sync"),
    ],
)
async def test_a_value_outside_of_the_contract_is_refused(path: str, query: str, message: str) -> None:
    async with tenants(make_world()) as (one, _):
        sim_id = (await one.new_sim())["simId"]
        method = "POST" if path.endswith("export") else "GET"
        answer = await one.call(method, f"{path.format(sim_id)}?{query}")
        assert (answer.status, answer.body["message"]) == (400, message)


async def test_a_value_within_the_contract_is_taken() -> None:
    async with tenants(make_world()) as (one, _):
        sim_id = (await one.new_sim())["simId"]
        language = {**one.headers, "X-Soracom-Lang": "ja"}
        for path in ("/sims?", "/sims?limit=5000", "/subscribers?limit=100"):
            assert (await one.call("GET", path, headers=language)).status == 200, path
        assert await one.get(f"/sims/{sim_id}/events/sessions", **{"from": -5}) == []
        stats = f"/stats/air/sims/{sim_id}"
        assert await one.get(stats, period="day", to=1, **{"from": -86_400}) == []


async def test_a_method_that_a_path_has_not_is_405_and_names_those_it_has() -> None:
    async with tenants(make_world()) as (one, _):
        for method, path, allowed in (
            ("TRACE", "/sims", {"GET"}),
            ("TRACE", "/sims?limit=1", {"GET"}),
            ("DELETE", "/sims", {"GET"}),
            ("PATCH", "/groups", {"GET", "POST"}),
            ("OPTIONS", "/groups/x", {"DELETE", "GET"}),
            ("PUT", "/auth", {"POST"}),
            ("GET", "/bills/202611/export", {"POST"}),
        ):
            answer = await one.call(method, path)
            assert (answer.status, answer.body["code"]) == (405, "AIR0020"), (method, path)
            assert set(answer.headers["Allow"].split(", ")) == allowed
        async with one.http.post(f"{one.endpoint}/healthz") as answered:
            assert (answered.status, answered.headers["Allow"]) == (405, "GET, HEAD")
        assert (await one.call("TRACE", "/nowhere")).status == 404


async def numbers(*, after: str, limit: int, most: int = 10**9) -> Page[int]:
    await asyncio.sleep(0)
    first = int(after or 0) + 1
    last = min(first + limit - 1, most)
    return Page(tuple(range(first, last + 1)), str(last) if last < most else "")


@pytest.mark.parametrize(
    ("wanted", "limit", "found", "next_key"),
    [
        ({1, 2, 3}, 2, (1, 2), "2"),
        ({50 * PAGE_MAX}, 10, (50 * PAGE_MAX,), str(50 * PAGE_MAX)),
        ({5, 50 * PAGE_MAX}, 10, (5,), str(SCANNED_PAGES_MAX * PAGE_MAX)),
        ({EMPTY_PAGES_MAX * PAGE_MAX + 1}, 10, (), str(EMPTY_PAGES_MAX * PAGE_MAX)),
    ],
)
async def test_a_filtered_page_is_empty_only_at_its_bound(
    wanted: set[int], limit: int, found: tuple[int, ...], next_key: str
) -> None:
    page = await filtered_page(numbers, wanted.__contains__, key_of=str, after="", limit=limit)
    assert page == Page(found, next_key)


async def connected(world: ApiWorld, one: Tenant, number: int = 1) -> str:
    sim_id: str = (await one.new_sim())["simId"]
    sim = await world.store.sims.get(sim_id)
    assert sim is not None
    await world.connect(sim, number)
    return sim_id


async def test_a_session_that_ended_is_the_previous_one() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sim_id = await connected(world, one)
        before = await one.get(f"/sims/{sim_id}")
        assert before["sessionStatus"]["online"]
        assert "previousSession" not in before
        opened = await one.get(f"/sims/{sim_id}/events/sessions")
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", opened[0]["createdTime"])
        assert opened[0]["primaryImsi"] == before["profiles"][sim_id]["primaryImsi"]
        world.advance(timedelta(seconds=30))
        await one.call("POST", f"/sims/{sim_id}/delete_session")
        after = await one.get(f"/sims/{sim_id}")
        previous = after["previousSession"]
        assert previous["sessionId"] == before["sessionStatus"]["sessionId"]
        assert previous["deletedTime"] == int(world.clock.now().timestamp() * 1_000)
        assert (await one.get(f"/subscribers/{previous['imsi']}"))["previousSession"] == previous
        assert after["sessionStatus"].keys() == {"online", "lastUpdatedAt"}


async def test_an_earlier_owners_session_is_not_the_previous_one() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sim_id = await connected(world, one)
        await one.call("POST", f"/sims/{sim_id}/delete_session")
        assert await world.services.sims.previous_session("OP0000000009", sim_id) is None


async def test_a_terminated_sim_is_still_grouped_and_tagged_and_changes_nothing_else() -> None:
    async with tenants(make_world()) as (one, _):
        sim_id = (await one.new_sim())["simId"]
        group_id = (await one.call("POST", "/groups", {})).body["groupId"]
        for verb in ("enable_termination", "terminate"):
            assert (await one.call("POST", f"/sims/{sim_id}/{verb}")).status == 200
        tag: list[Any] = [{"tagName": "name", "tagValue": "old"}]
        for method, path, body, status in (
            ("POST", "set_group", {"groupId": group_id}, 200),
            ("PUT", "tags", tag, 200),
            ("POST", "update_speed_class", {"speedClass": "s1.fast"}, 400),
            ("POST", "set_imei_lock", {"imei": "490154203237518"}, 400),
            ("POST", "disable_termination", None, 400),
            ("POST", "activate", None, 400),
        ):
            assert (await one.call(method, f"/sims/{sim_id}/{path}", body)).status == status, path
        sim = await one.get(f"/sims/{sim_id}")
        assert (sim["groupId"], sim["tags"], sim["status"]) == (group_id, {"name": "old"}, "terminated")
        assert (await one.call("DELETE", f"/sims/{sim_id}/tags/name")).status == 204
        assert "groupId" not in (await one.call("POST", f"/sims/{sim_id}/unset_group")).body


async def test_bills_are_listed_and_read_of_the_same_months() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sim = await one.new_sim()
        began = world.clock.now()
        imsi = next(iter(sim["profiles"][sim["simId"]]["subscribers"]))
        earlier = began - timedelta(days=60)
        volume = Volume(10**9, 0, 1, 0)
        label = SegmentLabel("s1.standard")
        await world.store.usage.record(
            [UsageReport(imsi, "s", one.operator_id, 1, 0, label, day_of(earlier), 1, volume, 1)]
        )
        world.advance(timedelta(days=70))
        signed_in = (await one.call("POST", "/auth", {"email": one.email, "password": PASSWORD})).body
        one.headers = {"X-Soracom-API-Key": signed_in["apiKey"], "X-Soracom-Token": signed_in["token"]}
        listed = {bill["yearMonth"]: bill for bill in (await one.get("/bills"))["billList"]}
        present = world.clock.now().strftime("%Y%m")
        assert min(listed) == began.strftime("%Y%m")
        for back in range(30):
            month = (world.clock.now() - timedelta(days=30 * back)).strftime("%Y%m")
            for path in ("", "/daily"):
                answer = await one.call("GET", f"/bills/{month}{path}")
                assert answer.status == (200 if month in {*listed, present} else 404), (month, path)
            if month in listed:
                assert await one.get(f"/bills/{month}") == listed[month]


def nulls(value: Any, path: str = "") -> list[str]:
    """Where a null stands."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] if value is None else [at for key, item in items for at in nulls(item, f"{path}/{key}")]


async def test_no_answer_has_a_null() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        answers = await walk(world, one)
    found = {name: nulls(answer.body) for name, answer in answers.items() if answer.body != b""}
    assert {name: where for name, where in found.items() if where} == {}
