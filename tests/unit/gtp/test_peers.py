"""Peers of a GTP-C endpoint: restart counters, paths that fail and come back, who may speak and how much."""

import random
from ipaddress import IPv4Address, IPv4Network
from itertools import pairwise

import pytest

from core.domain.session import Access, Session
from core.domain.values import replace
from gtp.contexts import ContextEvent, Contexts
from gtp.endpoint import GtpcEndpoint
from gtp.events import Accepted, PathLost, PeerRestarted, SessionRequested, SessionsDoubted, UpdateRequested
from gtp.partners import Partner, Partners
from gtp.path import LOOKED_AT_MAX, RECALLED_WITHIN_S, PathState, Peers
from gtp.restart import FLAP_S, PROOF_S, RestartCounter, RestartState
from gtp.transaction import N3_REQUESTS, Arrival, RequestSender, ResponseCache, Timers
from gtp.v1.wire import V1Wire
from gtp.v2.wire import V2Wire
from gtp.wire import Wire
from tests.support import gtp as v1
from tests.support.gtp import (
    APN,
    SGSN,
    counting,
    create_request,
    message,
    only,
    peer_of,
    session,
    update_request,
)
from tests.support.gtp2 import SGW, create_session, element, message2

TIMERS = Timers(echo_interval_s=60.0, path_keep_s=600.0)
ECHO_REQUEST, ECHO_RESPONSE = 1, 2


def gateway(*partners: Partner, timers: Timers = TIMERS, wire: Wire | None = None) -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=[wire or V1Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[APN],
        allowed_peers=(),
        random_bytes=counting(100),
        partners=partners,
        timers=timers,
    )


def partner(name: str, *networks: str, requests_per_s: float = 0.0, burst: int = 1) -> Partner:
    return Partner(
        name, tuple(IPv4Network(each) for each in networks), requests_per_s=requests_per_s, burst=burst
    )


def attached(machine: GtpcEndpoint, now: float = 0.0, *, number: int = 1, recovery: int = 7) -> None:
    machine.receive_datagram(create_request(number, recovery=recovery, nsapi=4 + number), SGSN, now)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    counter = peer_of(event).restart_counter
    machine.answer(event.token, Accepted(session(number, restart_counter=counter)), now)
    machine.datagrams_to_send()


def echoes(machine: GtpcEndpoint) -> list[bytes]:
    return [data for data, peer in machine.datagrams_to_send() if data[1] == ECHO_REQUEST]


def run_until(machine: GtpcEndpoint, end: float) -> list[tuple[float, bytes]]:
    """Keep the timers; what was sent, and when."""
    sent = []
    while (due := machine.get_timer()) is not None and due <= end:
        machine.handle_timer(due)
        sent += [(due, data) for data, _ in machine.datagrams_to_send()]
    return sent


def answer_echo(machine: GtpcEndpoint, echo: bytes, recovery: int, now: float) -> None:
    machine.receive_datagram(
        message(ECHO_RESPONSE, 0, int.from_bytes(echo[8:10], "big"), bytes((14, recovery))), SGSN, now
    )


def path_of(machine: GtpcEndpoint) -> PathState:
    return dict(only(machine).peers.items())[SGSN[0]].path


# -- paths ----------------------------------------------------------------------------------------------


def test_a_peer_with_sessions_is_asked_every_interval_and_its_round_trip_is_known() -> None:
    machine = gateway()
    assert machine.get_timer() is None, "nobody has sessions"
    attached(machine)
    asked_at = []
    for _ in range(5):
        due = machine.get_timer()
        assert due is not None
        machine.handle_timer(due)
        (echo,) = echoes(machine)
        asked_at.append(due)
        answer_echo(machine, echo, 7, due + 0.03)
    assert {round(b - a, 3) for a, b in pairwise(asked_at)} == {60.0}
    assert dict(only(machine).peers.items())[SGSN[0]].rtt_s == pytest.approx(0.03)
    machine.forget(session().session_id)
    assert run_until(machine, 10_000) == []
    assert machine.get_timer() is None


def test_no_echo_is_sent_where_it_is_off_for_all_or_for_this_partner() -> None:
    silent = Partner("silent", (IPv4Network("127.0.1.0/24"),), echo=False)
    for machine in (gateway(timers=Timers()), gateway(silent)):
        attached(machine)
        assert machine.get_timer() is None


