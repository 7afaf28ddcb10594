"""Whose a session is: two clients, and two NASes of one client, before a node in virtual time."""

import asyncio
import os
from ipaddress import IPv4Address
from typing import cast

import pytest

import radius.restarts
from core.domain.session import CloseReason, NasName, SessionEventKind
from loadtest.simulation.world import APN
from radius import attributes as a
from radius.codec import Attribute, Code, encode_access_request
from radius.notices import LINES_A_MINUTE
from tests.node.test_radius_front_end import Stage
from tests.support.radius import (
    INTERIM,
    OFF,
    ON,
    START,
    STOP,
    RadiusStage,
    RawNas,
    counters,
    imsi_of,
    number,
    play,
)

BRAS_1: Attribute = (a.NAS_IDENTIFIER, b"bras-1")
BRAS_2: Attribute = (a.NAS_IDENTIFIER, b"bras-2")


def ip(text: str) -> Attribute:
    return (a.NAS_IP_ADDRESS, IPv4Address(text).packed)


def of(stage: Stage) -> RadiusStage:
    return cast(RadiusStage, stage)


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        (NasName("a", "", "s"), NasName("a", "1", "t"), True),
        (NasName("a", "1", "s"), NasName("b", "1", "s"), False),
        (NasName("a", "1", "s"), NasName("", "1", "t"), True),
        (NasName("a", "1", "s"), NasName("", "2", "s"), False),
        (NasName("a", "", "s"), NasName("", "2", "s"), True),
        (NasName("", "", "s"), NasName("", "", "t"), False),
    ],
)
def test_a_nas_is_known_by_either_of_its_names(one: NasName, other: NasName, is_same: bool) -> None:
    assert one.is_same(other) is other.is_same(one) is is_same


