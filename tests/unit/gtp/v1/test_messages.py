"""What else an SGSN may send: moves, notifications, secondary contexts, extension headers, old versions."""

from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

import pytest

from core.domain.session import Access, Location, Qos
from core.domain.values import replace
from gtp.endpoint import GtpcEndpoint
from gtp.events import Accepted, DeleteRequested, SessionRequested, UpdateRequested
from gtp.path import NOTICE_INTERVAL_S
from gtp.v1 import message as v1_message
from gtp.v1 import request as v1_request
from gtp.v1.header import EXTENSION_HEADERS_MAX, Header, decode_header
from gtp.v1.ie import Elements, decode_elements, present
from gtp.v1.wire import V1Wire
from gtp.v2 import message as v2_message
from gtp.v2 import request as v2_request
from gtp.v2.wire import V2Wire
from gtp.wire import EncodedRequest, PeerEndpoints, Wire
from tests.support.gtp import (
    APN,
    PCO_DNS,
    QOS,
    SGSN,
    counting,
    create_elements,
    create_request,
    delete_request,
    message,
    only,
    session,
    tlv,
    update_request,
)

TEID = 0xA0000001
STRANGER = ("127.0.9.9", 2123)
NOTIFICATION = b"\x14\x05" + tlv(0x97, b"\x02") + tlv(0x98, bytes.fromhex("0144f00100010007"))
IMEISV = bytes.fromhex("5320000000000010")


def gateway(*allowed: str, wires: Sequence[Wire] = (V1Wire(),)) -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=wires,
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[APN],
        allowed_peers=[IPv4Network(network) for network in allowed],
        random_bytes=counting(100),
    )


def attached(*allowed: str) -> GtpcEndpoint:
    machine = gateway(*allowed)
    machine.adopt(session())
    return machine


def asked(machine: GtpcEndpoint, data: bytes) -> UpdateRequested:
    machine.receive_datagram(data, SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, UpdateRequested), only(machine).dropped
    return event


def only_answer(machine: GtpcEndpoint) -> tuple[Header, Elements]:
    ((data, _),) = machine.datagrams_to_send()
    header = decode_header(data)
    return header, decode_elements(header.payload)


def refused(machine: GtpcEndpoint, data: bytes) -> tuple[int, int]:
    """Cause, and the TEID to which it is told; nothing is handed out."""
    machine.receive_datagram(data, SGSN, 0)
    assert machine.next_event() is None
    header, elements = only_answer(machine)
    return elements[1][0][0], header.teid


# -- Update PDP Context ---------------------------------------------------------------------------------


def update(*changes: bytes, gsn: tuple[bytes, ...] = (bytes((127, 0, 1, 1)),) * 2, nsapi: int = 5) -> bytes:
    ends = b"\x10" + (0x1002).to_bytes(4, "big") + b"\x11" + (0x2002).to_bytes(4, "big")
    parts = [ends, b"\x14" + bytes((nsapi,)), *(tlv(0x85, value) for value in gsn), tlv(0x87, QOS), *changes]
    return message(18, TEID, 2, b"".join(parts))


def test_an_sgsn_change_names_new_addresses_and_teids() -> None:
    gsn = (bytes((127, 0, 1, 9)), bytes((127, 0, 1, 10)))
    event = asked(attached(), update(gsn=gsn))
    assert event.ends == PeerEndpoints(0x2002, "127.0.1.9", 0x1002, "127.0.1.10")


def test_a_direct_tunnel_leads_the_user_plane_to_the_rnc() -> None:
    rnc = bytes((127, 0, 8, 8))
    event = asked(attached(), update(tlv(0xB6, b"\x01"), gsn=(bytes((127, 0, 1, 1)), rnc)))
    assert (event.ends.control_address, event.ends.user_address) == (
        "127.0.1.1",
        "127.0.8.8",
    )


def test_the_alternative_address_counts_where_the_first_is_of_ipv6() -> None:
    gsn = (bytes(16), b"\xfe" * 16, bytes((127, 0, 1, 9)), bytes((127, 0, 1, 10)))
    event = asked(attached(), update(gsn=gsn))
    assert event.ends == PeerEndpoints(0x2002, "127.0.1.9", 0x1002, "127.0.1.10")


@pytest.mark.parametrize(
    "gsn",
    [
        (bytes(16),) * 2,
        (bytes(17),) * 2,
        (b"", b""),
        (bytes((127, 0, 1, 1)), bytes(5)),
        (bytes(4), bytes(4), bytes(300)),
    ],
)
def test_a_gsn_address_that_cannot_be_spoken_to_is_cause_201(gsn: tuple[bytes, ...]) -> None:
    assert refused(attached(), update(gsn=gsn)) == (201, 0x2001)


