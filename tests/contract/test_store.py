"""What every store must do. Another adapter is one more line in ``stores.OPENERS``."""

import asyncio
from datetime import timedelta
from ipaddress import IPv6Network

import pytest

from core.adapters.store import sessions as sessions_module
from core.adapters.store.engine import BATCH_WRITES_MAX, SCAN_ROWS_MAX, Batch, Condition, Delete, Put
from core.adapters.store.rows import SETTLE_US
from core.adapters.store.tables import (
    EVENT_LIFE_US,
    OUTBOX,
    SESSION_BY_GATEWAY,
    SIM,
    SIM_BY_IMSI,
    SIM_BY_OPERATOR,
    SIM_GROUP,
)
from core.domain.account import AuthKey, Group, Operator
from core.domain.consumer import SHARD_END, ShardLease
from core.domain.flow import DedicatedBearer, PacketFilter
from core.domain.gateway import GatewayLease
from core.domain.session import PdnType, QuarantinedResources, SessionEventKind
from core.domain.sim import SimStatus, Subscriber
from core.domain.values import replace
from core.errors import StaleVersion
from core.ports.store import PAGE_MAX, Quarantined, Store
from tests.contract.stores import (
    LATER,
    NOW,
    World,
    event_of,
    outcomes,
    report_of,
    session_of,
    sim_of,
)

OPERATOR_1 = Operator("OP0000000001", "Root@Example.com", NOW, NOW)
OPERATOR_2 = Operator("OP0000000002", "other@example.com", NOW, NOW)
SETTLED = timedelta(microseconds=SETTLE_US + 1)


def as_port(store: Store) -> Store:
    return store


# -- accounts -----------------------------------------------------------------------------------------


async def test_an_operator_is_found_by_id_and_address(world: World) -> None:
    accounts = as_port(world.store).accounts
    stored = await accounts.put_operator(OPERATOR_1)
    assert stored == replace(OPERATOR_1, version=1, is_listed=True)
    await world.reopen()
    accounts = world.store.accounts
    assert await accounts.operator("OP0000000001") == stored
    assert await accounts.operator_id_of_email("ROOT@example.com") == "OP0000000001"
    assert await accounts.operator("OP0000000002") is None
    assert await accounts.operator_id_of_email("nobody@example.com") is None


async def test_an_address_belongs_to_one_operator(world: World) -> None:
    accounts = world.store.accounts
    first = await accounts.put_operator(OPERATOR_1)
    with pytest.raises(StaleVersion, match=r"root@example\.com"):
        await accounts.put_operator(replace(OPERATOR_2, email="root@EXAMPLE.com"))
    assert await accounts.operator("OP0000000002") is None
    await accounts.put_operator(replace(first, email="new@example.com"))
    assert await accounts.operator_id_of_email("root@example.com") is None
    assert await accounts.operator_id_of_email("new@example.com") == "OP0000000001"
    await accounts.put_operator(replace(OPERATOR_2, email="root@example.com"))


async def test_a_closed_operator_stays_and_frees_its_address(world: World) -> None:
    accounts = world.store.accounts
    stored = await accounts.put_operator(OPERATOR_1)
    await world.store.sims.put(sim_of(1, operator_id="OP0000000001"))
    assert [each.operator_id for each in (await accounts.open_operators()).items] == ["OP0000000001"]
    for _ in range(2):
        stored = await accounts.put_operator(replace(stored, closed=NOW))
    assert await accounts.operator("OP0000000001") == stored
    assert await accounts.operator_id_of_email("root@example.com") is None
    assert (await accounts.open_operators()).items == ()
    assert len((await world.store.sims.of_operator("OP0000000001")).items) == 1
    await accounts.put_operator(replace(OPERATOR_2, email="root@example.com"))
    assert [each.operator_id for each in (await accounts.open_operators()).items] == ["OP0000000002"]