def test_a_silent_peer_is_suspect_and_its_sessions_are_kept_then_cleared() -> None:
    machine = gateway()
    attached(machine)
    sent = run_until(machine, 300)
    assert path_of(machine) is PathState.SUSPECT
    assert machine.next_event() is None
    assert machine.contexts == 1
    assert len([data for at, data in sent if at < 100]) >= 1 + TIMERS.n3_requests
    run_until(machine, 1_000)
    assert machine.next_event() == PathLost(SGSN[0], (session().session_id,))
    assert path_of(machine) is PathState.DOWN


@pytest.mark.parametrize("sign", ["echo answer", "request"])
def test_any_sign_of_life_brings_a_suspect_peer_back_and_keeps_its_sessions(sign: str) -> None:
    machine = gateway()
    attached(machine)
    run_until(machine, 300)
    assert path_of(machine) is PathState.SUSPECT
    if sign == "request":
        machine.receive_datagram(message(ECHO_REQUEST, 0, 9, b""), SGSN, 310)
    else:
        echo = next(data for _, data in run_until(machine, 370) if data[1] == ECHO_REQUEST)
        answer_echo(machine, echo, 7, 370)
    assert path_of(machine) is PathState.UP
    for at in range(400, 2_000, 10):
        for _, data in run_until(machine, at):
            answer_echo(machine, data, 7, at)
    assert machine.next_event() is None
    assert path_of(machine) is PathState.UP


def test_the_time_for_which_sessions_are_kept_begins_anew_when_a_peer_fails_again() -> None:
    machine = gateway()
    attached(machine)
    run_until(machine, 300)
    machine.receive_datagram(message(ECHO_REQUEST, 0, 9, b""), SGSN, 500)
    run_until(machine, 1_000)
    assert machine.next_event() is None
    assert path_of(machine) is PathState.SUSPECT
    run_until(machine, 1_400)
    assert isinstance(machine.next_event(), PathLost)


def test_a_peer_that_asks_but_does_not_answer_echo_is_not_suspect() -> None:
    machine = gateway()
    attached(machine)
    for at in range(5, 3_000, 5):
        machine.receive_datagram(update_request(0xA0000001, at), SGSN, at)
        event = machine.next_event()
        assert isinstance(event, UpdateRequested)
        machine.answer(event.token, Accepted(session()), at)
        run_until(machine, at)
    assert path_of(machine) is PathState.UP


# -- restart counters -----------------------------------------------------------------------------------


def counters(machine: GtpcEndpoint) -> RestartCounter:
    return dict(only(machine).peers.items())[SGSN[0]].restart


def told(machine: GtpcEndpoint, recovery: int, now: float) -> None:
    """A message that answers nothing."""
    machine.receive_datagram(message(ECHO_REQUEST, 0, 9, bytes((14, recovery))), SGSN, now)


def answered(machine: GtpcEndpoint, recovery: int, now: float, until: float) -> float:
    """Answer whatever we ask until then; when the last question was."""
    at = now
    for echo in echoes(machine):
        answer_echo(machine, echo, recovery, now)
    while (due := machine.get_timer()) is not None and due <= until:
        machine.handle_timer(due)
        for echo in echoes(machine):
            answer_echo(machine, echo, recovery, due)
            at = due
    return at


def ended(machine: GtpcEndpoint) -> list[str]:
    """The sessions that a restart ended, and nothing else happened."""
    found = list[str]()
    while (event := machine.next_event()) is not None:
        assert isinstance(event, PeerRestarted), event
        found += event.session_ids
    return found


def doubted(machine: GtpcEndpoint) -> list[str]:
    """The sessions that their peer is to be asked about, and nothing else happened."""
    found = list[str]()
    while (event := machine.next_event()) is not None:
        assert isinstance(event, SessionsDoubted), event
        found += event.session_ids
    return found


def test_a_restart_takes_two_answers_some_seconds_apart_and_the_roll_over_counts() -> None:
    machine = gateway(timers=Timers())
    attached(machine, recovery=250)
    told(machine, 3, 10)
    (first,) = echoes(machine)
    answer_echo(machine, first, 3, 10.1)
    assert machine.next_event() is None
    assert machine.get_timer() == pytest.approx(10.1 + PROOF_S)
    assert answered(machine, 3, 11, 20) == pytest.approx(10.1 + PROOF_S)
    assert ended(machine) == [session().session_id]
    assert counters(machine).state is RestartState.AGREED


