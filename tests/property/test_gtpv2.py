"""GTPv2: whatever arrives, a result, the protocol's own error, or silence; what is encoded comes back."""

from ipaddress import IPv4Address

from hypothesis import given
from hypothesis import strategies as st

from core.errors import RemoteProtocolError
from gtp.endpoint import GtpcEndpoint
from gtp.v2 import bearers, ie, message
from gtp.v2.header import decode_header, encode_header
from gtp.v2.wire import V2Wire
from gtp.wire import DecodedRequest, EncodedRequest, NotOffered
from tests.support.gtp import APN, counting
from tests.support.gtp2 import SGW, create_session, delete_session, element, message2, modify_bearer
from tests.unit.gtp.v2.test_bearers import (
    IMSI,
    TFT,
    ULI,
    WANTED,
    created,
    delete_command,
    modify_command,
    reply,
)
from tests.unit.gtp.v2.test_gateway import PGW_TEID, session

WIRE = V2Wire()
MESSAGES = (
    create_session(),
    create_session(pdn_type=3),
    modify_bearer(PGW_TEID, 2),
    delete_session(PGW_TEID, 3),
    modify_command(4),
    delete_command(6, 7),
    message2(68, PGW_TEID, 5, element(73, b"\x05") + element(100, b"\x01") + element(85, TFT)),
    message2(38, PGW_TEID, 6, IMSI + element(82, b"\x06") + ULI),
    message2(162, PGW_TEID, 7, IMSI),
    message2(101, 0, 8, element(132, bytes(7))),
    created(1),
    reply(98, 2, 16),
    reply(100, 3, 16),
)
OWN_REQUESTS = 3


def machine() -> GtpcEndpoint:
    """With a context, and a request of each kind open, whose numbers are 1 to 3."""
    target = GtpcEndpoint(
        wires=[V2Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[APN],
        allowed_peers=(),
        random_bytes=counting(0),
    )
    target.adopt(session())
    target.add_bearer(session(), WANTED, 0)
    target.changed(session(), 0)
    target.remove_bearer(session().session_id, 6, 0)
    assert len(target.datagrams_to_send()) == OWN_REQUESTS
    return target


@given(st.binary(max_size=200).map(lambda tail: b"\x48" + tail))
def test_random_datagrams_never_raise(data: bytes) -> None:
    machine().receive_datagram(data, SGW, 0)


@given(st.sampled_from(MESSAGES), st.data())
def test_mutated_messages_never_raise(original: bytes, data: st.DataObject) -> None:
    mutated = bytearray(original)
    for _ in range(data.draw(st.integers(1, 6))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    target = machine()
    target.receive_datagram(bytes(mutated[: data.draw(st.integers(0, len(mutated)))]), SGW, 0)
    target.receive_datagram(bytes(mutated), SGW, 0)
    for answer, _ in target.datagrams_to_send():
        assert len(answer) <= 300


def test_every_truncation_is_refused_or_dropped() -> None:
    for original in MESSAGES:
        for cut in range(len(original)):
            target = machine()
            target.receive_datagram(original[:cut], SGW, 0)
            assert target.next_event() is None


@given(
    st.integers(0, 255),
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
    st.integers(0, 2**24 - 1),
    st.binary(max_size=100),
)
def test_headers_come_back(kind: int, teid: int | None, sequence: int, payload: bytes) -> None:
    header = decode_header(encode_header(kind, teid, sequence, payload))
    assert (header.message_type, header.teid, header.sequence, header.payload) == (
        kind,
        teid,
        sequence,
        payload,
    )


@given(
    st.dictionaries(st.tuples(st.integers(0, 255), st.integers(0, 15)), st.binary(max_size=40), max_size=20)
)
def test_elements_come_back(elements: dict[tuple[int, int], bytes]) -> None:
    data = b"".join(ie.encode_element(kind, value, instance) for (kind, instance), value in elements.items())
    assert ie.decode_elements(data) == elements


@given(st.integers(0, 63), st.integers(1, 2**32 - 1), st.ip_addresses(v=4), st.integers(0, 15))
def test_f_teids_come_back(interface: int, teid: int, address: IPv4Address, instance: int) -> None:
    f_teid = ie.FTeid(interface, teid, str(address))
    assert ie.decode_f_teid(ie.decode_elements(f_teid.encode(instance)), instance) == f_teid


@given(st.binary(max_size=120))
def test_any_payload_is_decoded_or_refused(payload: bytes) -> None:
    for kind in message.RESPONSES:
        request = EncodedRequest(kind, 1, 1, payload)
        decoded = WIRE.decode_request(request)
        if isinstance(decoded, DecodedRequest) and isinstance(decoded.body, NotOffered):
            decoded = decoded.body.fault
        assert isinstance(decoded, DecodedRequest) or decoded.cause is not None
        WIRE.peek_control_teid(request)
        WIRE.encode_refused(request, 1, 64)
    try:
        bearers.decode_reply(96, payload)
    except RemoteProtocolError as error:
        assert error.cause is not None
    message.decode_recovery(payload)
