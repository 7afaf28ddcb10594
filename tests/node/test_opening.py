"""An attach that fails half-way, before a whole node in virtual time: what its steps took is given back."""

import asyncio
from datetime import timedelta
from ipaddress import IPv4Address
from typing import Any

import pytest

from airloom.app.gateway_runtime import GatewayRuntime
from core.adapters.store.engine import Batch, Put
from core.adapters.store.memory import MemoryEngine
from core.adapters.store.sessions import WideSessions
from core.adapters.store.tables import SIM_BY_IMSI
from core.domain.ids import time_ordered_id
from core.domain.pools import PoolExhausted
from core.domain.reasons import AttachRefusal
from core.domain.requests import Grant, OpenSession
from core.domain.session import Access, Nas, Session
from core.errors import Refused, Unavailable
from loadtest.simulation.world import APN
from tests.node.test_radius_front_end import Stage, played
from tests.node.test_static_addresses import STATIC, attach, bind

NOTHING = {"addresses": 0, "teids": 0}


async def fail(error: BaseException, *_: Any) -> Any:
    raise error


def allocated(held: GatewayRuntime) -> tuple[dict[str, int], int]:
    return held.gateway.allocated, len(list(held.user_plane.all_counters()))


async def of_nas(stage: Stage) -> Session:
    """A session whose address is of its NAS's own pool."""
    grant = Grant(time_ordered_id(stage.clock.now(), bytes(10)), IPv4Address("192.0.2.7"), is_allocated=False)
    nas = Nas("127.0.3.0/24", "nas", "127.0.3.1", "1", has_own_address=True)
    request = OpenSession(Access.RADIUS, stage.imsi, APN, nas=nas, grant=grant)
    return await stage.node.held["vg-1"].sessions.open(request)


@played
async def test_an_imsi_that_is_bound_to_a_sim_that_has_it_not_is_unknown(stage: Stage) -> None:
    """A binding that a crash left before its SIM was written."""
    sim_id, stranger = stage.sims[0].sim.sim_id, "440109999999999"
    binding = Batch(SIM_BY_IMSI, (stranger,), (Put((), (sim_id, 1), 1),))
    await MemoryEngine(disk=stage.disk, clock=stage.clock).write(binding)
    history = stage.node.held["vg-1"].sessions.common.store.sessions.events
    since, until = stage.clock.now() - timedelta(days=1), stage.clock.now() + timedelta(days=1)
    before = await history(sim_id, since=since, until=until)
    with pytest.raises(Refused) as refused:
        await attach(stage, stranger)
    assert refused.value.reason is AttachRefusal.UNKNOWN_SIM
    assert await history(sim_id, since=since, until=until) == before, "it is none of that SIM's"


@played
async def test_an_address_without_teids_is_given_back(stage: Stage) -> None:
    held = stage.node.held["vg-1"]
    teids = held.gateway._teids
    allocate, calls = teids.allocate, list[int]()

    def one_teid(now: float) -> int:
        if calls:
            raise PoolExhausted("none is left")
        calls.append(allocate(now))
        return calls[0]

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Refused) as refused:
        patch.setattr(teids, "allocate", one_teid)
        await attach(stage, stage.imsi)
    assert refused.value.reason is AttachRefusal.NO_RESOURCES
    assert (len(calls), allocated(held)) == (1, (NOTHING, 0))


@played
async def test_without_a_bearer_address_and_teids_are_given_back(stage: Stage) -> None:
    held = stage.node.held["vg-1"]

    def install(_: object) -> None:
        raise Refused(AttachRefusal.NO_RESOURCES, "no slot is left")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Refused):
        patch.setattr(held.user_plane, "install", install)
        await attach(stage, stage.imsi)
    assert allocated(held) == (NOTHING, 0)


@pytest.mark.parametrize("error", [Unavailable("not now"), asyncio.CancelledError()], ids=str)
def test_what_was_not_written_is_given_back(error: BaseException) -> None:
    @played
    async def script(stage: Stage) -> None:
        held = stage.node.held["vg-1"]
        with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(WideSessions, "put", lambda *_: fail(error))
            await attach(stage, stage.imsi)
        assert allocated(held) == (NOTHING, 0)
        assert stage.open_sessions() == []

    script()  # type: ignore[call-arg]  # the stage is the decorator's


@played
async def test_what_may_have_been_written_stays_allocated_until_its_end_is_durable(stage: Stage) -> None:
    held, put = stage.node.held["vg-1"], WideSessions.put

    async def put_in_doubt(*args: Any) -> Session:
        await put(*args)
        raise Unavailable("carried out, answer lost", ambiguous=True)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Unavailable):
        patch.setattr(WideSessions, "put", put_in_doubt)
        await attach(stage, stage.imsi)
    assert allocated(held) == ({"addresses": 1, "teids": 2}, 1)
    assert len(held.sessions.common.unfinished) == 1
    await asyncio.sleep(5)
    assert allocated(held) == (NOTHING, 0)
    assert await stage.node._world.store.sessions.of_sim(stage.sims[0].sim.sim_id) == []


@pytest.mark.parametrize("error", [Unavailable("not now"), asyncio.CancelledError()], ids=str)
def test_a_static_address_is_given_back_unless_the_node_ends(error: BaseException) -> None:
    @played
    async def script(stage: Stage) -> None:
        await bind(stage, STATIC)
        with pytest.MonkeyPatch.context() as patch, pytest.raises(type(error)):
            patch.setattr(WideSessions, "put", lambda *_: fail(error))
            await attach(stage, stage.imsi)
        row = await stage.node._world.store.holders.get(STATIC)
        assert row is not None
        assert (row.rests_until is not None) is isinstance(error, Unavailable)

    script()  # type: ignore[call-arg]  # the stage is the decorator's


@pytest.mark.parametrize("is_of_a_nas", [False, True])
def test_nothing_is_written_once_the_gateway_is_not_held(is_of_a_nas: bool) -> None:
    """Also of a session that allocates no address, for which no pool asks."""

    @played
    async def script(stage: Stage) -> None:
        held, get = stage.node.held["vg-1"], stage.node._world.store.sims.get

        async def fenced_meanwhile(sim_id: str) -> Any:
            patch.setattr(held.gateway, "_is_fenced", True)
            return await get(sim_id)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(stage.node._world.store.sims, "get", fenced_meanwhile)
            with pytest.raises(Unavailable, match="no longer served"):
                await (of_nas(stage) if is_of_a_nas else attach(stage, stage.imsi))
        assert allocated(held) == (NOTHING, 0)
        assert await stage.node._world.store.sessions.of_sim(stage.sims[0].sim.sim_id) == []

    script()  # type: ignore[call-arg]  # the stage is the decorator's
