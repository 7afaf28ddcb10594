"""GTPv2: what the network starts and what a peer commands, octet by octet, and what it may be answered."""

import pytest

from core.domain.flow import DedicatedBearer, PacketFilter
from core.domain.reasons import AttachRefusal
from core.domain.session import Cell, Location, Qos, Session
from core.domain.values import replace
from gtp.endpoint import GtpcEndpoint, Limits
from gtp.events import (
    Accepted,
    BearerAnswered,
    BearersUnwanted,
    DeleteRequested,
    Done,
    Rejected,
    SessionUnknown,
    UpdateRequested,
)
from gtp.network_requests import CHANGE_AGAIN_S, CHANGE_TRIES_MAX
from gtp.path import NOTICE_INTERVAL_S
from gtp.transaction import N3_REQUESTS, T3_RESPONSE_S
from gtp.v2.cause import Cause
from gtp.wire import BearerEndpoints, PeerEndpoints, QosChange
from tests.support.gtp import IMSI_OCTETS, only
from tests.support.gtp2 import (
    SGW,
    SGW_ADDRESS,
    delete_session,
    element,
    f_teid,
    message2,
    modify_bearer,
)
from tests.unit.gtp.v2.test_gateway import PGW_TEID, answers, attached, gateway, session

FILTER = PacketFilter(1, 7, remote="10.1.0.0/16", protocol=17, remote_ports=(5_060, 5_060))
TFT = bytes.fromhex("21" "31070e" "100a010000ffff0000" "3011" "5013c4")  # fmt: skip
WANTED = DedicatedBearer(0, 7, 0x34, (FILTER,), 0xC0000001, 0, "", 0xC0000001)
CHANGED = Qos(8, 0x38, 512, 1_024)
ACCEPTED = element(2, b"\x10\0")
LATER = Cause.TEMPORARILY_REJECTED_DUE_TO_HANDOVER
COMMANDED = 0x800000
"""The bit of a command's number."""


def qos(arp: int, qci: int) -> bytes:
    return element(80, bytes((arp, qci)) + bytes(20))


def ambr(up: int, down: int) -> bytes:
    return element(72, up.to_bytes(4, "big") + down.to_bytes(4, "big"))


def update_request(sequence: int, granted: Qos = CHANGED) -> bytes:
    bearer = element(73, b"\x05") + qos(granted.arp, granted.qci)
    body = element(93, bearer) + ambr(granted.ambr_up_kbps, granted.ambr_down_kbps)
    return message2(97, 0x2001, sequence, body)


def told(number: int = 1) -> Session:
    return replace(session(), qos=replace(CHANGED, ambr_up_kbps=511 + number))


def reply(kind: int, sequence: int, cause: int, *more: bytes) -> bytes:
    return message2(kind, PGW_TEID, sequence, element(2, bytes((cause, 0))) + b"".join(more))


def standing(limits: Limits | None = None) -> GtpcEndpoint:
    machine = gateway("127.0.2.0/24", "10.0.0.0/8", limits=limits)
    attached(machine)
    return machine


def decided(machine: GtpcEndpoint, data: bytes, now: float = 0.0) -> UpdateRequested:
    machine.receive_datagram(data, SGW, now)
    event = machine.next_event()
    assert isinstance(event, UpdateRequested)
    return event


# -- a change on our side -------------------------------------------------------------------------------


def test_a_change_is_told_by_update_bearer_and_repeated_until_it_is_answered() -> None:
    machine = standing()
    machine.changed(told(), 0)
    assert machine.datagrams_to_send() == [(update_request(101), (SGW[0], 2123))]
    machine.handle_timer(T3_RESPONSE_S)
    assert answers(machine) == [update_request(101)]
    machine.receive_datagram(reply(98, 101, 16), SGW, T3_RESPONSE_S)
    assert (machine.get_timer(), machine.next_event(), machine.contexts) == (None, None, 1)


