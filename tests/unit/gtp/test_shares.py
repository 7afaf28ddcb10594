"""No party fills a table for the others: the bounded tables of GTP-C and RADIUS, each with two parties."""

from ipaddress import IPv4Address, IPv4Network

import pytest

import gtp.doubts
import radius.client
import radius.server
from core.domain.shares import Kept, Places, share_of
from core.domain.values import replace
from gtp.admission import PART_OF_ONE_IN_ALL
from gtp.doubts import INDICATED_AGAIN_S, INDICATED_TIMES, IndicationAction, Indications
from gtp.endpoint import GtpcEndpoint, Limits
from gtp.events import Accepted, Done, SessionRequested, SessionsDoubted, UpdateRequested
from gtp.partners import Partner
from gtp.path import PathState
from gtp.transaction import TIMERS, Timers
from gtp.v1.cause import Cause
from gtp.v1.wire import V1Wire
from radius.client import DisconnectClient
from radius.events import AccessRequested, AccountingRequested, Ending, NotRecorded, Recorded
from radius.networks import NasNetwork, NasNetworks
from radius.server import RadiusServer, ServerPort
from tests.support import gtp as v1
from tests.support.gtp import counting, message, only, peer_of, put_off_in, session, tlv
from tests.unit.radius.test_client import BRAS, SECRET, WALL
from tests.unit.radius.test_server import access, accounting

ROOM = 64
ONE, ONE_TOO, TWO = "127.0.1.1", "127.0.1.2", "127.0.2.1"
PARTNERS = (Partner("one", (IPv4Network("127.0.1.0/24"),)), Partner("two", (IPv4Network("127.0.2.0/24"),)))
ASLEEP = bytes((1, 232))
"""Cause: temporarily not reachable due to power saving."""


def machine_of(*partners: Partner, timers: Timers = TIMERS, limits: Limits | None = None) -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=[V1Wire()],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[v1.APN],
        allowed_peers=(),
        random_bytes=counting(100),
        partners=partners or PARTNERS,
        timers=timers,
        limits=limits,
    )


def create(number: int, address: str, *, recovery: int = 7) -> bytes:
    elements = v1.create_elements(recovery=recovery, device=number)
    elements[9] = elements[10] = tlv(0x85, IPv4Address(address).packed)
    return message(16, 0, number, b"".join(elements))


def attach(machine: GtpcEndpoint, number: int, address: str, *, recovery: int = 7) -> bytes:
    """The answer."""
    machine.receive_datagram(create(number, address, recovery=recovery), (address, 2123), 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    made = session(number, control_address=address, restart_counter=peer_of(event).restart_counter)
    machine.answer(event.token, Accepted(made), 0)
    return machine.datagrams_to_send()[-1][0]


def update(number: int, sequence: int, address: str) -> bytes:
    teid, octets = 0xA0000000 + number, IPv4Address(address).packed
    return v1.update_request(teid, sequence, address=octets)


# -- the parts they are made of -------------------------------------------------------------------------


def test_a_party_takes_its_share_of_places_and_the_others_the_rest() -> None:
    places = Places(8)
    assert [places.take("one") for _ in range(8)] == [True] * 6 + [False] * 2
    assert [places.take(name) for name in ("two", "three", "four")] == [True, True, False]
    assert len(places) == 8
    places.give_back("one")
    assert [places.is_free(name) for name in ("one", "four")] == [True, True]
    assert share_of(1) == 1, "a single place is anybody's"


def test_beyond_its_share_a_partys_own_oldest_is_forgotten() -> None:
    kept: Kept[str, int] = Kept(8)
    assert kept.put("two's", "two", 0) is None
    forgotten = [kept.put(f"one's {number}", "one", number) for number in range(8)]
    assert forgotten == [None] * 6 + [0, 1]
    assert (kept.get("two's"), kept.oldest(), len(kept)) == (0, 0, 7)
    assert kept.put("two's", "two", 1) is None, "replaced, it is the newest"
    assert (kept.oldest(), len(kept)) == (2, 7)
    assert [kept.put(name, name, 9) for name in ("three", "four")] == [None, 2], "the oldest of all"
    assert (kept.pop_oldest(), "one's 3" in kept, kept.pop("one's 3")) == (3, False, None)
    while kept.pop_oldest() is not None:
        pass
    assert (len(kept), kept.oldest(), kept._of) == (0, None, {})


# -- GTP-C ----------------------------------------------------------------------------------------------


def test_the_sessions_of_one_partner_that_are_doubted_leave_room_for_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gtp.doubts, "DOUBTS_MAX", 8)
    machine = machine_of()
    for address, first, last in ((ONE, 1, 20), (TWO, 30, 31)):
        attach(machine, first, address)
        for number in range(first + 1, last + 1):
            attach(machine, number, address, recovery=8)
    assert only(machine).claims["not_asked"] == 19 - share_of(8)
    machine.handle_timer(25)
    (doubted,) = iter(machine.next_event, None)
    assert isinstance(doubted, SessionsDoubted)
    assert doubted.session_ids == tuple(session(n).session_id for n in (*range(2, 8), 31))
    assert attach(machine, 32, TWO, recovery=8)
    assert only(machine).claims["not_asked"] == 13, "there is room again"