@pytest.mark.parametrize("contradicting", [1, 2])
def test_an_answer_that_contradicts_clears_nothing(contradicting: int) -> None:
    machine = gateway(timers=Timers())
    attached(machine)
    told(machine, 8, 10)
    (echo,) = echoes(machine)
    answer_echo(machine, echo, 7 if contradicting == 1 else 8, 10)
    answered(machine, 7, 10, 200)
    assert ended(machine) == []
    assert counters(machine).known == 7
    assert only(machine).peers.counts["restart_refuted"] == 1


def test_an_answer_to_what_was_asked_before_the_first_proof_is_no_second_one() -> None:
    machine = gateway()
    attached(machine)
    due = machine.get_timer()
    assert due is not None
    told(machine, 8, due - 1)
    (asked,) = echoes(machine)
    answer_echo(machine, asked, 8, due - 0.5)
    machine.handle_timer(due)
    (periodic,) = echoes(machine)
    answer_echo(machine, periodic, 8, due + PROOF_S + 1)
    assert machine.next_event() is None, "it was asked too soon"
    answered(machine, 8, due + PROOF_S + 1, due + 3 * PROOF_S)
    assert ended(machine) == [session().session_id]


def test_a_counter_that_went_back_is_served_and_once_proved_its_older_sessions_are_asked_about() -> None:
    """TS 23.007 §18: the older value is discarded; who lost its counter's file has it all the same."""
    machine = gateway(timers=Timers())
    attached(machine, recovery=100)
    machine.receive_datagram(create_request(2, recovery=50, nsapi=6), SGSN, 10)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session(2, restart_counter=50)), 10)
    assert machine.next_event() is None, "it is not dead at once"
    assert (counters(machine).known, counters(machine).heard) == (100, 50)
    answered(machine, 50, 10, 30)
    assert doubted(machine) == [session(1).session_id], "it may be another's that took the peer's place"
    assert counters(machine).known == 50
    answered(machine, 50, 30, 300)
    assert (machine.next_event(), counters(machine).state) == (None, RestartState.AGREED)
    told(machine, 51, 300)
    answered(machine, 51, 300, 320)
    assert set(ended(machine)) == {session(1).session_id, session(2).session_id}, "its next restart is one"


def test_a_delayed_request_of_before_a_restart_is_asked_about_and_proves_nothing() -> None:
    machine = gateway(timers=Timers())
    attached(machine, recovery=8)
    machine.receive_datagram(create_request(2, recovery=7, nsapi=6), SGSN, 10)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session(2, restart_counter=7)), 10)
    answered(machine, 8, 10, 10 + Timers().patience_s - 1)
    assert machine.next_event() is None
    assert counters(machine).known == 8
    answered(machine, 8, 10 + Timers().patience_s, 10 + Timers().patience_s)
    assert doubted(machine) == [session(2).session_id]


def test_a_flapping_counter_clears_once_a_minute_at_most() -> None:
    machine = gateway(timers=Timers())
    attached(machine, recovery=0)
    told(machine, 60, 10)
    restarted_at = answered(machine, 60, 10, 30)
    assert ended(machine) == [session().session_id]
    machine.forget(session().session_id)
    attached(machine, 30, number=2, recovery=60)
    told(machine, 90, 30)
    answered(machine, 90, 30, restarted_at + FLAP_S - 0.1)
    assert machine.next_event() is None
    answered(machine, 90, restarted_at + FLAP_S, restarted_at + 2 * FLAP_S)
    assert ended(machine) == [session(2).session_id]