def test_a_change_that_nobody_answers_is_given_up_and_the_session_stays() -> None:
    machine = standing()
    machine.changed(told(), 0)
    for step in range(1, N3_REQUESTS + 2):
        machine.handle_timer(step * T3_RESPONSE_S)
    assert len(answers(machine)) == N3_REQUESTS + 1
    assert (machine.get_timer(), machine.contexts) == (None, 1)
    machine.changed(told(), 100)
    assert answers(machine) == [update_request(102)], "the next is told again"


def test_of_changes_on_end_the_newest_is_told_when_the_first_was_answered() -> None:
    machine = standing()
    for number in (1, 2, 3):
        machine.changed(told(number), 0)
    assert answers(machine) == [update_request(101)]
    machine.receive_datagram(reply(98, 101, 94), SGW, 1)
    assert answers(machine) == [update_request(102, told(3).qos)]
    machine.receive_datagram(reply(98, 102, 16), SGW, 1)
    assert machine.get_timer() is None


def test_a_change_amid_a_handover_is_told_again_after_a_while_a_few_times() -> None:
    machine = standing()
    machine.changed(told(1), 0)
    now = 0.0
    for attempt in range(CHANGE_TRIES_MAX):
        assert len(answers(machine)) == 1
        machine.receive_datagram(reply(98, 101 + attempt, LATER), SGW, now)
        if attempt < CHANGE_TRIES_MAX - 1:
            now += CHANGE_AGAIN_S
            assert machine.get_timer() == now
            machine.handle_timer(now)
    assert (machine.get_timer(), answers(machine), machine.contexts) == (None, [], 1)


def test_a_change_put_off_by_a_handover_is_told_at_its_end_to_the_new_peer() -> None:
    machine = standing()
    machine.changed(told(1), 0)
    machine.changed(told(2), 0)
    machine.receive_datagram(reply(98, 101, LATER), SGW, 0)
    answers(machine)
    event = decided(machine, modify_bearer(PGW_TEID, 2, address=bytes((127, 0, 2, 9))), 1)
    tunnel = session().tunnel
    assert tunnel is not None
    moved = replace(
        told(2), tunnel=replace(tunnel, peer_teid_control=0x2002, peer_control_address="127.0.2.9")
    )
    machine.answer(event.token, Accepted(moved), 1)
    (_, _), (data, peer) = machine.datagrams_to_send()
    assert (data[1], data[4:8], peer) == (97, bytes.fromhex("00002002"), ("127.0.2.9", 2123))
    assert ambr(513, 1_024) in data
    machine.handle_timer(2)
    assert answers(machine) == []


def test_a_late_overlapping_change_is_over() -> None:
    machine = standing()
    machine.changed(told(), 0)
    machine.receive_datagram(reply(98, 101, Cause.LATE_OVERLAPPING_REQUEST), SGW, 0)
    assert (machine.get_timer(), machine.contexts) == (None, 1)


def test_a_session_that_its_peer_does_not_know_is_over() -> None:
    machine = standing()
    machine.changed(told(), 0)
    machine.receive_datagram(reply(98, 101, Cause.CONTEXT_NOT_FOUND), SGW, 0)
    assert machine.next_event() == SessionUnknown(session().session_id, SGW[0], 0x2001)


def test_a_delete_while_a_change_is_open_is_carried_out_and_the_change_forgotten() -> None:
    machine = standing()
    machine.changed(told(1), 0)
    machine.changed(told(2), 0)
    machine.receive_datagram(delete_session(PGW_TEID, 2), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, DeleteRequested)
    machine.receive_datagram(reply(98, 101, Cause.CONTEXT_NOT_FOUND), SGW, 0)
    assert machine.next_event() is None
    machine.forget(event.session_id)
    machine.answer(event.token, Done(), 0)
    machine.changed(told(3), 0)
    assert [data[1] for data in answers(machine)] == [97, 37]
    assert machine.get_timer() is None


