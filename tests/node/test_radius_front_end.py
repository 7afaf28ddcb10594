"""The RADIUS front end before a whole node in virtual time: its NASes speak pyrad."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

import radius.sessions
from core.adapters.store.sessions import WideSessions
from core.config import RadiusConfig
from core.domain.account import Group
from core.domain.session import Access, CloseReason, Session, SessionEventKind
from core.domain.sim import SimStatus
from core.domain.values import replace
from core.errors import Unavailable
from loadtest.peers.nas import INTERIM, START, STOP, AccessDenied, Nas, NasSession
from loadtest.simulation.checks import metered_volume
from loadtest.simulation.plan import NAS_SECRET, Plan
from loadtest.simulation.virtual import run_virtual
from loadtest.simulation.world import APN, OPERATOR, World

NAS_A, NAS_B, STRANGER = "127.0.3.1", "127.0.3.2", "127.0.4.1"


class Stage(World):
    """A node, one SIM, and NASes as a test asks for them; nothing goes wrong but by the test."""

    stack: AsyncExitStack

    async def nas(self, address: str = NAS_A, secret: bytes = NAS_SECRET) -> Nas:
        nas = self._nas(address, 0)
        nas._secret = secret
        return await self.stack.enter_async_context(nas.running())

    async def restart_node(self) -> None:
        await self.crash()
        await self.start_node()

    def open_sessions(self) -> list[Session]:
        return list(self.node.held["vg-1"].sessions.open_sessions.values())

    async def metered(self) -> tuple[int, int]:
        volume = await metered_volume(self, self.imsi)
        return volume.up_bytes, volume.down_bytes

    @property
    def imsi(self) -> str:
        return self.sims[0].imsi


Script = Callable[[Stage], Awaitable[None]]


def played(script: Script) -> Script:
    """Run a script on a fresh stage, and afterwards see that the pools are whole again."""

    def test() -> None:
        async def main() -> None:
            stage = Stage(0, Plan(sims=1))
            await stage.start_node()
            await stage._make_sims()
            async with AsyncExitStack() as stack:
                stage.stack = stack
                await script(stage)
                await stage.node.held["vg-1"].sessions.end_sessions_of(
                    stage.sims[0].sim.sim_id, CloseReason.CUSTOMER
                )
            await asyncio.sleep(120)
            assert stage.node.held["vg-1"].gateway.allocated == {"addresses": 0, "teids": 0}
            assert stage.node.held["vg-1"].radius.held == 0
            await stage.finish()

        run_virtual(main)

    test.__name__, test.__doc__ = script.__name__, script.__doc__
    return test  # type: ignore[return-value]  # pytest calls it without a stage


@played
async def test_a_session_whose_opening_is_in_doubt_ends_at_its_nas_too(stage: Stage) -> None:
    """Its repeated Start is acknowledged as that of an ended session."""
    nas, put = await stage.nas(), WideSessions.put

    async def put_in_doubt(*args: Any) -> Session:
        doubt.undo()
        await put(*args)
        raise Unavailable("carried out, answer lost", ambiguous=True)

    with pytest.MonkeyPatch.context() as doubt:
        doubt.setattr(WideSessions, "put", put_in_doubt)
        session = await nas.attach(imsi=stage.imsi, apn=APN)
    await asyncio.wait_for(session.stopped.wait(), 60)
    assert (session.ended_by_network, nas.disconnects) == (True, 1)
    again = await nas.attach(imsi=stage.imsi, apn=APN)
    assert [each.session_id for each in stage.open_sessions()] == [again.class_.decode()]
    await nas.detach(again)


@played
async def test_a_session_from_access_to_stop(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    (held,) = stage.open_sessions()
    assert (held.session_id.encode(), held.ue_address) == (session.class_, session.ue_address)
    session.carry(1_000, 5_000_000_000)
    await nas.report(session)
    assert await stage.metered() == (1_000, 5_000_000_000)
    session.carry(1, 2)
    await nas.detach(session)
    assert stage.open_sessions() == []
    assert await stage.metered() == (1_001, 5_000_000_002)


@played
async def test_an_interim_whose_start_was_lost_opens_the_session(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    session.carry(10, 20)
    await nas.report(session)
    (held,) = stage.open_sessions()
    assert held.session_id.encode() == session.class_
    assert await stage.metered() == (10, 20)


@played
async def test_a_late_report_of_an_older_session_ends_no_newer_one(stage: Stage) -> None:
    """Its Start was never heard; meanwhile the device came back."""
    nas = await stage.nas()
    older = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    await asyncio.sleep(61)  # the reservation has expired
    await nas.attach(imsi=stage.imsi, apn=APN)
    (held,) = stage.open_sessions()
    older.carry(5, 6)
    for status in (INTERIM, STOP):
        await nas._account(status, older, 3)
        assert stage.open_sessions() == [held]
    await nas._account(START, await renamed(nas, stage), 2)
    assert stage.open_sessions() == [held]
    assert await stage.metered() == (5, 6)


async def renamed(nas: Nas, stage: Stage) -> NasSession:
    """Another session of the SIM's, older still, of which nothing is known."""
    address = stage.open_sessions()[0].ue_address + 7
    return NasSession(stage.imsi, "A9", b"0" * 32, address)