def test_what_one_partner_is_answered_forgets_no_answer_to_another() -> None:
    machine = machine_of(limits=Limits(responses=8))
    first = attach(machine, 1, TWO)
    for number in range(2, 30):
        attach(machine, number, (ONE, ONE_TOO)[number % 2])
    machine.receive_datagram(create(1, TWO), (TWO, 2123), 1)
    assert (machine.next_event(), machine.datagrams_to_send()) == (None, [(first, (TWO, 2123))])
    machine.receive_datagram(create(29, ONE_TOO), (ONE_TOO, 2123), 1)
    assert machine.next_event() is None
    machine.receive_datagram(create(3, ONE_TOO), (ONE_TOO, 2123), 1)
    assert isinstance(machine.next_event(), SessionRequested), "its own oldest are"


def test_requests_to_one_silent_partner_leave_room_for_those_to_another() -> None:
    machine = machine_of(limits=Limits(requests=8))
    for number in range(1, 21):
        attach(machine, number, (ONE, ONE_TOO)[number % 2])
    for number in range(1, 21):
        machine.release(session(number).session_id, 0)
    assert len(machine.datagrams_to_send()) == share_of(8)
    attach(machine, 30, TWO)
    machine.release(session(30).session_id, 0)
    ((data, peer),) = machine.datagrams_to_send()
    assert (data[1], peer) == (20, (TWO, 2123))
    for now in (5, 10, 15, 20, 25):
        machine.handle_timer(now)
    assert (machine.contexts, len(only(machine).requests._places)) == (0, 0), "given up, they take no place"


def test_a_peer_that_could_not_be_asked_is_not_suspect() -> None:
    machine = machine_of(timers=Timers(echo_interval_s=60.0), limits=Limits(requests=1))
    attach(machine, 1, TWO)
    attach(machine, 2, ONE)
    due = machine.get_timer()
    assert due is not None
    machine.release(session(1).session_id, due)
    machine.datagrams_to_send()
    machine.handle_timer(due)
    assert machine.datagrams_to_send() == [], "there is no room to ask"
    assert {path.path for _, path in only(machine).peers.items()} == {PathState.UP}
    assert only(machine).path_events["path_suspect"] == 0


def test_what_one_partner_puts_off_gives_nothing_up_of_another() -> None:
    machine = machine_of(limits=Limits(put_off=8))

    def put_one_off(number: int, address: str) -> None:
        attach(machine, number, address)
        machine.release(session(number).session_id, 0)
        ((data, _),) = machine.datagrams_to_send()
        answer = message(21, 0xA0000000 + number, int.from_bytes(data[8:10], "big"), ASLEEP)
        machine.receive_datagram(answer, (address, 2123), 0)

    put_one_off(1, TWO)
    for number in range(2, 30):
        put_one_off(number, (ONE, ONE_TOO)[number % 2])
    assert (put_off_in(machine), machine.contexts) == (1 + share_of(8), 1 + share_of(8))
    assert machine._contexts.by_session(session(1).session_id) is not None


def test_error_indications_for_one_partys_sessions_forget_nothing_of_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gtp.doubts, "INDICATED_MAX", 8)
    indicated = Indications()
    action = []
    for turn in range(INDICATED_TIMES + 1):
        action.append(indicated.on_indication("two's", "two", 0, turn * INDICATED_AGAIN_S))
        for number in range(20):
            indicated.on_indication(str(number), "one", 0, turn * INDICATED_AGAIN_S)
    assert action == [IndicationAction.ASK] * INDICATED_TIMES + [IndicationAction.END]
    assert len(indicated) == share_of(8)


def test_what_one_partner_changes_leaves_room_for_what_others_begin_and_end() -> None:
    machine = machine_of(limits=Limits(deciding=ROOM))
    attach(machine, 1, ONE)
    attach(machine, 2, TWO)
    for sequence in range(100, 100 + 2 * ROOM):
        machine.receive_datagram(update(1, sequence, ONE), (ONE, 2123), 0)
    taken = []
    while isinstance(event := machine.next_event(), UpdateRequested):
        taken.append(event.token)
    assert len(taken) == ROOM * PART_OF_ONE_IN_ALL
    assert {data[13] for data, _ in machine.datagrams_to_send()} == {Cause.NO_RESOURCES_AVAILABLE}
    machine.receive_datagram(create(3, TWO), (TWO, 2123), 0)
    assert isinstance(machine.next_event(), SessionRequested)
    machine.receive_datagram(v1.delete_request(0xA0000002, 4), (TWO, 2123), 0)
    assert machine.next_event() is not None
    machine.answer(taken[0], Accepted(session()), 0)
    machine.receive_datagram(v1.delete_request(0xA0000001, 999), (ONE, 2123), 0)
    event = machine.next_event()
    assert event is not None, "as soon as one is decided there is room for the next"
    machine.answer(taken[1], Done(), 0)


