"""Requests of ours that a peer puts off: because of a handover, or because the device saves power."""

from copy import copy

import pytest

from core.domain.values import replace
from gtp.contexts import Context
from gtp.endpoint import GtpcEndpoint, Limits
from gtp.events import Accepted, BearerAnswered, DeviceAsleep
from gtp.network_requests import (
    CHANGE_AGAIN_S,
    CHANGE_TRIES_MAX,
    PUT_OFF_EACH_MAX,
    NetworkRequest,
    Procedure,
    PutOff,
)
from gtp.v2.cause import Cause
from gtp.wire import Verdict
from tests.support.gtp import put_off_in
from tests.support.gtp2 import SGW, element, message2, modify_bearer
from tests.unit.gtp.v2.test_bearers import (
    COMMANDED,
    LATER,
    WANTED,
    ambr,
    created,
    decided,
    modify_command,
    reply,
    standing,
    told,
    update_request,
)
from tests.unit.gtp.v2.test_gateway import PGW_TEID, answers, session

ASLEEP = Cause.UE_IS_TEMPORARILY_NOT_REACHABLE_DUE_TO_POWER_SAVING
SESSION = session().session_id


def waking(machine: GtpcEndpoint, sequence: int, *, now: float) -> list[bytes]:
    """The device's next Modify Bearer is accepted; what is sent beside its answer."""
    event = decided(machine, modify_bearer(PGW_TEID, sequence), now)
    machine.answer(event.token, Accepted(session()), now)
    first, *more = answers(machine)
    assert first[1] == 35
    return more


def test_a_change_for_a_device_that_sleeps_is_told_when_it_is_heard_of_however_late() -> None:
    machine, now = standing(), 0.0
    machine.changed(told(1), now)
    for number in range(CHANGE_TRIES_MAX + 3):
        assert len(answers(machine)) == (1 if number == 0 else 0)
        machine.receive_datagram(reply(98, 101 + number, ASLEEP), SGW, now)
        assert machine.next_event() == DeviceAsleep(SESSION)
        now += 86_400.0
        machine.handle_timer(now)
        assert (answers(machine), machine.get_timer()) == ([], None), "it is not repeated meanwhile"
        (again,) = waking(machine, 2 + number, now=now)
        assert (again[1], ambr(512, 1_024) in again) == (97, True)
    machine.changed(told(2), now)
    machine.receive_datagram(reply(98, 101 + number + 1, ASLEEP), SGW, now)
    machine.changed(told(3), now)
    assert answers(machine) == []
    machine.wake(SESSION, now)
    (newest,) = answers(machine)
    assert ambr(514, 1_024) in newest, "the newest alone"
    machine.receive_datagram(reply(98, 101 + number + 2, 16), SGW, now)
    machine.wake(SESSION, now)
    assert (answers(machine), machine.get_timer()) == ([], None)


@pytest.mark.parametrize("cause", [ASLEEP, LATER])
@pytest.mark.parametrize("is_of_the_bearer", [False, True])
def test_a_bearer_that_is_put_off_is_asked_for_again(*, cause: Cause, is_of_the_bearer: bool) -> None:
    machine = standing()
    token = machine.add_bearer(session(), WANTED, 0)
    (first,) = answers(machine)
    put_off = created(101, 17, bearer_cause=cause) if is_of_the_bearer else reply(96, 101, cause)
    machine.receive_datagram(put_off, SGW, 0)
    assert machine.next_event() == (DeviceAsleep(SESSION) if cause is ASLEEP else None)
    assert (put_off_in(machine), answers(machine)) == (1, [])
    (again,) = waking(machine, 2, now=1)
    assert again[12:] == first[12:], "the same of another number"
    machine.receive_datagram(created(102), SGW, 1)
    made = replace(WANTED, ebi=6, peer_teid_user=0x3001, peer_user_address=SGW[0])
    assert token is not None
    assert machine.next_event() == BearerAnswered(token, SESSION, made)
    assert (put_off_in(machine), machine.get_timer()) == (0, None)


def test_a_bearer_put_off_by_a_handover_is_asked_for_a_few_times_and_then_refused() -> None:
    machine, now = standing(), 0.0
    token = machine.change_bearer(told(), replace(WANTED, ebi=6), now)
    for attempt in range(CHANGE_TRIES_MAX):
        assert [data[1] for data in answers(machine)] == [97]
        machine.receive_datagram(reply(98, 101 + attempt, LATER), SGW, now)
        if attempt < CHANGE_TRIES_MAX - 1:
            assert machine.get_timer() == now + CHANGE_AGAIN_S
            now += CHANGE_AGAIN_S
            machine.handle_timer(now)
    assert token is not None
    assert machine.next_event() == BearerAnswered(token, SESSION, None, is_new=False)
    assert (put_off_in(machine), machine.get_timer()) == (0, None)


