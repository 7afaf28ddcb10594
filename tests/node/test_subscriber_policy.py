"""What a customer says of a SIM or a group while its session is open, before a whole node in virtual time."""

import asyncio
from collections.abc import Mapping
from typing import Any

import pytest

import core.services.cluster.reconciler
from core.domain.account import Group
from core.domain.reasons import AttachRefusal, RequestRefusal
from core.domain.requests import ModifySession, OpenSession, PeerTunnel, Proof
from core.domain.session import (
    Access,
    Cell,
    CloseReason,
    Location,
    Qos,
    Session,
    SessionEvent,
    SessionEventKind,
)
from core.domain.sim import Sim, SimStatus
from core.domain.speed import SPEEDS_KBPS, granted
from core.domain.subscriber_policy import SubscriberPolicy
from core.domain.usage import SegmentLabel
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.user_plane import Bearer, bearer_of
from core.services.customers.groups import Groups
from core.services.customers.sims import Sims
from core.services.sessions.service import Sessions
from gtp.pco import Credentials
from loadtest.simulation.virtual import SeededEntropy
from loadtest.simulation.world import APN, OPERATOR
from tests.contract.stores import NOW, sim_of
from tests.node.test_radius_front_end import Stage, played

IMEI, SAME_DEVICE, OTHER_DEVICE = "490154203237518", "4901542032375101", "350000000000009"
TOGETHER = {"gatePrivacySeparatorEnabled": False}
REPORT_S = 5.0
LABEL = SegmentLabel("")


def sessions_of(stage: Stage) -> Sessions:
    return stage.node.held["vg-1"].sessions


def customer(stage: Stage) -> Sims:
    return Sims(
        store=stage.node._world.store,
        control=stage.node.control,
        clock=stage.clock,
        entropy=SeededEntropy(stage.rng),
    )


def groups_of(stage: Stage) -> Groups:
    return Groups(
        store=stage.node._world.store,
        control=stage.node.control,
        clock=stage.clock,
        entropy=SeededEntropy(stage.rng),
    )


async def attach(
    stage: Stage,
    *,
    imsi: str = "",
    qos: Qos | None = None,
    imei: str = "",
    proof: Proof | None = None,
    nsapi: int = 5,
    access: Access = Access.GTPV2,
) -> Session:
    request = OpenSession(
        access,
        imsi or stage.imsi,
        APN,
        imei=imei,
        peer=PeerTunnel(1, 2, "127.0.2.1", "127.0.2.1", nsapi),
        qos=qos or Qos(),
    )
    return await sessions_of(stage).open(request, proof=proof)


async def events(stage: Stage) -> list[SessionEvent]:
    sim_id, now = stage.sims[0].sim.sim_id, stage.clock.now()
    page = await stage.node._world.store.sessions.events(sim_id, since=stage.sims[0].sim.created, until=now)
    return list(page.items)


async def put_group(stage: Stage, group_id: str, air: Mapping[str, Any]) -> None:
    now = stage.clock.now()
    await stage.node._world.store.groups.put(Group(group_id, OPERATOR, now, now, {"SoracomAir": air}))


async def change_unseen(stage: Stage, **changes: Any) -> Sim:
    """The customer's change is durable, and the node that should call the gateway dies."""
    stored = await stage.node._world.store.sims.get(stage.sims[0].sim.sim_id)
    assert stored is not None
    return await stage.node._world.store.sims.put(replace(stored, **changes))


def ambr(session: Session) -> tuple[int, int]:
    return session.qos.ambr_up_kbps, session.qos.ambr_down_kbps


def limits(bearer: Bearer) -> tuple[int, int]:
    return bearer.up_kbps, bearer.down_kbps


@pytest.mark.parametrize(
    ("asked", "speed_class", "got"),
    [
        (0, "s1.minimum", 32),
        (100, "s1.slow", 100),
        (1_000, "s1.standard", 512),
        (50_000, "s1.8xfast", 16_000),
        (700, "t1.standard", 700),
        (0, "u1.standard", 0),
        (0, "of another day", 0),
    ],
)
def test_a_session_gets_what_it_asks_for_and_no_more_than_its_class(
    asked: int, speed_class: str, got: int
) -> None:
    qos = granted(Qos(qci=5), speed_class, up_kbps=asked, down_kbps=2 * asked)
    assert (qos.qci, qos.ambr_up_kbps) == (5, got)
    most = SPEEDS_KBPS.get(speed_class, 0)
    assert qos.ambr_down_kbps == (min(2 * asked, most) if asked and most else most or 2 * asked)