def test_a_change_that_is_decided_too_late_is_known_though_nobody_is_answered() -> None:
    """Else the former peer goes on speaking for a session that has moved."""
    taker = replace(PARTNERS[1], may_take_over=("one",))
    machine = machine_of(PARTNERS[0], taker)
    attach(machine, 1, ONE)
    machine.receive_datagram(update(1, 2, TWO), (TWO, 2123), 0)
    event = machine.next_event()
    assert isinstance(event, UpdateRequested)
    machine.answer(event.token, Accepted(session(1, control_address=TWO)), 26)
    assert machine.datagrams_to_send() == []
    context = machine._contexts.by_session(session().session_id)
    assert context is not None
    assert context.control_address == TWO
    machine.receive_datagram(v1.delete_request(0xA0000001, 3), (ONE, 2123), 27)
    ((refused, _),) = machine.datagrams_to_send()
    assert refused[13] == Cause.NON_EXISTENT


# -- RADIUS ---------------------------------------------------------------------------------------------


def radius_of(port: ServerPort) -> RadiusServer:
    secret = b"a shared secret"
    networks = [NasNetwork(IPv4Network(f"127.0.{n}.0/24"), secret) for n in (3, 4)]
    return RadiusServer(port, NasNetworks(networks))


def test_requests_of_one_client_leave_room_for_anothers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radius.server, "EVENTS_MAX", 8)
    machine = radius_of(ServerPort.AUTHENTICATION)
    for number in range(20):
        machine.receive_datagram(access(number), ("127.0.3.1", number), 0)
    assert machine.dropped == {"too_many": 20 - share_of(8)}
    machine.receive_datagram(access(), ("127.0.4.1", 1), 0)
    events = list[AccessRequested]()
    while isinstance(event := machine.next_event(), AccessRequested):
        events.append(event)
    assert [str(each.client.network) for each in events] == ["127.0.3.0/24"] * 6 + ["127.0.4.0/24"]
    machine.answer(events[0].token, NotRecorded(), 0)
    machine.receive_datagram(access(99), ("127.0.3.1", 99), 0)
    assert machine.next_event() is not None, "there is room again"


def test_what_one_client_is_answered_forgets_no_answer_to_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(radius.server, "RESPONSES_MAX", 8)
    machine = radius_of(ServerPort.ACCOUNTING)

    def ask(number: int, address: str) -> bool:
        """Whether it is decided anew."""
        data = accounting(2, identifier=number)
        machine.receive_datagram(data, (address, 1_000), 0)
        if not isinstance(event := machine.next_event(), AccountingRequested):
            return False
        machine.answer(event.token, Recorded(), 0)
        return True

    assert ask(1, "127.0.4.1")
    assert all(ask(number, "127.0.3.1") for number in range(30))
    assert not ask(1, "127.0.4.1")
    assert (ask(29, "127.0.3.1"), ask(0, "127.0.3.1")) == (False, True)
    assert len(machine._answered) == 1 + share_of(8)


def test_what_is_being_decided_is_never_decided_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are answered meanwhile, and however long it takes."""
    monkeypatch.setattr(radius.server, "RESPONSES_MAX", 2)
    machine = radius_of(ServerPort.ACCOUNTING)
    machine.receive_datagram(accounting(2), ("127.0.3.1", 2), 0)
    assert isinstance(machine.next_event(), AccountingRequested)
    for number in range(1, 9):
        machine.receive_datagram(accounting(2, identifier=number), ("127.0.3.1", 1), 0)
        event = machine.next_event()
        assert isinstance(event, AccountingRequested)
        machine.answer(event.token, Recorded(), 0)
    machine.receive_datagram(accounting(2), ("127.0.3.1", 2), 60)
    assert (machine.next_event(), machine.dropped) == (None, {"in_progress": 1})


def test_nases_of_one_client_that_do_not_answer_leave_room_for_anothers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(radius.client, "OPEN_MAX", 8)
    machine = DisconnectClient()
    for client, network in (("one", 3), ("two", 4)):
        for host in range(1, 11):
            nas = (f"127.0.{network}.{host}", 3_799)
            machine.disconnect(Ending(v1.IMSI, BRAS, client), nas, SECRET, 0, WALL)
    assert (len(machine), machine.outcomes) == (8, {"not_asked": 12})
    assert [peer[0][:8] for _, peer in machine.datagrams_to_send()] == ["127.0.3."] * 6 + ["127.0.4."] * 2
    while (due := machine.get_timer()) is not None:
        machine.handle_timer(due)
    assert (len(machine), machine.outcomes["not_answered"]) == (0, 8)
