"""A change of a SIM reaches every gateway that can be reached, whichever another cannot."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, cast

import pytest

from core.domain.session import CloseReason
from core.errors import Unavailable
from core.ports.peers import Peers
from core.ports.store import Store
from core.services.cluster.control import ClusterControl, Holder

pytestmark = pytest.mark.asyncio

GATEWAYS = ("vg-1", "vg-2", "vg-3")


class World:
    """A SIM with a session on each gateway, of which some are ``held`` here and ``lost`` ones raise."""

    def __init__(self, lost: set[str], held: Sequence[str] = ()) -> None:
        self.lost = lost
        self.called: list[tuple[str, str]] = []
        sessions = [SimpleNamespace(gateway_id=gateway_id) for gateway_id in GATEWAYS]
        store = SimpleNamespace(
            sessions=SimpleNamespace(of_sim=self._answer(sessions)),
            leases=SimpleNamespace(get=self._answer(SimpleNamespace(is_released=False, contact="http://a"))),
        )
        self.control = ClusterControl(
            store=cast(Store, store),
            peers=cast(Peers, self),
            held={gateway_id: cast(Holder, Held(self, gateway_id)) for gateway_id in held},
            gateway_ids=GATEWAYS,
        )

    @staticmethod
    def _answer(found: Any) -> Any:
        async def read(_: str) -> Any:
            return found

        return read

    def call(self, operation: str, gateway_id: str) -> None:
        if gateway_id in self.lost:
            raise Unavailable(f"{gateway_id} does not answer")
        self.called.append((operation, gateway_id))

    async def end_sessions_of(self, contact: str, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        self.call("end", gateway_id)
        return 1

    async def refresh_sessions_of(self, contact: str, gateway_id: str, sim_id: str) -> None:
        self.call("refresh", gateway_id)

    async def group_changed(self, contact: str, gateway_id: str, operator_id: str, group_id: str) -> None:
        self.call("group", gateway_id)


class Held:
    """A gateway that is held here."""

    def __init__(self, world: World, gateway_id: str) -> None:
        self._world = world
        self._gateway_id = gateway_id
        self.sessions = self

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        self._world.call("end", self._gateway_id)
        return 1

    async def refresh_sessions_of(self, sim_id: str) -> None:
        self._world.call("refresh", self._gateway_id)


async def test_every_gateway_ends_its_sessions() -> None:
    world = World(set())
    assert await world.control.end_sessions_of("sim", CloseReason.CUSTOMER) == 3
    assert sorted(world.called) == [("end", gateway_id) for gateway_id in GATEWAYS]


@pytest.mark.parametrize("lost", GATEWAYS)
async def test_an_unreachable_gateway_keeps_no_other_from_ending_its_sessions(lost: str) -> None:
    world = World({lost})
    with pytest.raises(Unavailable, match=lost):
        await world.control.end_sessions_of("sim", CloseReason.CUSTOMER)
    assert {gateway_id for _, gateway_id in world.called} == {*GATEWAYS} - {lost}


@pytest.mark.parametrize("lost", GATEWAYS)
async def test_an_unreachable_gateway_keeps_no_other_from_a_change(lost: str) -> None:
    world = World({lost})
    with pytest.raises(Unavailable, match=lost):
        await world.control.refresh_sessions_of("sim")
    with pytest.raises(Unavailable, match=lost):
        await world.control.group_changed("operator", "group")
    others = sorted({*GATEWAYS} - {lost})
    assert sorted(world.called) == [
        (operation, gateway_id) for operation in ("group", "refresh") for gateway_id in others
    ]


@pytest.mark.parametrize("lost", GATEWAYS)
async def test_one_that_is_held_here_and_fails_keeps_no_other_from_a_change(lost: str) -> None:
    world = World({lost}, held=GATEWAYS[:2])
    with pytest.raises(Unavailable, match=lost):
        await world.control.end_sessions_of("sim", CloseReason.CUSTOMER)
    with pytest.raises(Unavailable, match=lost):
        await world.control.refresh_sessions_of("sim")
    others = sorted({*GATEWAYS} - {lost})
    assert sorted(world.called) == [
        (operation, gateway_id) for operation in ("end", "refresh") for gateway_id in others
    ]