async def test_operators_are_listed_in_pages(world: World) -> None:
    accounts = world.store.accounts
    ids = [f"OP000000000{number}" for number in range(5)]
    for number, operator_id in enumerate(ids):
        await accounts.put_operator(Operator(operator_id, f"{number}@example.com", NOW, NOW))
    first = await accounts.open_operators(limit=2)
    rest = await accounts.open_operators(after=first.next_key, limit=3)
    assert [each.operator_id for each in (*first.items, *rest.items)] == ids
    assert rest.next_key == ""


async def test_new_sims_are_put_side_by_side_and_who_comes_second_is_refused(world: World) -> None:
    sims = world.store.sims
    one, two, three = (sim_of(number) for number in (1, 2, 3))
    await sims.put(one)
    thief = replace(three, sim_id="8981100000000000099", subscribers=one.subscribers)
    twice = replace(three, sim_id="8981100000000000098")
    stored = await sims.put_new([one, two, thief, three, twice])
    assert [sim and (sim.sim_id, sim.version) for sim in stored] == [
        None, (two.sim_id, 1), None, (three.sim_id, 1), None,
    ]  # fmt: skip
    await world.reopen()
    sims = world.store.sims
    assert await sims.get_many([two.sim_id, thief.sim_id, three.sim_id]) == [stored[1], None, stored[3]]
    assert await sims.sim_id_of_imsi(one.imsi) == one.sim_id
    assert await sims.sim_id_of_imsi(two.imsi) == two.sim_id
    assert [sim.sim_id for sim in (await sims.of_operator(two.operator_id)).items].count(two.sim_id) == 1


async def test_auth_keys(world: World) -> None:
    accounts = world.store.accounts
    keys = [AuthKey(f"keyId-{number}", "OP0000000001", "ab" * 32, NOW, "user") for number in range(3)]
    for key in reversed(keys):
        await accounts.put_auth_key(key)
    await accounts.put_auth_key(AuthKey("keyId-9", "OP0000000002", "cd" * 32, NOW))
    await accounts.put_auth_key(replace(keys[0], user_name="renamed"))
    assert await accounts.auth_key("keyId-1") == keys[1]
    assert [key.user_name for key in await accounts.auth_keys_of("OP0000000001")] == [
        "renamed",
        "user",
        "user",
    ]
    for _ in range(2):
        await accounts.delete_auth_key(keys[1])
    assert await accounts.auth_key("keyId-1") is None
    assert [k.auth_key_id for k in await accounts.auth_keys_of("OP0000000001")] == ["keyId-0", "keyId-2"]


async def test_a_revoked_token_is_forgotten_after_its_time(world: World) -> None:
    accounts = world.store.accounts
    await accounts.revoke_token("t1", NOW + timedelta(hours=1))
    await accounts.revoke_token("t1", NOW + timedelta(hours=1))
    assert await accounts.is_revoked("t1")
    assert not await accounts.is_revoked("t2")
    world.clock.at += timedelta(hours=1)
    assert not await accounts.is_revoked("t1")


# -- the registry -------------------------------------------------------------------------------------


async def test_a_sim_is_found_by_id_and_every_imsi(world: World) -> None:
    sim = replace(
        sim_of(1), subscribers=(Subscriber("001010000000001"), Subscriber("001010000000002", "8190"))
    )
    stored = await world.store.sims.put(sim)
    await world.reopen()
    sims = as_port(world.store).sims
    assert await sims.get(sim.sim_id) == stored == replace(sim, version=1)
    assert await sims.sim_id_of_imsi("001010000000001") == sim.sim_id
    assert await sims.sim_id_of_imsi("001010000000002") == sim.sim_id
    assert await sims.sim_id_of_imsi("001010000000003") is None
    assert await sims.get("") is None


async def test_a_sim_is_written_only_over_the_version_that_was_read(world: World) -> None:
    sims = world.store.sims
    with pytest.raises(StaleVersion):
        await sims.put(replace(sim_of(1), version=3))
    first = await sims.put(sim_of(1))
    with pytest.raises(StaleVersion):
        await sims.put(sim_of(1))
    second = await sims.put(replace(first, status=SimStatus.READY))
    with pytest.raises(StaleVersion):
        await sims.put(first)
    assert await sims.get(first.sim_id) == second


