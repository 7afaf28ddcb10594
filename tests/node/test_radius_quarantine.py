"""Implausible usage, and usage of no known session: acknowledged, quarantined, not billed."""

import asyncio
from ipaddress import IPv4Address
from typing import cast

import pytest

import core.services.sessions.quarantine
import core.services.sessions.reservations
import radius.notices
from core.domain.audit import AuditAction
from core.domain.requests import ModifySession
from core.domain.session import Nas
from core.domain.sim import SimStatus
from core.domain.usage import Volume
from core.domain.values import replace
from core.services.sessions.changes import modified
from loadtest.simulation.world import APN
from radius import attributes as a
from radius.codec import Attribute, Code
from radius.notices import Notices
from tests.node.test_radius_front_end import Stage
from tests.support.gtp import session
from tests.support.radius import INTERIM, START, STOP, RadiusStage, counters, imsi_of, number, play

GBIT_S = 125_000_000
"""Octets of the default line in a second."""


def of(stage: Stage) -> RadiusStage:
    return cast(RadiusStage, stage)


async def alarms(stage: RadiusStage) -> list[str]:
    now = stage.clock.now()
    page = await stage.node._world.store.audit.of_day(now.year * 10_000 + now.month * 100 + now.day)
    return [entry.subject for entry in page.items if entry.action is AuditAction.USAGE_QUARANTINED]


@pytest.mark.parametrize("status", [0, 4, 9, 10, 14, 15, 99, 2**32 - 1])
def test_accounting_of_anything_but_a_session_is_acknowledged_and_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """Tunnels and links (RFC 2867), a failure, numbers without a meaning."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "A1")
        assert await session.tell(INTERIM, 1_000, 2_000)
        assert await session.tell(status, 9_000, 9_000)
        assert await stage.metered() == (1_000, 2_000)
        assert stage.session(session.session_id) is not None
        assert await stage.quarantined() == []

    play(monkeypatch, script)


@pytest.mark.parametrize("up", [2**20 << 32, 2**64 - 1, 70 * GBIT_S])
@pytest.mark.parametrize("direction", ["up", "down"])
def test_more_than_a_line_can_carry_is_not_billed_and_the_session_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, up: int, direction: str
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "A1")
        assert await session.tell(INTERIM, 1_000, 2_000)
        for count in range(3):
            told = (up, 0) if direction == "up" else (0, up)
            assert await session.tell(INTERIM, *told, (a.ACCT_DELAY_TIME, number(count))), "acknowledged"
        assert await stage.metered() == (1_000, 2_000)
        assert stage.session(session.session_id) is not None
        (item,) = await stage.quarantined()
        volume = item.report.volume
        assert (max(volume.up_bytes, volume.down_bytes), item.client) == (up, "alpha")
        assert (item.report.session_id, item.nas and item.nas.acct_session_id) == (session.session_id, "A1")
        assert await alarms(stage) == ["alpha"]
        assert "RADIUS client alpha: usage quarantined: IMSI 440100000000000" in caplog.text
        assert stage.answers["alpha", "quarantined"] == 3
        await asyncio.sleep(600)
        assert await session.tell(STOP, 3_000, 4_000)
        assert await stage.metered() == (3_000, 4_000), "what can be is recorded"
        assert stage.open_sessions() == []

    play(monkeypatch, script)


@pytest.mark.parametrize(
    ("waits_s", "octets", "restarts"),
    [
        (0, 50 * GBIT_S, False),  # a burst, or counters that did not begin at zero
        (600, 600 * GBIT_S, False),
        (3_600, 3_600 * GBIT_S, True),  # nothing was heard for long; Acct-Delay-Time says so
    ],
)
def test_what_a_line_can_carry_is_recorded_however_late(
    monkeypatch: pytest.MonkeyPatch, waits_s: int, octets: int, restarts: bool
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "A1")
        await asyncio.sleep(waits_s)
        if restarts:
            await stage.restart_node()
        assert await session.tell(INTERIM, octets, octets, (a.ACCT_DELAY_TIME, number(waits_s)))
        assert await stage.metered() == (octets, octets)
        assert await stage.quarantined() == []

    play(monkeypatch, script)


def test_what_is_durable_already_is_not_held_against_a_session_after_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nor does a restart give the slack once more."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "A1")
        for hour in range(1, 4):
            await asyncio.sleep(1_700)
            assert await session.tell(INTERIM, hour * 1_700 * GBIT_S, 0)
        await stage.restart_node()
        assert await session.tell(INTERIM, 5_200 * GBIT_S, 0), "100 s of the line more"
        assert await stage.metered() == (3 * 1_700 * GBIT_S, 0)
        await asyncio.sleep(300)
        assert await session.tell(STOP, 5_400 * GBIT_S, 0)
        assert await stage.metered() == (5_400 * GBIT_S, 0)

    play(monkeypatch, script)


def test_slack_is_given_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many reports, each below the slack, are no way around the ceiling."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "A1")
        for count in range(1, 10):
            assert await session.tell(INTERIM, count * 20 * GBIT_S, 0)
        up, _ = await stage.metered()
        assert up == 60 * GBIT_S
        await asyncio.sleep(200)
        assert await session.tell(INTERIM, 200 * GBIT_S, 0)
        assert await stage.metered() == (200 * GBIT_S, 0), "later it can have been"

    play(monkeypatch, script)


@pytest.mark.parametrize(("enforces", "billed"), [(True, 0), (False, 600_000_000)])
def test_a_nas_that_enforces_the_speed_class_counts_no_more(
    monkeypatch: pytest.MonkeyPatch, enforces: bool, billed: int
) -> None:
    """s1.8xfast, 16 Mbit/s: 120 MB in its minute of slack."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "A1")
        assert await session.tell(INTERIM, 600_000_000, 0)
        assert await stage.metered() == (billed, 0)

    play(monkeypatch, script, alpha={"enforces_speed_class": enforces})