def test_what_a_restart_ends_ends_in_batches_each_after_one_more_answer_that_agrees(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("gtp.contexts.ENDED_BATCH", 2)
    machine = gateway(timers=Timers())
    for number in range(1, 6):
        attached(machine, number=number)
    told(machine, 8, 10)
    (echo,) = echoes(machine)
    answer_echo(machine, echo, 8, 10)
    found = list[str]()
    for batch in (2, 2):
        due = machine.get_timer()
        assert due is not None
        machine.handle_timer(due)
        (echo,) = echoes(machine)
        answer_echo(machine, echo, 8, due)
        event = machine.next_event()
        assert isinstance(event, PeerRestarted)
        assert (len(event.session_ids), event.older) == (batch, 5 - len(found))
        for session_id in event.session_ids:
            machine.forget(session_id)
            found.append(session_id)
    due = machine.get_timer()
    assert due is not None
    machine.handle_timer(due)
    (echo,) = echoes(machine)
    answer_echo(machine, echo, 7, due)
    assert machine.next_event() is None, "it contradicts: the rest stays"
    assert machine.contexts == 1


def test_an_answer_counts_from_the_address_and_port_that_was_asked_alone() -> None:
    machine = gateway(partner("one", "127.0.1.0/24"), timers=Timers())
    attached(machine)
    told(machine, 8, 10)
    (echo,) = echoes(machine)
    answer = message(ECHO_RESPONSE, 0, int.from_bytes(echo[8:10], "big"), b"\x0e\x08")
    for source in (("127.0.1.2", 2123), (SGSN[0], 2124)):
        machine.receive_datagram(answer, source, 10)
    assert only(machine).dropped["orphan_response"] == 2
    machine.receive_datagram(answer, SGSN, 10)
    assert counters(machine).state is RestartState.PROVED_ONCE


@pytest.mark.parametrize("wire", [V1Wire(), V2Wire()])
def test_nobody_can_foresee_our_sequence_numbers(wire: Wire) -> None:
    entropy = random.Random(7)
    sender: RequestSender[str] = RequestSender(random_bytes=entropy.randbytes, bits=wire.sequence_bits)
    drawn = [sender.draw("10.0.0.1") for _ in range(2_000)]
    steps = {(b - a) % (1 << wire.sequence_bits) for a, b in pairwise(number or 0 for number in drawn)}
    assert len(steps) > 1_900
    stuck: RequestSender[str] = RequestSender(random_bytes=bytes)
    assert stuck.begin(stuck.draw("10.0.0.1") or 0, b"\x32\x01", ("10.0.0.1", 2123), "", 0)
    assert stuck.draw("10.0.0.1") is None, "the one number that it draws is of an open request"
    assert stuck.draw("10.0.0.2") == 0


def test_what_is_known_of_a_peer_is_forgotten_by_its_address_or_its_partner() -> None:
    for name in (SGSN[0], "one"):
        machine = gateway(partner("one", "127.0.1.0/24"))
        attached(machine, recovery=100)
        machine.forget(session().session_id)
        machine.forget_peer(name)
        assert list(machine.peers(only(machine).access)) == []
        attached(machine, number=2, recovery=50)
        assert counters(machine).known == 50


def test_who_has_sessions_that_were_read_back_is_asked_once_and_what_is_older_ends() -> None:
    """Half of what it had before its restart was cleared when we were killed; none is asked else."""
    machine = gateway(timers=Timers())
    for number, counter in ((1, 7), (2, 8), (3, None)):
        machine.adopt(session(number, restart_counter=counter), 0.0)
    now = machine.get_timer()
    assert now is not None
    assert now <= RECALLED_WITHIN_S
    machine.handle_timer(now)
    answered(machine, 8, now, now + 3 * PROOF_S)
    assert ended(machine) == [session(3).session_id, session(1).session_id]
    assert machine.get_timer() is None


def test_who_went_back_while_we_were_away_has_what_it_may_have_lost_asked_about() -> None:
    """The one of its counters that is older is believed, and it is the one that it has."""
    machine = gateway(timers=Timers())
    for number, counter in ((1, 100), (2, 50)):
        machine.adopt(session(number, restart_counter=counter), 0.0)
    answered(machine, 50, 0.0, 60.0)
    assert doubted(machine) == [session(1).session_id]


@pytest.mark.parametrize("is_off_for_all", [True, False])
def test_who_is_not_asked_is_never_suspect(is_off_for_all: bool) -> None:
    timers = Timers(path_keep_s=600.0) if is_off_for_all else TIMERS
    machine = gateway(Partner("quiet", (IPv4Network("127.0.1.0/24"),), echo=False), timers=timers)
    machine.adopt(session(restart_counter=7), 0.0)
    assert len(run_until(machine, 10_000.0)) == N3_REQUESTS + 1
    assert path_of(machine) is PathState.UP
    assert machine.next_event() is None


@pytest.mark.parametrize("seed", range(20))
def test_a_peers_contexts_are_known_by_it_through_every_change(seed: int) -> None:
    """Held, held anew, moved, ended, a TEID of another session now, beside a table that looks at all."""
    rng, contexts, known = random.Random(seed), Contexts(), dict[str, Session]()
    for _ in range(300):
        number, teid = rng.randrange(12), rng.choice((0, 0, 0, 1))
        one = session(number)
        assert one.tunnel is not None
        address, access = rng.choice(("10.0.0.1", "10.0.0.2")), rng.choice((Access.GTPV1, Access.GTPV2))
        tunnel = replace(one.tunnel, local_teid_control=teid or 100 + number, peer_control_address=address)
        one = replace(one, access=access, tunnel=tunnel)
        match rng.randrange(3):
            case 0:
                contexts.hold(one)
                known = {key: each for key, each in known.items() if _teid_of(each) != _teid_of(one)}
                known[one.session_id] = one
            case 1 if (there := known.get(one.session_id)) is not None:
                kept = replace(tunnel, local_teid_control=_teid_of(there))
                known[one.session_id] = replace(one, tunnel=kept)
                contexts.move(one)
            case _ if (context := contexts.by_session(one.session_id)) is not None:
                contexts.step(context, ContextEvent.FORGET)
                known.pop(one.session_id)
        for peer in [(a, p) for a in (Access.GTPV1, Access.GTPV2) for p in ("10.0.0.1", "10.0.0.2")]:
            expected = {
                each.session_id
                for each in known.values()
                if each.tunnel is not None and (each.access, each.tunnel.peer_control_address) == peer
            }
            found = [context.session_id for context in contexts.of_peer(*peer)]
            assert (len(found), set(found)) == (len(expected), expected)
            assert contexts.count_of_peer(*peer) == len(expected)
    for session_id in list(known):
        context = contexts.by_session(session_id)
        assert context is not None
        contexts.step(context, ContextEvent.FORGET)
    assert (len(contexts), contexts._of_peer) == (0, {})


def _teid_of(session: Session) -> int:
    return session.tunnel.local_teid_control if session.tunnel else 0


def test_forged_counters_bring_one_echo_request_at_a_time() -> None:
    machine = gateway(timers=Timers())
    attached(machine)
    for forged in range(8, 100):
        machine.receive_datagram(message(ECHO_REQUEST, 0, forged, bytes((14, forged))), SGSN, 1)
    (echo,) = echoes(machine)
    answer_echo(machine, echo, 7, 2)
    assert machine.next_event() is None


def test_the_answer_to_our_own_echo_is_one_proof_and_the_next_answer_the_other() -> None:
    machine = gateway()
    attached(machine)
    due = machine.get_timer()
    assert due is not None
    machine.handle_timer(due)
    (echo,) = echoes(machine)
    answer_echo(machine, echo, 8, due)
    assert machine.next_event() is None
    answered(machine, 8, due, due + PROOF_S)
    assert ended(machine) == [session().session_id]


def test_recovery_is_looked_for_in_create_update_and_in_the_answer_to_our_delete() -> None:
    for carrier in ("create", "update", "delete response"):
        machine = gateway(timers=Timers(), wire=V2Wire() if carrier == "delete response" else V1Wire())
        if carrier == "delete response":
            machine.receive_datagram(create_session(), SGW, 0)
            event = machine.next_event()
            assert isinstance(event, SessionRequested)
            machine.answer(
                event.token, Accepted(replace(session(control_address=SGW[0]), access=Access.GTPV2)), 0
            )
            machine.release(session().session_id, 1)
            body = element(2, b"\x10\0") + element(3, b"\x08")
            machine.datagrams_to_send()
            machine.receive_datagram(message2(100, 0xA0000001, 101, body), SGW, 1)
        else:
            attached(machine)
            if carrier == "create":
                machine.receive_datagram(create_request(2, recovery=8, nsapi=6), SGSN, 1)
            else:
                body = update_request(0xA0000001, 2).replace(b"\x0e\x07", b"\x0e\x08", 1)
                machine.receive_datagram(body, SGSN, 1)
        assert len(echoes(machine)) == 1, carrier


def test_a_create_without_recovery_during_the_confirmation_survives_it() -> None:
    machine = gateway(timers=Timers())
    attached(machine)
    machine.receive_datagram(message(ECHO_REQUEST, 0, 9, b"\x0e\x08"), SGSN, 1)
    (echo,) = echoes(machine)
    elements = v1.create_elements(nsapi=6)
    del elements[1]
    machine.receive_datagram(message(16, 0, 2, b"".join(elements)), SGSN, 1)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    created = session(2, restart_counter=peer_of(event).restart_counter)
    machine.answer(event.token, Accepted(created), 1)
    answer_echo(machine, echo, 8, 2)
    answered(machine, 8, 2, 2 + 2 * PROOF_S)
    assert ended(machine) == [session(1).session_id]


def test_what_a_peer_asked_for_before_its_restart_and_got_after_it_is_asked_about() -> None:
    machine = gateway(timers=Timers())
    attached(machine)
    machine.receive_datagram(create_request(2, recovery=7, nsapi=6), SGSN, 1)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    told(machine, 8, 2)
    assert answered(machine, 8, 2, 10) == 2 + PROOF_S
    assert ended(machine) == [session().session_id]
    late = session(2, restart_counter=peer_of(event).restart_counter)
    machine.answer(event.token, Accepted(late), 11)
    machine.receive_datagram(create_request(3, recovery=8, nsapi=7), SGSN, 12)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session(3, restart_counter=8)), 12)
    assert machine.next_event() is None, "what it asked for since then stays"
    answered(machine, 8, 12, 100)
    assert doubted(machine) == [late.session_id]


