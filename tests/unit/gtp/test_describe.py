"""Messages as a trace shows them: names, causes, main elements; nothing that raises, no password."""

import random

from gtp.describe import UNREADABLE, describe
from gtp.trace import LEARNED_MAX, Refusals, SimTrace, Trace
from tests.support import gtp as v1
from tests.support.gtp import create_elements, create_request, delete_request, message, session, tlv
from tests.support.gtp2 import create_session, delete_session, element, message2

PASSWORD = b"a password"
PAP = (
    b"\x80\xc0\x23"
    + bytes((len(PASSWORD) + 9,))
    + b"\x01\x01\0\x13\x03sim"
    + bytes((len(PASSWORD),))
    + PASSWORD
)


def test_a_create_of_version_1_is_named() -> None:
    shown = describe(create_request(9))
    assert (shown.version, shown.message, shown.sequence) == (1, "create pdp context request", 9)
    assert shown.elements["imsi"] == shown.imsi == v1.IMSI
    assert shown.elements["gsn address"] == "127.0.1.1, 127.0.1.1"
    assert shown.elements["end user address"] == "IPv4"
    assert shown.elements["apn"] == "soracom.io"
    assert shown.control_teids == (0x2001,)


def test_a_create_of_version_2_is_named_with_its_bearer() -> None:
    shown = describe(create_session(9))
    assert (shown.version, shown.message, shown.sequence) == (2, "create session request", 9)
    assert shown.elements["f-teid"] == "S5/S8 SGW GTP-C 0x00002001 127.0.2.1"
    assert shown.elements["bearer context: f-teid 2"] == "S5/S8 SGW GTP-U 0x00001001 127.0.2.1"
    assert shown.control_teids == (0x2001,)


def test_causes_have_their_number_and_name() -> None:
    assert describe(message(17, 1, 1, b"\x01\xc7")).cause == "199 no resources available"
    assert describe(message2(33, 1, 1, element(2, b"\x78\0"))).cause == "120 gtp c entity congestion"
    assert describe(message(17, 1, 1, b"\x01\xfe")).cause == "254"


def test_a_password_of_a_device_is_not_shown() -> None:
    elements = create_elements()
    elements[8] = tlv(0x84, PAP)
    for data in (message(16, 0, 1, b"".join(elements)), message2(32, 0, 1, element(78, PAP))):
        shown = describe(data)
        assert shown.elements["pco"] == "c023"
        assert PASSWORD.hex() not in str(shown)
        assert PASSWORD.decode() not in str(shown)


def test_nothing_that_comes_raises() -> None:
    dice = random.Random(1)
    whole = [create_request(), create_session(), delete_request(1, 2), delete_session(1, 2)]
    for _ in range(20_000):
        data = bytearray(dice.choice(whole))
        for _ in range(dice.randrange(1, 6)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        assert describe(bytes(data[: dice.randrange(len(data) + 1)])).message
    assert describe(b"").message == UNREADABLE


def test_a_trace_follows_teids_and_answers_and_learns_no_more_than_it_may() -> None:
    trace = SimTrace(v1.IMSI, [session()])
    peer = v1.SGSN
    assert trace.look(delete_request(0xA0000001, 5), peer, is_incoming=True)
    assert trace.look(message(21, 0x2001, 5, b"\x01\x80"), peer, is_incoming=False)
    assert not trace.look(message(21, 0x9999, 6, b"\x01\x80"), peer, is_incoming=False)
    assert not trace.look(delete_request(0xA0000002, 7), peer, is_incoming=True)
    assert not trace.look(create_request(8, device=2), peer, is_incoming=True)
    for sequence in range(2 * LEARNED_MAX):
        assert trace.look(create_request(sequence), peer, is_incoming=True)
    assert len(trace._exchanges) == len(trace._exchanges) <= LEARNED_MAX


def test_refused_exchanges_are_shown_whole_and_what_waits_for_an_answer_is_bounded() -> None:
    refusals = Refusals[str]()

    def look(data: bytes, shown: str, *, is_incoming: bool) -> list[str]:
        return refusals.look(describe(data), v1.SGSN, shown, is_incoming=is_incoming)

    def answered(sequence: int, cause: int) -> bytes:
        return message(17, 0x2001, sequence, bytes((1, cause)))

    for sequence, cause, is_refused in ((1, 128, False), (2, 192, True), (3, 130, False), (4, 219, True)):
        assert look(create_request(sequence), "asked", is_incoming=True) == []
        shown = look(answered(sequence, cause), "answered", is_incoming=False)
        assert shown == (["asked", "answered"] if is_refused else [])
    assert look(answered(2, 192), "again", is_incoming=False) == ["again"], "a repeated answer"
    ended = message2(99, 0x2001, 5, element(73, b"\x05") + element(2, b"\x08\0"))
    assert look(ended, "why it ends is no refusal", is_incoming=False) == []
    assert len(refusals) == 0
    for sequence in range(2 * LEARNED_MAX):
        assert look(create_request(sequence), "asked", is_incoming=True) == []
    assert len(refusals) == LEARNED_MAX


def test_a_trace_shows_what_its_peers_refuse_and_nothing_of_others() -> None:
    trace = Trace[str](imsi="", sessions=(), is_peer=lambda address: address == v1.SGSN[0], refused=True)

    def look(data: bytes, address: str, *, is_incoming: bool) -> list[str]:
        return trace.look(data, (address, 2123), is_incoming=is_incoming, show=lambda each: each.message)

    refusal = message(17, 0x2001, 4, b"\x01\xc7")
    for address, told in (
        ("192.0.2.99", []),
        (v1.SGSN[0], ["create pdp context request", "create pdp context response"]),
    ):
        assert look(create_request(4), address, is_incoming=True) == []
        assert look(refusal, address, is_incoming=False) == told


def test_a_trace_of_a_sim_begins_with_its_open_sessions() -> None:
    trace = Trace[str](imsi=v1.IMSI, sessions=[session()], is_peer=lambda _: True, refused=False)
    for teid, told in ((0xA0000001, ["delete pdp context request"]), (0xA0000002, [])):
        asked = delete_request(teid, teid & 7)
        assert trace.look(asked, v1.SGSN, is_incoming=True, show=lambda each: each.message) == told