async def test_of_racing_writers_exactly_one_wins(world: World) -> None:
    first = await world.store.sims.put(sim_of(1))
    wanted = [replace(first, speed_class=f"class-{number}") for number in range(10)]
    results = await outcomes(*(world.store.sims.put(sim) for sim in wanted))
    won = [result for result in results if not isinstance(result, StaleVersion)]
    assert len(won) == 1
    assert won == [await world.store.sims.get(first.sim_id)]


async def test_an_imsi_stays_with_its_sim(world: World) -> None:
    sims = world.store.sims
    await sims.put(sim_of(1))
    with pytest.raises(StaleVersion, match="001010000000001"):
        await sims.put(replace(sim_of(2), subscribers=sim_of(1).subscribers))
    assert await sims.get(sim_of(2).sim_id) is None
    assert await sims.sim_id_of_imsi(sim_of(1).imsi) == sim_of(1).sim_id


async def test_a_registered_sim_is_listed_under_its_new_operator_only(world: World) -> None:
    sims = world.store.sims
    stock = await sims.put(sim_of(1))
    assert (await sims.of_operator("")).items == (stock,)
    mine = await sims.put(replace(stock, operator_id="OP0000000001", status=SimStatus.READY))
    assert (await sims.of_operator("OP0000000001")).items == (mine,)
    assert (await sims.of_operator("")).items == ()
    assert await world.engine.scan(SIM_BY_OPERATOR, ("-",)) == []
    with pytest.raises(StaleVersion):
        await sims.put(replace(stock, operator_id="OP0000000002"))
    assert (await sims.of_operator("OP0000000002")).items == ()


async def test_a_crash_between_index_rows_and_sim_is_mended_by_repeating(world: World) -> None:
    sim = sim_of(1, operator_id="OP0000000001")
    now_us = int(NOW.timestamp()) * 1_000_000
    await world.engine.write(
        Batch(SIM_BY_IMSI, (sim.imsi,), (Put((), (sim.sim_id, now_us), 1),), Condition((), 0)),
        Batch(SIM_BY_OPERATOR, ("OP0000000001",), (Put((sim.sim_id,), ()),)),
    )
    await world.reopen()
    sims = world.store.sims
    assert await sims.sim_id_of_imsi(sim.imsi) is None
    assert (await sims.of_operator("OP0000000001")).items == ()
    other = replace(sim_of(2), subscribers=sim.subscribers)
    with pytest.raises(StaleVersion):
        await sims.put(other)  # the first writer's write may still be pending
    stored = await sims.put(sim)
    assert await sims.sim_id_of_imsi(sim.imsi) == sim.sim_id
    assert (await sims.of_operator("OP0000000001")).items == (stored,)


async def test_an_imsi_that_a_crash_left_bound_is_free_after_a_while(world: World) -> None:
    now_us = int(NOW.timestamp()) * 1_000_000
    binding = Put((), (sim_of(1).sim_id, now_us), 1)
    await world.engine.write(Batch(SIM_BY_IMSI, (sim_of(1).imsi,), (binding,), Condition((), 0)))
    world.clock.at += SETTLED
    other = await world.store.sims.put(replace(sim_of(2), subscribers=sim_of(1).subscribers))
    assert await world.store.sims.sim_id_of_imsi(sim_of(1).imsi) == other.sim_id
    with pytest.raises(StaleVersion):
        await world.store.sims.put(sim_of(1))


