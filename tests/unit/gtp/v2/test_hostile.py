"""GTPv2: hostile input, row by row of what gateways of the field fell over, and what must come back."""

import pytest

from core.domain.reasons import AttachRefusal
from core.domain.session import PdnType, Qos
from core.domain.values import replace
from gtp.endpoint import GtpcEndpoint
from gtp.events import Accepted, Rejected, SessionRequested
from gtp.pco import OPTIONS_MAX
from gtp.v2.cause import Cause
from tests.support.gtp import IMSI_OCTETS, peer_of
from tests.support.gtp2 import (
    SGW,
    bearer_context,
    create_elements,
    delete_session,
    element,
    f_teid,
    message2,
    modify_bearer,
)
from tests.unit.gtp.v2.test_bearers import TFT, delete_command, modify_command
from tests.unit.gtp.v2.test_gateway import PGW_TEID, answers, attached, gateway, refusal, session

STRANGER = ("10.0.0.1", 2123)
IMSI = element(1, IMSI_OCTETS)


def create(**changed: bytes) -> bytes:
    """A Create Session Request with some elements, by name, replaced or added."""
    elements = {**create_elements(), **{name.replace("_", " "): value for name, value in changed.items()}}
    return message2(32, 0, 1, b"".join(elements.values()))


def asked(machine: GtpcEndpoint, data: bytes) -> SessionRequested:
    machine.receive_datagram(data, SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    return event


# -- 2, 5, 6, 7 -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("apn", [b"\x3fsoracom", b"\x07soraco", b"\x00", b"\x07soracom\x00", b"\x01" * 101])
def test_an_apn_whose_label_overruns_is_named(apn: bytes) -> None:
    assert refusal(gateway(), create(apn=element(71, apn))) == bytes((69, 0, 71, 0, 0, 0))


@pytest.mark.parametrize("octets", [1, 2, 21])
def test_a_bearer_qos_that_is_short_is_named(octets: int) -> None:
    bearer = element(73, b"\x05") + f_teid(4, 0x1001, 2) + element(80, bytes(octets))
    assert refusal(gateway(), create(bearer_context=element(93, bearer))) == bytes((67, 0, 80, 0, 0, 0))


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        (b"\x06" + b"\0\0\x20\x01", 69),
        (b"\x06" + b"\0\0\x20\x01" + bytes(20), 69),
        (b"\x46" + b"\0\0\x20\x01" + bytes(16), 69),
        (b"\x86" + b"\0\0\x20\x01" + bytes(3), 69),
        (b"\x86", 67),
    ],
    ids=["neither", "neither, and octets", "IPv6 alone", "half an address", "flags alone"],
)
def test_an_f_teid_without_an_ipv4_address_is_named(value: bytes, cause: int) -> None:
    data = create(**{"f-teid": element(87, value)})
    assert refusal(gateway(), data) == bytes((cause, 0, 87, 0, 0, 0))
    machine = gateway()
    attached(machine)
    bearer = element(73, b"\x05") + element(87, value, 1)
    named = bytes((cause, 0, 87, 0, 0, 1))
    assert refusal(machine, message2(34, PGW_TEID, 2, element(93, bearer))) == named


# -- 4: what is optional never refuses ------------------------------------------------------------------


@pytest.mark.parametrize("octets", [0, 1, 2, 7, 50, 2_000])
def test_optional_elements_of_any_length_refuse_no_session(octets: int) -> None:
    junk = b"\xff" * octets
    kinds = {"mei": 75, "msisdn": 76, "indication": 77, "uli": 86, "serving_network": 83, "ambr": 72}
    data = create(**{name: element(kind, junk) for name, kind in kinds.items()})
    wish = asked(gateway(), data).asked
    assert (wish.imei, wish.msisdn, wish.location.plmn) == ("", "", "")
    assert len(wish.location.user_location) <= 128
    assert wish.pdn_type is PdnType.IPV4


def test_an_ambr_as_high_as_it_can_be_is_told_again() -> None:
    machine = gateway()
    event = asked(machine, create(ambr=element(72, b"\xff" * 8)))
    assert event.asked.qos == Qos(9, 0x74, 2**32 - 1, 2**32 - 1)
    machine.answer(event.token, Accepted(replace(session(), qos=event.asked.qos)), 0)
    assert element(72, b"\xff" * 8) in answers(machine)[0]


# -- 8 --------------------------------------------------------------------------------------------------


