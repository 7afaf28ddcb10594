"""The machine of sessions that NASes hold: names, silence, and how long what is over is known."""

from datetime import UTC, datetime
from ipaddress import IPv4Address

import pytest

import radius.sessions
from core.domain.session import Access, Nas, Session
from radius.sessions import ENDED_KEPT_S, NasSessions, SessionSettled, SessionSilent

SILENT_S = 1_800.0
NETWORK, IMSI = "127.0.3.0/24", "440100000000001"


def session(session_id: str, acct_session_id: str = "A1", network: str = NETWORK) -> Session:
    return Session(
        session_id=session_id,
        sim_id="sim",
        imsi=IMSI,
        operator_id="OP0000000001",
        access=Access.RADIUS,
        apn="soracom.io",
        ue_address=IPv4Address("10.128.0.2"),
        gateway_id="vg-1",
        opened=datetime(2026, 11, 30, tzinfo=UTC),
        speed_class="s1.fast",
        nas=Nas(network, "bras-1", "127.0.3.1", acct_session_id),
    )


def told(machine: NasSessions) -> list[SessionSilent | SessionSettled]:
    events = []
    while (event := machine.next_event()) is not None:
        events.append(event)
    return events


def test_one_of_which_nothing_is_heard_is_told_and_told_again() -> None:
    machine = NasSessions(silent_s=SILENT_S)
    assert machine.get_timer() is None
    machine.hold(session("1"), 0)
    machine.hold(session("2"), 10)
    machine.heard("1", 20)
    assert machine.get_timer() == 10 + SILENT_S
    machine.handle_timer(10 + SILENT_S)
    assert told(machine) == [SessionSilent("2")]
    assert machine.get_timer() == 20 + SILENT_S
    machine.forget(session("1"), 30)
    machine.forget(session("2"), 40)
    assert (machine.get_timer(), len(machine)) == (30 + ENDED_KEPT_S, 0)
    machine.hold(session("3"), 0)
    for due in (SILENT_S, 2 * SILENT_S):
        machine.handle_timer(due)
        assert SessionSilent("3") in told(machine)


def test_what_is_over_is_known_by_its_id_and_its_name_until_it_is_settled() -> None:
    machine = NasSessions(silent_s=SILENT_S)
    for session_id in ("1", "2"):
        machine.hold(session(session_id), 0)
    machine.forget(session("1"), 5)
    name = (NETWORK, IMSI, "A1")
    assert (list(machine.named(name)), machine.ended("1")) == (["2", "1"], session("1"))
    assert machine.ended("2") is None
    machine.handle_timer(5 + ENDED_KEPT_S - 1)
    assert told(machine) == []
    machine.handle_timer(5 + ENDED_KEPT_S)
    assert told(machine) == [SessionSettled("1")]
    assert (list(machine.named(name)), machine.ended("1")) == (["2"], None)


def test_a_session_without_a_name_is_found_by_its_id_alone() -> None:
    machine = NasSessions(silent_s=SILENT_S)
    machine.hold(session("1", acct_session_id=""), 0)
    assert list(machine.named((NETWORK, IMSI, ""))) == []


def test_beyond_its_share_the_oldest_of_a_client_is_settled_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radius.sessions, "ENDED_MAX", 4)
    machine = NasSessions(silent_s=SILENT_S)
    machine.forget(session("other", network="127.0.4.0/24"), 0)
    for number in range(4):
        machine.forget(session(str(number)), number)
    assert told(machine) == [SessionSettled("0")]
    assert machine.ended("other") is not None
