"""Whatever arrives: a result, the protocol's own error, or silence; and what is encoded comes back."""

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from core.domain.session import PdnType, Qos
from core.domain.values import replace
from core.errors import RemoteProtocolError
from gtp import values
from gtp.endpoint import GtpcEndpoint
from gtp.events import Accepted, SessionRequested, UpdateRequested
from gtp.pco import ANSWER_OCTETS_MAX, answer_options, credentials, dns_servers
from gtp.v1 import ie
from gtp.v1 import message as messages
from gtp.v1.cause import Cause
from gtp.v1.header import decode_header, encode_header
from gtp.v1.wire import V1Wire
from tests.support.gtp import (
    APN,
    SGSN,
    counting,
    create_request,
    delete_request,
    message,
    session,
    update_request,
)
from tests.unit.gtp.v1.test_messages import NOTIFICATION, with_extensions

MESSAGES = (
    create_request(),
    update_request(0xA0000001, 2),
    delete_request(0xA0000001, 3),
    message(128, 0xA0000001, 4, NOTIFICATION),
    with_extensions(create_request(5), (0x02, b"\0\0"), (0xC5, bytes(6))),
)


def machine() -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=[V1Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[APN],
        allowed_peers=(),
        random_bytes=counting(0),
    )


def event_qos(event: SessionRequested | UpdateRequested) -> Qos:
    """What was asked for, granted."""
    return event.asked.qos if isinstance(event, SessionRequested) else event.qos or Qos()


@given(st.binary(max_size=200))
def test_random_datagrams_never_raise(data: bytes) -> None:
    machine().receive_datagram(data, SGSN, 0)


@given(st.sampled_from(MESSAGES), st.data())
def test_mutated_messages_never_raise(original: bytes, data: st.DataObject) -> None:
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(mutated)))
    target = machine()
    target.adopt(session())
    target.receive_datagram(bytes(mutated[:cut]), SGSN, 0)
    target.receive_datagram(bytes(mutated), SGSN, 0)
    while (event := target.next_event()) is not None:
        if isinstance(event, SessionRequested | UpdateRequested):
            target.answer(event.token, Accepted(replace(session(), qos=event_qos(event))), 0)
    for answer, _ in target.datagrams_to_send():
        assert len(decode_header(answer).payload) <= 700


def test_every_truncation_is_refused_or_dropped() -> None:
    for original in MESSAGES:
        for cut in range(len(original)):
            target = machine()
            target.receive_datagram(original[:cut], SGSN, 0)
            assert target.next_event() is None


@given(
    st.integers(0, 255),
    st.integers(0, 2**32 - 1),
    st.one_of(st.none(), st.integers(0, 65_535)),
    st.binary(max_size=100),
)
def test_headers_come_back(kind: int, teid: int, sequence: int | None, payload: bytes) -> None:
    header = decode_header(encode_header(kind, teid, sequence, payload))
    assert (header.message_type, header.teid, header.sequence, header.payload) == (
        kind,
        teid,
        sequence,
        payload,
    )


@given(st.lists(st.tuples(st.sampled_from(sorted(ie.TV_LENGTHS)), st.randoms()), max_size=20))
def test_fixed_length_elements_come_back(items: list[tuple[int, object]]) -> None:
    elements = [(type_, bytes(ie.TV_LENGTHS[type_])) for type_, _ in items]
    decoded = ie.present(ie.decode_elements(ie.encode_elements(elements)))
    assert sorted(decoded) == sorted({type_ for type_, _ in elements})


@given(st.text("0123456789", min_size=6, max_size=15))
def test_imsis_come_back(imsi: str) -> None:
    assert ie.decode_imsi(values.encode_tbcd(imsi, 8)) == imsi


@given(st.lists(st.from_regex(r"\A[a-z0-9][a-z0-9-]{0,10}\Z"), min_size=1, max_size=5))
def test_apns_come_back(labels: list[str]) -> None:
    assert values.decode_apn(values.encode_apn(".".join(labels))) == ".".join(labels)


@given(st.binary(max_size=120))
def test_apns_of_any_octets_decode_or_are_incorrect(value: bytes) -> None:
    try:
        assert ie.decode_network_identifier(value)
    except RemoteProtocolError as error:
        assert error.cause == 201


@given(st.binary(max_size=300), st.sampled_from(PdnType))
def test_options_of_any_octets_are_answered(asked: bytes, pdn_type: PdnType) -> None:
    answer = answer_options(asked, replace(session(), pdn_type=pdn_type), APN)
    assert len(answer) <= ANSWER_OCTETS_MAX
    dns_servers(answer)
    credentials(asked)


U32 = st.integers(0, 2**32 - 1)


@given(
    st.builds(
        messages.Granted,
        recovery=st.integers(0, 255),
        teid_control=U32,
        teid_data=U32,
        charging_id=U32,
        control_address=st.ip_addresses(v=4).map(str),
        user_address=st.ip_addresses(v=4).map(str),
        pco=st.binary(max_size=ANSWER_OCTETS_MAX),
        qos=st.builds(
            messages.encode_granted_qos,
            st.binary(min_size=4, max_size=255),
            reports_changes=st.booleans(),
            evolved_arp=st.binary(max_size=1),
            ambr=st.sampled_from([b"", bytes(range(8))]),
        ),
    ),
    st.builds(ie.EndUserAddress, st.just(PdnType.IPV4V6), st.ip_addresses(v=4), st.ip_addresses(v=6)),
)
def test_accepting_answers_have_their_elements_in_ascending_order(
    granted: messages.Granted, address: ie.EndUserAddress
) -> None:
    """As the encoder of any elements writes them."""
    for answer in (
        messages.encode_create_response(1, 2, Cause.REQUEST_ACCEPTED, granted, address),
        messages.encode_update_response(1, 2, granted),
    ):
        header = decode_header(answer)
        elements = ie.decode_elements(header.payload)
        assert (
            ie.encode_elements((kind, each) for kind, found in ie.present(elements).items() for each in found)
            == header.payload
        )
        told = (elements[ie.RECOVERY][0], elements[ie.TEID_CONTROL][0], elements[ie.TEID_DATA_I][0])
        assert [int.from_bytes(value, "big") for value in told] == [
            granted.recovery,
            granted.teid_control,
            granted.teid_data,
        ]
        assert int.from_bytes(elements[ie.CHARGING_ID][0], "big") == granted.charging_id
        ends = (granted.control_address, granted.user_address)
        assert elements[ie.GSN_ADDRESS] == [values.encode_ipv4(end) for end in ends]
        assert elements[ie.PROTOCOL_CONFIGURATION_OPTIONS][0] == granted.pco
    created = ie.decode_elements(
        decode_header(messages.encode_create_response(1, 2, Cause.REQUEST_ACCEPTED, granted, address)).payload
    )
    assert ie.decode_end_user_address(created[ie.END_USER_ADDRESS][0]).ipv4 in (address.ipv4, None)
    assert created[ie.REORDERING_REQUIRED] == [b"\xfe"]