# -- orphans and strangers ------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [2, 96, 98, 100, 37])
def test_an_answer_that_nobody_asked_for_is_dropped(kind: int) -> None:
    machine = standing()
    machine.receive_datagram(reply(kind, 55, 16), SGW, 0)
    assert (answers(machine), machine.next_event()) == ([], None)
    assert only(machine).dropped["orphan_response" if kind != 37 else "message_not_supported"] == 1


def test_an_answer_counts_only_from_the_address_and_port_that_was_asked_and_of_the_right_kind() -> None:
    machine = standing()
    machine.changed(told(), 0)
    machine.receive_datagram(reply(98, 101, 64), ("10.0.0.1", 2123), 0)
    machine.receive_datagram(reply(100, 101, 16), SGW, 0)
    machine.receive_datagram(message2(98, PGW_TEID, 101, b""), SGW, 0)
    machine.receive_datagram(reply(98, 101, 16), (SGW[0], 4_000), 0)
    machine.receive_datagram(reply(98, 101, 16), ("127.0.2.77", 2123), 0)
    assert only(machine).dropped == {"orphan_response": 4, "malformed_response": 1}
    assert machine.get_timer() == T3_RESPONSE_S
    machine.receive_datagram(reply(98, 101, 16), SGW, 0)
    assert machine.get_timer() is None


# -- dedicated bearers ----------------------------------------------------------------------------------


def created(sequence: int, cause: int = 16, *, ebi: int = 6, bearer_cause: int = 16) -> bytes:
    bearer = element(73, bytes((ebi,))) + element(2, bytes((bearer_cause, 0))) + f_teid(4, 0x3001, 2)
    return reply(96, sequence, cause, element(93, bearer))


def test_a_dedicated_bearer_is_asked_for_with_its_filters_and_its_own_tunnel() -> None:
    machine = standing()
    token = machine.add_bearer(session(), WANTED, 0)
    bearer = (
        element(73, b"\0")
        + element(84, TFT)
        + f_teid(5, 0xC0000001, 1, bytes((127, 0, 0, 1)))
        + qos(0x34, 7)
        + element(94, bytes.fromhex("c0000001"))
    )
    assert answers(machine) == [message2(95, 0x2001, 101, element(73, b"\x05") + element(93, bearer))]
    machine.receive_datagram(created(101), SGW, 0)
    made = replace(WANTED, ebi=6, peer_teid_user=0x3001, peer_user_address=SGW[0])
    assert token is not None
    assert machine.next_event() == BearerAnswered(token, session().session_id, made)


@pytest.mark.parametrize(("cause", "is_done"), [(16, True), (73, False), (64, False)])
def test_a_dedicated_bearer_is_changed_with_its_whole_template(cause: int, is_done: bool) -> None:
    machine, there = standing(), replace(WANTED, ebi=6, qci=8)
    token = machine.change_bearer(told(), there, 0)
    bearer = element(73, b"\x06") + element(84, TFT) + qos(0x34, 8)
    asked = message2(97, 0x2001, 101, element(93, bearer) + ambr(512, 1_024))
    assert answers(machine) == [asked]
    machine.receive_datagram(reply(98, 101, cause), SGW, 0)
    assert token is not None
    made = there if is_done else None
    assert machine.next_event() == BearerAnswered(token, session().session_id, made, is_new=False)
    assert (machine.next_event(), machine.contexts) == (None, 1), "its session stays"


@pytest.mark.parametrize(
    "answer",
    [
        reply(96, 101, 73),
        reply(96, 101, 121),
        reply(96, 101, 16),
        created(101, bearer_cause=73),
        created(101, 17, bearer_cause=88),
        created(101, ebi=2),
        reply(96, 101, 16, element(93, element(73, b"\x06") + ACCEPTED)),
    ],
)
def test_a_bearer_that_is_not_wholly_granted_is_none(answer: bytes) -> None:
    machine = standing()
    token = machine.add_bearer(session(), WANTED, 0)
    machine.receive_datagram(answer, SGW, 0)
    assert token is not None
    assert machine.next_event() == BearerAnswered(token, session().session_id, None)
    assert machine.get_timer() is None


