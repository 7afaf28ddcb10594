"""One customer at full speed: its own share of the API, and what a group of tasks failed with."""

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta

import aiohttp
import pytest
from aiohttp.test_utils import make_mocked_request

from api import app as app_module
from api import limits as limits_module
from api import sims as sims_module
from api.calls import Call
from api.limits import (
    BURST_S,
    CALLS_AT_ONCE,
    CALLS_WAITING_MAX,
    DEAR,
    OperatorLimits,
    TooMany,
    cost_of,
)
from api.operator.control import make_control
from api.routes import ROUTES
from api.sims import views_of
from core.domain.reasons import AttachRefusal, RequestRefusal
from core.domain.sim import Sim
from core.errors import ConfigurationError, Refused, Unavailable, ungrouped
from core.ports.secrets import TokenClaims
from core.services.customers.identity import Identity
from loadtest.simulation.virtual import VirtualClock, run_virtual
from tests.contract.stores import sim_of
from tests.support.api import make_world, served, tenants
from tests.unit.api.operator.test_control import SECRET, Asked, services_of

ONE, OTHER = "OP0000000001", "OP0000000002"


async def test_beyond_its_share_an_operator_is_refused_with_the_time_to_wait_and_others_are_not() -> None:
    world = make_world(calls_per_s=20)
    async with tenants(world) as (one, other):
        answers = [await one.call("GET", "/sims", limit=1_000) for _ in range(2)]
        assert [answer.status for answer in answers] == [200, 429]
        headers = answers[0].headers
        assert headers["X-Soracom-Ratelimit-Limit"] == str(int(20 * BURST_S))
        assert 0 <= int(headers["X-Soracom-Ratelimit-Remaining"]) < 20
        assert int(headers["X-Soracom-Ratelimit-Seconds-Before-Refresh"]) > 0
        refused = answers[1]
        assert refused.body["code"] == "AIR0012"
        wait_s = int(refused.headers["Retry-After"])
        assert wait_s > 0
        assert "X-Soracom-Ratelimit-Remaining" in refused.headers
        assert (await other.call("GET", "/sims", limit=1_000)).status == 200
        world.advance(timedelta(seconds=wait_s))
        assert (await one.call("GET", "/sims", limit=1_000)).status == 200


def test_each_call_costs_something_and_none_more_than_the_burst() -> None:
    names = {route.operation_id for route in ROUTES}
    assert set(DEAR) <= names, "a call by another name costs nothing"
    assert {cost_of(name, None) for name in names} > {1}
    assert cost_of("listSims", "1000") == cost_of("listSims", "99999") + 90 == 101
    assert cost_of("listSims", "x") == cost_of("listSims", None) == 11
    assert cost_of("getSim", None) == 1


def in_virtual_time(calls_per_s: float, script: Callable[[OperatorLimits], Awaitable[None]]) -> None:
    async def whole() -> None:
        clock = VirtualClock(datetime(2026, 11, 30, tzinfo=UTC))
        await script(OperatorLimits(clock=clock, calls_per_s=calls_per_s))

    run_virtual(whole)


def test_few_calls_of_an_operator_are_worked_on_at_once_and_so_many_wait() -> None:
    async def script(limits: OperatorLimits) -> None:
        at_once = most = 0
        over = asyncio.Event()

        async def call(operator_id: str) -> None:
            nonlocal at_once, most
            async with limits.turn(operator_id, 1) as headers:
                assert headers == {}
                at_once += 1
                most = max(most, at_once)
                await over.wait()
                at_once -= 1

        calls = [asyncio.create_task(call(ONE)) for _ in range(CALLS_AT_ONCE + CALLS_WAITING_MAX)]
        await asyncio.sleep(1)
        with pytest.raises(TooMany) as refused:
            await call(ONE)
        assert refused.value.headers == {"Retry-After": "1"}
        assert most == CALLS_AT_ONCE
        calls += [asyncio.create_task(call(OTHER))]
        await asyncio.sleep(1)
        assert most == CALLS_AT_ONCE + 1
        over.set()
        await asyncio.gather(*calls)

    in_virtual_time(0, script)


def test_what_was_spent_comes_back_and_who_is_away_long_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits_module, "OPERATORS_MAX", 3)

    async def spend(limits: OperatorLimits, operator_id: str) -> int:
        spent = 0
        while True:
            try:
                async with limits.turn(operator_id, 1):
                    spent += 1
            except TooMany:
                return spent

    async def script(limits: OperatorLimits) -> None:
        assert await spend(limits, ONE) == 50
        await asyncio.sleep(2)
        assert await spend(limits, ONE) == 20
        await asyncio.sleep(1_000)
        assert await spend(limits, ONE) == 50
        for number in range(5):
            await spend(limits, f"OP{number}")
        assert len(limits._shares) == 3

    in_virtual_time(10, script)