def test_the_table_of_peers_is_bounded_and_forgets_strangers_first() -> None:
    peers = Peers(timers=TIMERS, capacity=3)
    peers.watch("has sessions", 0)
    for number in range(100):
        peers.on_message(f"stranger {number}", number)
    assert [peer for peer, _ in peers.items()][-1] == "stranger 99"
    assert len(list(peers.items())) == 3
    assert "has sessions" in dict(peers.items())
    full = Peers(timers=TIMERS, capacity=LOOKED_AT_MAX)
    for number in range(LOOKED_AT_MAX):
        full.watch(str(number), 0)
    assert not full.on_recovery("one more", 7, 0)
    assert len(list(full.items())) == LOOKED_AT_MAX


# -- timers and repeats ---------------------------------------------------------------------------------


def test_requests_are_repeated_as_often_and_as_far_apart_as_configured() -> None:
    machine = gateway(timers=Timers(t3_response_s=2.0, n3_requests=2))
    attached(machine)
    machine.release(session().session_id, 10)
    assert len(machine.datagrams_to_send()) == 1
    assert [at for at, _ in run_until(machine, 100)] == [12.0, 14.0]
    assert machine.contexts == 0


def test_of_many_open_requests_the_next_due_is_known_without_looking_at_all() -> None:
    timers = Timers(t3_response_s=2.0, n3_requests=2)
    sender: RequestSender[str] = RequestSender(random_bytes=counting(0), timers=timers)
    for number in range(1, 1_001):
        assert sender.begin(number, b"\x32\x01", SGSN, str(number), number / 1_000)
    assert sender.timer() == 2.001
    again, given_up = sender.expire(2.5)
    assert (len(again), given_up) == (500, [])
    assert sender.timer() == 2.501
    assert sender.answered(SGSN, 501, 2) == "501"
    assert sender.timer() == 2.502
    assert len(sender.expire(3.0)[0]) == 499
    assert sender.timer() == 4.5, "those that were repeated first are due first"
    for now in (4.5, 5.0, 6.5, 7.0):
        given_up += sender.expire(now)[1]
    assert len(given_up) == 999
    assert sender.timer() is None