def test_both_gsn_addresses_are_mandatory() -> None:
    assert refused(attached(), update(gsn=(bytes((127, 0, 1, 1)),))) == (202, 0x2001)
    elements = create_elements()
    del elements[10]
    assert refused(gateway(), message(16, 0, 3, b"".join(elements))) == (202, 0x2001)


def test_an_update_is_answered_with_options_and_the_session_as_it_stands() -> None:
    machine = attached()
    event = asked(machine, update(tlv(0x84, PCO_DNS)))
    machine.answer(event.token, Accepted(session()), 0)
    _, elements = only_answer(machine)
    assert elements[1] == [b"\x80"]
    assert elements[0x84][0].startswith(b"\x80\0\x0d\4")
    assert elements[127] == [bytes.fromhex("b0000001")]
    assert 0xB5 not in present(elements)


def test_another_nsapi_is_no_context_here() -> None:
    machine = attached()
    assert refused(machine, update(nsapi=6)) == (192, 0x2001)
    assert refused(machine, message(20, TEID, 3, b"\x13\xfe\x14\x06")) == (192, 0x2001)
    machine.receive_datagram(message(20, TEID, 4, b"\x13\xff\x14\x06"), SGSN, 0)
    assert isinstance(machine.next_event(), DeleteRequested), "torn down with whatever is left of it"


def test_what_comes_from_an_sgw_needs_the_sgsns_control_teid() -> None:
    machine = gateway("127.0.0.0/8", wires=(V1Wire(), V2Wire()))
    machine.adopt(replace(session(), access=Access.GTPV2))
    without = b"\x10\0\0\x10\2\x14\x05" + tlv(0x85, bytes((127, 0, 1, 1))) * 2 + tlv(0x87, QOS)
    assert refused(machine, message(18, TEID, 2, without))[0] == 202
    assert asked(machine, update_request(TEID, 3)).ends.teid_control == 0x2002


def test_an_update_carries_location_and_qos() -> None:
    uli = bytes.fromhex("0044f00100010002")
    event = asked(attached(), update(tlv(0x97, b"\x01"), tlv(0x98, uli), tlv(0x99, b"\x63\0")))
    assert (event.location.plmn, event.location.rat, event.location.time_zone) == ("44010", "3G", "+09:00")
    assert event.qos is not None
    assert event.qos.profile == QOS.hex()


@pytest.mark.parametrize(
    ("element", "imei"),
    [
        (b"", ""),
        (tlv(0x9A, IMEISV), "3502000000000001"),
        (tlv(0x9A, IMEISV[:5]), ""),
        (tlv(0x9A, b"\xee" * 8), ""),
    ],
)
def test_an_update_and_an_ms_info_change_name_the_device_that_the_sim_is_in(
    element: bytes, imei: str
) -> None:
    assert asked(attached(), update(element)).imei == imei
    assert asked(attached(), message(128, TEID, 7, NOTIFICATION + element)).imei == imei


def test_a_broken_location_leaves_what_was_known() -> None:
    known = Location("44010", "LTE", "0044f00100010002")
    broken = asked(attached(), update(tlv(0x98, b""), tlv(0x97, b"\xee"))).location
    assert known.moved(broken) == known
    assert known.moved(Location(rat="3G")) == replace(known, rat="3G")


# -- MS Info Change Notification ------------------------------------------------------------------------


def test_an_ms_info_change_is_a_new_location_and_nothing_else() -> None:
    machine = attached()
    event = asked(machine, message(128, TEID, 7, b"\x02" + bytes.fromhex("44100000000000f1") + NOTIFICATION))
    assert (event.ends, event.qos) == (PeerEndpoints(), None)
    assert event.location.rat == "GSM"
    assert event.location.cell is not None
    assert (event.location.cell.lac, event.location.cell.sac) == (1, 7)
    machine.answer(event.token, Accepted(session()), 0)
    header, elements = only_answer(machine)
    assert (header.message_type, header.teid, header.sequence) == (129, 0x2001, 7)
    assert present(elements) == {1: [b"\x80"], 2: [bytes.fromhex("44100000000000f1")], 20: [b"\x05"]}


def test_an_ms_info_change_of_nothing_known_is_cause_192() -> None:
    assert refused(attached(), message(128, TEID + 1, 7, NOTIFICATION)) == (192, 0)
    assert refused(attached(), message(128, TEID, 7, b"\x14\x06" + NOTIFICATION[2:])) == (192, 0x2001)
    at_an_sgw = gateway(wires=(V1Wire(), V2Wire()))
    at_an_sgw.adopt(replace(session(), access=Access.GTPV2))
    assert refused(at_an_sgw, message(128, TEID, 7, NOTIFICATION))[0] == 192