async def test_pages_of_sims_pass_over_rows_without_a_sim(world: World) -> None:
    sims = world.store.sims
    for number in range(25):
        if number % 5 == 2:
            dangling = Put((sim_of(number).sim_id,), ())
            await world.engine.write(Batch(SIM_BY_OPERATOR, ("OP0000000001",), (dangling,)))
        else:
            await sims.put(sim_of(number, operator_id="OP0000000001"))
    seen, sizes, after = [], [], ""
    while True:
        page = await sims.of_operator("OP0000000001", after=after, limit=7)
        seen += [sim.sim_id for sim in page.items]
        sizes.append(len(page.items))
        if not (after := page.next_key):
            break
    assert seen == [sim_of(number).sim_id for number in range(25) if number % 5 != 2]
    assert sizes == [7, 7, 6]
    exact = await sims.of_operator("OP0000000001", limit=20)
    assert len(exact.items) == 20
    assert exact.next_key == ""


async def test_a_page_holds_no_more_than_its_maximum(world: World) -> None:
    for start in range(0, PAGE_MAX + 5, BATCH_WRITES_MAX):
        numbers = range(start, min(start + BATCH_WRITES_MAX, PAGE_MAX + 5))
        group = '{{"group_id":"{:05d}","operator_id":"OP1","created":"{}","modified":"{}"}}'
        puts = tuple(
            Put((f"{n:05d}",), (group.format(n, NOW.isoformat(), NOW.isoformat()),), 1) for n in numbers
        )
        await world.engine.write(Batch(SIM_GROUP, ("OP1",), puts))
    page = await world.store.groups.of_operator("OP1", limit=PAGE_MAX + 100)
    assert len(page.items) == PAGE_MAX
    rest = await world.store.groups.of_operator("OP1", after=page.next_key, limit=PAGE_MAX)
    assert [group.group_id for group in rest.items] == [f"{PAGE_MAX + n:05d}" for n in range(5)]


async def test_events_wait_in_the_outbox_until_they_are_sent(world: World) -> None:
    one, two = sim_of(1, operator_id="OP1"), sim_of(2, operator_id="OP1")
    began, other = event_of(one, 1), event_of(two, 2)
    stored = await world.store.sessions.put(session_of(one), began)
    await world.store.sessions.put(session_of(two), other)
    ended = event_of(one, 3, kind=SessionEventKind.DELETED)
    await world.store.sessions.close(stored, ended)
    await world.store.sessions.record(event_of(two, 4, kind=SessionEventKind.REJECTED))
    await world.reopen()
    sessions = as_port(world.store).sessions
    assert await sessions.outbox("vg-1", limit=10) == [began, other, ended]
    assert await sessions.outbox("vg-1", limit=2) == [began, other]
    assert await sessions.outbox("vg-2", limit=10) == []
    for _ in range(2):
        await sessions.sent("vg-1", [began, ended])
    assert await sessions.outbox("vg-1", limit=10) == [other]


async def test_more_events_are_sent_at_once_than_a_batch_has_writes(world: World) -> None:
    sims = [sim_of(number, operator_id="OP1") for number in range(5 * BATCH_WRITES_MAX)]
    events = [event_of(sim, number) for number, sim in enumerate(sims)]
    for sim, event in zip(sims, events, strict=True):
        await world.store.sessions.put(session_of(sim), event)
    await world.store.sessions.sent("vg-1", events)
    assert not await rows_of_outbox(world)


async def test_an_outbox_row_without_an_event_is_ignored_and_later_removed(world: World) -> None:
    """A crash, or another version, came between the two writes: an event that never happened is not sent."""
    sim = sim_of(1, operator_id="OP1")
    with pytest.raises(StaleVersion):
        await world.store.sessions.put(replace(session_of(sim), version=7), event_of(sim))
    assert await world.store.sessions.outbox("vg-1", limit=10) == []
    assert await rows_of_outbox(world)
    world.clock.at += SETTLED
    assert await world.store.sessions.outbox("vg-1", limit=10) == []
    assert not await rows_of_outbox(world)


async def rows_of_outbox(world: World) -> list[object]:
    return [row for bucket in range(4) for row in await world.engine.scan(OUTBOX, ("vg-1", bucket))]


# -- groups -------------------------------------------------------------------------------------------


