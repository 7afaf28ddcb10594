"""The Disconnect client's machine: repeats, identifiers, forgeries, bounds."""

from datetime import UTC, datetime

import pytest

import radius.client
from core.domain.session import Nas
from radius import attributes as a
from radius.client import IDENTIFIERS, TRIES_MAX, DisconnectClient
from radius.codec import NO_AUTHENTICATOR, Code, decode, encode_response, is_authentic, is_signed
from radius.events import DisconnectFailed, Ending

SECRET = b"a shared secret"
NAS, OTHER = ("127.0.3.1", 3799), ("127.0.3.2", 3799)
WALL = datetime(2026, 11, 24, tzinfo=UTC)
IMSI = "440100000000001"
BRAS = Nas(
    "127.0.3.0/24", "bras-1", "127.0.3.1", "A1", ip_address="127.0.3.7",
    user_name="meter@fleet.example", framed_address="10.128.0.2", says_imsi=True,
)  # fmt: skip
ENDING = Ending(IMSI, BRAS)


def asked(machine: DisconnectClient, peer: tuple[str, int] = NAS, now: float = 0.0) -> list[bytes]:
    machine.disconnect(ENDING, peer, SECRET, now, WALL)
    return [data for data, _ in machine.datagrams_to_send()]


def acknowledgement(request: bytes, secret: bytes = SECRET, code: Code = Code.DISCONNECT_ACK) -> bytes:
    return encode_response(code, decode(request), b"", secret)


def test_a_request_names_the_session_and_its_time() -> None:
    (data,) = asked(DisconnectClient())
    packet = decode(data)
    assert is_signed(packet, SECRET)
    assert is_authentic(packet, SECRET, NO_AUTHENTICATOR)
    assert (packet.code, packet.text(a.ACCT_SESSION_ID)) == (Code.DISCONNECT_REQUEST, "A1")
    assert packet.first(a.TGPP_IMSI) == ENDING.imsi.encode()
    assert packet.address(a.FRAMED_IP_ADDRESS) == "10.128.0.2"
    assert packet.text(a.USER_NAME) == "meter@fleet.example"
    assert (packet.text(a.NAS_IDENTIFIER), packet.address(a.NAS_IP_ADDRESS)) == (
        "bras-1",
        "127.0.3.7",
    )
    assert packet.integer(a.EVENT_TIMESTAMP) == int(WALL.timestamp())


def test_it_is_repeated_unchanged_ever_more_seldom_and_given_up() -> None:
    machine = DisconnectClient()
    (first,) = asked(machine)
    times = []
    while (due := machine.get_timer()) is not None:
        machine.handle_timer(due)
        times += [due for data, _ in machine.datagrams_to_send() if data == first]
    assert times == [1, 3, 7, 15, 31]
    assert len(times) == TRIES_MAX - 1
    assert machine.outcomes == {"not_answered": 1}
    assert len(machine) == 0
    assert (machine.next_event(), machine.next_event()) == (DisconnectFailed(ENDING, "not_answered"), None)


@pytest.mark.parametrize(
    ("code", "outcome"), [(Code.DISCONNECT_ACK, "ended"), (Code.DISCONNECT_NAK, "refused")]
)
def test_an_answer_ends_it(code: Code, outcome: str) -> None:
    machine = DisconnectClient()
    (data,) = asked(machine)
    machine.receive_datagram(acknowledgement(data, code=code), NAS, 0)
    assert (machine.outcomes, machine.get_timer(), len(machine)) == ({outcome: 1}, None, 0)


def test_what_is_forged_foreign_or_nonsense_ends_nothing() -> None:
    machine = DisconnectClient()
    (data,) = asked(machine)
    machine.receive_datagram(acknowledgement(data, b"not the secret"), NAS, 0)
    machine.receive_datagram(acknowledgement(data), OTHER, 0)
    machine.receive_datagram(b"\x29", NAS, 0)
    assert machine.outcomes == {"not_authentic": 1, "unasked": 1, "malformed": 1}
    assert len(machine) == 1


def test_identifiers_are_used_once_at_a_time_and_who_waits_gets_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(radius.client, "WAITING_MAX", 10)
    machine = DisconnectClient()
    sent = [data for _ in range(IDENTIFIERS) for data in asked(machine)]
    assert len({data[1] for data in sent}) == IDENTIFIERS
    assert [asked(machine) for _ in range(12)] == [[]] * 12
    assert machine.outcomes == {"not_asked": 2}
    assert len(asked(machine, OTHER)) == 1, "another NAS does not wait"
    machine.receive_datagram(acknowledgement(sent[7]), NAS, 0)
    ((data, peer),) = machine.datagrams_to_send()
    assert (data[1], peer) == (sent[7][1], NAS)


def test_one_that_waited_says_when_it_was_sent() -> None:
    machine = DisconnectClient()
    sent = [data for _ in range(IDENTIFIERS) for data in asked(machine)]
    assert asked(machine, now=2) == []
    machine.receive_datagram(acknowledgement(sent[0]), NAS, 9)
    ((data, _),) = machine.datagrams_to_send()
    assert decode(data).integer(a.EVENT_TIMESTAMP) == int(WALL.timestamp()) + 7
