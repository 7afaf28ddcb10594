"""The RADIUS server's machine: who is answered, what twice, what never; counters as they were told."""

import hmac
from ipaddress import IPv4Address, IPv4Network

import pytest

from core.domain.reasons import AttachRefusal
from radius import attributes as a
from radius.codec import (
    Attribute,
    Code,
    Packet,
    decode,
    encode_access_request,
    encode_signed_request,
    hide_password,
    is_answer,
    is_authentic,
    vendor_attribute,
)
from radius.events import (
    AccessRequested,
    AccountingRequested,
    Denied,
    Granted,
    NotRecorded,
    Recorded,
    StrangerHeard,
)
from radius.mapping import REPLY_MESSAGES, AcctStatus
from radius.networks import NasNetwork, NasNetworks
from radius.server import EVENTS_MAX, KEPT_S, RESPONSES_MAX, SWEEP_S, RadiusServer, ServerPort

SECRET, OTHER = b"a shared secret", b"another secret"
NAS = ("127.0.3.1", 40_000)
IMSI = "440100000000001"
OURS = "0" * 31 + "1"
"""A Class as we give them."""
AUTH, ACCT = ServerPort.AUTHENTICATION, ServerPort.ACCOUNTING


def server(port: ServerPort = AUTH, *, require: bool = True) -> RadiusServer:
    networks = [
        NasNetwork(IPv4Network("127.0.0.0/8"), OTHER, require),
        NasNetwork(IPv4Network("127.0.3.0/24"), SECRET, require),
    ]
    return RadiusServer(port, NasNetworks(networks))


def access(identifier: int = 1, *extra: Attribute, secret: bytes = SECRET) -> bytes:
    authenticator = bytes((identifier & 255,)) * 16
    return encode_access_request(
        identifier & 255, authenticator, [(a.USER_NAME, IMSI.encode()), *extra], secret
    )


def accounting(status: int, *extra: Attribute, identifier: int = 1, secret: bytes = SECRET) -> bytes:
    attributes = [(a.ACCT_STATUS_TYPE, status.to_bytes(4, "big")), (a.USER_NAME, IMSI.encode()), *extra]
    return encode_signed_request(Code.ACCOUNTING_REQUEST, identifier, attributes, secret)


def unsigned(*extra: bytes) -> bytes:
    """An Access-Request without Message-Authenticator."""
    body = bytes((a.USER_NAME, 2 + len(IMSI))) + IMSI.encode() + b"".join(extra)
    return b"\1\1" + (20 + len(body)).to_bytes(2, "big") + bytes(16) + body


def asked(machine: RadiusServer, data: bytes) -> AccessRequested | AccountingRequested:
    machine.receive_datagram(data, NAS, 0)
    event = machine.next_event()
    assert isinstance(event, AccessRequested | AccountingRequested), machine.dropped
    return event


def answered(machine: RadiusServer) -> Packet:
    ((data, peer),) = machine.datagrams_to_send()
    assert peer == NAS
    return decode(data)


def test_access_is_granted_with_all_that_a_nas_needs() -> None:
    machine = server()
    data = access(1, (a.PROXY_STATE, b"one"), (a.PROXY_STATE, b"two"))
    event = asked(machine, data)
    assert isinstance(event, AccessRequested)
    assert (event.client.network, event.request.imsi) == (IPv4Network("127.0.3.0/24"), IMSI)
    machine.answer(event.token, Granted(IPv4Address("10.128.0.2"), b"session key", 600), 0)
    answer = answered(machine)
    assert answer.code == Code.ACCESS_ACCEPT
    assert answer.data[20] == a.MESSAGE_AUTHENTICATOR
    assert is_answer(answer, decode(data).authenticator, SECRET)
    assert is_authentic(answer, SECRET, decode(data).authenticator) is True
    assert answer.address(a.FRAMED_IP_ADDRESS) == "10.128.0.2"
    assert answer.first(a.CLASS) == b"session key"
    assert answer.integer(a.ACCT_INTERIM_INTERVAL) == 600
    assert answer.all(a.PROXY_STATE) == [b"one", b"two"]