async def test_groups(world: World) -> None:
    groups = as_port(world.store).groups
    group = Group("g1", "OP1", NOW, NOW, {"SoracomAir": {"useCustomDns": True, "n": [1, None]}}, {"a": "b"})
    stored = await groups.put(group)
    assert await groups.get("OP1", "g1") == stored == replace(group, version=1)
    assert await groups.get("OP2", "g1") is None
    with pytest.raises(StaleVersion):
        await groups.put(group)
    await groups.put(replace(group, operator_id="OP2"))
    await groups.put(replace(group, group_id="g0"))
    page = await groups.of_operator("OP1", limit=1)
    assert [g.group_id for g in page.items] == ["g0"]
    assert [g.group_id for g in (await groups.of_operator("OP1", after=page.next_key)).items] == ["g1"]
    for _ in range(2):
        await groups.delete("OP1", "g1")
    assert await groups.get("OP1", "g1") is None
    assert await groups.get("OP2", "g1") is not None


# -- sessions -----------------------------------------------------------------------------------------


async def test_a_session_and_its_event_are_stored_together(world: World) -> None:
    sim = sim_of(1, operator_id="OP1")
    stored = await world.store.sessions.put(session_of(sim), event_of(sim))
    assert stored == replace(session_of(sim), version=1)
    await world.reopen()
    sessions = as_port(world.store).sessions
    assert await sessions.of_sim(sim.sim_id) == [stored]
    assert [session async for session in sessions.of_gateway("vg-1")] == [stored]
    assert [session async for session in sessions.of_gateway("vg-2")] == []
    page = await sessions.events(sim.sim_id, since=NOW, until=NOW)
    assert page.items == (event_of(sim),)


async def test_a_session_comes_back_with_prefix_and_dedicated_bearers(world: World) -> None:
    sim = sim_of(1)
    telephony = PacketFilter(1, 1, remote="192.0.2.0/24", protocol=17, remote_ports=(5_060, 5_061))
    wanted = replace(
        session_of(sim),
        pdn_type=PdnType.IPV4V6,
        ue_prefix=IPv6Network("2001:db8:0:2::/64"),
        dedicated=(DedicatedBearer(6, 1, 0x3C, (telephony,), 5, 6, "127.0.1.1", 5),),
    )
    stored = await world.store.sessions.put(wanted, event_of(sim))
    assert await world.store.sessions.of_sim(sim.sim_id) == [stored]
    assert stored == replace(wanted, version=1)


async def test_neither_session_nor_event_is_stored_over_another_version(world: World) -> None:
    sim, sessions = sim_of(1), world.store.sessions
    first = await sessions.put(session_of(sim), event_of(sim))
    for stale in (session_of(sim), replace(first, version=2)):
        with pytest.raises(StaleVersion):
            await sessions.put(stale, event_of(sim, 2))
    second = await sessions.put(replace(first, imei="1"), event_of(sim, 3))
    assert second.version == 2
    assert await sessions.of_sim(sim.sim_id) == [second]
    events = await sessions.events(sim.sim_id, since=NOW, until=NOW)
    assert [event.event_id[-1] for event in events.items] == ["3", "1"]


@pytest.mark.parametrize("version_known", [0, 1, 2, 9])
async def test_a_session_is_closed_whatever_its_stored_version(world: World, version_known: int) -> None:
    sim, sessions = sim_of(1), world.store.sessions
    first = await sessions.put(session_of(sim), event_of(sim))
    await sessions.put(first, event_of(sim, 2))
    closing = event_of(sim, 3, at=LATER, kind=SessionEventKind.DELETED)
    for _ in range(2):
        await sessions.close(replace(first, version=version_known), closing)
    assert await sessions.of_sim(sim.sim_id) == []
    assert [session async for session in sessions.of_gateway("vg-1")] == []
    events = await sessions.events(sim.sim_id, since=LATER, until=LATER)
    assert events.items == (closing,)