# -- turns of the event loop -----------------------------------------------------------------------------


@asynccontextmanager
async def turns_counted() -> AsyncIterator[list[int]]:
    """The number of the event loop's turn, as its only item."""
    turn = [0]

    async def count() -> None:
        while True:
            turn[0] += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count())
    try:
        yield turn
    finally:
        counting.cancel()


async def test_calls_that_come_at_once_begin_one_in_each_turn_of_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = make_world()
    authenticate = Identity.authenticate
    async with tenants(world) as (one, other), turns_counted() as turn:
        began: Counter[int] = Counter()

        async def noted(identity: Identity, api_key: str, token: str) -> TokenClaims:
            began[turn[0]] += 1
            return await authenticate(identity, api_key, token)

        monkeypatch.setattr(Identity, "authenticate", noted)
        answers = await asyncio.gather(*(each.call("GET", "/sims") for each in (one, other) * 20))
        assert {answer.status for answer in answers} == {200}
        assert began.total() == 40
        assert max(began.values()) == 1


async def test_pages_that_are_made_at_once_go_on_one_part_in_each_turn_of_the_loop() -> None:
    world = make_world()
    call = Call(world.services, make_mocked_request("GET", "/v1/sims"), None)
    sims = [sim_of(number) for number in range(200)]
    async with turns_counted() as turn:
        made: Counter[int] = Counter()

        def view(sim: Sim, *_: object) -> dict[str, object]:
            made[turn[0]] += 1
            return {"simId": sim.sim_id}

        pages = await asyncio.gather(*(views_of(call, sims, view) for _ in range(8)))
        assert [[each["simId"] for each in page] for page in pages] == [[sim.sim_id for sim in sims]] * 8
        assert made.total() == 1_600
        first = min(made)
        assert max(count for number, count in made.items() if number != first) <= sims_module._VIEWS_AT_ONCE


async def test_who_comes_again_at_once_waits_for_its_429_and_nobody_else_does(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(app_module, "HELD_S", 0.5)
    world = make_world(calls_per_s=20)
    async with tenants(world) as (one, other):
        assert (await one.call("GET", "/sims", limit=1_000)).status == 200
        began = time.monotonic()
        refused = asyncio.create_task(one.call("GET", "/sims", limit=1_000))
        assert (await other.call("GET", "/sims")).status == 200
        assert not refused.done()
        assert (await refused).status == 429
        assert time.monotonic() - began >= 0.5


# -- errors of groups ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("errors", "status"),
    [
        ([Unavailable("behind")], 503),
        ([Unavailable("behind"), Unavailable("behind")], 503),
        ([Refused(RequestRefusal.NOT_FOUND, "No such SIM found.")], 404),
        ([Unavailable("behind"), ValueError("a bug")], 500),
    ],
)
async def test_an_error_in_a_group_of_tasks_is_answered_as_the_error(
    errors: list[Exception], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*_: object) -> object:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [ExceptionGroup("inner", errors)])

    monkeypatch.setattr(sims_module, "views_of", fail)
    world = make_world()
    async with tenants(world) as (one, _):
        answer = await one.call("GET", "/sims")
        assert answer.status == status
        assert world.answers[-1] == ("listSims", status), "it is counted, whatever it is"
        assert "Retry-After" in answer.headers or status != 503


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (Unavailable("behind"), 503),
        (Refused(AttachRefusal.UNKNOWN_SESSION), 409),
        (ConfigurationError("node.name"), 409),
    ],
)
async def test_so_it_is_on_the_control_channel(error: Exception, status: int) -> None:
    async def fail() -> list[str]:
        raise ExceptionGroup("unhandled errors in a TaskGroup", [error])

    async with (
        served(make_control(services_of(Asked(), fail))) as endpoint,
        aiohttp.ClientSession(headers={"Authorization": f"Bearer {SECRET}"}) as http,
        http.post(f"{endpoint}/control/reload") as answer,
    ):
        assert answer.status == status
        assert (await answer.json())["error"] == str(error)


def test_a_bug_beside_an_expected_error_is_what_is_raised() -> None:
    with pytest.raises(ZeroDivisionError), ungrouped():
        raise ExceptionGroup("", [Unavailable("x"), ExceptionGroup("", [ZeroDivisionError()])])
    with pytest.raises(Unavailable), ungrouped():
        raise ExceptionGroup("", [Unavailable("x"), Refused(RequestRefusal.NOT_FOUND)])
