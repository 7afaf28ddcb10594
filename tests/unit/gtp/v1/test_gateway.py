"""The GTPv1-C machine: repeats, refusals, foreign peers, restarts, and every step of a context's life."""

from ipaddress import IPv4Address, IPv4Network

import pytest

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, Qos
from core.domain.values import replace
from gtp.contexts import TRANSITIONS, ContextEvent, ContextState
from gtp.endpoint import GtpcEndpoint
from gtp.events import (
    Accepted,
    DeleteRequested,
    DeviceAsleep,
    Done,
    OutcomeTooLate,
    Rejected,
    SessionRequested,
    SessionUnknown,
    UpdateRequested,
)
from gtp.transaction import N3_REQUESTS, PATIENCE_S, RESPONSES_MAX, T3_RESPONSE_S, Arrival, ResponseCache
from gtp.v1.cause import CAUSE_OF_REFUSAL, Cause
from gtp.v1.header import decode_header
from gtp.v1.ie import decode_elements
from gtp.v1.message import MessageType
from gtp.v1.wire import V1Wire
from tests.support.gtp import (
    APN,
    QOS,
    SGSN,
    counting,
    create_elements,
    create_request,
    delete_request,
    message,
    only,
    peer_of,
    session,
    tlv,
    update_request,
)


def gateway(*allowed: str) -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=[V1Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[APN],
        allowed_peers=[IPv4Network(network) for network in allowed],
        random_bytes=counting(100),
    )


def attached(machine: GtpcEndpoint, *, now: float = 0.0, sequence: int = 1) -> int:
    """Attach once; our control TEID."""
    machine.receive_datagram(create_request(sequence), SGSN, now)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session()), now)
    machine.datagrams_to_send()
    return 0xA0000001


def cause_of(datagram: bytes) -> int:
    return decode_elements(decode_header(datagram).payload)[1][0][0]


def only_answer(machine: GtpcEndpoint) -> bytes:
    ((data, peer),) = machine.datagrams_to_send()
    assert peer == SGSN
    return data


def test_echo_is_answered_before_anything_with_our_restart_counter() -> None:
    machine = gateway()
    machine.receive_datagram(message(1, 0, 9, b""), SGSN, 0)
    assert only_answer(machine) == message(2, 0, 9, b"\x0e\x03")


def test_echo_with_a_private_extension_carries_nothing_back() -> None:
    machine = gateway()
    machine.receive_datagram(message(1, 0, 9, tlv(255, b"\0\1secret")), SGSN, 0)
    assert only_answer(machine) == message(2, 0, 9, b"\x0e\x03")