@pytest.mark.parametrize("addresses", [("127.0.3.21", "127.0.3.22"), ("127.0.3.21", "127.0.4.21")])
@pytest.mark.parametrize("keeps_class", [True, False])
def test_one_number_at_two_nases_is_two_sessions(
    monkeypatch: pytest.MonkeyPatch, addresses: tuple[str, str], keeps_class: bool
) -> None:
    """Of one client's network, and of two clients: both count, both are metered."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        one = await stage.raw(addresses[0], ip(addresses[0]), BRAS_1)
        other = await stage.raw(addresses[1], ip(addresses[1]), BRAS_2)
        first = await one.attach(stage.imsi, "00000001", keeps_class=keeps_class)
        assert await first.tell(INTERIM, 50_000, 60_000)
        second = await other.attach(stage.imsi, "00000001", keeps_class=keeps_class)
        assert len(stage.open_sessions()) == 2
        assert await second.tell(STOP, 7_000, 9_000)
        assert await first.tell(STOP, 50_000, 60_000)
        assert await stage.metered() == (57_000, 69_000)
        assert stage.open_sessions() == []
        assert (one.told_to_end, other.told_to_end) == ([], [])

    play(monkeypatch, script)


def test_two_nases_may_ask_for_access_before_either_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        named = [(a.USER_NAME, stage.imsi.encode()), (a.CALLED_STATION_ID, APN.encode())]
        nases = [await stage.raw(f"127.0.3.{last}") for last in (21, 22)]
        granted = [await nas.ask(*named) for nas in nases]
        for nas, answer in zip(nases, granted, strict=True):
            assert answer is not None
            said = [(kind, answer.firsts[kind]) for kind in (a.FRAMED_IP_ADDRESS, a.CLASS)]
            assert await nas.tell(START, *named, (a.ACCT_SESSION_ID, b"1"), *said)
        assert {each.session_id for each in stage.open_sessions()} == {
            answer.firsts[a.CLASS].decode() for answer in granted if answer is not None
        }

    play(monkeypatch, script)


def test_promises_of_one_imsi_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21", ip("127.0.3.21"))
        for count in range(20):
            names = [(a.NAS_IDENTIFIER, b"bras-%d" % count), (a.USER_NAME, stage.imsi.encode())]
            answer = await nas.ask(*names, (a.CALLED_STATION_ID, APN.encode()))
            assert answer is not None and answer.code == Code.ACCESS_ACCEPT
        assert stage.node.held["vg-1"].gateway.allocated["addresses"] == 8
        await asyncio.sleep(70)

    play(monkeypatch, script)


def test_who_may_take_over_does_and_the_other_nas_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        alpha, beta = await stage.raw("127.0.3.21"), await stage.raw("127.0.4.21")
        first = await alpha.attach(stage.imsi, "A1")
        assert await first.tell(INTERIM, 5, 6)
        second = await beta.attach(stage.imsi, "B1")
        assert [each.session_id for each in stage.open_sessions()] == [second.session_id]
        await asyncio.sleep(1)
        (told,) = alpha.told_to_end
        assert told.text(a.ACCT_SESSION_ID) == "A1"
        assert await first.tell(STOP, 7, 8)
        third = await alpha.attach(stage.imsi, "A2")  # alpha may not: both stand
        assert {each.session_id for each in stage.open_sessions()} == {second.session_id, third.session_id}
        assert await stage.metered() == (7, 8)

    play(monkeypatch, script, beta={"may_take_over": ["alpha"]})


def test_the_same_nas_replaces_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        await nas.attach(stage.imsi, "A1")
        second = await nas.attach(stage.imsi, "A2")
        assert [each.session_id for each in stage.open_sessions()] == [second.session_id]
        assert nas.told_to_end == []

    play(monkeypatch, script)


MESSAGES = ("access", "start", "interim", "stop", "on", "off")


async def send(message: str, nas: RawNas, said: list[Attribute], stage: RadiusStage) -> None:
    """What another NAS may say, as cunningly as it can without being the first."""
    if message == "access":
        assert await nas.ask(*said)
        return
    status = {"start": START, "interim": INTERIM, "stop": STOP, "on": ON, "off": OFF}[message]
    assert await nas.tell(status, *said, *counters(900_000, 900_000)), "it is answered"


@pytest.mark.parametrize("other", ["127.0.3.22", "127.0.4.22"])
@pytest.mark.parametrize("message", MESSAGES)
@pytest.mark.parametrize("shows", ["class", "number"])
def test_no_message_of_another_nas_changes_a_session(
    monkeypatch: pytest.MonkeyPatch, message: str, other: str, shows: str
) -> None:
    """Two NASes of one client network, and two clients, by every message and every name of the session."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        owner = await stage.raw("127.0.3.21", ip("127.0.3.21"), BRAS_1)
        session = await owner.attach(stage.imsi, "A1")
        assert await session.tell(INTERIM, 100, 200)
        before = stage.session(session.session_id)
        thief = await stage.raw(other, ip(other), BRAS_2)
        said = [each for each in session.said if shows == "class" or each[0] != a.CLASS]
        await send(message, thief, said, stage)
        assert stage.session(session.session_id) == before
        assert owner.told_to_end == []
        mine = [each for each in stage.open_sessions() if each.session_id == session.session_id]
        assert [each.nas and each.nas.nas_identifier for each in mine] == ["bras-1"]
        up, down = await stage.metered()
        for each in stage.open_sessions():
            if each.session_id != session.session_id:  # a session of the other NAS's own, beside it
                up, down = up - 900_000 * (message == "interim"), down - 900_000 * (message == "interim")
        assert (up, down) == (100, 200)
        assert await session.tell(STOP, 300, 400), "it goes on, and ends by its own NAS"
        assert stage.session(session.session_id) is None
        await asyncio.sleep(70)  # reservations end

    play(monkeypatch, script)