@pytest.mark.parametrize("told", [IMEI, SAME_DEVICE, IMEI[:14] + "0", IMEI[:14]])
def test_a_lock_names_a_device_not_its_check_digit_nor_its_software(told: str) -> None:
    sim = replace(sim_of(1), imei_lock=IMEI)
    assert not SubscriberPolicy(sim).is_locked_out(told)
    assert SubscriberPolicy(sim).is_locked_out(OTHER_DEVICE)
    assert SubscriberPolicy(sim).is_locked_out("")
    assert not SubscriberPolicy(replace(sim, imei_lock="")).is_locked_out("")


@played
async def test_a_new_speed_class_takes_effect_in_the_open_session(stage: Stage) -> None:
    await change_unseen(stage, speed_class="s1.standard")
    held = stage.node.held["vg-1"]
    session = await attach(stage, qos=Qos(ambr_up_kbps=1_000, ambr_down_kbps=100))
    assert (ambr(session), limits(bearer_of(session, epoch=1, label=LABEL))) == ((512, 100), (512, 100))
    updated: list[Bearer] = []
    told: list[Session] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(held.user_plane, "update", updated.append)
        patch.setattr(held.gtp, "changed", told.append)
        before = stage.clock.monotonic()
        await customer(stage).update_speed_class(OPERATOR, session.sim_id, "s1.4xfast")
        assert stage.clock.monotonic() - before < 1
    (faster,) = stage.open_sessions()
    assert (faster.session_id, faster.speed_class) == (session.session_id, "s1.4xfast")
    assert ambr(faster) == (1_000, 100), "what it asked for, as the class allows it now"
    assert [limits(bearer) for bearer in updated] == [(1_000, 100)]
    assert told == [faster]
    assert list(await stage.node._world.store.sessions.of_sim(session.sim_id)) == [faster]
    assert [event.kind for event in await events(stage)] == [
        SessionEventKind.MODIFIED,
        SessionEventKind.CREATED,
    ]
    await customer(stage).update_speed_class(OPERATOR, session.sim_id, "s1.4xfast")
    assert len(await events(stage)) == 2, "the same again changes nothing"


@played
async def test_what_follows_a_new_speed_class_is_charged_by_it(stage: Stage) -> None:
    held = stage.node.held["vg-1"]
    session = await attach(stage)
    for speed_class in ("s1.fast", "s1.minimum"):
        await asyncio.sleep(2 * REPORT_S)
        await customer(stage).update_speed_class(OPERATOR, session.sim_id, speed_class)
    await asyncio.sleep(2 * REPORT_S)
    counters = held.user_plane.counters(session.session_id)
    assert counters is not None
    assert counters.previous is not None
    labels = [counters.previous.label.speed_class, counters.current.label.speed_class]
    assert labels == ["s1.fast", "s1.minimum"]


@played
async def test_a_peer_that_asks_anew_gets_no_more_than_the_class(stage: Stage) -> None:
    await change_unseen(stage, speed_class="s1.standard")
    session = await attach(stage, qos=Qos(ambr_up_kbps=200, ambr_down_kbps=200))
    wish = Qos(qci=7, ambr_up_kbps=10_000)
    session = await sessions_of(stage).modify(ModifySession(session.session_id, qos=wish))
    assert (session.qos.qci, ambr(session)) == (7, (512, 200))
    await customer(stage).update_speed_class(OPERATOR, session.sim_id, "s1.8xfast")
    assert ambr(stage.open_sessions()[0]) == (10_000, 200)


@played
async def test_what_a_nas_counts_keeps_its_class_until_its_session_ends(stage: Stage) -> None:
    await change_unseen(stage, speed_class="s1.standard")
    nas = await stage.nas()
    at_nas = await nas.attach(imsi=stage.imsi, apn=APN)
    at_nas.carry(10, 20)
    await nas.report(at_nas)
    await customer(stage).update_speed_class(OPERATOR, stage.sims[0].sim.sim_id, "s1.fast")
    at_nas.carry(1, 2)
    await nas.detach(at_nas)
    day = stage.clock.now()
    rows = await stage.node._world.store.usage.of_day(stage.imsi, int(day.strftime("%Y%m%d")))
    assert {row.label.speed_class for row in rows} == {"s1.standard"}
    await nas.attach(imsi=stage.imsi, apn=APN)
    assert stage.open_sessions()[0].speed_class == "s1.fast"