def test_create_is_handed_out_whole_and_answered_with_all_that_it_needs() -> None:
    machine = gateway()
    machine.receive_datagram(create_request(), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    request, peer = event.asked, peer_of(event)
    assert (request.access, request.imsi, request.apn) == (Access.GTPV1, "440100000000001", "soracom.io")
    assert (peer.nsapi, peer.teid_user, peer.teid_control) == (5, 0x1001, 0x2001)
    assert (peer.control_address, peer.user_address) == (SGSN[0], SGSN[0])
    assert (request.msisdn, request.imei) == ("8190123456", "3502000000000001")
    assert (request.location.plmn, request.location.rat) == ("44010", "LTE")
    machine.answer(event.token, Accepted(session()), 0.1)
    answer = only_answer(machine)
    header = decode_header(answer)
    elements = decode_elements(header.payload)
    assert (header.teid, header.sequence) == (0x2001, 1)
    assert elements[1] == [b"\x80"]
    assert elements[14] == [b"\x03"]
    assert elements[16] == [bytes.fromhex("b0000001")]
    assert elements[17] == [bytes.fromhex("a0000001")]
    assert elements[128] == [bytes.fromhex("f1210a800002")]
    assert elements[133] == [bytes((127, 0, 0, 1))] * 2
    assert elements[132] == [bytes.fromhex("80000d04647f0035000d04647f01350010 02054e".replace(" ", ""))]


def test_a_repeat_is_answered_with_the_same_bytes_and_opens_nothing() -> None:
    machine = gateway()
    machine.receive_datagram(create_request(), SGSN, 0)
    machine.receive_datagram(create_request(), SGSN, 1)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert machine.next_event() is None
    assert only(machine).dropped[Arrival.IN_PROGRESS.value] == 1
    machine.answer(event.token, Accepted(session()), 2)
    first = only_answer(machine)
    machine.receive_datagram(create_request(), SGSN, 3)
    assert only_answer(machine) == first
    assert machine.next_event() is None
    assert machine.contexts == 1


def test_another_port_or_sequence_is_another_request() -> None:
    machine = gateway()
    machine.receive_datagram(create_request(1), SGSN, 0)
    machine.receive_datagram(create_request(2), SGSN, 0)
    machine.receive_datagram(create_request(1), (SGSN[0], 40_000), 0)
    assert [type(machine.next_event()) for _ in range(4)] == [SessionRequested] * 3 + [type(None)]


@pytest.mark.parametrize("missing", [0, 3, 4, 5, 6, 7, 12])
def test_a_missing_mandatory_element_is_cause_202(missing: int) -> None:
    machine = gateway()
    elements = create_elements()
    del elements[missing]
    machine.receive_datagram(message(16, 0, 1, b"".join(elements)), SGSN, 0)
    answer = only_answer(machine)
    assert cause_of(answer) == Cause.MANDATORY_IE_MISSING
    assert decode_header(answer).teid == (0 if missing == 4 else 0x2001)
    assert machine.next_event() is None


@pytest.mark.parametrize(
    ("position", "broken"),
    [
        (0, b"\x02" + b"\xff" * 8),  # no digit at all
        (0, b"\x02" + bytes.fromhex("44100000000000fa")),  # a digit beyond 9
        (3, b"\x10\0\0\0\0"),  # TEID 0
        (6, tlv(0x80, b"\xf1")),
        (7, tlv(0x83, b"\x09soracom")),  # label beyond the element (CVE-2021-41794)
        (7, tlv(0x83, b"")),
        (7, tlv(0x83, b"\x04a\0b!")),
        (7, tlv(0x83, b"\x3f" + b"a" * 63 + b"\x3f" + b"b" * 63)),
        (9, tlv(0x85, b"\x7f" * 17)),  # GSN address beyond 16 octets
        (12, tlv(0x87, b"\0")),
    ],
)
def test_an_incorrect_mandatory_element_is_cause_201(position: int, broken: bytes) -> None:
    machine = gateway()
    elements = create_elements()
    elements[position] = broken
    machine.receive_datagram(message(16, 0, 1, b"".join(elements)), SGSN, 0)
    assert cause_of(only_answer(machine)) == Cause.MANDATORY_IE_INCORRECT


@pytest.mark.parametrize(
    ("position", "broken"),
    [
        (13, tlv(0x97, b"")),
        (13, tlv(0x97, b"\xff" * 200)),
        (14, tlv(0x98, b"\0")),
        (14, tlv(0x98, b"\xff" * 200)),
        (15, tlv(0x9A, b"\xff" * 100)),
        (15, tlv(0x9A, b"")),
        (13, tlv(0x94, b"") + tlv(0x97, b"\1")),  # Common Flags
        (13, tlv(0x94, b"\xff" * 300)),
        (13, tlv(0x81, b"\xff" * 500)),  # an MM context, which is for SGSNs
        (13, tlv(0x99, b"")),
        (13, tlv(0x99, b"\xff" * 9)),
        (13, tlv(0xBF, b"")),
        (13, tlv(0xC6, b"\xff" * 7)),
        (13, tlv(0xC6, b"\xff" * 8)),
        (11, tlv(0x86, b"")),
        (8, tlv(0x84, b"\x80\x80\x21\xff\x01")),  # container overruns
        (8, tlv(0x84, b"\x80" + b"\0\x0d\0" * 80)),  # far more containers than are read
        (8, tlv(0x84, b"\x80\x80\x21\x06\x01\x01\0\x99\x81\x00")),  # IPCP lengths lie
    ],
)
def test_a_broken_optional_element_never_refuses_a_session(position: int, broken: bytes) -> None:
    machine = gateway()
    elements = create_elements()
    elements[position] = broken
    machine.receive_datagram(message(16, 0, 1, b"".join(elements)), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session()), 0)
    answer = only_answer(machine)
    assert cause_of(answer) == Cause.REQUEST_ACCEPTED
    assert len(answer) < 300


