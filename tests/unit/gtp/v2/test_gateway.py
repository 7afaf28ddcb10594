"""The GTPv2-C machine: answers by position, refusals that name the element, versions that share a context."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from core.domain.apn import Apn
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, PdnType, Qos, Session
from core.domain.values import replace
from gtp.endpoint import GtpcEndpoint, Limits
from gtp.events import (
    Accepted,
    DeleteRequested,
    Done,
    OutcomeTooLate,
    PeerRestarted,
    Rejected,
    SessionRequested,
    UpdateRequested,
)
from gtp.partners import Partner
from gtp.restart import PROOF_S
from gtp.transaction import N3_REQUESTS, PATIENCE_S, T3_RESPONSE_S
from gtp.v1.wire import V1Wire
from gtp.v2.cause import CAUSE_OF_REFUSAL, Cause
from gtp.v2.wire import V2Wire
from gtp.wire import Wire
from tests.support import gtp as v1
from tests.support.gtp import APN, counting, only, peer_of
from tests.support.gtp2 import (
    SGW,
    bearer_context,
    create_elements,
    create_session,
    delete_session,
    element,
    f_teid,
    message2,
    modify_bearer,
)

PGW_TEID = 0xA0000001


def gateway(
    *allowed: str, apn: Apn = APN, limits: Limits | None = None, wires: Sequence[Wire] = (V2Wire(),)
) -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=wires,
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[apn],
        allowed_peers=[IPv4Network(network) for network in allowed],
        random_bytes=counting(100),
        limits=limits,
    )


def session(number: int = 1, *, address: str = SGW[0]) -> Session:
    return replace(v1.session(number, control_address=address), access=Access.GTPV2, msisdn="8190123456")


def attached(machine: GtpcEndpoint, *, now: float = 0.0) -> None:
    machine.receive_datagram(create_session(), SGW, now)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session()), now)
    machine.datagrams_to_send()


def answers(machine: GtpcEndpoint) -> list[bytes]:
    return [data for data, _ in machine.datagrams_to_send()]


def refusal(machine: GtpcEndpoint, data: bytes) -> bytes:
    """The Cause element that answers a request, type to instance octet left out."""
    machine.receive_datagram(data, SGW, 0)
    assert machine.next_event() is None
    (answer,) = answers(machine)
    assert answer[12] == 2
    return answer[16 : 16 + answer[14]]


def test_echo_has_no_teid_and_our_restart_counter() -> None:
    machine = gateway()
    machine.receive_datagram(message2(1, None, 9, element(3, b"\x07")), SGW, 0)
    assert answers(machine) == [message2(2, None, 9, element(3, b"\x03"))]


def test_a_session_is_handed_out_whole() -> None:
    machine = gateway()
    machine.receive_datagram(create_session(), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    wish, peer = event.asked, peer_of(event)
    assert (wish.access, wish.imsi, wish.apn) == (Access.GTPV2, "440100000000001", "soracom.io")
    assert (peer.nsapi, wish.requested_address) == (5, None)
    assert (peer.teid_control, peer.teid_user) == (0x2001, 0x1001)
    assert (peer.control_address, peer.user_address) == (SGW[0], SGW[0])
    assert (wish.msisdn, wish.imei) == ("8190123456", "3502000000000001")
    assert (wish.location.plmn, wish.location.rat) == ("44010", "LTE")
    assert wish.location.user_location == "1844f001000144f00100000001"


def test_an_accepted_session_is_answered_octet_by_octet_with_the_qos_that_it_has() -> None:
    machine = gateway()
    machine.receive_datagram(create_session(0x010203), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert event.asked.qos == Qos(9, 0x74, 1_000, 2_000)
    granted = Qos(8, 0x7C, 512, 1_024)
    machine.answer(event.token, Accepted(replace(session(), qos=granted)), 0)
    here = bytes((127, 0, 0, 1))
    bearer = (
        element(73, b"\x05")
        + element(2, b"\x10\0")
        + f_teid(5, 0xB0000001, 2, here)
        + element(80, bytes.fromhex("7c08") + bytes(20))
        + element(94, bytes.fromhex("b0000001"))
    )
    dns = (
        bytes.fromhex("000d04")
        + bytes((100, 127, 0, 53))
        + bytes.fromhex("000d04")
        + bytes((100, 127, 1, 53))
    )
    body = (
        element(2, b"\x10\0")
        + element(3, b"\x03")
        + f_teid(7, PGW_TEID, 1, here)
        + element(79, b"\x01" + bytes((10, 128, 0, 2)))
        + element(127, b"\0")
        + element(72, (512).to_bytes(4, "big") + (1_024).to_bytes(4, "big"))
        + element(78, b"\x80" + dns + bytes.fromhex("001002054e"))
        + element(93, bearer)
    )
    assert machine.datagrams_to_send() == [(message2(33, 0x2001, 0x010203, body), SGW)]
    machine.receive_datagram(create_session(0x010203), SGW, 1)
    assert answers(machine) == [message2(33, 0x2001, 0x010203, body)], "a repeat is answered the same"
    assert machine.next_event() is None


@pytest.mark.parametrize(
    ("name", "key", "cause"),
    [
        ("imsi", (1, 0), Cause.CONDITIONAL_IE_MISSING),
        ("rat type", (82, 0), Cause.MANDATORY_IE_MISSING),
        ("f-teid", (87, 0), Cause.MANDATORY_IE_MISSING),
        ("apn", (71, 0), Cause.MANDATORY_IE_MISSING),
        ("paa", (79, 0), Cause.CONDITIONAL_IE_MISSING),
        ("bearer context", (93, 0), Cause.MANDATORY_IE_MISSING),
    ],
)
def test_what_is_missing_or_too_short_is_named(name: str, key: tuple[int, int], cause: Cause) -> None:
    elements = create_elements()
    del elements[name]
    missing = message2(32, 0, 1, b"".join(elements.values()))
    assert refusal(gateway(), missing) == bytes((cause, 0, key[0], 0, 0, key[1]))
    elements[name] = element(key[0], b"", key[1])
    short = message2(32, 0, 1, b"".join(elements.values()))
    assert refusal(gateway(), short)[0] in (Cause.INVALID_LENGTH, Cause.MANDATORY_IE_MISSING)


def test_the_bearers_elements_are_named_with_their_instance() -> None:
    elements = create_elements()
    bearer = bearer_context()
    for index, (key, cause) in enumerate(
        (
            ((73, 0), Cause.MANDATORY_IE_MISSING),
            ((87, 2), Cause.CONDITIONAL_IE_MISSING),
            ((80, 0), Cause.MANDATORY_IE_MISSING),
        )
    ):
        rest = b"".join(part for at, part in enumerate(bearer) if at != index)
        elements["bearer context"] = element(93, rest)
        data = message2(32, 0, 1, b"".join(elements.values()))
        assert refusal(gateway(), data) == bytes((cause, 0, key[0], 0, 0, key[1]))


@pytest.mark.parametrize(
    ("name", "value", "key"),
    [
        ("imsi", element(1, b"\xaa" * 8), (1, 0)),
        ("apn", element(71, b"\x09abc"), (71, 0)),
        ("f-teid", f_teid(6, 0, 0), (87, 0)),
        ("f-teid", element(87, b"\x46" + bytes(20)), (87, 0)),
        ("paa", element(79, b"\x01\x0a"), (79, 0)),
    ],
)
def test_what_is_wrong_is_named(name: str, value: bytes, key: tuple[int, int]) -> None:
    elements = {**create_elements(), name: value}
    data = message2(32, 0, 1, b"".join(elements.values()))
    assert refusal(gateway(), data) == bytes((Cause.MANDATORY_IE_INCORRECT, 0, key[0], 0, 0, key[1]))


PREFIX = IPv6Network("2001:db8:0:2::/64")
DUAL = Apn("soracom.io", pdn_types=frozenset(PdnType))
IPV4_ONLY = Apn("soracom.io")


def wish_for(apn: Apn, pdn_type: int, indication: bytes) -> tuple[GtpcEndpoint, SessionRequested]:
    machine = gateway(apn=apn)
    elements = {**create_elements(pdn_type=pdn_type), "indication": element(77, indication)}
    machine.receive_datagram(message2(32, 0, 1, b"".join(elements.values())), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    return machine, event


def given(granted: PdnType) -> bytes:
    """The PAA that tells of it."""
    address = bytes((10, 128, 0, 2))
    ipv6 = bytes((64,)) + bytes.fromhex("20010db800000002000000000a800002")
    return element(
        79,
        {
            PdnType.IPV4: b"\x01" + address,
            PdnType.IPV6: b"\x02" + ipv6,
            PdnType.IPV4V6: b"\x03" + ipv6 + address,
        }[granted],
    )


@pytest.mark.parametrize(
    ("asked", "indication", "apn", "wished", "granted", "cause"),
    [
        (1, b"", DUAL, PdnType.IPV4, PdnType.IPV4, 16),
        (2, b"", DUAL, PdnType.IPV6, PdnType.IPV6, 16),
        (3, b"\x80", DUAL, PdnType.IPV4V6, PdnType.IPV4V6, 16),
        (3, b"\x80", IPV4_ONLY, PdnType.IPV4V6, PdnType.IPV4, 18),
        (3, b"", IPV4_ONLY, PdnType.IPV4, PdnType.IPV4, 18),
        (3, b"", DUAL, PdnType.IPV4, PdnType.IPV4, 19),
        (3, b"\x7f\xff", DUAL, PdnType.IPV4, PdnType.IPV4, 19),
        (3, b"", replace(DUAL, pdn_types=frozenset({PdnType.IPV6, PdnType.IPV4V6})), PdnType.IPV6,
         PdnType.IPV6, 19),
    ],
)  # fmt: skip
def test_the_answer_tells_addresses_and_why_one_is_missing(
    *, asked: int, indication: bytes, apn: Apn, wished: PdnType, granted: PdnType, cause: int
) -> None:
    machine, event = wish_for(apn, asked, indication)
    assert (event.asked.pdn_type, event.asked.requested_address, event.asked.requested_prefix) == (
        wished,
        None,
        None,
    )
    prefix = None if granted is PdnType.IPV4 else PREFIX
    machine.answer(event.token, Accepted(replace(session(), pdn_type=granted, ue_prefix=prefix)), 0)
    (answer,) = answers(machine)
    assert answer[16] == cause
    assert given(granted) in answer


def test_a_pdn_type_of_which_nothing_can_be_given_is_refused() -> None:
    machine, event = wish_for(IPV4_ONLY, 2, b"\x80")
    machine.answer(event.token, Rejected(AttachRefusal.PDP_TYPE_NOT_SUPPORTED), 0)
    assert answers(machine)[0][16] == Cause.PREFERRED_PDN_TYPE_NOT_SUPPORTED
    for no_ip in (4, 5):
        assert refusal(gateway(), create_session(pdn_type=no_ip))[0] == Cause.PREFERRED_PDN_TYPE_NOT_SUPPORTED


def test_a_paa_that_is_not_of_the_pdn_type_is_named() -> None:
    named = bytes((Cause.MANDATORY_IE_INCORRECT, 0, 79, 0, 0, 0))
    for pdn_type, paa in ((1, b"\x02" + bytes(17)), (3, b"\x01" + bytes(4)), (1, b"\x07" + bytes(4))):
        assert refusal(gateway(), create_session(pdn_type=pdn_type, paa=element(79, paa))) == named
    wrong_type = bytes((Cause.MANDATORY_IE_INCORRECT, 0, 99, 0, 0, 0))
    elements = {**create_elements(), "pdn type": element(99, b"\x06")}
    assert refusal(gateway(), message2(32, 0, 1, b"".join(elements.values()))) == wrong_type


@pytest.mark.parametrize(("pdn_type", "octets"), [(1, 4), (2, 17), (3, 21)])
def test_half_a_paa_is_named_and_one_of_200_octets_is_read_to_its_end(pdn_type: int, octets: int) -> None:
    named = bytes((Cause.MANDATORY_IE_INCORRECT, 0, 79, 0, 0, 0))
    for cut in range(1, octets):
        half = element(79, bytes((pdn_type,)) + bytes(cut))
        assert refusal(gateway(), create_session(pdn_type=pdn_type, paa=half)) == named
    machine = gateway()
    whole = element(79, bytes((pdn_type,)) + bytes(octets) + b"\xff" * 200)
    machine.receive_datagram(create_session(pdn_type=pdn_type, paa=whole), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert (event.asked.requested_address, event.asked.requested_prefix) == (None, None)


def test_a_static_address_is_told_on() -> None:
    machine = gateway()
    wanted = {**create_elements(), "paa": element(79, b"\x01" + bytes((10, 1, 2, 3)))}
    machine.receive_datagram(message2(32, 0, 1, b"".join(wanted.values())), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert event.asked.requested_address == IPv4Address("10.1.2.3")
    both = b"\x03\x40" + PREFIX.network_address.packed + bytes((10, 1, 2, 3))
    machine.receive_datagram(create_session(2, pdn_type=3, paa=element(79, both)), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert (event.asked.requested_address, event.asked.requested_prefix) == (IPv4Address("10.1.2.3"), PREFIX)


@pytest.mark.parametrize(
    "address",
    [bytes(16), bytes(15) + b"\1", IPv6Address("fe80::1").packed],
    ids=["none", "interface", "link"],
)
def test_an_interface_identifier_or_a_link_local_address_asks_for_no_prefix(address: bytes) -> None:
    machine = gateway()
    machine.receive_datagram(create_session(pdn_type=2, paa=element(79, b"\x02\x40" + address)), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert event.asked.requested_prefix is None


def test_a_partner_may_have_both_families_without_the_flag() -> None:
    partner = Partner("one", (IPv4Network("127.0.2.0/24"),), assume_dual_address_bearers=True)
    machine = GtpcEndpoint(
        wires=[V2Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[DUAL],
        allowed_peers=[],
        partners=[partner],
        random_bytes=counting(100),
    )
    machine.receive_datagram(create_session(pdn_type=3), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert event.asked.pdn_type is PdnType.IPV4V6
    given = replace(session(), pdn_type=PdnType.IPV4V6, ue_prefix=PREFIX)
    machine.answer(event.token, Accepted(given), 0)
    assert answers(machine)[0][16] == Cause.REQUEST_ACCEPTED


@pytest.mark.parametrize("reason", AttachRefusal)
def test_every_refusal_has_its_cause(reason: AttachRefusal) -> None:
    machine = gateway()
    machine.receive_datagram(create_session(), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Rejected(reason), 0)
    cause = CAUSE_OF_REFUSAL[reason]
    assert not cause.is_acceptance
    assert answers(machine) == [message2(33, 0x2001, 1, element(2, bytes((cause, 0))))]


def test_a_bearer_moves_to_another_sgw() -> None:
    machine = gateway("127.0.2.0/24")
    attached(machine)
    other = ("127.0.2.9", 4_000)
    machine.receive_datagram(modify_bearer(PGW_TEID, 2, address=bytes((127, 0, 2, 9))), other, 0)
    event = machine.next_event()
    assert isinstance(event, UpdateRequested)
    assert (event.ends.teid_control, event.ends.teid_user) == (0x2002, 0x1002)
    moved = session()
    assert moved.tunnel is not None
    moved = replace(
        moved, tunnel=replace(moved.tunnel, peer_teid_control=0x2002, peer_control_address=other[0])
    )
    machine.answer(event.token, Accepted(moved), 0)
    bearer = element(73, b"\x05") + element(2, b"\x10\0") + element(94, bytes.fromhex("b0000001"))
    body = (
        element(2, b"\x10\0")
        + element(76, bytes.fromhex("1809214365"))
        + element(3, b"\x03")
        + element(93, bearer)
    )
    assert machine.datagrams_to_send() == [(message2(35, 0x2002, 2, body), other)]
    machine.release(moved.session_id, 0)
    ((data, peer),) = machine.datagrams_to_send()
    assert peer == ("127.0.2.9", 2123)
    assert data == message2(99, 0x2002, 101, element(73, b"\x05"))


def test_deleting_is_answered_and_once_more_is_not_found() -> None:
    machine = gateway()
    attached(machine)
    machine.receive_datagram(delete_session(PGW_TEID, 2), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, DeleteRequested)
    machine.forget(event.session_id)
    machine.answer(event.token, Done(), 0)
    assert answers(machine) == [message2(37, 0x2001, 2, element(2, b"\x10\0") + element(3, b"\x03"))]
    machine.receive_datagram(delete_session(PGW_TEID, 3), SGW, 0)
    assert answers(machine) == [message2(37, 0, 3, element(2, bytes((Cause.CONTEXT_NOT_FOUND, 0))))]
    assert machine.contexts == 0


def test_a_stranger_learns_nothing_of_a_context() -> None:
    machine = gateway("127.0.2.0/24", "10.0.0.0/8")
    attached(machine)
    for data in (modify_bearer(PGW_TEID, 2), delete_session(PGW_TEID, 3)):
        machine.receive_datagram(data, ("10.0.0.1", 2123), 0)
        (answer,) = answers(machine)
        assert answer[16] == Cause.CONTEXT_NOT_FOUND
        assert machine.next_event() is None


def test_a_release_is_repeated_until_it_is_answered_or_given_up() -> None:
    machine = gateway()
    attached(machine)
    machine.release(session().session_id, 0)
    sent = answers(machine)
    for step in range(1, N3_REQUESTS + 1):
        machine.handle_timer(step * T3_RESPONSE_S)
        assert answers(machine) == sent
    machine.handle_timer((N3_REQUESTS + 1) * T3_RESPONSE_S)
    assert machine.contexts == 0
    attached(again := gateway())
    again.release(session().session_id, 0)
    again.receive_datagram(message2(100, PGW_TEID, 101, element(2, b"\x10\0")), SGW, 0)
    assert again.contexts == 0
    assert again.get_timer() is None


@pytest.mark.parametrize("reason", CloseReason)
def test_a_release_says_why_where_the_device_should_know(reason: CloseReason) -> None:
    machine = gateway()
    attached(machine)
    machine.release(session().session_id, 0, reason)
    why = {CloseReason.REACTIVATE: element(2, b"\x08\0"), CloseReason.IDLE: element(2, b"\x0b\0")}
    body = element(73, b"\x05") + why.get(reason, b"")
    assert answers(machine) == [message2(99, 0x2001, 101, body)]


def test_an_outcome_after_the_peers_patience_is_undone() -> None:
    machine = gateway()
    machine.receive_datagram(create_session(), SGW, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session()), PATIENCE_S + 1)
    assert machine.next_event() == OutcomeTooLate(session().session_id)
    assert answers(machine) == []


def test_a_confirmed_restart_ends_the_peers_older_sessions() -> None:
    machine = gateway()
    attached(machine)
    machine.receive_datagram(message2(1, None, 9, element(3, b"\x08")), SGW, 0)
    echo = answers(machine)[1]
    assert echo[1] == 1
    machine.receive_datagram(message2(2, None, 101, element(3, b"\x08")), SGW, 0)
    assert machine.next_event() is None
    machine.handle_timer(PROOF_S)
    assert answers(machine)[0] == message2(1, None, 102, element(3, b"\x03"))
    machine.receive_datagram(message2(2, None, 102, element(3, b"\x08")), SGW, PROOF_S)
    assert machine.next_event() == PeerRestarted(SGW[0], 8, (session().session_id,))


def test_echo_with_a_private_extension_carries_nothing_back() -> None:
    machine = gateway()
    machine.receive_datagram(message2(1, None, 9, element(255, b"\0\1secret") + element(3, b"\x07")), SGW, 0)
    assert answers(machine) == [message2(2, None, 9, element(3, b"\x03"))]


def test_a_piggybacked_message_is_read_too() -> None:
    machine = gateway()
    first = bytearray(create_session(1))
    first[0] |= 0x10
    machine.receive_datagram(bytes(first) + create_session(2), SGW, 0)
    assert isinstance(machine.next_event(), SessionRequested)
    assert isinstance(machine.next_event(), SessionRequested)


def test_what_is_not_served_is_counted_and_dropped() -> None:
    machine = gateway()
    machine.receive_datagram(message2(40, 1, 1, b""), SGW, 0)
    machine.receive_datagram(message2(32, None, 1, b""), SGW, 0)
    machine.receive_datagram(b"\x48\x20\0\x08", SGW, 0)
    machine.receive_datagram(message2(100, 1, 55, element(2, b"\x10\0")), SGW, 0)
    assert only(machine).dropped == {
        "message_not_supported": 1, "no_teid": 1, "malformed_header": 1, "orphan_response": 1,
    }  # fmt: skip
    assert answers(machine) == []


def test_a_session_of_one_version_goes_on_by_the_other() -> None:
    machine = gateway("127.0.0.0/16", wires=[V1Wire(), V2Wire()])
    machine.receive_datagram(v1.create_request(), v1.SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(v1.session()), 0)
    machine.receive_datagram(modify_bearer(PGW_TEID, 2), SGW, 0)
    update = machine.next_event()
    assert isinstance(update, UpdateRequested)
    assert (update.session_id, update.access) == (v1.session().session_id, Access.GTPV2)
    machine.answer(update.token, Accepted(session()), 0)
    context = machine._contexts.by_session(v1.session().session_id)
    assert context is not None
    assert (context.access, context.control_address) == (Access.GTPV2, SGW[0])
    machine.receive_datagram(v1.update_request(PGW_TEID, 9), v1.SGSN, 0)
    assert isinstance(machine.next_event(), UpdateRequested), "and back"
