"""What a device may read of its own SIM: only if its group lets it, and never another operator's."""

from pathlib import Path
from typing import Any

import pytest

from core.domain.account import Group
from core.domain.values import replace
from core.services.customers.metadata import DeviceMetadata
from tests.contract.stores import NOW, OPENERS, World, event_of, session_of, sim_of

SIM = sim_of(1, operator_id="OP0000000001")
ALLOWED = {"enabled": True, "readonly": True}


async def metadata_by(air: dict[str, Any], *, group: str = "group", operator: str = SIM.operator_id) -> Any:
    world = World(OPENERS["memory"](Path()))
    await world.open()
    store, session = world.store, session_of(SIM)
    await store.sims.put(replace(SIM, group_id=group, operator_id=operator))
    await store.groups.put(Group("group", operator, NOW, NOW, {"SoracomAir": air}))
    await store.sessions.put(session, event_of(SIM))
    return await DeviceMetadata(store=store).of(session)


async def test_a_group_that_allows_it_shows_sim_sessions_and_userdata() -> None:
    found = await metadata_by({"metadata": ALLOWED, "userdata": "x"})
    assert (found.sim.sim_id, [each.imsi for each in found.sessions]) == (SIM.sim_id, [SIM.imsi])
    assert found.userdata == "x"
    assert (await metadata_by({"metadata": ALLOWED})).userdata is None


@pytest.mark.parametrize("air", [
    {},
    {"metadata": None},
    {"metadata": {"enabled": False}},
    {"metadata": {"enabled": "true"}},
    {"userdata": "x"},
])  # fmt: skip
async def test_a_group_that_does_not_allow_it_shows_nothing(air: dict[str, Any]) -> None:
    assert await metadata_by(air) is None


@pytest.mark.parametrize("other", [{"group": ""}, {"group": "gone"}, {"operator": "OP0000000002"}])
async def test_a_sim_without_its_group_or_of_another_operator_shows_nothing(other: dict[str, Any]) -> None:
    assert await metadata_by({"metadata": ALLOWED}, **other) is None