def test_a_refusal_is_told_with_the_peers_teid() -> None:
    machine = gateway()
    machine.receive_datagram(create_request(), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Rejected(AttachRefusal.SIM_SUSPENDED), 0)
    answer = only_answer(machine)
    assert (cause_of(answer), decode_header(answer).teid) == (209, 0x2001)
    assert machine.contexts == 0


def test_the_map_of_refusals_is_total() -> None:
    assert set(CAUSE_OF_REFUSAL) == set(AttachRefusal)
    assert not any(cause.is_acceptance for cause in CAUSE_OF_REFUSAL.values())


def test_an_outcome_after_the_peer_gave_up_is_undone_and_not_sent() -> None:
    machine = gateway()
    machine.receive_datagram(create_request(), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session()), PATIENCE_S + 0.1)
    assert machine.datagrams_to_send() == []
    assert machine.next_event() == OutcomeTooLate(session().session_id)
    assert machine.contexts == 0


def test_update_takes_the_new_end_over() -> None:
    machine = gateway()
    teid = attached(machine)
    machine.receive_datagram(update_request(teid, 2), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, UpdateRequested)
    moved = session()
    assert moved.tunnel is not None
    moved = replace(moved, tunnel=replace(moved.tunnel, peer_teid_control=0x2002))
    machine.answer(event.token, Accepted(moved), 0)
    answer = only_answer(machine)
    assert (cause_of(answer), decode_header(answer).teid) == (128, 0x2002)


def test_delete_ends_the_context_and_its_repeat_is_answered() -> None:
    machine = gateway()
    teid = attached(machine)
    machine.receive_datagram(delete_request(teid, 2), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, DeleteRequested)
    machine.forget(event.session_id)
    machine.answer(event.token, Done(), 0)
    answer = only_answer(machine)
    assert (cause_of(answer), decode_header(answer).teid) == (128, 0x2001)
    machine.receive_datagram(delete_request(teid, 2), SGSN, 1)
    assert only_answer(machine) == answer
    machine.receive_datagram(delete_request(teid, 3), SGSN, 1)
    assert cause_of(only_answer(machine)) == Cause.NON_EXISTENT


def test_a_guessed_teid_from_a_stranger_does_not_exist() -> None:
    machine = gateway()
    teid = attached(machine)
    stranger = ("127.0.9.9", 2123)
    for data in (delete_request(teid, 5), update_request(teid, 6, address=bytes((127, 0, 9, 9)))):
        machine.receive_datagram(data, stranger, 0)
        ((answer, peer),) = machine.datagrams_to_send()
        assert (cause_of(answer), peer) == (Cause.NON_EXISTENT, stranger)
    assert machine.next_event() is None
    assert machine.contexts == 1


def test_a_peer_of_the_same_allowed_network_may_take_over() -> None:
    machine = gateway("127.0.0.0/8")
    teid = attached(machine)
    machine.receive_datagram(update_request(teid, 6), ("127.0.9.9", 2123), 0)
    assert isinstance(machine.next_event(), UpdateRequested)


def test_who_is_not_allowed_is_dropped_before_the_parser() -> None:
    machine = gateway("127.0.1.0/24")
    machine.receive_datagram(message(1, 0, 9, b""), ("127.0.2.1", 2123), 0)
    assert machine.datagrams_to_send() == []
    assert only(machine).dropped["peer_not_allowed"] == 1


def test_release_asks_the_peer_until_it_answers() -> None:
    machine = gateway()
    attached(machine)
    machine.release(session().session_id, 10)
    ((asked, peer),) = machine.datagrams_to_send()
    assert (asked[1], decode_header(asked).teid, peer) == (20, 0x2001, SGSN)
    assert machine.get_timer() == 10 + T3_RESPONSE_S
    machine.handle_timer(10 + T3_RESPONSE_S)
    assert machine.datagrams_to_send() == [(asked, SGSN)]
    sequence = decode_header(asked).sequence or 0
    machine.receive_datagram(message(21, 0xA0000001, sequence, b"\x01\x80"), SGSN, 16)
    assert machine.contexts == 0
    assert machine.get_timer() is None