async def test_sessions_of_a_sim_are_listed_oldest_first_and_apart_from_others(world: World) -> None:
    sim, sessions = sim_of(1), world.store.sessions
    await world.store.sims.put(sim)
    for number in (3, 1, 2):
        await sessions.put(session_of(sim, number), event_of(sim, number))
    await sessions.put(session_of(sim_of(2), 4), event_of(sim_of(2), 4))
    assert [s.session_id[-1] for s in await sessions.of_sim(sim.sim_id)] == ["1", "2", "3"]
    assert await world.store.sims.get(sim.sim_id) == replace(sim, version=1)


async def test_a_gateway_finds_all_its_sessions(world: World) -> None:
    sim, sessions = sim_of(1), world.store.sessions
    await asyncio.gather(
        *(sessions.put(session_of(sim, n, gateway_id=f"vg-{n % 2}"), event_of(sim, n)) for n in range(100))
    )
    found = [each.session_id async for each in sessions.of_gateway("vg-1")]
    assert sorted(found) == [f"{n:032x}" for n in range(1, 100, 2)]


async def test_an_index_row_without_a_session_rests_what_it_names_and_is_later_removed(world: World) -> None:
    sim, sessions = sim_of(1), world.store.sessions
    stored = await sessions.put(session_of(sim), event_of(sim))
    partition = sessions_module._index_of(stored)
    await world.engine.write(
        Batch(SIM, (sim.sim_id,), (Delete(sessions_module._session_key(stored.session_id)),))
    )
    in_quarantine = QuarantinedResources(stored.session_id, stored.ue_address, stored.teids)
    assert [each async for each in sessions.of_gateway("vg-1")] == [in_quarantine]
    assert len(await world.engine.scan(SESSION_BY_GATEWAY, partition)) == 1
    world.clock.at += SETTLED
    assert [session async for session in sessions.of_gateway("vg-1")] == []
    assert await world.engine.scan(SESSION_BY_GATEWAY, partition) == []


async def test_history_is_read_by_time_newest_first_in_pages(world: World) -> None:
    sim, sessions = sim_of(1), world.store.sessions
    minutes = [NOW + timedelta(minutes=n) for n in range(10)]
    for number, at in enumerate(minutes):
        rejected = event_of(sim, number, at=at, kind=SessionEventKind.REJECTED)
        for _ in range(2):
            await sessions.record(rejected)
    first = await sessions.events(sim.sim_id, since=minutes[2], until=minutes[8], limit=4)
    assert [event.at for event in first.items] == minutes[8:4:-1]
    second = await sessions.events(
        sim.sim_id, since=minutes[2], until=minutes[8], after=first.next_key, limit=4
    )
    assert [event.at for event in second.items] == minutes[4:1:-1]
    assert second.next_key == ""
    none = await sessions.events("other", since=minutes[0], until=minutes[9])
    assert none.items == ()


async def test_history_is_kept_32_days(world: World) -> None:
    sim, sessions = sim_of(1), world.store.sessions
    await sessions.record(event_of(sim))
    world.clock.at += timedelta(microseconds=EVENT_LIFE_US - 1)
    assert len((await sessions.events(sim.sim_id, since=NOW, until=world.clock.at)).items) == 1
    world.clock.at += timedelta(microseconds=1)
    assert (await sessions.events(sim.sim_id, since=NOW, until=world.clock.at)).items == ()


# -- usage --------------------------------------------------------------------------------------------


async def test_the_highest_timestamp_of_a_row_wins(world: World) -> None:
    usage = as_port(world.store).usage
    await usage.record([])
    await usage.record([report_of(5), report_of(9), report_of(7)])
    await usage.record([report_of(8)])
    await usage.record([report_of(9)])
    assert await usage.of_day("001010000000001", 20261130) == [report_of(9)]


async def test_usage_of_a_day_is_every_row_in_order(world: World) -> None:
    reports = [
        report_of(1, slot=0),
        report_of(2, slot=9),
        report_of(3, slot=10, session="s1", epoch=2),
        report_of(4, slot=10, session="s1", epoch=10),
        report_of(5, slot=10, session="s1", epoch=10, segment=1),
        report_of(6, slot=10, session="s2"),
        report_of(7, slot=287),
    ]
    others = [replace(report_of(8), day=20261201), replace(report_of(8), imsi="001010000000002")]
    await world.store.usage.record([*reversed(reports), *others])
    await world.reopen()
    assert await world.store.usage.of_day("001010000000001", 20261130) == reports
    assert await world.store.usage.of_day("001010000000001", 20261129) == []