def test_a_bearer_that_nobody_answers_for_is_none_and_so_is_one_of_a_session_that_ends() -> None:
    machine = standing()
    token = machine.add_bearer(session(), WANTED, 0)
    machine.receive_datagram(delete_session(PGW_TEID, 2), SGW, 0)
    assert isinstance(machine.next_event(), DeleteRequested)
    assert machine.add_bearer(session(), WANTED, 0) is None
    for step in range(1, N3_REQUESTS + 2):
        machine.handle_timer(step * T3_RESPONSE_S)
    assert token is not None
    assert machine.next_event() == BearerAnswered(token, session().session_id, None)


def test_a_dedicated_bearer_that_would_end_at_somebody_elses_address_is_taken_back() -> None:
    machine = gateway("127.0.2.0/24")
    attached(machine)
    assert machine.add_bearer(session(), WANTED, 0) is not None
    answers(machine)
    for address, is_fine in ((bytes((10, 0, 0, 1)), False), (SGW_ADDRESS, True)):
        if is_fine:
            assert machine.add_bearer(session(), WANTED, 0) is not None
            answers(machine)
        bearer = element(73, b"\x06") + element(2, b"\x10\0") + f_teid(4, 0x1009, 2, address)
        machine.receive_datagram(reply(96, 103 if is_fine else 101, 16, element(93, bearer)), SGW, 0)
        event = machine.next_event()
        assert isinstance(event, BearerAnswered)
        assert (event.bearer is not None) is is_fine
        assert [data[1] for data in answers(machine)] == ([] if is_fine else [99])
    assert only(machine).dropped["refused_foreign_address"] == 1


def test_a_dedicated_bearer_ends_alone() -> None:
    machine = standing()
    machine.remove_bearer(session().session_id, 6, 0)
    assert answers(machine) == [message2(99, 0x2001, 101, element(73, b"\x06", 1))]
    machine.receive_datagram(reply(100, 101, Cause.CONTEXT_NOT_FOUND), SGW, 0)
    assert (machine.next_event(), machine.get_timer(), machine.contexts) == (None, None, 1)


def test_dedicated_bearers_move_with_their_session_and_what_is_unknown_is_named() -> None:
    machine = standing()
    contexts = [element(73, bytes((ebi,))) + f_teid(4, 0x1000 + ebi, 1) for ebi in (5, 6, 9)]
    body = f_teid(6, 0x2002, 0) + b"".join(element(93, one) for one in contexts)
    event = decided(machine, message2(34, PGW_TEID, 2, body + element(93, element(73, b"\x07"), 1)))
    assert (event.ends.teid_control, event.ends.teid_user) == (0x2002, 0x1005)
    assert [(each.ebi, each.teid_user) for each in event.bearers] == [(6, 0x1006), (9, 0x1009)]
    assert event.removed == (7,)
    assert event.is_suspended is False
    made = replace(WANTED, ebi=6, peer_teid_user=0x1006, peer_user_address=SGW[0])
    machine.answer(event.token, Accepted(replace(session(), dedicated=(made,))), 0)
    (answer,) = answers(machine)
    assert answer[16] == Cause.REQUEST_ACCEPTED_PARTIALLY
    told_of = [
        element(93, element(73, b"\x05") + ACCEPTED + element(94, bytes.fromhex("b0000001"))),
        element(93, element(73, b"\x06") + ACCEPTED + element(94, bytes.fromhex("c0000001"))),
        element(93, element(73, b"\x09") + element(2, bytes((Cause.CONTEXT_NOT_FOUND, 0)))),
        element(93, element(73, b"\x07") + ACCEPTED, 1),  # marked for removal (table 7.2.8-1)
    ]
    assert answer.endswith(b"".join(told_of))


# -- commands -------------------------------------------------------------------------------------------


def modify_command(sequence: int, *, ebi: int = 5, teid: int = PGW_TEID, with_qos: bool = True) -> bytes:
    bearer = element(73, bytes((ebi,))) + (qos(0x38, 8) if with_qos else b"")
    return message2(64, teid, sequence | COMMANDED, ambr(512, 1_024) + element(93, bearer))


