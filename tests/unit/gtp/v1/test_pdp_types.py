"""PDP types in GTPv1: what is asked for, what is granted, how the answer says it."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from core.domain.apn import Apn
from core.domain.reasons import AttachRefusal
from core.domain.requests import OpenSession
from core.domain.session import PdnType, Session
from core.domain.values import replace
from gtp.endpoint import GtpcEndpoint
from gtp.events import Accepted, Rejected, SessionRequested
from gtp.partners import Partner
from gtp.v1.header import decode_header
from gtp.v1.ie import decode_elements
from gtp.v1.wire import V1Wire
from tests.support.gtp import APN, SGSN, counting, create_elements, message, session, tlv

PREFIX = IPv6Network("2001:db8:0:2::/64")
IPV6_ADDRESS = IPv6Address("2001:db8:0:2::a80:2").packed
DUAL_ADDRESS_BEARERS = tlv(0x94, b"\x80")
BOTH = b"\xf1\x8d"
OFFERS_ALL = replace(APN, pdn_types=frozenset(PdnType))


def gateway(apn: Apn) -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=[V1Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[apn],
        allowed_peers=[],
        random_bytes=counting(100),
    )


def granted(pdn_type: PdnType) -> Session:
    return replace(session(), pdn_type=pdn_type, ue_prefix=None if pdn_type is PdnType.IPV4 else PREFIX)


def asked(pdp_type: bytes, *more: bytes) -> bytes:
    return message(16, 0, 1, b"".join([*create_elements(pdp_type=pdp_type), *more]))


def wish(pdp_type: bytes, *more: bytes, apn: Apn = OFFERS_ALL) -> OpenSession:
    machine = gateway(apn)
    machine.receive_datagram(asked(pdp_type, *more), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    return event.asked


def answer(pdp_type: bytes, *more: bytes, grant: PdnType, apn: Apn = OFFERS_ALL) -> tuple[int, bytes]:
    """The cause and the End User Address."""
    machine = gateway(apn)
    machine.receive_datagram(asked(pdp_type, *more), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(granted(grant)), 0)
    elements = decode_elements(decode_header(machine.datagrams_to_send()[0][0]).payload)
    return elements[1][0][0], elements[0x80][0]


def test_an_ipv4_session_is_told_its_address() -> None:
    assert answer(b"\xf1\x21", grant=PdnType.IPV4) == (128, bytes.fromhex("f1210a800002"))


def test_an_ipv6_session_is_told_its_prefix_with_an_interface_identifier() -> None:
    assert wish(b"\xf1\x57").pdn_type is PdnType.IPV6
    assert answer(b"\xf1\x57", grant=PdnType.IPV6) == (128, b"\xf1\x57" + IPV6_ADDRESS)


def test_a_session_of_both_is_told_both_addresses() -> None:
    assert wish(BOTH, DUAL_ADDRESS_BEARERS).pdn_type is PdnType.IPV4V6
    told = answer(BOTH, DUAL_ADDRESS_BEARERS, grant=PdnType.IPV4V6)
    assert told == (128, BOTH + bytes((10, 128, 0, 2)) + IPV6_ADDRESS)


@pytest.mark.parametrize("only", [PdnType.IPV4, PdnType.IPV6])
def test_both_asked_and_one_offered_is_cause_129(only: PdnType) -> None:
    cause, _ = answer(BOTH, DUAL_ADDRESS_BEARERS, grant=only, apn=replace(APN, pdn_types=frozenset({only})))
    assert cause == 129


def test_both_asked_over_bearers_of_one_address_is_cause_130() -> None:
    assert wish(BOTH).pdn_type is PdnType.IPV4
    assert answer(BOTH, grant=PdnType.IPV4)[0] == 130
    assert wish(BOTH, tlv(0x94, b"\x7f")).pdn_type is PdnType.IPV4
    ipv6_first = replace(APN, pdn_types=frozenset({PdnType.IPV6, PdnType.IPV4V6}))
    assert wish(BOTH, apn=ipv6_first).pdn_type is PdnType.IPV6


def test_a_partner_may_have_both_families_without_the_flag() -> None:
    partner = Partner("one", (IPv4Network("127.0.1.0/24"),), assume_dual_address_bearers=True)
    machine = GtpcEndpoint(
        wires=[V1Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[OFFERS_ALL],
        allowed_peers=[],
        partners=[partner],
        random_bytes=counting(100),
    )
    machine.receive_datagram(asked(BOTH), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert event.asked.pdn_type is PdnType.IPV4V6
    machine.answer(event.token, Accepted(granted(PdnType.IPV4V6)), 0)
    elements = decode_elements(decode_header(machine.datagrams_to_send()[0][0]).payload)
    assert elements[1] == [b"\x80"]


@pytest.mark.parametrize("pdp_type", [b"\xf0\x01", b"\xf0\x21", b"\xf1\x02", b"\xf1\x22abcd"])
def test_an_unknown_pdp_type_is_cause_220(pdp_type: bytes) -> None:
    machine = gateway(OFFERS_ALL)
    machine.receive_datagram(asked(pdp_type), SGSN, 0)
    elements = decode_elements(decode_header(machine.datagrams_to_send()[0][0]).payload)
    assert elements[1] == [b"\xdc"]
    assert machine.next_event() is None


def test_a_pdp_type_that_is_not_offered_is_cause_220() -> None:
    machine = gateway(APN)
    machine.receive_datagram(asked(b"\xf1\x57"), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Rejected(AttachRefusal.PDP_TYPE_NOT_SUPPORTED), 0)
    elements = decode_elements(decode_header(machine.datagrams_to_send()[0][0]).payload)
    assert elements[1] == [b"\xdc"]


@pytest.mark.parametrize(
    "broken",
    [
        b"\xf1",
        b"\xf1\x21abc",
        b"\xf1\x21" + bytes(16),
        b"\xf1\x57abcd",
        b"\xf1\x57" + bytes(17),
        BOTH + bytes(21),
    ],
)
def test_an_address_of_a_wrong_length_is_cause_201(broken: bytes) -> None:
    machine = gateway(OFFERS_ALL)
    machine.receive_datagram(asked(broken), SGSN, 0)
    elements = decode_elements(decode_header(machine.datagrams_to_send()[0][0]).payload)
    assert elements[1] == [b"\xc9"]


def test_static_addresses_that_are_asked_for_are_handed_out() -> None:
    both = wish(BOTH + bytes((10, 127, 0, 9)) + IPV6_ADDRESS, DUAL_ADDRESS_BEARERS)
    assert (both.requested_address, both.requested_prefix) == (IPv4Address("10.127.0.9"), PREFIX)
    assert wish(BOTH + IPV6_ADDRESS, DUAL_ADDRESS_BEARERS).requested_address is None


@pytest.mark.parametrize("address", [bytes(16), bytes(15) + b"\1", IPv6Address("fe80::1").packed])
def test_an_interface_identifier_alone_asks_for_no_prefix(address: bytes) -> None:
    assert wish(b"\xf1\x57" + address).requested_prefix is None