@played
async def test_sims_reach_each_other_within_a_group_that_permits_it(stage: Stage) -> None:
    groups = groups_of(stage)
    await put_group(stage, "pumps", {})
    await put_group(stage, "valves", TOGETHER)
    sims, sim_id = customer(stage), stage.sims[0].sim.sim_id
    await change_unseen(stage, group_id="pumps")
    assert (await attach(stage)).closed_group == ""

    async def reach() -> str:
        await asyncio.sleep(0.5)
        (session,) = stage.open_sessions()
        bearer = bearer_of(session, epoch=1, label=LABEL)
        assert bearer.closed_group == session.closed_group
        return bearer.closed_group

    await groups.put_configuration(OPERATOR, "pumps", "SoracomAir", TOGETHER)
    assert await reach() == f"{OPERATOR}/pumps"
    await sims.set_group(OPERATOR, sim_id, "valves")
    assert await reach() == f"{OPERATOR}/valves"
    await groups.delete_configuration(OPERATOR, "valves", "SoracomAir", "gatePrivacySeparatorEnabled")
    assert await reach() == ""
    await groups.put_configuration(OPERATOR, "valves", "SoracomAir", TOGETHER)
    assert await reach() == f"{OPERATOR}/valves"
    await stage.restart_node()
    assert await reach() == f"{OPERATOR}/valves"
    await groups_of(stage).delete(OPERATOR, "valves")
    assert await reach() == ""


@pytest.mark.parametrize("value", [True, None, 0, "false", {}])
def test_a_group_permits_nothing_but_by_saying_so(value: object) -> None:
    air = {"gatePrivacySeparatorEnabled": value}
    assert not SubscriberPolicy(sim_of(1), Group("g", OPERATOR, NOW, NOW, {"SoracomAir": air})).reaches_group
    assert not SubscriberPolicy(sim_of(1)).reaches_group


@pytest.mark.parametrize(
    "air",
    [
        {"authentication": None},
        {"authentication": {}},
        {"authenticationRequired": False, "username": "meter", "password": "open sesame"},
        {"username": "meter", "password": "open sesame"},
    ],
)
def test_a_group_demands_no_password_but_by_saying_so(air: Mapping[str, Any]) -> None:
    assert SubscriberPolicy(sim_of(1), Group("g", OPERATOR, NOW, NOW, {"SoracomAir": air})).password is None


@played
async def test_a_session_in_another_device_ends_when_the_sim_is_locked(stage: Stage) -> None:
    sims, sim_id = customer(stage), stage.sims[0].sim.sim_id
    session = await attach(stage, imei=SAME_DEVICE)
    await sims.set_imei_lock(OPERATOR, sim_id, IMEI)
    assert stage.open_sessions() == [session]
    await sims.set_imei_lock(OPERATOR, sim_id, OTHER_DEVICE)
    assert stage.open_sessions() == []
    assert (await events(stage))[0].cause == CloseReason.CUSTOMER.value
    with pytest.raises(Refused) as caught:
        await attach(stage, imei=IMEI)
    assert caught.value.reason is AttachRefusal.IMEI_MISMATCH
    await sims.unset_imei_lock(OPERATOR, sim_id)
    await attach(stage, imei=IMEI)
    assert (await sims.set_imei_lock(OPERATOR, sim_id, "")).imei_lock == IMEI, "that of the device it is in"


@played
async def test_no_lock_without_an_imei(stage: Stage) -> None:
    for imei in ("", "49015420323", "49015420323751x", "4" * 17, "٤" * 15):
        with pytest.raises(Refused) as caught:
            await customer(stage).set_imei_lock(OPERATOR, stage.sims[0].sim.sim_id, imei)
        assert caught.value.reason is RequestRefusal.INVALID_FIELD