def test_a_changed_subscription_becomes_an_update_bearer_with_the_commands_number() -> None:
    machine = standing()
    event = decided(machine, modify_command(7))
    assert event.qos_change == QosChange(8, 0x38, (512, 1_024))
    assert event.ends == PeerEndpoints()
    machine.answer(event.token, Accepted(told()), 0)
    assert answers(machine) == [update_request(7 | COMMANDED)]
    machine.receive_datagram(modify_command(7), SGW, 1)
    assert answers(machine) == [update_request(7 | COMMANDED)], "a repeated command is answered the same"
    machine.handle_timer(T3_RESPONSE_S)
    assert answers(machine) == [update_request(7 | COMMANDED)], "and the request is repeated by itself"
    machine.receive_datagram(reply(98, 7 | COMMANDED, 16), SGW, T3_RESPONSE_S)
    assert (machine.get_timer(), machine.next_event()) == (None, None)
    assert decided(machine, modify_command(8, with_qos=False)).qos_change == QosChange(ambr_kbps=(512, 1_024))


def test_commands_of_two_peers_with_one_number_do_not_meet() -> None:
    machine = standing()
    event = decided(machine, modify_command(7))
    machine.answer(event.token, Accepted(told()), 0)
    machine.receive_datagram(reply(98, 7 | COMMANDED, 16), ("127.0.2.9", 2123), 0)
    assert only(machine).dropped["orphan_response"] == 1
    assert machine.get_timer() == T3_RESPONSE_S


@pytest.mark.parametrize(
    ("command", "cause"),
    [
        (modify_command(7, teid=0), Cause.CONTEXT_NOT_FOUND),
        (modify_command(7, ebi=6), Cause.CONTEXT_NOT_FOUND),
        (
            message2(64, PGW_TEID, 7 | COMMANDED, element(93, element(73, b"\x05"))),
            Cause.MANDATORY_IE_MISSING,
        ),
        (message2(64, PGW_TEID, 7 | COMMANDED, ambr(1, 1)), Cause.MANDATORY_IE_MISSING),
        (
            message2(
                64,
                PGW_TEID,
                7 | COMMANDED,
                ambr(1, 1) + element(93, element(73, b"\x05") + element(80, b"1")),
            ),
            Cause.INVALID_LENGTH,
        ),
    ],
)
def test_a_modify_bearer_command_that_cannot_be_carried_out_fails_with_its_cause(
    command: bytes, cause: Cause
) -> None:
    machine = standing()
    machine.receive_datagram(command, SGW, 0)
    (answer,) = answers(machine)
    assert (answer[1], answer[8:11], answer[16]) == (65, command[8:11], cause)
    assert machine.next_event() is None


def test_a_modify_bearer_command_that_the_service_refuses_fails() -> None:
    machine = standing()
    event = decided(machine, modify_command(7))
    machine.answer(event.token, Rejected(AttachRefusal.NO_RESOURCES), 0)
    assert answers(machine) == [message2(65, 0x2001, 7 | COMMANDED, element(2, bytes((73, 0))))]
    assert machine.get_timer() is None


def delete_command(*ebis: int) -> bytes:
    contexts = b"".join(element(93, element(73, bytes((ebi,)))) for ebi in ebis)
    return message2(66, PGW_TEID, 9 | COMMANDED, contexts)


def test_a_delete_bearer_command_becomes_a_delete_bearer_request() -> None:
    machine = standing()
    machine.receive_datagram(delete_command(6, 7), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, BearersUnwanted)
    assert (event.session_id, event.ebis) == (session().session_id, (6, 7))
    machine.answer(event.token, Accepted(session()), 0)
    body = element(73, b"\x06", 1) + element(73, b"\x07", 1)
    assert answers(machine) == [message2(99, 0x2001, 9 | COMMANDED, body)]
    machine.receive_datagram(reply(100, 9 | COMMANDED, 16), SGW, 0)
    assert machine.get_timer() is None