def test_of_surplus_bearer_contexts_the_first_counts_and_a_nested_one_is_nothing() -> None:
    other = element(73, b"\x0b") + f_teid(4, 0x9999, 2) + element(80, bytes(22))
    first = b"".join(bearer_context())
    for bearers in (
        element(93, first) + element(93, other),
        element(93, element(93, other) + first),
        element(93, first + element(93, element(93, element(93, other)))),
        element(93, first) + b"".join(element(93, b"") for _ in range(40)),
    ):
        peer = peer_of(asked(gateway(), create(bearer_context=bearers)))
        assert (peer.nsapi, peer.teid_user) == (5, 0x1001)
    nested_alone = element(93, element(93, first))
    assert refusal(gateway(), create(bearer_context=nested_alone))[0] == Cause.MANDATORY_IE_MISSING
    flood = b"".join(element(93, b"") for _ in range(200))
    assert refusal(gateway(), create(bearer_context=flood))[0] == Cause.INVALID_MESSAGE_FORMAT


# -- 9 --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(1, len(TFT)))
def test_a_tft_that_overruns_is_answered(cut: int) -> None:
    machine = gateway()
    attached(machine)
    body = element(73, b"\x05") + element(100, b"\x09") + element(85, TFT[:cut])
    machine.receive_datagram(message2(68, PGW_TEID, 3, body), SGW, 0)
    assert answers(machine)[0][16] == Cause.SYNTACTIC_ERROR_IN_TFT


# -- 10 -------------------------------------------------------------------------------------------------

DNS = bytes.fromhex("000d00")


@pytest.mark.parametrize(
    "options",
    [
        b"",
        b"\x80",
        b"\x80\x00\x0d",
        b"\x80\x00\x0d\xff",
        b"\x80" + bytes.fromhex("8021ff01010010"),
        b"\x80" + bytes.fromhex("802104010100ff"),
        b"\x80" + bytes.fromhex("80210601010006ff"),
        b"\x80" + bytes.fromhex("c02304010100ff"),
        b"\x80" + bytes.fromhex("c02306010100ffff61"),
        b"\x80" + bytes.fromhex("c22304020100ff"),
        b"\x80" + DNS * 80,
        b"\x80" + b"\x80\x21\x00" * 80,
    ],
)
def test_options_that_overrun_or_are_too_many_refuse_no_session(options: bytes) -> None:
    machine = gateway()
    event = asked(machine, create(pco=element(78, options), epco=element(197, options)))
    machine.answer(event.token, Accepted(session()), 0)
    (answer,) = answers(machine)
    assert answer[16] == Cause.REQUEST_ACCEPTED
    servers_of_each = 2 * 7
    assert len(answer) < 200 + 2 * OPTIONS_MAX * servers_of_each


# -- 14, 19, 22 -----------------------------------------------------------------------------------------


def test_a_pool_that_is_exhausted_is_told_and_leaves_no_context() -> None:
    machine = gateway()
    event = asked(machine, create())
    machine.answer(event.token, Rejected(AttachRefusal.ADDRESSES_OCCUPIED), 0)
    assert (answers(machine)[0][16], machine.contexts) == (84, 0)


@pytest.mark.parametrize(
    "request_",
    [
        modify_bearer(PGW_TEID, 2),
        delete_session(PGW_TEID, 2),
        message2(38, PGW_TEID, 2, IMSI + element(82, b"\x06")),
        message2(162, PGW_TEID, 2, IMSI),
        message2(164, PGW_TEID, 2, IMSI),
        modify_command(2),
        delete_command(6),
        message2(68, PGW_TEID, 2, element(73, b"\x05") + element(100, b"\x01") + element(85, TFT)),
    ],
    ids=lambda data: str(data[1]),
)
def test_a_stranger_with_a_guessed_teid_learns_what_one_with_a_wrong_one_does(request_: bytes) -> None:
    machine = gateway("127.0.2.0/24", "10.0.0.0/8")
    attached(machine)
    machine.receive_datagram(request_, STRANGER, 0)
    wrong = bytearray(request_)
    wrong[4:8], wrong[10] = b"\xde\xad\xbe\xef", 9
    machine.receive_datagram(bytes(wrong), STRANGER, 0)
    guessed, other = answers(machine)
    assert guessed[4:8] == bytes(4)
    assert guessed[16] == Cause.CONTEXT_NOT_FOUND
    assert (guessed[:8], guessed[11:]) == (other[:8], other[11:])
    assert (machine.next_event(), machine.contexts) == (None, 1)


@pytest.mark.parametrize("kind", [34, 36, 38, 64, 66, 68, 162, 164])
def test_teid_0_names_no_context(kind: int) -> None:
    machine = gateway()
    attached(machine)
    bodies = {
        38: element(82, b"\x06"),
        64: modify_command(1)[12:],
        66: delete_command(6)[12:],
        68: element(73, b"\x05") + element(100, b"\x01") + element(85, TFT),
    }
    machine.receive_datagram(message2(kind, 0, 2, bodies.get(kind, b"")), SGW, 0)
    (answer,) = answers(machine)
    assert (answer[4:8], answer[16]) == (bytes(4), Cause.CONTEXT_NOT_FOUND)