@pytest.mark.parametrize("reason", AttachRefusal)
def test_every_refusal_has_its_words(reason: AttachRefusal) -> None:
    machine = server()
    machine.answer(asked(machine, access()).token, Denied(reason), 0)
    answer = answered(machine)
    assert (answer.code, answer.text(a.REPLY_MESSAGE)) == (Code.ACCESS_REJECT, REPLY_MESSAGES[reason])


def test_a_repeat_is_answered_the_same_or_dropped_while_it_is_decided() -> None:
    machine = server()
    event = asked(machine, access())
    machine.receive_datagram(access(), NAS, 1)
    assert machine.next_event() is None
    assert machine.dropped["in_progress"] == 1
    machine.answer(event.token, Denied(AttachRefusal.UNKNOWN_SIM), 0)
    first = machine.datagrams_to_send()
    machine.receive_datagram(access(), NAS, 2)
    assert machine.datagrams_to_send() == first
    machine.receive_datagram(access(), NAS, KEPT_S + 1)
    assert machine.next_event() is not None


def test_answers_are_forgotten_when_nobody_asks_for_them_any_more() -> None:
    machine = server(ACCT)
    assert machine.get_timer() is None
    for number in range(3):
        machine.answer(asked(machine, accounting(2, identifier=number)).token, Recorded(), number / 4)
    assert machine.get_timer() == KEPT_S
    machine.handle_timer(KEPT_S)
    assert (len(machine._answered), machine.get_timer()) == (2, KEPT_S + SWEEP_S)
    machine.handle_timer(KEPT_S + SWEEP_S)
    assert (len(machine._answered), machine.get_timer()) == (0, None)


def test_the_same_identifier_with_another_authenticator_is_another_request() -> None:
    machine = server()
    first = asked(machine, access(1))
    other = encode_access_request(1, b"x" * 16, [(a.USER_NAME, IMSI.encode())], SECRET)
    assert asked(machine, other).token != first.token


def test_what_is_not_recorded_gets_silence_and_may_come_again() -> None:
    machine = server(ACCT)
    event = asked(machine, accounting(AcctStatus.START))
    machine.answer(event.token, NotRecorded(), 0)
    assert machine.datagrams_to_send() == []
    again = asked(machine, accounting(AcctStatus.START))
    machine.answer(again.token, Recorded(), 0)
    assert answered(machine).code == Code.ACCOUNTING_RESPONSE


@pytest.mark.parametrize(
    ("port", "data", "reason"),
    [
        (AUTH, b"\1", "malformed"),
        (AUTH, access(secret=OTHER), "not_authentic"),
        (AUTH, accounting(1), "code_not_supported"),
        (ACCT, access(), "code_not_supported"),
        (ACCT, accounting(1, secret=OTHER), "not_authentic"),
        (ACCT, encode_signed_request(Code.ACCOUNTING_REQUEST, 1, [], SECRET), "status_type_missing"),
        (AUTH, unsigned(), "no_message_authenticator"),
    ],
)
def test_silence_and_a_counter(port: ServerPort, data: bytes, reason: str) -> None:
    machine = server(port)
    machine.receive_datagram(data, NAS, 0)
    assert machine.next_event() is None
    assert machine.datagrams_to_send() == []
    assert machine.dropped == {reason: 1}


def test_a_client_that_need_not_sign_must_when_a_proxy_stands_between() -> None:
    machine = server(require=False)
    assert isinstance(asked(machine, unsigned()), AccessRequested)
    machine.receive_datagram(unsigned(b"\x21\x03x"), NAS, 0)
    assert machine.dropped == {"no_message_authenticator": 1}


def test_the_longest_prefix_counts_and_strangers_get_silence() -> None:
    machine = server()
    machine.receive_datagram(access(secret=OTHER), ("127.9.9.9", 1), 0)
    assert machine.next_event() is not None
    machine.receive_datagram(access(), ("10.0.0.1", 1), 0)
    assert machine.dropped == {"unknown_client": 1}
    assert (machine.next_event(), machine.next_event()) == (StrangerHeard("10.0.0.1"), None)