def test_an_answer_is_kept_for_t3_times_n3_and_more() -> None:
    timers = Timers(t3_response_s=2.0, n3_requests=3)
    machine = gateway(timers=timers)
    machine.receive_datagram(create_request(), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session()), 0)
    ((first, _),) = machine.datagrams_to_send()
    machine.receive_datagram(create_request(), SGSN, 2 * (3 + 1) + 1)
    assert machine.datagrams_to_send() == [(first, SGSN)]
    machine.receive_datagram(create_request(), SGSN, timers.kept_s)
    assert isinstance(machine.next_event(), SessionRequested), "it is a new one by now"


def test_an_answer_goes_to_the_port_that_the_request_came_from() -> None:
    machine, source = gateway(), (SGSN[0], 40_000)
    machine.receive_datagram(create_request(), source, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session()), 0)
    machine.receive_datagram(message(ECHO_REQUEST, 0, 9, b""), source, 0)
    assert [peer for _, peer in machine.datagrams_to_send()] == [source, source]


def test_the_key_of_a_repeat_is_address_port_version_type_and_sequence() -> None:
    cache = ResponseCache()
    key = ("10.0.0.1", 2123, 1, 16, 5)
    assert cache.arrive(key, 0)[0] is Arrival.NEW
    assert cache.arrive(key, 0)[0] is Arrival.IN_PROGRESS
    others = (("10.0.0.2", 2123, 1, 16, 5), ("10.0.0.1", 9, 1, 16, 5), ("10.0.0.1", 2123, 1, 18, 5))
    for other in (*others, ("10.0.0.1", 2123, 2, 16, 5)):
        assert cache.arrive(other, 0)[0] is Arrival.NEW