MBIT_S = 125_000
"""Octets of a line of 1 Mbit/s in a second."""


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    ("changes", "mbit_s"),
    [
        (["s1.minimum"], 16),  # the NAS need not know of it yet, and this session keeps its class
        (["u1.standard", "s1.minimum"], 1_000),  # of no published speed: its line's
    ],
)
def test_the_fastest_class_since_a_session_began_is_its_ceiling(
    monkeypatch: pytest.MonkeyPatch, changes: list[str], mbit_s: int, *, restarts: bool
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "A1")
        await be_of(stage, *changes)
        await asyncio.sleep(300)
        if restarts:
            await stage.restart_node()
        octets = 300 * mbit_s * MBIT_S
        assert await session.tell(INTERIM, octets, 0)
        assert await stage.metered() == (octets, 0)
        await asyncio.sleep(120)
        assert await session.tell(STOP, 2 * octets, 0), "more than that in 120 seconds it is not"
        assert await stage.metered() == (octets, 0)

    play(monkeypatch, script, alpha={"enforces_speed_class": True})


def test_a_class_that_becomes_faster_amid_a_session_is_its_ceiling_from_then_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        await be_of(stage, "s1.minimum")
        session = await nas.attach(stage.imsi, "A1")
        await be_of(stage, "s1.fast")
        for interval in (1, 2, 3):
            await asyncio.sleep(600)
            octets = interval * 600 * 2 * MBIT_S
            assert await session.tell(INTERIM, octets, 0)
            assert await stage.metered() == (octets, 0)
        held = stage.session(session.session_id)
        assert held is not None
        assert held.speed_class == "s1.minimum", "it is charged as it began"

    play(monkeypatch, script, alpha={"enforces_speed_class": True})


def test_what_was_charged_is_written_into_a_session_without_what_was_known_of_it_before() -> None:
    """A day may begin while the customer changes the class."""
    nas = Nas("127.0.3.0/24", "bras-1", "127.0.3.1", "A1", fastest_class="s1.fast")
    held = replace(session(), tunnel=None, nas=nas)
    charged = modified(held, ModifySession(held.session_id, charged=(20_261_130, Volume(5, 6))))
    assert charged.nas == replace(nas, day=20_261_130, before=Volume(5, 6))


async def be_of(stage: RadiusStage, *classes: str) -> None:
    """The customer gives the SIM these classes, one after another."""
    store, sim_id = stage.node._world.store, stage.sims[0].sim.sim_id
    for each in classes:
        sim = await store.sims.get(sim_id)
        assert sim is not None
        await store.sims.put(replace(sim, speed_class=each))
        await stage.node.held["vg-1"].sessions.refresh_sessions_of(sim_id)