def test_a_delete_bearer_command_that_fails_says_so_of_each_bearer() -> None:
    machine = standing()
    machine.receive_datagram(delete_command(6), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, BearersUnwanted)
    machine.answer(event.token, Rejected(AttachRefusal.UNKNOWN_SESSION), 0)
    not_found = element(2, bytes((64, 0)))
    expected = not_found + element(93, element(73, b"\x06") + not_found)
    assert answers(machine) == [message2(67, 0x2001, 9 | COMMANDED, expected)]
    machine.receive_datagram(message2(66, 0, 10 | COMMANDED, delete_command(6)[12:]), SGW, 0)
    assert answers(machine) == [message2(67, 0, 10 | COMMANDED, expected)]


@pytest.mark.parametrize(
    ("aggregate", "cause"),
    [
        (TFT, Cause.SERVICE_NOT_SUPPORTED),
        (TFT[:-1], Cause.SYNTACTIC_ERROR_IN_TFT),
        (b"\xff" * 200, Cause.SYNTACTIC_ERROR_IN_TFT),
    ],
)
def test_a_bearer_resource_command_fails_and_a_tft_that_overruns_is_told(
    aggregate: bytes, cause: Cause
) -> None:
    body = element(73, b"\x05") + element(100, b"\x09") + element(85, aggregate)
    machine = standing()
    machine.receive_datagram(message2(68, PGW_TEID, 3 | COMMANDED, body), SGW, 0)
    expected = element(2, bytes((cause, 0))) + element(73, b"\x05") + element(100, b"\x09")
    assert answers(machine) == [message2(69, 0x2001, 3 | COMMANDED, expected)]


def test_a_bearer_resource_command_without_its_elements_names_them() -> None:
    machine = standing()
    machine.receive_datagram(message2(68, PGW_TEID, 3 | COMMANDED, element(73, b"\x05")), SGW, 0)
    expected = element(2, bytes((70, 0, 100, 0, 0, 0))) + element(73, b"\x05")
    assert answers(machine) == [message2(69, 0x2001, 3 | COMMANDED, expected)]


# -- notifications --------------------------------------------------------------------------------------

IMSI = element(1, IMSI_OCTETS)
ULI = element(86, bytes.fromhex("18" "44f0010001" "44f00100000002"))  # fmt: skip


def test_a_change_notification_tells_where_the_device_is() -> None:
    machine = standing()
    event = decided(machine, message2(38, PGW_TEID, 2, IMSI + element(82, b"\x09") + ULI))
    assert event.location == Location(
        "44010", "LTE-M", "1844f001000144f00100000002", Cell(440, 10, tac=1, eci=2)
    )
    assert event.ends == PeerEndpoints()
    assert event.is_suspended is None
    machine.answer(event.token, Accepted(session()), 0)
    assert answers(machine) == [message2(39, 0x2001, 2, ACCEPTED + IMSI)]


@pytest.mark.parametrize(
    ("mei", "imei"),
    [
        (b"", ""),
        (element(75, bytes.fromhex("5320000000000010")), "3502000000000001"),
        (element(75, b"\x53\x20"), ""),
        (element(75, b"\xee" * 8), ""),
    ],
)
def test_modify_bearer_and_change_notification_name_the_device_that_the_sim_is_in(
    mei: bytes, imei: str
) -> None:
    for kind in (34, 38):
        assert (
            decided(standing(), message2(kind, PGW_TEID, 2, IMSI + element(82, b"\x06") + mei)).imei == imei
        )


