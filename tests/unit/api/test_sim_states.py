"""A SIM's life by its one table: every pair, through the service and through HTTP."""

import pytest

from core.domain.reasons import RequestRefusal
from core.domain.sim import ATTACH_REFUSALS, CUTS_SESSION, TRANSITIONS, Sim, SimEvent, SimStatus
from core.domain.values import replace
from core.errors import Refused
from tests.support.api import ApiWorld, Tenant, make_world, tenants

OWNER = "OP0000000001"
VERBS = {
    SimEvent.ACTIVATE: "activate",
    SimEvent.DEACTIVATE: "deactivate",
    SimEvent.SET_TO_STANDBY: "set_to_standby",
    SimEvent.SUSPEND: "suspend",
    SimEvent.TERMINATE: "terminate",
}
"""What a customer may ask for; registering and attaching are asked for elsewhere."""
EXPECTED = {
    ("instock", verb): None for verb in VERBS.values()
} | {
    (status, verb): target
    for status in ("ready", "active", "inactive", "standby", "suspended")
    for verb, target in (
        ("activate", "active"),
        ("deactivate", "inactive"),
        ("set_to_standby", "standby"),
        ("suspend", "suspended"),
        ("terminate", "terminated"),
    )
} | {("terminated", verb): None for verb in VERBS.values()}  # fmt: skip
"""Written out apart from the table under test; ``None``: refused."""

PAIRS = [(status, event) for status in SimStatus for event in VERBS]


async def sim_in(world: ApiWorld, status: SimStatus, operator_id: str = OWNER) -> Sim:
    """A SIM that is its owner's and has this status, whatever led to it."""
    made = await world.services.sims.create_in_stock(subscription="plan01s")
    return await world.store.sims.put(
        replace(made.sim, operator_id=operator_id, status=status, termination_enabled=True)
    )


@pytest.mark.parametrize(("status", "event"), PAIRS)
async def test_each_pair_through_the_service(status: SimStatus, event: SimEvent) -> None:
    world = make_world()
    sim = await sim_in(world, status)
    target = EXPECTED[status.value, VERBS[event]]
    if target is None:
        with pytest.raises(Refused) as refusal:
            await world.services.sims.apply(OWNER, sim.sim_id, event)
        assert refusal.value.reason is RequestRefusal.INVALID_TRANSITION
        assert await world.store.sims.get(sim.sim_id) == sim
    else:
        changed = await world.services.sims.apply(OWNER, sim.sim_id, event)
        assert changed.status.value == target
        assert await world.store.sims.get(sim.sim_id) == changed


async def test_each_pair_through_http() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        for status, event in PAIRS:
            sim = await sim_in(world, status, one.operator_id)
            answer = await one.call("POST", f"/sims/{sim.sim_id}/{VERBS[event]}")
            target = EXPECTED[status.value, VERBS[event]]
            if target is None:
                assert (answer.status, answer.body["code"]) == (400, "AIR0009"), (status, event)
            else:
                assert (answer.status, answer.body["status"]) == (200, target), (status, event)


def test_ready_is_entered_by_registering_alone_and_terminated_never_left() -> None:
    into_ready = {
        (status, event)
        for status, row in TRANSITIONS.items()
        for event, (target, _) in row.items()
        if target is SimStatus.READY
    }
    assert into_ready == {(SimStatus.INSTOCK, SimEvent.REGISTER)}
    assert TRANSITIONS[SimStatus.TERMINATED] == {}
    assert set(TRANSITIONS) == set(SimStatus)


def test_whoever_may_not_attach_has_a_reason() -> None:
    for status, row in TRANSITIONS.items():
        assert (SimEvent.ATTACH in row) is not (status in ATTACH_REFUSALS), status


async def test_termination_is_protected() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sim_id = (await one.new_sim())["simId"]
        refused = await one.call("POST", f"/sims/{sim_id}/terminate")
        assert (refused.status, refused.body["code"]) == (400, "AIR0010")
        assert (await one.call("POST", f"/sims/{sim_id}/enable_termination")).body["terminationEnabled"]
        await one.call("POST", f"/sims/{sim_id}/disable_termination")
        assert (await one.call("POST", f"/sims/{sim_id}/terminate")).status == 400
        await one.call("POST", f"/sims/{sim_id}/enable_termination")
        ended = await one.call("POST", f"/sims/{sim_id}/terminate")
        assert (ended.status, ended.body["status"]) == (200, "terminated")
        for path in ("enable_termination", "unset_group", "activate"):
            after = await one.call("POST", f"/sims/{sim_id}/{path}")
            assert after.status == 400 or after.body["status"] == "terminated", path


@pytest.mark.parametrize("event", VERBS)
async def test_sessions_end_once_the_new_status_is_durable(event: SimEvent) -> None:
    world = make_world()
    sim = await sim_in(world, SimStatus.ACTIVE)
    await world.connect(sim)
    changed = await world.services.sims.apply(OWNER, sim.sim_id, event)
    cuts = changed.status in CUTS_SESSION
    assert cuts is (event is not SimEvent.ACTIVATE)
    assert world.control.found == ([(sim.sim_id, changed.status.value)] if cuts else [])
    assert len(await world.store.sessions.of_sim(sim.sim_id)) == (0 if cuts else 1)


async def test_a_suspension_that_did_not_reach_the_gateway_is_finished_by_asking_again() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sim = await sim_in(world, SimStatus.ACTIVE, one.operator_id)
        await world.connect(sim)
        world.control.broken = True
        assert (await one.call("POST", f"/sims/{sim.sim_id}/suspend")).status == 503
        assert (await one.get(f"/sims/{sim.sim_id}"))["status"] == "suspended"
        world.control.broken = False
        assert (await one.call("POST", f"/sims/{sim.sim_id}/suspend")).status == 200
        assert await world.store.sessions.of_sim(sim.sim_id) == []


async def test_a_sim_is_registered_once_and_by_its_secret() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        made = (await one.call("POST", "/sandbox/subscribers/create", {})).body
        path = f"/subscribers/{made['imsi']}/register"
        wrong = await one.call("POST", path, {"registrationSecret": "not this"})
        assert (wrong.status, wrong.body["code"]) == (404, "AIR0003"), "as one that is not there"
        right = {"registrationSecret": made["registrationSecret"]}
        assert (await one.call("POST", path, right)).status == 201
        again = await one.call("POST", path, right)
        assert (again.status, again.body["code"]) == (400, "AIR0007")
        assert (await other.call("POST", path, right)).status == 404
        assert await _ids(other) == []


async def _ids(tenant: Tenant) -> list[str]:
    return [sim["simId"] for sim in await tenant.get("/sims")]