UNBOOKABLE: dict[str, list[Attribute]] = {
    "unknown_sim": [(a.USER_NAME, b"440109999999999"), (a.CALLED_STATION_ID, APN.encode())],
    "unknown_sim of a user": [(a.USER_NAME, b"alice"), (a.CALLED_STATION_ID, APN.encode())],
    "unknown_session": [(a.USER_NAME, b"440100000000000"), (a.CALLED_STATION_ID, APN.encode())],
    "unknown_apn": [
        (a.USER_NAME, b"440100000000000"),
        (a.FRAMED_IP_ADDRESS, IPv4Address("10.128.0.77").packed),
    ],
    "addresses_occupied": [
        (a.USER_NAME, b"440100000000000"),
        (a.CALLED_STATION_ID, APN.encode()),
        (a.FRAMED_IP_ADDRESS, IPv4Address("172.16.0.7").packed),
    ],
}


@pytest.mark.parametrize("name", UNBOOKABLE)
def test_accounting_of_no_session_is_answered_and_kept_apart(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        said = [*UNBOOKABLE[name], (a.ACCT_SESSION_ID, b"A1")]
        assert await nas.tell(START, *said)
        assert await stage.quarantined() == [], "it used nothing"
        assert await nas.tell(INTERIM, *said, *counters(500, 600))
        await stage.restart_node()
        assert await nas.tell(INTERIM, *said, *counters(400, 700)), "late, or a repeat"
        assert await nas.tell(STOP, *said, *counters(900, 900))
        assert stage.open_sessions() == []
        assert await stage.metered() == (0, 0)
        (item,) = await stage.quarantined()
        assert (item.report.volume.up_bytes, item.report.volume.down_bytes) == (900, 900)
        assert item.why == name.partition(" ")[0]
        assert (item.client, item.nas and item.nas.user_name) == ("alpha", dict(said)[a.USER_NAME].decode())
        assert "RADIUS client alpha: accounting kept apart: START" in caplog.text
        assert await alarms(stage) == []

    play(monkeypatch, script)


def test_a_suspended_sims_usage_is_kept_apart_and_its_nas_told_to_end_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        await stage.customer.set_status(stage.sims[0], SimStatus.SUSPENDED)
        said: list[Attribute] = [
            (a.USER_NAME, stage.imsi.encode()),
            (a.CALLED_STATION_ID, APN.encode()),
            (a.FRAMED_IP_ADDRESS, IPv4Address("10.128.0.77").packed),
            (a.ACCT_SESSION_ID, b"A1"),
        ]
        assert await nas.tell(INTERIM, *said, *counters(500, 501))
        assert await nas.tell(STOP, *said, *counters(900, 901))
        (item,) = await stage.quarantined()
        assert (item.why, item.report.volume.down_bytes) == ("sim_suspended", 901)
        await asyncio.sleep(1)
        assert [told.text(a.ACCT_SESSION_ID) for told in nas.told_to_end] == ["A1"]

    play(monkeypatch, script)


def test_what_is_kept_apart_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.services.sessions.quarantine, "KEPT_OF_CLIENT_MAX", 3)
    monkeypatch.setattr(core.services.sessions.quarantine, "KEPT_MAX", 5)

    async def script(plain: Stage) -> None:
        stage = of(plain)
        kept = []
        for address in ("127.0.3.21", "127.0.4.21", "127.0.5.21"):
            nas = await stage.raw(address)
            numbers = [(a.ACCT_SESSION_ID, b"%d" % count) for count in range(4)]
            user: Attribute = (a.USER_NAME, b"alice")
            kept += [await nas.tell(STOP, user, each, *counters(1, 1)) for each in numbers]
            kept.append(await nas.tell(STOP, user, numbers[0], *counters(2, 2)))
        assert kept == [True] * 3 + [False, True] + [True] * 2 + [False] * 2 + [True] + [False] * 5
        assert len(await stage.quarantined()) == 5

    play(monkeypatch, script)