@pytest.mark.parametrize("reason", CloseReason)
def test_a_release_says_why_where_the_device_should_know(reason: CloseReason) -> None:
    machine = gateway()
    attached(machine)
    machine.release(session().session_id, 10, reason)
    ((asked, _),) = machine.datagrams_to_send()
    why = {CloseReason.REACTIVATE: b"\x01\x06", CloseReason.IDLE: b"\x01\x07"}
    assert decode_header(asked).payload == why.get(reason, b"") + b"\x13\xff\x14\x05"


def test_release_is_given_up_after_n3_repeats() -> None:
    machine = gateway()
    attached(machine)
    machine.release(session().session_id, 0)
    sent = len(machine.datagrams_to_send())
    while (due := machine.get_timer()) is not None:
        machine.handle_timer(due)
        sent += len(machine.datagrams_to_send())
    assert sent == N3_REQUESTS + 1
    assert machine.contexts == 0


def test_orphan_responses_are_counted_and_dropped() -> None:
    machine = gateway()
    machine.receive_datagram(message(21, 1, 77, b"\x01\x80"), SGSN, 0)
    machine.receive_datagram(message(2, 0, 77, b"\x0e\x09"), SGSN, 0)
    machine.receive_datagram(message(17, 1, 77, b"\x01\x80"), SGSN, 0)
    assert machine.datagrams_to_send() == []
    assert only(machine).dropped["orphan_response"] == 2
    assert only(machine).dropped["message_not_supported"] == 1


def test_one_forged_restart_counter_clears_nothing() -> None:
    machine = gateway()
    attached(machine)
    machine.receive_datagram(message(1, 0, 9, b"\x0e\x08"), SGSN, 0)
    echo = machine.datagrams_to_send()[1][0]
    machine.receive_datagram(message(2, 0, decode_header(echo).sequence or 0, b"\x0e\x07"), SGSN, 0)
    assert machine.next_event() is None


def test_other_versions_are_told_so_and_rarely() -> None:
    machine = gateway()
    v2 = bytes.fromhex("4001000400000500")
    for now in (0.0, 0.1, 0.2):
        machine.receive_datagram(v2, SGSN, now)
    ((data, _),) = machine.datagrams_to_send()
    assert data[:2] == b"\x32\x03"
    assert only(machine).dropped["version_not_supported"] == 3
    machine.receive_datagram(bytes.fromhex("4003000400000500"), SGSN, 5)
    assert machine.datagrams_to_send() == []


def test_the_response_cache_is_bounded_and_forgets() -> None:
    cache = ResponseCache(capacity=2)
    assert cache.arrive(("a", 1, 1, 16, 1), 0)[0] is Arrival.NEW
    assert cache.arrive(("a", 1, 1, 16, 2), 0)[0] is Arrival.NEW
    assert cache.arrive(("a", 1, 1, 16, 3), 0)[0] is Arrival.NO_ROOM
    assert cache.arrive(("a", 1, 1, 16, 3), 1_000)[0] is Arrival.NEW


def test_what_is_over_counts_no_more_though_it_still_takes_its_place() -> None:
    cache, one, another = ResponseCache(kept_s=0.4), ("a", 1, 1, 16, 1), ("a", 1, 1, 16, 2)
    cache.arrive(one, 0.0)
    cache.arrive(another, 0.0)
    cache.answer(another, "a", b"answer")
    assert cache.arrive(one, 0.3) == (Arrival.IN_PROGRESS, b"")
    assert cache.arrive(another, 0.3) == (Arrival.ANSWERED, b"answer")
    assert [cache.arrive(key, 0.4)[0] for key in (one, another)] == [Arrival.NEW, Arrival.NEW]
    assert len(cache) == 3
    assert cache.arrive(("a", 1, 1, 16, 3), 1.0)[0] is Arrival.NEW
    assert len(cache) == 1
    assert len(cache) == 1
    assert RESPONSES_MAX == 65_536