async def test_a_day_may_have_more_rows_than_a_scan(world: World) -> None:
    reports = [report_of(n, slot=n % 288, segment=n // 288) for n in range(1, SCAN_ROWS_MAX + 200)]
    await world.store.usage.record(reports)
    found = await world.store.usage.of_day("001010000000001", 20261130)
    assert sorted(r.volume.up_bytes for r in found) == list(range(1, SCAN_ROWS_MAX + 200))


async def test_a_row_is_inserted_once(world: World) -> None:
    usage = world.store.usage
    results = await outcomes(*(usage.insert_if_absent(report_of(n)) for n in range(1, 6)))
    assert sorted(map(bool, results)) == [False] * 4 + [True]
    await usage.record([report_of(3, slot=8)])
    assert not await usage.insert_if_absent(report_of(4, slot=8))
    assert len(await usage.of_day("001010000000001", 20261130)) == 2


async def test_a_restart_of_a_nas_is_dated_once(world: World) -> None:
    restarts, now = world.store.nas_restarts, NOW
    later = now + timedelta(days=3)
    assert await restarts.first_heard("192.0.2.0/24", b"a" * 16, now) == now
    assert await restarts.first_heard("192.0.2.0/24", b"a" * 16, later) == now
    assert await restarts.first_heard("192.0.2.0/24", b"b" * 16, later) == later
    assert await restarts.first_heard("192.0.3.0/24", b"a" * 16, later) == later


async def test_quarantine(world: World) -> None:
    usage = world.store.usage
    items = [Quarantined(report_of(n), "went down") for n in (1, 2)]
    for item in [*items, items[0]]:
        await usage.quarantine(item)
    assert await usage.quarantined(20261130) == items
    assert await usage.quarantined(20261201) == []
    assert await usage.of_day("001010000000001", 20261130) == []


# -- leases -------------------------------------------------------------------------------------------


async def test_a_node_proves_that_rows_are_taken_and_nobody_else_sees_its_row(world: World) -> None:
    store = as_port(world.store)
    for _ in range(2):
        await store.prove("vg-1")
    assert await store.leases.get("vg-1") is None


async def test_a_lease_is_compared_and_set(world: World) -> None:
    leases = as_port(world.store).leases
    lease = GatewayLease("vg-1", "a", 1, NOW)
    assert await leases.get("vg-1") is None
    results = await outcomes(leases.put(lease), leases.put(replace(lease, owner="b")))
    won = [result for result in results if isinstance(result, GatewayLease)]
    assert len(won) == 1
    assert await leases.get("vg-1") == won[0]
    renewed = await leases.put(replace(won[0], fence=2))
    with pytest.raises(StaleVersion):
        await leases.put(won[0])
    await world.reopen()
    assert await world.store.leases.get("vg-1") == renewed


async def test_shard_leases_are_per_application_and_compared_and_set(world: World) -> None:
    leases = as_port(world.store).shard_leases
    lease = ShardLease("meter", "shardId-000000000001", "a", 1, NOW)
    assert await leases.of_application("meter") == []
    results = await outcomes(leases.put(lease), leases.put(replace(lease, owner="b")))
    won = [result for result in results if isinstance(result, ShardLease)]
    assert len(won) == 1
    moved = await leases.put(replace(won[0], checkpoint="4957"))
    with pytest.raises(StaleVersion):
        await leases.put(replace(won[0], checkpoint="4000"))
    first = await leases.put(replace(lease, shard_id="shardId-000000000000", checkpoint=SHARD_END))
    await leases.put(replace(lease, application="archive"))
    await world.reopen()
    assert await world.store.shard_leases.of_application("meter") == [first, moved]