def test_a_nas_with_addresses_of_its_own_needs_no_access(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its pool is as ours: nothing of ours is touched by it, over a restart too."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas, plain_nas = await stage.raw("127.0.3.21"), await stage.raw("127.0.4.21")
        ours = await plain_nas.attach(stage.sims[1].imsi, "B1")
        held = stage.session(ours.session_id)
        assert held is not None
        said: list[Attribute] = [
            (a.USER_NAME, stage.imsi.encode()),
            (a.CALLED_STATION_ID, APN.encode()),
            (a.ACCT_SESSION_ID, b"A1"),
            (a.FRAMED_IP_ADDRESS, held.ue_address.packed),
        ]
        assert await nas.tell(START, *said)
        assert len(stage.open_sessions()) == 2
        await stage.restart_node()
        assert len(stage.open_sessions()) == 2
        sessions = stage.node.held["vg-1"].sessions
        found = sessions.session_at(held.ue_address)
        assert found is not None and found.session_id == ours.session_id
        assert await nas.tell(STOP, *said, *counters(5, 6))
        assert stage.node.held["vg-1"].gateway.allocated["addresses"] == 1
        assert await stage.metered() == (5, 6)
        answer = await nas.ask((a.USER_NAME, stage.imsi.encode()), (a.CALLED_STATION_ID, APN.encode()))
        assert answer is not None and answer.code == Code.ACCESS_ACCEPT
        assert answer.address(a.FRAMED_IP_ADDRESS) == "255.255.255.254"
        assert await nas.tell(START, *said, (a.CLASS, answer.firsts[a.CLASS]))
        assert stage.session(answer.firsts[a.CLASS].decode()) is not None
        assert await ours.tell(STOP, 1, 1)

    play(monkeypatch, script, alpha={"own_addresses": True})


@pytest.mark.parametrize("expected_max", [None, 1])
def test_an_access_point_in_access_alone_is_known_also_where_the_nas_has_addresses_of_its_own(
    monkeypatch: pytest.MonkeyPatch, expected_max: int | None
) -> None:
    if expected_max is not None:
        monkeypatch.setattr(core.services.sessions.reservations, "EXPECTED_MAX", expected_max)

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        began: list[bool] = []
        for count, sim in enumerate(stage.sims[:2]):
            user: Attribute = (a.USER_NAME, sim.imsi.encode())
            answer = await nas.ask(user, (a.CALLED_STATION_ID, APN.encode()))
            assert answer is not None and answer.code == Code.ACCESS_ACCEPT
            assert await nas.tell(
                START, user, (a.ACCT_SESSION_ID, b"%d" % count), (a.CLASS, answer.firsts[a.CLASS])
            )
            began.append(stage.session(answer.firsts[a.CLASS].decode()) is not None)
        assert began == [True, expected_max is None]
        await asyncio.sleep(61)
        assert len(stage.open_sessions()) == sum(began)
        assert stage.node.held["vg-1"].gateway.allocated["addresses"] == 0

    play(monkeypatch, script, alpha={"own_addresses": True})


def test_what_one_client_asks_access_for_leaves_room_for_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.services.sessions.reservations, "EXPECTED_MAX", 4)

    async def script(plain: Stage) -> None:
        stage = of(plain)
        reservations = stage.node.held["vg-1"].radius._reservations
        for network, held in (("127.0.3", 3), ("127.0.4", 4)):
            for host in range(5):
                nas = await stage.raw(f"{network}.{host + 1}")
                answer = await nas.ask(imsi_of(stage.imsi), (a.CALLED_STATION_ID, APN.encode()))
                assert answer is not None and answer.code == Code.ACCESS_ACCEPT
            assert len(reservations) == held
        await asyncio.sleep(61)
        assert (len(reservations), len(reservations._expected)) == (0, 0)

    play(monkeypatch, script, alpha={"own_addresses": True}, beta={"own_addresses": True})