@pytest.mark.parametrize("state", ContextState)
@pytest.mark.parametrize("event", ContextEvent)
def test_every_state_meets_every_event(state: ContextState, event: ContextEvent) -> None:
    machine = gateway()
    attached(machine)
    context = machine._contexts.by_session(session().session_id)
    assert context is not None
    context.state = state
    expected, _ = TRANSITIONS[state].get(event) or (None, None)
    assert machine._network.step(context, event, only(machine)) is (expected is not None)
    assert context.state is (expected or state)
    if expected is None:
        assert only(machine).dropped[f"{event.value}_while_{state.value}"] == 1


def test_sessions_that_disagree_about_their_peer_make_it_be_asked() -> None:
    machine = gateway()
    machine.adopt(session(restart_counter=7))
    machine.adopt(session(2, restart_counter=8))
    machine.receive_datagram(create_request(recovery=8), SGSN, 0.0)
    assert [data[1] for data, _ in machine.datagrams_to_send()] == [MessageType.ECHO_REQUEST]


def test_a_change_on_our_side_is_told_by_update_pdp_context() -> None:
    machine = gateway()
    attached(machine)
    changed = replace(session(), qos=Qos(ambr_up_kbps=512, ambr_down_kbps=1_024, profile=QOS.hex()))
    machine.changed(changed, 0)
    ambr = tlv(198, (512).to_bytes(4, "big") + (1_024).to_bytes(4, "big"))
    request = message(18, 0x2001, 101, b"\x14\x05" + tlv(0x87, QOS) + ambr)
    assert only_answer(machine) == request
    machine.handle_timer(T3_RESPONSE_S)
    assert only_answer(machine) == request
    machine.receive_datagram(message(19, 0xA0000001, 101, b"\x01\x80"), SGSN, T3_RESPONSE_S)
    assert (machine.get_timer(), machine.contexts) == (None, 1)


def test_a_change_for_a_device_that_sleeps_is_told_with_its_next_update() -> None:
    machine = gateway()
    attached(machine)
    changed = replace(session(), qos=Qos(ambr_up_kbps=512, ambr_down_kbps=1_024))
    machine.changed(changed, 0)
    first = only_answer(machine)
    machine.receive_datagram(message(19, 0xA0000001, 101, bytes((1, 232))), SGSN, 0)
    assert machine.next_event() == DeviceAsleep(session().session_id)
    machine.handle_timer(10_000)
    assert (machine.datagrams_to_send(), machine.get_timer()) == ([], None)
    machine.receive_datagram(update_request(0xA0000001, 2), SGSN, 10_000)
    event = machine.next_event()
    assert isinstance(event, UpdateRequested)
    machine.answer(event.token, Accepted(changed), 10_000)
    _, (again, peer) = machine.datagrams_to_send()
    assert (again[1], again[12:], peer) == (18, first[12:], SGSN)


@pytest.mark.parametrize("cause", [Cause.NON_EXISTENT, Cause.CONTEXT_NOT_FOUND])
def test_a_context_that_its_sgsn_does_not_know_is_over(cause: Cause) -> None:
    machine = gateway()
    attached(machine)
    machine.changed(session(), 0)
    machine.receive_datagram(message(19, 0xA0000001, 101, bytes((1, cause))), SGSN, 0)
    assert machine.next_event() == SessionUnknown(session().session_id, SGSN[0], 0x2001)


def test_an_answer_of_another_kind_or_from_a_stranger_is_an_orphan() -> None:
    machine = gateway("127.0.1.0/24", "10.0.0.0/8")
    attached(machine)
    machine.changed(session(), 0)
    machine.receive_datagram(message(21, 0xA0000001, 101, b"\x01\x80"), SGSN, 0)
    machine.receive_datagram(message(19, 0xA0000001, 101, b"\x01\x80"), ("10.0.0.1", 2123), 0)
    assert only(machine).dropped["orphan_response"] == 2
    assert machine.get_timer() == T3_RESPONSE_S


def test_a_version_1_peer_is_asked_for_no_dedicated_bearer() -> None:
    machine = gateway()
    attached(machine)
    bearer = DedicatedBearer(0, 7, 0x34, (), 1, 0, "", 1)
    assert machine.add_bearer(session(), bearer, 0) is None
    machine.remove_bearer(session().session_id, 6, 0)
    assert machine.datagrams_to_send() == []