@played
async def test_two_sessions_of_one_promise_are_two_counters(stage: Stage) -> None:
    """The first one's Start was never answered; its Stop comes while the second runs."""
    nas = await stage.nas()
    first = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    second = await nas.attach(imsi=stage.imsi, apn=APN)
    first.carry(100, 0)
    second.carry(10, 0)
    await nas.report(second)
    await nas._account(STOP, first, 3)
    await nas.detach(second)
    assert await stage.metered() == (110, 0)


@played
async def test_a_stop_without_a_start_is_charged(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    session.carry(5, 6)
    for _ in range(2):
        await nas._account(STOP, session, 3)
    assert stage.open_sessions() == []
    assert await stage.metered() == (5, 6)


@played
async def test_what_comes_after_stop_reopens_nothing_and_is_counted_once(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    session.carry(100, 100)
    await nas.detach(session)
    for status in (STOP, INTERIM):
        await nas._account(status, session, 3)
        assert stage.open_sessions() == []
    await nas._account(START, session, 2)  # a late one, nothing new
    assert stage.open_sessions() == []
    assert await stage.metered() == (100, 100)
    await stage.restart_node()
    await nas._account(INTERIM, session, 3)
    assert stage.open_sessions() == []
    assert await stage.metered() == (100, 100)


@played
async def test_lower_counters_take_nothing_away(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    for up, down in ((700, 10), (300, 40), (500, 30)):
        session.up_bytes, session.down_bytes = up, down
        await nas.report(session)
    assert await stage.metered() == (700, 40)


@played
async def test_a_start_after_a_restart_gets_what_was_promised(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    await stage.restart_node()
    await nas.begin(session)
    (held,) = stage.open_sessions()
    assert (held.session_id.encode(), held.ue_address) == (session.class_, session.ue_address)
    await stage.restart_node()
    session.carry(5, 6)
    await nas.detach(session)
    assert await stage.metered() == (5, 6)


@played
async def test_a_promise_that_nobody_redeems_ends(stage: Stage) -> None:
    nas = await stage.nas()
    first = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    again = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    assert first.ue_address == again.ue_address, "asking drains no pool"
    assert first.class_ != again.class_, "another session"
    assert stage.node.held["vg-1"].gateway.allocated["addresses"] == 1
    await asyncio.sleep(70)
    assert stage.node.held["vg-1"].gateway.allocated["addresses"] == 0


@played
async def test_a_suspended_sim_is_disconnected_and_its_last_counters_count(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    session.carry(50, 60)
    await stage.customer.set_status(stage.sims[0], SimStatus.SUSPENDED)
    await session.stopped.wait()
    assert (session.ended_by_network, nas.disconnects) == (True, 1)
    assert stage.node.held["vg-1"].radius.disconnects["ended"] == 1
    assert await stage.metered() == (50, 60)
    with pytest.raises(AccessDenied, match="SIM suspended"):
        await nas.ask_for_access(imsi=stage.imsi, apn=APN)


@played
async def test_the_last_counters_survive_a_kill_between_disconnect_and_stop(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    session.carry(7, 8)
    nas._stop_for_ever = lambda _: None  # type: ignore[method-assign, assignment]  # its Stop comes late
    await stage.customer.set_status(stage.sims[0], SimStatus.SUSPENDED)
    await stage.restart_node()
    await nas._account(STOP, session, 3)
    assert await stage.metered() == (7, 8)


@played
async def test_a_nas_that_missed_the_disconnect_is_told_again(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    stage.network.unbind((NAS_A, 3799))
    await stage.customer.set_status(stage.sims[0], SimStatus.SUSPENDED)
    await asyncio.sleep(100)
    assert stage.node.held["vg-1"].radius.disconnects["not_answered"] == 1
    nas._disconnect = await stage.network.open_datagram((NAS_A, 3799), nas._on_disconnect)
    session.carry(1, 1)
    await nas.report(session)
    await session.stopped.wait()
    assert session.ended_by_network
    assert await stage.metered() == (1, 1)


@played
async def test_nobody_else_speaks_of_a_session(stage: Stage) -> None:
    """A client of another network, with its own good secret, and the session's true name."""
    nas = await stage.nas()
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    stranger = await stage.nas(STRANGER, b"another secret of ours")
    forged = NasSession(stage.imsi, session.acct_session_id, session.class_, session.ue_address, 9, 9)
    await stranger._account(STOP, forged, 3)
    assert len(stage.open_sessions()) == 1
    assert await stage.metered() == (0, 0)
    another = NasSession("440100000009999", session.acct_session_id, session.class_, session.ue_address, 9, 9)
    await nas._account(INTERIM, another, 3)
    assert await stage.metered() == (0, 0)


@played
async def test_accounting_on_ends_the_sessions_of_that_nas_alone(stage: Stage) -> None:
    one, other = await stage.nas(NAS_A), await stage.nas(NAS_B)
    await one.attach(imsi=stage.imsi, apn=APN)
    await other.restart()
    assert len(stage.open_sessions()) == 1
    await one.restart()
    assert stage.open_sessions() == []


@played
async def test_an_accounting_on_that_comes_late_spares_what_began_since(stage: Stage) -> None:
    nas = await stage.nas()
    await asyncio.sleep(60)
    await nas.attach(imsi=stage.imsi, apn=APN)
    late = nas._accounting(7)
    late["Acct-Delay-Time"] = 30
    await nas._ask("acct", late, 3)
    assert len(stage.open_sessions()) == 1


@played
async def test_a_session_of_which_nothing_is_heard_ends(stage: Stage) -> None:
    nas = await stage.nas()
    await nas.attach(imsi=stage.imsi, apn=APN)
    await asyncio.sleep(RadiusConfig().silent_s - 5)
    assert len(stage.open_sessions()) == 1
    await asyncio.sleep(10)
    assert stage.open_sessions() == []
    page = await stage.node._world.store.sessions.events(
        stage.sims[0].sim.sim_id, since=stage.clock._epoch, until=stage.clock.now()
    )
    assert (page.items[0].kind, page.items[0].cause) == (SessionEventKind.DELETED, "silent")


@played
async def test_where_nothing_is_due_no_timer_runs(stage: Stage) -> None:
    nas, front_end = await stage.nas(), stage.node.held["vg-1"].radius
    timers = [transmission._timer for transmission in front_end._transmissions()]
    timers += [front_end._accounting._timer, front_end._reservations._timer]
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    assert [timer._handle is not None for timer in timers] == [True, True, False, True, True]
    await asyncio.sleep(61)
    assert [timer._handle is not None for timer in timers] == [False, False, False, True, False]
    await nas.detach(session)
    await asyncio.sleep(RadiusConfig().silent_s)
    assert [timer._handle is not None for timer in timers] == [False] * 5


@played
async def test_usage_is_of_the_day_on_which_it_is_told_and_exact_over_a_restart(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.attach(imsi=stage.imsi, apn=APN)
    session.carry(100, 0)
    await nas.report(session)
    await asyncio.sleep(120)  # past midnight
    session.carry(10, 0)
    await nas.report(session)
    await stage.restart_node()
    session.carry(1, 0)
    await nas.detach(session)
    days = [await stage.node._world.store.usage.of_day(stage.imsi, day) for day in (20261130, 20261201)]
    assert [max(row.volume.up_bytes for row in rows) for rows in days] == [100, 11]


@played
async def test_a_session_that_was_refused_and_carried_is_charged_and_ended(stage: Stage) -> None:
    nas = await stage.nas()
    session = await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    await stage.customer.set_status(stage.sims[0], SimStatus.SUSPENDED)
    session.is_active = True
    nas.sessions[session.acct_session_id] = session
    session.carry(30, 40)
    await nas.report(session)
    await session.stopped.wait()
    assert session.ended_by_network
    assert stage.open_sessions() == []
    assert await stage.metered() == (30, 40)


@played
async def test_a_group_may_demand_a_password(stage: Stage) -> None:
    store, now = stage.node._world.store, stage.clock.now()
    secret = {"SoracomAir": {"authentication": {"username": "meter", "password": "open sesame"}}}
    await store.groups.put(Group("group", OPERATOR, now, now, secret))
    await store.sims.put(replace(stage.sims[0].sim, group_id="group"))
    nas = await stage.nas()
    with pytest.raises(AccessDenied, match="wrong user name or password"):
        await nas.ask_for_access(imsi=stage.imsi, apn=APN)
    assert stage.node.held["vg-1"].sessions.opener.attaches[Access.RADIUS]["wrong_password"] == 1


def test_ended_sessions_are_held_in_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radius.sessions, "ENDED_MAX", 4)  # of which one client has three

    @played
    async def script(stage: Stage) -> None:
        nas = await stage.nas()
        for _ in range(6):
            session = await nas.attach(imsi=stage.imsi, apn=APN)
            session.carry(1, 1)
            await nas.detach(session)
        front_end = stage.node.held["vg-1"].radius._accounting._held
        assert (
            len(front_end._ended),
            len(front_end._by_name),
            len(stage.node.held["vg-1"].nas_accounting),
        ) == (
            3,
            3,
            3,
        )
        assert await stage.metered() == (6, 6)

    script()  # type: ignore[call-arg]  # the stage is the decorator's