def test_an_ms_info_change_without_a_rat_is_cause_202() -> None:
    assert refused(attached(), message(128, TEID, 7, b"\x14\x05")) == (202, 0x2001)


def with_extensions(data: bytes, *extensions: tuple[int, bytes]) -> bytes:
    """A message with extension headers, each a type and octets, a multiple of four less two."""
    chain = b""
    following = 0
    for type_, content in reversed(extensions):
        chain = bytes(((len(content) + 2) // 4,)) + content + bytes((following,)) + chain
        following = type_
    head = bytearray(data[:12])
    head[0] |= 0x04
    head[11] = following
    head[2:4] = (len(data) - 8 + len(chain)).to_bytes(2, "big")
    return bytes(head) + chain + data[12:]


def test_changes_are_asked_for_where_the_sgsn_can_tell_them() -> None:
    machine = gateway()
    machine.receive_datagram(with_extensions(create_request(), (0x02, b"\0\0")), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(session()), 0)
    assert only_answer(machine)[1][0xB5] == [b"\x01"]


# -- extension headers ----------------------------------------------------------------------------------


def test_an_unknown_extension_header_that_must_be_understood_is_told_of_and_refused() -> None:
    machine = gateway()
    data = with_extensions(create_request(), (0xC5, b"\0\0"), (0x02, bytes(6)))
    machine.receive_datagram(data, SGSN, 0)
    assert machine.next_event() is None
    (notified, _), (answer, _) = machine.datagrams_to_send()
    assert notified == message(31, 0, 0, b"\x8d\x01\x02")
    assert decode_elements(decode_header(answer).payload)[1] == [b"\xd6"]
    assert decode_header(answer).teid == 0x2001


@pytest.mark.parametrize("kind", [1, 2, 21, 99])
def test_other_messages_with_such_a_header_are_dropped_and_told_of_rarely(kind: int) -> None:
    machine = gateway()
    for sequence in range(5):
        machine.receive_datagram(
            with_extensions(message(kind, 0, sequence, b""), (0x80, b"\0\0")), SGSN, sequence * 0.1
        )
    ((data, _),) = machine.datagrams_to_send()
    assert data[1] == 31
    assert only(machine).dropped["unknown_extension_header"] == 5
    machine.receive_datagram(
        with_extensions(message(kind, 0, 9, b""), (0x80, b"\0\0")), SGSN, 1 + NOTICE_INTERVAL_S
    )
    assert len(machine.datagrams_to_send()) == 1


@pytest.mark.parametrize("type_", [0x01, 0x02, 0x3F, 0x40, 0x7F])
def test_an_extension_header_that_need_not_be_understood_is_read_over(type_: int) -> None:
    machine = gateway()
    machine.receive_datagram(with_extensions(create_request(), (type_, bytes(10))), SGSN, 0)
    assert isinstance(machine.next_event(), SessionRequested)
    assert machine.datagrams_to_send() == []


@pytest.mark.parametrize(
    "chain",
    [
        b"\0",  # of length 0
        b"\0\0\0\x02" * 4,
        b"\xff\0\0\0",  # far beyond the message
        b"\x01\0\0\x02" * (EXTENSION_HEADERS_MAX + 1) + b"\x01\0\0\0",  # too many
        b"\x01\0\0\x02",  # another is announced and is not there
        b"",
    ],
)
def test_a_chain_of_extension_headers_that_lies_is_dropped(chain: bytes) -> None:
    machine = gateway()
    head = bytes((0x36, 16)) + (4 + len(chain)).to_bytes(2, "big") + bytes(4) + b"\0\1\0\x02"
    machine.receive_datagram(head + chain, SGSN, 0)
    assert machine.datagrams_to_send() == []
    assert only(machine).dropped["malformed_header"] == 1


# -- secondary contexts ---------------------------------------------------------------------------------


def test_a_secondary_context_is_refused_with_200_beside_its_primary_and_with_210_without() -> None:
    elements = create_elements()
    elements.insert(6, b"\x14\x06")
    data = message(16, TEID, 1, b"".join(elements[3:7] + elements[9:11] + elements[12:13]))
    assert refused(attached(), data) == (200, 0x2001)
    assert refused(gateway(), data) == (210, 0x2001)


# -- what is not for a GGSN -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind", [4, 22, 23, 24, 25, 27, 28, 29, 31, 32, 34, 36, 48, 50, 53, 70, 96, 112, 240]
)
def test_messages_that_are_not_for_a_ggsn_are_dropped_and_counted(kind: int) -> None:
    machine = attached()
    machine.receive_datagram(message(kind, TEID, 5, NOTIFICATION), SGSN, 0)
    assert machine.datagrams_to_send() == []
    assert machine.next_event() is None
    assert only(machine).dropped["message_not_supported"] == 1


def test_gtp_version_0_is_told_the_version_and_gtp_prime_nothing() -> None:
    version_0 = bytes.fromhex("1e01 0000 0007 0000 00ff ffff 0000000000000000".replace(" ", ""))
    machine = gateway()
    machine.receive_datagram(version_0, SGSN, 0)
    assert machine.datagrams_to_send() == [(message(3, 0, 7, b""), SGSN)]
    for number, data in enumerate(
        (b"\x1e\x03" + version_0[2:], b"\x0e" + version_0[1:], b"\x2e" + version_0[1:])
    ):
        machine.receive_datagram(data, SGSN, 10 * (number + 1))
        assert machine.datagrams_to_send() == []


# -- hostile rows ---------------------------------------------------------------------------------------


def test_nobody_learns_by_a_refusal_that_a_teid_is_in_use() -> None:
    machine = attached()
    for sequence, data in enumerate(
        (delete_request(TEID, 5), update_request(TEID, 6), message(128, TEID, 7, NOTIFICATION))
    ):
        machine.receive_datagram(data, STRANGER, sequence)
        ((answer, _),) = machine.datagrams_to_send()
        assert answer[4:8] == bytes(4)
        assert answer[12:14] == b"\x01\xc0"
    assert machine.next_event() is None


def test_a_second_message_behind_the_first_is_not_read() -> None:
    machine = gateway()
    machine.receive_datagram(create_request(1) + create_request(2), SGSN, 0)
    assert isinstance(machine.next_event(), SessionRequested)
    assert machine.next_event() is None
    machine.receive_datagram(create_request(3)[:-1] + create_request(4), SGSN, 0)
    assert isinstance(machine.next_event(), SessionRequested | None), (
        "its last element ends in the next message"
    )


def test_qos_that_was_granted_is_told_with_what_the_peer_knows_of() -> None:
    profile = bytes.fromhex("020b921f73967f7f74fb0000")
    machine = gateway()
    elements = [
        *create_elements()[:12],
        tlv(0x87, profile),
        tlv(0xBF, b"\x65"),
        tlv(0xC6, b"\0\0\3\xe8\0\0\7\xd0"),
    ]
    machine.receive_datagram(message(16, 0, 1, b"".join(elements)), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert event.asked.qos == Qos(8, 0x65, 1_000, 2_000, profile.hex())
    less = replace(event.asked.qos, ambr_up_kbps=64, ambr_down_kbps=128)
    machine.answer(event.token, Accepted(replace(session(), qos=less)), 0)
    answer = only_answer(machine)[1]
    assert answer[0x87] == [bytes.fromhex("020b921f739640487 4fb0000".replace(" ", ""))]
    assert answer[0xBF] == [b"\x65"]
    assert answer[0xC6] == [b"\0\0\0\x40\0\0\0\x80"]


def test_qos_that_is_not_to_be_negotiated_is_answered_as_it_was_asked() -> None:
    profile = bytes.fromhex("020b921f73967f7f74fb0000")
    machine = gateway()
    elements = [*create_elements()[:12], tlv(0x87, profile), tlv(0x94, b"\x08")]
    machine.receive_datagram(message(16, 0, 1, b"".join(elements)), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(replace(session(), qos=Qos(ambr_up_kbps=1, ambr_down_kbps=1))), 0)
    assert only_answer(machine)[1][0x87] == [profile]


@pytest.mark.parametrize(
    "apn", [b"\x07soracom\x02io", b"\x07SORACOM\x02Io", b"\x07soracom\x02io\x06MNC010\x06mcc440\x04GPRS"]
)
def test_an_access_point_name_is_read_without_its_operator_and_in_either_case(apn: bytes) -> None:
    machine = gateway()
    elements = create_elements()
    elements[7] = tlv(0x83, apn)
    machine.receive_datagram(message(16, 0, 1, b"".join(elements)), SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    assert event.asked.apn == "soracom.io"


def test_no_type_of_request_is_read_by_another_ones_decoder() -> None:
    with pytest.raises(KeyError):
        v1_request.decode_request(EncodedRequest(22, 1, TEID, NOTIFICATION))
    assert v1_request.DECODERS.keys() == v1_message.RESPONSES.keys()
    assert v2_request.DECODERS.keys() == v2_message.RESPONSES.keys()