def test_a_change_notification_of_no_session_is_answered_with_its_imsi() -> None:
    machine = standing()
    for teid in (0, 0xDEAD):
        machine.receive_datagram(message2(38, teid, teid & 9, IMSI + element(82, b"\x09") + ULI), SGW, 0)
        (answer,) = answers(machine)
        assert answer == message2(39, 0, teid & 9, element(2, bytes((64, 0))) + IMSI)
    event = decided(machine, message2(38, PGW_TEID, 2, IMSI + element(82, b"\x09")))
    machine.answer(event.token, Rejected(AttachRefusal.UNKNOWN_SESSION), 0)
    assert answers(machine) == [message2(39, 0x2001, 2, element(2, bytes((64, 0))) + IMSI)]
    machine.receive_datagram(message2(38, PGW_TEID, 3, IMSI), SGW, 0)
    assert answers(machine) == [message2(39, 0x2001, 3, element(2, bytes((70, 0, 82, 0, 0, 0))) + IMSI)]


def test_suspend_and_resume_are_told_on_and_acknowledged() -> None:
    machine = standing()
    for kind, is_suspended in ((162, True), (164, False)):
        event = decided(machine, message2(kind, PGW_TEID, kind, IMSI + element(73, b"\x05")))
        assert (event.is_suspended, event.ends) == (is_suspended, PeerEndpoints())
        machine.answer(event.token, Accepted(session()), 0)
        assert answers(machine) == [message2(kind + 1, 0x2001, kind, ACCEPTED)]
        machine.receive_datagram(message2(kind, 0, 9, IMSI), SGW, 0)
        assert answers(machine) == [message2(kind + 1, 0, 9, element(2, bytes((64, 0))))]


@pytest.mark.parametrize("kind", [101, 179, 200])
def test_restoration_by_sets_is_refused_cleanly(kind: int) -> None:
    machine = standing()
    machine.receive_datagram(message2(kind, 0, 4, element(132, bytes(7))), SGW, 0)
    assert answers(machine) == [message2(kind + 1, 0, 4, element(2, bytes((68, 0))))]


# -- versions -------------------------------------------------------------------------------------------


def test_a_later_version_is_told_ours_but_rarely() -> None:
    machine = gateway()
    for first, sequence in ((0xE0, 4), (0x68, 8)):
        data = bytes((first, 32, 0, 12)) + bytes(range(12))
        machine.receive_datagram(data, SGW, 10 * sequence)
        expected = message2(3, None, int.from_bytes(data[sequence : sequence + 3], "big"), b"")
        assert answers(machine) == [expected]
        machine.receive_datagram(data, SGW, 10 * sequence + NOTICE_INTERVAL_S / 2)
        machine.receive_datagram(data[:7], SGW, 10 * sequence + 2 * NOTICE_INTERVAL_S)
        assert answers(machine) == []
    assert only(machine).dropped["version_not_supported"] == 6
    machine.receive_datagram(message2(3, None, 1, b""), SGW, 0)
    assert answers(machine) == [], "to one that is told to us nothing is answered"


def test_a_piggybacked_answer_is_read_and_half_a_second_message_spoils_only_itself() -> None:
    machine = standing()
    machine.add_bearer(session(), WANTED, 0)
    answers(machine)
    first = bytearray(created(101))
    first[0] |= 0x10
    second = modify_bearer(PGW_TEID, 5)
    machine.receive_datagram(bytes(first) + second, SGW, 0)
    assert isinstance(machine.next_event(), BearerAnswered)
    assert isinstance(machine.next_event(), UpdateRequested)
    for cut in (1, 7, 11, len(second) - 1):
        again = standing()
        request = bytearray(modify_bearer(PGW_TEID, 4))
        request[0] |= 0x10
        again.receive_datagram(bytes(request) + second[:cut], SGW, 0)
        assert isinstance(again.next_event(), UpdateRequested)
        assert again.next_event() is None
        assert only(again).dropped == {"malformed_header": 1}


def test_bearer_ends_say_where_a_bearer_goes() -> None:
    machine = standing()
    body = element(93, element(73, b"\x06") + f_teid(4, 0x1006, 1, SGW_ADDRESS))
    event = decided(machine, message2(34, PGW_TEID, 2, body))
    assert [str(each.user_address) for each in event.bearers] == [SGW[0]]
    assert event.ends == PeerEndpoints(restart_counter=7)
    assert isinstance(event.bearers[0], BearerEndpoints)