def test_a_session_of_which_nothing_was_heard_is_believed_a_day(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        said: list[Attribute] = [
            (a.USER_NAME, stage.imsi.encode()),
            (a.CALLED_STATION_ID, APN.encode()),
            (a.ACCT_SESSION_ID, b"A1"),
        ]
        hours = 3 * 3_600
        assert await nas.tell(
            INTERIM, *said, (a.ACCT_SESSION_TIME, number(hours)), *counters(hours * GBIT_S, 0)
        )
        assert await stage.metered() == (hours * GBIT_S, 0)
        said[2] = (a.ACCT_SESSION_ID, b"A2")
        month = 30 * 86_400
        assert await nas.tell(
            INTERIM, *said, (a.ACCT_SESSION_TIME, number(month)), *counters(month * GBIT_S, 0)
        )
        assert await stage.metered() == (hours * GBIT_S, 0)
        assert len(await stage.quarantined()) == 1

    play(monkeypatch, script, alpha={"own_addresses": True})


HABITS: list[tuple[str, list[bytes], dict[str, object], bytes, bool]] = [
    ("none, no default", [], {}, b"{imsi}", False),
    ("none", [], {"default_apn": APN}, b"{imsi}", True),
    ("MAC:SSID", [b"00-10-A4-23-19-C0:AP1"], {"default_apn": APN}, b"{imsi}", True),
    ("SSID is the APN", [b"00-10-A4-23-19-C0:SORACOM.io"], {}, b"{imsi}", True),
    ("a service's name", [b"hotspot1"], {"default_apn": APN}, b"{imsi}", True),
    ("a service's name, no default", [b"hotspot1"], {}, b"{imsi}", False),
    ("operator identifier", [b"soracom.io.mnc010.mcc440.gprs"], {}, b"{imsi}", True),
    ("a dot", [b"soracom.io."], {}, b"{imsi}", True),
    ("a dot behind the operator", [b"Soracom.io.MNC10.mcc440.gprs."], {}, b"{imsi}", True),
    ("several", [b"00-10-A4-23-19-C0", b"soracom.io"], {}, b"{imsi}", True),
    ("no text", [b"\xff\xfe"], {}, b"{imsi}", False),
    ("a realm", [b"soracom.io"], {}, b"{imsi}@corp.example", True),
    ("a realm before", [b"soracom.io"], {}, b"corp\\{imsi}", True),
    ("a realm before, IPASS", [b"soracom.io"], {}, b"corp/{imsi}", True),
    ("a served realm", [b"soracom.io"], {"realms": ["Corp.Example"]}, b"{imsi}@corp.EXAMPLE", True),
    ("another realm", [b"soracom.io"], {"realms": ["corp.example"]}, b"{imsi}@other.example", False),
    ("another before", [b"soracom.io"], {"realms": ["corp.example"]}, b"other\\{imsi}@corp.example", False),
    ("no realm", [b"soracom.io"], {"realms": ["corp.example"]}, b"{imsi}", True),
    ("two realms", [b"soracom.io"], {}, b"{imsi}@a@b", False),
]


@pytest.mark.parametrize(
    ("called", "keys", "user", "is_good"), [h[1:] for h in HABITS], ids=[h[0] for h in HABITS]
)
def test_habits_of_nases(
    monkeypatch: pytest.MonkeyPatch, called: list[bytes], keys: dict[str, object], user: bytes, is_good: bool
) -> None:
    """An access point may be named in Access alone, too."""

    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        name: Attribute = (a.USER_NAME, user.replace(b"{imsi}", stage.imsi.encode()))
        answer = await nas.ask(name, *[(a.CALLED_STATION_ID, each) for each in called])
        assert answer is not None
        assert (answer.code == Code.ACCESS_ACCEPT) is is_good
        if is_good:
            said = [name, (a.ACCT_SESSION_ID, b"A1"), (a.CLASS, answer.firsts[a.CLASS])]
            assert await nas.tell(START, *said)
            assert [each.apn for each in stage.open_sessions()] == [APN]

    play(monkeypatch, script, alpha=keys)


def test_an_imsi_in_accounting_may_be_the_networks_word_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(plain: Stage) -> None:
        stage = of(plain)
        nas = await stage.raw("127.0.3.21")
        session = await nas.attach(stage.imsi, "A1")
        rest = [each for each in session.said if each[0] not in (a.USER_NAME, a.VENDOR_SPECIFIC)]
        assert await nas.tell(INTERIM, *rest, *counters(3, 4)), "Class says whose it is"
        assert await nas.tell(STOP, *rest, imsi_of(stage.imsi), *counters(5, 6))
        assert await stage.metered() == (5, 6)

    play(monkeypatch, script)


def test_kinds_of_lines_are_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(radius.notices, "KEYS_MAX", 2)
    notices = Notices()
    for kind in ("one", "two", "three"):
        notices.write(kind, "alpha", "a line\nand another", 0.0)
    assert len(notices) == 2
    assert [each.message for each in caplog.records] == [
        f"RADIUS client alpha: {kind}: a line\\nand another" for kind in ("one", "two", "three")
    ]