@pytest.mark.parametrize(
    ("begun", "on", "ends"),
    [
        ([ip("127.0.3.21"), BRAS_1], [ip("127.0.3.21")], True),
        ([ip("127.0.3.21")], [ip("127.0.3.21"), BRAS_1], True),
        ([BRAS_1], [ip("127.0.3.21")], True),
        ([BRAS_1], [BRAS_1, ip("127.0.3.99")], True),
        ([ip("127.0.3.21"), BRAS_1], [ip("127.0.3.21"), BRAS_2], False),
        ([ip("127.0.3.98")], [ip("127.0.3.99")], False),
    ],
)
def test_accounting_on_ends_the_sessions_of_that_nas_by_either_name(
    monkeypatch: pytest.MonkeyPatch, begun: list[Attribute], on: list[Attribute], ends: bool
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21", *begun)
        await nas.attach(stage.imsi, "A1")
        await asyncio.sleep(1)
        nas.names = tuple(on)
        assert await nas.tell(ON, (a.ACCT_SESSION_ID, b"00000000"))
        assert (stage.open_sessions() == []) is ends

    play(monkeypatch, script)


def test_an_address_that_several_share_names_none_of_them(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21", BRAS_1)
        await nas.attach(stage.imsi, "A1")
        nas.names = (BRAS_2,)
        await nas.attach(stage.sims[1].imsi, "B1")
        nas.names = (ip("127.0.3.21"),)
        assert await nas.tell(ON)
        assert len(stage.open_sessions()) == 2

    play(monkeypatch, script)


def test_a_repeated_accounting_on_ends_nothing_that_came_since(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sniffed and sent again: minutes later, from elsewhere in the network, after a restart of the node."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas, forger = await stage.raw("127.0.3.21"), await stage.raw("127.0.3.66")
        sniffed = nas.accounting(ON)
        old = await nas.attach(stage.imsi, "A1")
        await asyncio.sleep(1)
        assert await nas.send(sniffed, 1813)
        assert stage.session(old.session_id) is None
        await asyncio.sleep(1)
        new = await nas.attach(stage.imsi, "A2")
        for _ in range(2):
            await asyncio.sleep(600)
            assert await forger.send(sniffed, 1813), "it looks like any other"
            assert stage.session(new.session_id) is not None
            await stage.restart_node()
        assert stage.answers == {}
        assert await nas.tell(ON, (a.ACCT_DELAY_TIME, number(0)))
        assert stage.session(new.session_id) is None, "the NAS itself still can"

    play(monkeypatch, script)


@pytest.mark.parametrize(
    ("off_s", "delay_s", "is_demanded", "ends"),
    [
        (0, 0, True, True),
        (-3_600, 3_600, True, True),
        (-3_600, 0, True, False),
        (-3_600, 0, False, False),
        (3_600, 0, False, True),
        (3_600, 0, True, False),
        (None, 0, False, True),
        (None, 0, True, False),
    ],
)
def test_a_time_that_is_not_of_these_minutes_ends_nothing_that_came_since(
    monkeypatch: pytest.MonkeyPatch, off_s: int | None, delay_s: int, is_demanded: bool, ends: bool
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        if delay_s == 0:
            await asyncio.sleep(4_000)
        await nas.attach(stage.imsi, "A1")
        if delay_s:
            await asyncio.sleep(delay_s + 10)
        said = [(a.ACCT_DELAY_TIME, number(delay_s))]
        if off_s is not None:
            said.append((a.EVENT_TIMESTAMP, number(int(stage.clock.now().timestamp()) + off_s)))
        assert await nas.tell(ON, *said)
        assert (stage.open_sessions() == []) is ends

    monkeypatch.setattr(radius.restarts, "RESTARTS_A_DAY_MAX", 10)
    play(monkeypatch, script, alpha={"require_event_timestamp": is_demanded})


def test_an_accounting_on_that_could_not_be_stored_at_once_ends_nothing_that_came_meanwhile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It says no Acct-Delay-Time: all that is known is when it was heard first, which nothing stored."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        await nas.attach(stage.sims[0].imsi, "1")
        await asyncio.sleep(1)
        restarted = nas.accounting(ON, (a.ACCT_SESSION_ID, b"0"))
        stage.store_rates.before = 1.0
        assert await nas.send(restarted, 1813) is None
        stage.store_rates.before = 0.0
        after = await nas.attach(stage.sims[1].imsi, "2")
        assert await nas.send(restarted, 1813) is not None
        assert [each.session_id for each in stage.open_sessions()] == [after.session_id]

    play(monkeypatch, script)


def test_accounting_ons_that_wait_to_be_stored_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radius.restarts, "UNSTORED_RESTARTS_MAX", 4)

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        stage.store_rates.before = 1.0
        said = [nas.accounting(ON, (a.ACCT_DELAY_TIME, number(each))) for each in range(5)]
        for each in said:
            assert await nas.send(each, 1813) is None
        restarts = stage.node.held["vg-1"].radius._accounting._restarts
        assert len(restarts._first_heard) == 3, "of four, one client has three"
        stage.store_rates.before = 0.0
        for each in said:
            assert await nas.send(each, 1813) is not None
        assert not restarts._first_heard

    play(monkeypatch, script)


def test_restarts_of_a_client_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radius.restarts, "RESTARTS_A_DAY_MAX", 3)

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        answered = [await nas.tell(ON, (a.ACCT_DELAY_TIME, number(each))) for each in range(5)]
        assert answered == [True, True, True, False, False]
        assert stage.answers["alpha", "too_many_restarts"] == 2

    play(monkeypatch, script)


def test_who_repeats_an_accounting_on_uses_up_no_room_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sniffed once and sent as often as one likes, from other ports."""
    monkeypatch.setattr(radius.restarts, "RESTARTS_A_DAY_MAX", 2)

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        sniffed = nas.accounting(ON)
        assert await nas.send(sniffed, 1813) is not None
        for _ in range(5):
            await asyncio.sleep(60)
            other = await stage.raw("127.0.3.22")
            assert await other.send(sniffed, 1813) is not None
            other.close()
        await nas.attach(stage.imsi, "A1")
        await asyncio.sleep(1)
        assert await nas.tell(ON, (a.ACCT_DELAY_TIME, number(0)))
        assert stage.open_sessions() == []

    play(monkeypatch, script)


def test_a_class_among_others_is_found_wherever_it_stands(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "r04")
        ours = (a.CLASS, session.session_id.encode())
        proxys: Attribute = (a.CLASS, b"proxy-class")
        another: Attribute = (a.CLASS, b"0" * 32)
        rest = [each for each in session.said if each[0] not in (a.CLASS, a.ACCT_SESSION_ID)]
        renamed: Attribute = (a.ACCT_SESSION_ID, b"r04-b")
        assert await nas.tell(INTERIM, *rest, proxys, ours, renamed, *counters(100, 200))
        assert await nas.tell(STOP, *rest, another, proxys, ours, renamed, *counters(300, 400))
        assert await stage.metered() == (300, 400)
        assert stage.open_sessions() == []

    play(monkeypatch, script)


@pytest.mark.parametrize("says_imsi", [True, False])
def test_a_disconnect_names_the_session_as_its_nas_does(
    monkeypatch: pytest.MonkeyPatch, says_imsi: bool
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21", ip("127.0.3.23"), BRAS_1)
        session = await nas.attach(stage.imsi, "r05")
        said = [each for each in session.said if each[0] not in (a.USER_NAME, a.VENDOR_SPECIFIC)]
        said.append((a.USER_NAME, b"meter-0815@fleet.example"))
        if says_imsi:
            said.append(imsi_of(stage.imsi))
        assert await nas.tell(STOP, *session.said)
        class_ = await nas.ask((a.USER_NAME, stage.imsi.encode()), (a.CALLED_STATION_ID, APN.encode()))
        assert class_ is not None
        said = [each for each in said if each[0] not in (a.CLASS, a.FRAMED_IP_ADDRESS)]
        said += [(kind, class_.firsts[kind]) for kind in (a.CLASS, a.FRAMED_IP_ADDRESS)]
        if not says_imsi:
            said[[kind for kind, _ in said].index(a.USER_NAME)] = (a.USER_NAME, stage.imsi.encode())
        assert await nas.tell(START, *said)
        await stage.node.held["vg-1"].sessions.end_sessions_of(stage.sims[0].sim.sim_id, CloseReason.CUSTOMER)
        await asyncio.sleep(1)
        (told,) = nas.told_to_end
        kinds = told.firsts.keys() - {a.EVENT_TIMESTAMP, a.MESSAGE_AUTHENTICATOR}
        words = {a.USER_NAME, a.ACCT_SESSION_ID, a.FRAMED_IP_ADDRESS, a.NAS_IP_ADDRESS, a.NAS_IDENTIFIER}
        assert kinds == words | ({a.TGPP_IMSI} if says_imsi else set())
        for kind in words - {a.NAS_IP_ADDRESS, a.NAS_IDENTIFIER}:
            assert (kind, told.firsts[kind]) in said
        assert (told.text(a.NAS_IDENTIFIER), told.address(a.NAS_IP_ADDRESS)) == (
            "bras-1",
            "127.0.3.23",
        )

    play(monkeypatch, script)


@pytest.mark.parametrize(
    ("error_cause", "cause", "line"),
    [
        (503, "disconnect_refused:503", "disconnect_refused: NAS 127.0.3.21 at {}, Error-Cause 503"),
        (None, "disconnect_not_answered", "disconnect_not_answered: NAS 127.0.3.21 at {}"),
    ],
)
def test_a_nas_that_does_not_end_a_session_is_told_of_in_log_and_history(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error_cause: int | None,
    cause: str,
    line: str,
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        nas.error_cause = error_cause
        await nas.attach(stage.imsi, "A1")
        sim_id = stage.sims[0].sim.sim_id
        await stage.node.held["vg-1"].sessions.end_sessions_of(sim_id, CloseReason.CUSTOMER)
        await asyncio.sleep(100)
        page = await stage.node._world.store.sessions.events(
            sim_id, since=stage.clock._epoch, until=stage.clock.now()
        )
        assert (page.items[0].kind, page.items[0].cause) == (SessionEventKind.REJECTED, cause)
        place = f"127.0.3.21, IMSI {stage.imsi}, session 'A1'"
        assert f"RADIUS client alpha: {line.format(place)}\n" in caplog.text

    play(monkeypatch, script)


def test_a_nas_that_refuses_for_ever_new_reasons_gets_no_more_lines_for_it(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        for count in range(2 * LINES_A_MINUTE):
            nas.error_cause = 500 + count
            await nas.tell(INTERIM, (a.ACCT_SESSION_ID, b"%d" % count), imsi_of(stage.imsi))
            await asyncio.sleep(1)
        assert caplog.text.count("disconnect_refused") == LINES_A_MINUTE

    play(monkeypatch, script)


def test_a_client_speaks_for_its_own_sims_and_access_points(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        own, foreign = stage.imsi, stage.sims[1].imsi
        alpha, beta = await stage.raw("127.0.3.21"), await stage.raw("127.0.4.21")
        assert await alpha.attach(own, "A1")
        apn: Attribute = (a.CALLED_STATION_ID, APN.encode())
        answer = await alpha.ask((a.USER_NAME, foreign.encode()), apn)
        assert answer is not None
        assert (answer.code, answer.text(a.REPLY_MESSAGE)) == (3, "not a SIM of this client")
        forged: Attribute = (
            a.CLASS,
            b"%012x" % int(stage.clock.now().timestamp() * 1_000) + os.urandom(10).hex().encode(),
        )
        for status in (START, INTERIM, STOP):
            named = [(a.USER_NAME, foreign.encode()), apn, (a.ACCT_SESSION_ID, b"X"), forged]
            assert await alpha.tell(status, *named, *counters(9, 9))
        assert len(stage.open_sessions()) == 1
        assert [item.why for item in await stage.quarantined()] == ["foreign_sim"]
        refused = await beta.ask((a.USER_NAME, own.encode()), apn)
        assert refused is not None and refused.text(a.REPLY_MESSAGE) == "unknown APN"

    own_imsi = "440100000000000"
    play(monkeypatch, script, alpha={"imsi_prefixes": [own_imsi]}, beta={"apns": ["another"]})


def test_strangers_are_named_in_the_log_some_at_a_time(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        stranger = await stage.network.open_datagram(("127.0.9.9", 0), lambda *_: None)
        data = encode_access_request(1, os.urandom(16), [], b"whatever")
        for _ in range(50):
            stranger.send(data, ("127.0.0.1", 1812))
        await asyncio.sleep(61)
        stranger.send(data, ("127.0.0.1", 1812))
        await asyncio.sleep(1)
        stranger.close()
        lines = [each.message for each in caplog.records if "from 127.0.9.9" in each.message]
        assert len(lines) == 11
        assert lines[-1].endswith("(40 more of this kind were not logged)")

    play(monkeypatch, script)