@played
async def test_a_session_that_moves_into_another_device_than_its_sims_ends(stage: Stage) -> None:
    await change_unseen(stage, imei_lock=IMEI)
    session = await attach(stage, imei=IMEI)
    moved = await sessions_of(stage).modify(ModifySession(session.session_id, imei=SAME_DEVICE))
    assert moved.imei == SAME_DEVICE
    with pytest.raises(Refused) as caught:
        await sessions_of(stage).modify(ModifySession(session.session_id, imei=OTHER_DEVICE))
    assert caught.value.reason is AttachRefusal.IMEI_MISMATCH
    assert stage.open_sessions() == []


@played
async def test_a_group_may_demand_a_password_of_gtp_too(stage: Stage) -> None:
    own = {"authentication": {"username": "meter", "password": "open sesame"}}
    contracts = {"authenticationRequired": True, "username": "meter", "password": "open sesame"}
    for group_id, demanded in (("own", own), ("contracts", contracts)):
        await put_group(stage, group_id, demanded)
        await change_unseen(stage, group_id=group_id)
        for proof in (None, Credentials("meter", b"wrong").prove, Credentials("other", b"open sesame").prove):
            with pytest.raises(Refused) as caught:
                await attach(stage, proof=proof)
            assert caught.value.reason is AttachRefusal.WRONG_PASSWORD
        assert (await events(stage))[0].cause == "wrong_password"
        await attach(stage, proof=Credentials("meter", b"open sesame").prove)


def test_a_gateway_that_was_not_told_finds_out_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.services.cluster.reconciler, "ROUND_S", 60.0)

    @played
    async def script(stage: Stage) -> None:
        session = await attach(stage, imei=IMEI)
        await change_unseen(stage, speed_class="s1.slow")
        await stage.restart_node()
        await asyncio.sleep(1)
        assert ambr(stage.open_sessions()[0]) == (128, 128), "when it is taken up again"
        await change_unseen(stage, speed_class="s1.fast")
        await asyncio.sleep(61)
        (session,) = stage.open_sessions()
        assert ambr(session) == (2_000, 2_000), "else within one round"
        await change_unseen(stage, status=SimStatus.SUSPENDED)
        await asyncio.sleep(61)
        assert stage.open_sessions() == []

    script()  # type: ignore[call-arg]  # the stage is the decorator's


@played
async def test_a_store_that_is_away_delays_a_change_and_loses_none(stage: Stage) -> None:
    await change_unseen(stage, speed_class="s1.standard")
    session = await attach(stage)
    stage.store_rates.before = 1.0
    with pytest.raises(Unavailable):
        await customer(stage).update_speed_class(OPERATOR, session.sim_id, "s1.slow")
    stage.store_rates.before = 0.0
    await change_unseen(stage, speed_class="s1.slow")
    reconciler = stage.node.held["vg-1"].reconciler
    stage.store_rates.before = 1.0
    await reconciler.group_changed(OPERATOR, "")
    await asyncio.sleep(3)
    assert ambr(stage.open_sessions()[0]) == (512, 512)
    stage.store_rates.before = 0.0
    await asyncio.sleep(2)
    assert ambr(stage.open_sessions()[0]) == (128, 128)


@played
async def test_a_sim_has_so_many_sessions_and_no_more(stage: Stage) -> None:
    opened = [await attach(stage, nsapi=nsapi, access=Access.GTPV1) for nsapi in range(5, 16)]
    with pytest.raises(Refused) as caught:
        await attach(stage, nsapi=16, access=Access.GTPV1)
    assert caught.value.reason is AttachRefusal.TOO_MANY_SESSIONS
    assert stage.open_sessions() == opened
    assert (await events(stage))[0].cause == "too_many_sessions"
    again = await attach(stage, nsapi=15, access=Access.GTPV1)
    assert stage.open_sessions() == [*opened[:-1], again], "one that takes another's place is none more"


@played
async def test_where_a_session_goes_is_told_in_its_history(stage: Stage) -> None:
    session = await attach(stage)
    places = [Location("44010", "LTE", "aa", Cell(440, 10, tac=1, eci=2)), Location("44020", "GSM", "bb")]
    for place in places:
        await asyncio.sleep(1)
        await sessions_of(stage).modify(ModifySession(session.session_id, location=place))
    told = await events(stage)
    assert [(event.kind.value, event.location.plmn, event.location.rat) for event in told] == [
        ("Modified", "44020", "GSM"),
        ("Modified", "44010", "LTE"),
        ("Created", "", ""),
    ]
    assert told[1].location.cell == Cell(440, 10, tac=1, eci=2)
