"""What a node says of itself to a load balancer and to `airloom node status`."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable
from contextlib import suppress

import aiohttp
import pytest

from airloom.app.readiness import ANSWER_S, DRAINING, LOOK_S, NodeReadiness
from api.app import make_application
from api.operator.control import make_control
from api.ready import READY, Readiness
from core.domain.gateway import GatewayLease
from core.domain.values import replace
from core.errors import ConfigurationError, Unavailable
from core.services.cluster.lease_coordinator import State
from core.services.running.recurring import AGAIN_S_MAX, TOPICS_MAX, Recurring
from loadtest.simulation.plan import Plan, config_of
from loadtest.simulation.virtual import run_virtual
from tests.node.test_radius_front_end import Stage
from tests.support.api import make_world, served
from tests.support.cli import Airloom
from tests.unit.api.operator.test_control import SECRET, Asked, services_of

SOON_S = LOOK_S + ANSWER_S + 0.5


class Watched(Stage):
    """A node that is looked at, in virtual time."""

    readiness: NodeReadiness

    async def make_node(self) -> None:
        """Made, and not begun."""
        config, adapters = config_of(self.node_name, self.plan), self._adapters(self._life, self.node_name)
        self.node = self._node_type(config=config, adapters=adapters)
        self.readiness = NodeReadiness(config=config, adapters=adapters, node=self.node)
        self.looking = asyncio.create_task(self.readiness.run())

    def ready(self) -> dict[str, bool]:
        roles = ("", "gateway", "aaa", "api", "edge", "meter")
        return {role: self.readiness.of(role).is_ready for role in roles}


def watched(script: Callable[[Watched], Awaitable[None]]) -> Callable[[], None]:
    def test() -> None:
        async def main() -> None:
            stage = Watched(0, Plan(sims=1))
            await stage.make_node()
            running: asyncio.Task[None] | None = None
            try:
                await script(stage)
                running = stage._running
            finally:
                for task in filter(None, (stage.looking, running)):
                    task.cancel()
                    with suppress(asyncio.CancelledError, BaseExceptionGroup):
                        await task

        run_virtual(main)

    test.__name__, test.__doc__ = script.__name__, script.__doc__
    return test


async def begin(stage: Watched) -> None:
    await stage.node.start()
    stage._running = asyncio.create_task(stage.node.run())
    await asyncio.sleep(SOON_S)


@watched
async def test_a_node_is_ready_when_its_gateway_is_held_and_the_store_answers(stage: Watched) -> None:
    assert stage.ready() == dict.fromkeys(stage.ready(), False) | {"edge": True}
    await begin(stage)
    assert stage.ready() == dict.fromkeys(stage.ready(), True)
    found = stage.readiness.of()
    assert found.status == READY
    assert found.parts["store"] == found.parts["stream"] == "ok"
    assert found.parts["gateways"] == "1 held"
    assert stage.readiness.of("another").status == "not a role of this node"


@pytest.mark.parametrize(("rate", "delay_s", "said"), [(1.0, 0.0, "away"), (0.0, 60.0, "no answer")])
def test_a_store_that_is_away_is_seen_within_seconds(rate: float, delay_s: float, said: str) -> None:
    @watched
    async def script(stage: Watched) -> None:
        await begin(stage)
        stage.store_rates.before, stage.store_rates.delay_s = rate, delay_s
        await asyncio.sleep(SOON_S)
        assert stage.ready() == dict.fromkeys(stage.ready(), False) | {"edge": True}
        assert stage.readiness.of().parts["store"].startswith(said)
        assert stage.readiness.of().status == "not ready: gateway, aaa, api, meter"
        stage.store_rates.before, stage.store_rates.delay_s = 0.0, 0.0
        await asyncio.sleep(60)
        assert stage.readiness.of().is_ready

    script()


@watched
async def test_a_store_that_is_read_and_takes_no_row_is_not_ready(stage: Watched) -> None:
    """As on a full disk, or with too few replicas. A node of the API alone has no lease to lose."""
    await begin(stage)
    engine = stage.readiness._world.store._engine  # type: ignore[attr-defined]  # the far side

    async def full(*_: object) -> None:
        raise Unavailable("the store cannot write: database or disk is full")

    engine.write = full
    await asyncio.sleep(SOON_S)
    assert not stage.readiness.of("api").is_ready
    assert not stage.readiness.of("meter").is_ready
    del engine.write
    await asyncio.sleep(60)
    assert stage.readiness.of().is_ready


@watched
async def test_a_stream_that_is_away_is_shown(stage: Watched) -> None:
    await begin(stage)

    async def away() -> None:
        raise OSError("no route to host")

    stage.readiness._world.stream.shards = away  # type: ignore[method-assign, assignment] # the far side
    await asyncio.sleep(SOON_S)
    assert stage.readiness.of().is_ready
    assert stage.readiness.of().parts["stream"] == "away"


@watched
async def test_a_node_that_drains_is_not_ready(stage: Watched) -> None:
    await begin(stage)
    await stage.node.drain()
    assert not any(stage.ready().values())
    assert stage.readiness.of("api").status == DRAINING


@watched
async def test_who_stands_by_is_ready_as_a_whole_but_not_for_traffic(stage: Watched) -> None:
    leases = stage.readiness._world.store.leases
    lease = await leases.put(GatewayLease("vg-1", "another", 1, stage.clock.now()))

    async def renew() -> None:
        nonlocal lease
        while True:
            await asyncio.sleep(1)
            lease = await leases.put(replace(lease, renewed=stage.clock.now()))

    renewing = asyncio.create_task(renew())
    await begin(stage)
    whole = dict.fromkeys(stage.ready(), True)
    assert stage.ready() == whole | {"gateway": False, "aaa": False}
    assert stage.readiness.of().parts["gateways"] == "1 elsewhere"
    renewing.cancel()
    await asyncio.sleep(60)
    assert stage.ready() == whole, "it took over"


@watched
async def test_a_gateway_that_cannot_begin_is_not_ready_and_says_it_now_and_then(stage: Watched) -> None:
    await begin(stage)
    worker_of, told = stage.node.coordinator._make, list[str]()
    stage.node.coordinator._trouble = Recurring(say=told.append, clock=stage.clock)

    def make(*of: object) -> object:
        worker = worker_of(*of)  # type: ignore[arg-type]  # planted

        async def start() -> int:
            raise ConfigurationError("127.0.0.1:2123 (UDP) is in use")

        worker.start = start  # type: ignore[method-assign]  # planted
        return worker

    stage.node.coordinator._make = make  # type: ignore[assignment]  # planted
    stage.node.coordinator._slots["vg-1"].wanted_back.set()
    await asyncio.sleep(200)
    assert not stage.readiness.of().is_ready
    assert stage.readiness.of().parts["gateways"] == "1 failing"
    standing = stage.node.coordinator.states["vg-1"]
    assert (standing.state, standing.detail) == (State.FAILING, "127.0.0.1:2123 (UDP) is in use")
    assert stage.node.coordinator.counts["failing"] == 1
    assert 5 < len(told) < 12, "before: each second without end"
    assert "more times since" in told[-1]
    stage.node.coordinator._make = worker_of
    await asyncio.sleep(5)
    assert stage.readiness.of().is_ready
    stage.node.coordinator._make = make  # type: ignore[assignment]  # planted
    stage.node.coordinator._slots["vg-1"].wanted_back.set()
    await asyncio.sleep(5)
    async with asyncio.timeout(5):
        await stage.node.drain()


def test_what_recurs_is_said_when_it_changes_and_then_ever_more_seldom() -> None:
    async def main() -> None:
        stage, said = Stage(0, Plan(sims=1)), list[tuple[int, str]]()
        clock = stage.clock
        began = clock.monotonic()
        recurring = Recurring(
            say=lambda line: said.append((round(clock.monotonic() - began), line)), clock=clock
        )
        for _ in range(200):
            recurring.tell("a", "in use")
            await asyncio.sleep(1)
        assert [at for at, _ in said] == [0, 1, 3, 7, 15, 31, 63, 123, 183]
        assert said[-1][1] == f"in use ({round(AGAIN_S_MAX) - 1} more times since)"
        recurring.tell("a", "not permitted")
        recurring.tell("b", "in use")
        recurring.over("a")
        recurring.tell("a", "not permitted")
        assert [line for _, line in said[-3:]] == ["not permitted", "in use", "not permitted"]
        for number in range(TOPICS_MAX + 10):
            recurring.tell(str(number), "x")
        assert len(recurring._said) == TOPICS_MAX

    run_virtual(main)


def test_what_recurs_in_other_words_each_time_fills_no_log() -> None:
    """As a store of three nodes that are away: each try ends at another of them, or after another time."""

    async def main() -> None:
        stage, said = Stage(0, Plan(sims=1)), list[str]()
        recurring = Recurring(say=said.append, clock=stage.clock)
        for number in range(600):
            recurring.tell("three nodes", f"no answer of node {number % 3}")
            recurring.tell("times", f"no answer within {number} ms")
            await asyncio.sleep(1)
        assert {"no answer of node 0", "no answer of node 1", "no answer of node 2"} <= set(said)
        assert len(said) < 50, "1,200 before"

    run_virtual(main)


async def test_both_listeners_answer_and_tell_no_names(
    airloom: Airloom, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def readiness(role: str) -> Readiness:
        asked.append(role)
        parts = {"store": "away", "gateways": "1 held"}
        return Readiness("not ready: api", parts) if role == "api" else Readiness(READY, parts)

    world = make_world()
    customers = make_application(dataclasses.replace(world.services, readiness=readiness))
    control = dataclasses.replace(
        services_of(Asked()),
        readiness=readiness,
        places=lambda: {"vg-1": "held", "vg-2": "elsewhere node-2"},
        gateways=lambda: {"vg-1": 3},
    )
    async with (
        served(customers) as api,
        served(make_control(control)) as channel,
        aiohttp.ClientSession() as http,
    ):
        for endpoint in (api, channel):
            for query, status in (("", 200), ("?role=api", 503)):
                async with http.get(f"{endpoint}/readyz{query}") as answer:
                    assert answer.status == status
                    body = await answer.json()
                    assert set(body) == {"status", "parts"}
                    assert "vg-1" not in str(body)
        monkeypatch.setenv("AIRLOOM_CONTROL__SECRET", SECRET)
        said = (await airloom("node", "status", "--contact", channel)).out.splitlines()
    assert said == [
        "there: ready",
        "  store: away",
        "  gateways: 1 held",
        "  vg-1: held, 3 sessions",
        "  vg-2: elsewhere node-2",
    ]
    assert asked == ["", "api", "", "api", ""]


@pytest.mark.parametrize(("query", "said"), [
    ("?rol=api", "rol: unknown query parameter; known here: role"),
    ("?role=api&verbose", "verbose: unknown query parameter; known here: role"),
    ("?role=ap", "role: must be one of gateway, aaa, edge, api, meter"),
    ("?role=", "role: must be one of gateway, aaa, edge, api, meter"),
    ("?role=api&role=meter", "role: given more than once"),
])  # fmt: skip
async def test_what_readyz_cannot_heed_is_refused(query: str, said: str) -> None:
    customers, control = make_application(make_world().services), make_control(services_of(Asked()))
    async with (
        served(customers) as api,
        served(control) as channel,
        aiohttp.ClientSession() as http,
    ):
        for endpoint in (api, channel):
            async with http.get(f"{endpoint}/readyz{query}") as answer:
                assert (answer.status, await answer.json()) == (400, {"status": said, "parts": {}})