def test_status_server_is_answered_on_both_ports() -> None:
    for port, code in ((AUTH, Code.ACCESS_ACCEPT), (ACCT, Code.ACCOUNTING_RESPONSE)):
        machine, data = server(port), bytearray(access(9))
        plain = encode_access_request(data[1], bytes(data[4:20]), [], SECRET)
        status = bytearray(plain)
        status[0] = Code.STATUS_SERVER
        status[22:38] = bytes(16)
        status[22:38] = hmac.digest(SECRET, bytes(status), "md5")
        machine.receive_datagram(bytes(status), NAS, 0)
        assert answered(machine).code == code


def test_passwords_by_pap() -> None:
    hidden = hide_password(b"open sesame", bytes((1,)) * 16, SECRET)
    event = asked(server(), access(1, (a.USER_PASSWORD, hidden)))
    assert isinstance(event, AccessRequested)
    assert event.request.knows(IMSI, b"open sesame")
    assert not event.request.knows("another", b"open sesame")
    assert not event.request.knows(IMSI, b"open")


def test_no_secret_is_shown() -> None:
    event = asked(server(), access(1, (a.USER_PASSWORD, hide_password(b"pw", bytes((1,)) * 16, SECRET))))
    assert SECRET.decode() not in repr(event)
    assert SECRET.decode() not in repr(NasNetwork(IPv4Network("127.0.0.0/8"), SECRET))


@pytest.mark.parametrize(
    ("attributes", "imsi"),
    [
        ([(a.USER_NAME, b"440100000000001")], IMSI),
        ([(a.USER_NAME, b"0440100000000001@wlan.mnc010.mcc440.3gppnetwork.org")], IMSI),
        ([(a.USER_NAME, b"customer"), vendor_attribute(a.TGPP_IMSI, IMSI.encode())], IMSI),
        (
            [(a.USER_NAME, b"999990000000009"), vendor_attribute(a.TGPP_IMSI, IMSI.encode())],
            IMSI,
        ),
        ([(a.USER_NAME, b"customer")], ""),
        ([(a.USER_NAME, b"\xff\xfe")], ""),
        ([(a.USER_NAME, b"44010000000000\x00")], ""),
    ],
)
def test_who_somebody_is(attributes: list[Attribute], imsi: str) -> None:
    event = asked(server(), encode_access_request(1, bytes(16), attributes, SECRET))
    assert isinstance(event, AccessRequested)
    assert event.request.imsi == imsi


def test_counters_are_64_bits_and_may_be_missing() -> None:
    data = accounting(
        AcctStatus.INTERIM_UPDATE,
        (a.ACCT_INPUT_OCTETS, bytes((0, 0, 0, 5))),
        (a.ACCT_INPUT_GIGAWORDS, bytes((0, 0, 0, 2))),
        (a.CLASS, b"a proxy's"),
        (a.CLASS, OURS.encode()),
    )
    event = asked(server(ACCT), data)
    assert isinstance(event, AccountingRequested)
    assert (event.report.volume.up_bytes, event.report.volume.down_bytes) == (2 * 2**32 + 5, 0)
    assert (event.report.imsi, event.report.session_ids) == (IMSI, (OURS,))


@pytest.mark.parametrize("port", ServerPort)
def test_proxy_states_that_leave_no_room_for_an_answer_get_silence(port: ServerPort) -> None:
    longest = [(a.PROXY_STATE, bytes(251))] * 15 + [(a.PROXY_STATE, bytes(6))]
    for proxied, is_served in ((longest, True), ([*longest, (a.PROXY_STATE, b"")], False)):
        machine = server(port)
        data = access(1, *proxied) if port is AUTH else accounting(2, *proxied)
        machine.receive_datagram(data, NAS, 0)
        event = machine.next_event()
        if not is_served:
            assert (event, machine.dropped) == (None, {"proxy_state_too_long": 1})
            continue
        assert isinstance(event, AccessRequested | AccountingRequested)
        machine.answer(event.token, Denied(AttachRefusal.IMEI_MISMATCH), 0)
        assert answered(machine).all(a.PROXY_STATE) == [value for _, value in proxied]


def test_bounds() -> None:
    machine = server()
    for number in range(EVENTS_MAX + 1):
        address, secret = (("127.0.3.1", SECRET), ("127.0.4.1", OTHER))[number % 2]
        machine.receive_datagram(access(number, secret=secret), (address, number), 0)
    assert machine.dropped == {"too_many": 1}
    assert RESPONSES_MAX == 65_536