def test_a_full_cache_forgets_the_oldest_answer_and_nothing_that_is_being_decided() -> None:
    cache = ResponseCache(capacity=2)
    for number in range(4):
        assert cache.arrive((str(number), 1, 1, 16, number), number)[0] is Arrival.NEW
        cache.answer((str(number), 1, 1, 16, number), str(number), bytes((number,)))
    assert cache.arrive(("3", 1, 1, 16, 3), 5) == (Arrival.ANSWERED, b"\x03")
    assert cache.arrive(("0", 1, 1, 16, 0), 5)[0] is Arrival.NEW
    assert cache.arrive(("0", 1, 1, 16, 0), 6)[0] is Arrival.IN_PROGRESS
    assert len(cache) == 3


# -- partners -------------------------------------------------------------------------------------------


def test_another_address_of_the_same_partner_goes_on_and_a_strangers_does_not() -> None:
    partners = (partner("one", "127.0.1.0/24", "10.1.0.0/16"), partner("two", "127.0.2.0/24"))
    for source, is_heard in (("10.1.2.3", True), ("127.0.2.1", False)):
        machine = gateway(*partners)
        attached(machine)
        machine.receive_datagram(update_request(0xA0000001, 2), (source, 2123), 1)
        assert isinstance(machine.next_event(), UpdateRequested) is is_heard


def test_with_no_table_everybody_may_speak_each_for_itself() -> None:
    everybody = Partners((), ())
    assert everybody.of("10.0.0.1") is not None
    assert everybody.are_one("10.0.0.1", "10.0.0.1")
    assert not everybody.are_one("10.0.0.1", "10.0.0.2")


def test_who_is_in_no_partners_networks_is_dropped_before_the_parser() -> None:
    machine = gateway(partner("one", "127.0.1.0/24"))
    machine.receive_datagram(b"\xff", ("127.0.2.1", 2123), 0)
    assert only(machine).dropped == {"peer_not_allowed": 1}


def test_a_partner_is_read_at_its_rate_whichever_address_it_names_as_its_source() -> None:
    machine = gateway(
        partner("loud", "127.0.1.0/24", requests_per_s=10, burst=20), partner("other", "127.0.2.0/24")
    )
    for number in range(100):
        machine.receive_datagram(message(ECHO_REQUEST, 0, number, b""), (f"127.0.1.{number}", 2123), 0)
    assert len(machine.datagrams_to_send()) == 20
    assert only(machine).dropped["rate_exceeded"] == 80
    machine.receive_datagram(message(ECHO_REQUEST, 0, 1, b""), ("127.0.2.1", 2123), 0)
    assert len(machine.datagrams_to_send()) == 1, "the others are not touched"
    for number in range(100):
        machine.receive_datagram(message(ECHO_REQUEST, 0, number, b""), SGSN, 1 + number / 100)
    assert len(machine.datagrams_to_send()) == pytest.approx(20, abs=1)