def test_the_end_of_a_bearer_and_a_commanded_change_are_put_off_too() -> None:
    machine = standing()
    event = decided(machine, modify_command(COMMANDED | 7), 0)
    machine.answer(event.token, Accepted(told()), 0)
    machine.receive_datagram(reply(98, COMMANDED | 7, ASLEEP), SGW, 0)
    machine.remove_bearer(SESSION, 6, 0)
    machine.receive_datagram(reply(100, 101, ASLEEP), SGW, 0)
    answers(machine)
    machine.wake(SESSION, 1)
    assert answers(machine) == [
        update_request(102, told().qos),
        message2(99, 0x2001, 103, element(73, b"\x06", 1)),
    ]


def test_what_is_put_off_ends_with_its_session() -> None:
    machine = standing()
    token = machine.add_bearer(session(), WANTED, 0)
    machine.changed(told(), 0)
    for kind, sequence in ((96, 101), (98, 102)):
        machine.receive_datagram(reply(kind, sequence, ASLEEP), SGW, 0)
        assert machine.next_event() == DeviceAsleep(SESSION)
    machine.forget(SESSION)
    answers(machine)
    assert token is not None
    assert machine.next_event() == BearerAnswered(token, SESSION, None)
    machine.wake(SESSION, 1)
    assert (answers(machine), put_off_in(machine), len(machine._network._changes)) == ([], 0, 0)


def test_a_release_is_told_again_when_its_peer_speaks_of_it() -> None:
    machine = standing()
    machine.release(SESSION, 0)
    (first,) = answers(machine)
    machine.receive_datagram(reply(100, 101, ASLEEP), SGW, 0)
    assert (machine.next_event(), machine.contexts, machine.get_timer()) == (None, 1, None)
    machine.receive_datagram(modify_bearer(PGW_TEID, 2), SGW, 9_000)
    refused, again = answers(machine)
    assert (refused[1], refused[16]) == (35, Cause.CONTEXT_NOT_FOUND)
    assert (again[1], again[12:]) == (99, first[12:])
    machine.receive_datagram(reply(100, 102, 16), SGW, 9_000)
    assert (machine.contexts, put_off_in(machine), machine.get_timer()) == (0, 0, None)


def test_a_release_that_waits_is_over_when_its_peer_has_lost_it() -> None:
    machine = standing()
    machine.release(SESSION, 0)
    machine.receive_datagram(reply(100, 101, ASLEEP), SGW, 0)
    machine.forget(SESSION)
    assert (machine.contexts, put_off_in(machine)) == (0, 0)


def test_of_what_is_put_off_the_oldest_is_given_up_when_there_is_too_much() -> None:
    machine = standing(Limits(put_off=1))
    machine.release(SESSION, 0)
    machine.receive_datagram(reply(100, 101, ASLEEP), SGW, 0)
    other = session(2)
    machine.adopt(other)
    machine.remove_bearer(other.session_id, 6, 0)
    machine.receive_datagram(reply(100, 102, ASLEEP), SGW, 0)
    assert (put_off_in(machine), machine.contexts) == (1, 1)


def test_what_is_put_off_of_one_session_is_bounded() -> None:
    """A partner that commands changes and puts each off."""
    put_off = PutOff()
    commanded = [
        NetworkRequest(Procedure.COMMANDED, SESSION, token=token) for token in range(2 * PUT_OFF_EACH_MAX)
    ]
    kept = [each for each in commanded if put_off.keep(each, Verdict.ASLEEP, 0) is not None]
    assert kept == commanded[:PUT_OFF_EACH_MAX] == put_off.take(SESSION)
    assert put_off.keep(commanded[-1], Verdict.ASLEEP, 0) == []


def test_what_was_put_off_is_asked_of_who_has_the_session_now_by_its_own_teid() -> None:
    """Else whoever had it chooses what is changed at another."""
    machine = standing()
    event = decided(machine, modify_command(COMMANDED | 7), 0)
    machine.answer(event.token, Accepted(told()), 0)
    machine.receive_datagram(reply(98, COMMANDED | 7, ASLEEP), SGW, 0)
    assert machine.next_event() == DeviceAsleep(SESSION)
    answers(machine)
    before = session()
    assert before.tunnel is not None
    moved = replace(before, tunnel=replace(before.tunnel, peer_teid_control=0x7777))
    asked = decided(machine, modify_bearer(PGW_TEID, 2), 1)
    machine.answer(asked.token, Accepted(moved), 1)
    _, again = answers(machine)
    assert (again[1], again[4:8]) == (97, bytes.fromhex("00007777"))


@pytest.mark.parametrize("cause", [ASLEEP, LATER])
def test_a_former_peer_that_puts_its_release_off_has_nothing_sent_to_the_next(cause: Cause) -> None:
    machine = standing()
    before = machine._contexts.by_session(SESSION)
    assert before is not None
    machine.release_former(replace_teid(before, 0x6666), 0)
    (told_former,) = answers(machine)
    assert (told_former[1], told_former[4:8]) == (99, bytes.fromhex("00006666"))
    machine.receive_datagram(reply(100, 101, cause), SGW, 0)
    machine.handle_timer(2 * CHANGE_AGAIN_S)
    machine.wake(SESSION, 1)
    assert (answers(machine), put_off_in(machine)) == ([], 0)


def replace_teid(context: Context, teid: int) -> Context:
    """As it was of the peer before."""
    former = copy(context)
    former.peer_teid = teid
    return former
