"""Attach storms before a GTP-C endpoint: who is refused, by which cause, and who is not."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

import pytest

from core.domain.apn import Apn
from core.domain.reasons import AttachRefusal
from core.domain.session import Access
from core.domain.values import replace
from gtp.admission import OF_ONE_SIM_MAX
from gtp.endpoint import GtpcEndpoint, Limits
from gtp.events import Accepted, DeleteRequested, Rejected, SessionRequested, UpdateRequested
from gtp.partners import Partner, Priority
from gtp.transaction import TIMERS, Timers
from gtp.v1.wire import V1Wire
from gtp.v2.wire import V2Wire
from gtp.version import NO_CAUSES, Causes
from gtp.wire import Wire
from tests.support import gtp as v1
from tests.support import gtp2 as v2
from tests.support.gtp import counting, message, only, session, tlv
from tests.support.gtp2 import element, f_teid, message2

ROOM = 64
LOW, NORMAL, HIGH = ROOM // 2, ROOM * 3 // 4, ROOM * 7 // 8
ONE = ROOM * 5 // 8
INACTIVE = AttachRefusal.SIM_INACTIVE


@dataclass(frozen=True)
class Version:
    """One version's machine, and how it says no."""

    wire: Wire
    congested: int
    apn_congested: int
    too_many_sessions: int
    not_supported: int

    def create(
        self,
        number: int,
        *,
        apn: str = "soracom",
        address: str = "127.0.1.1",
        user: str = "",
        is_low: bool = False,
    ) -> bytes:
        """The n-th device attaches."""
        name = bytes((len(apn),)) + apn.encode() + b"\x02io"
        octets, user_octets = IPv4Address(address).packed, IPv4Address(user or address).packed
        if self.wire.version == 1:
            elements = v1.create_elements(device=number)
            elements[7] = tlv(0x83, name)
            elements[9], elements[10] = tlv(0x85, octets), tlv(0x85, user_octets)
            if is_low:
                elements.append(tlv(203, b"\x01"))
            return message(16, 0, number, b"".join(elements))
        bearer = b"".join(v2.bearer_context()).replace(v2.SGW_ADDRESS, user_octets)
        named = v2.create_elements(device=number) | {
            "bearer context": element(93, bearer),
            "apn": element(71, name),
            "f-teid": f_teid(6, 0x2001, 0, octets),
        }
        return message2(32, 0, number, b"".join(named.values()) + (element(157, b"\x01") if is_low else b""))

    def update(self, address: str, user: str) -> bytes:
        """The first device moves."""
        octets, user_octets = IPv4Address(address).packed, IPv4Address(user).packed
        if self.wire.version == 1:
            ends = tlv(0x85, octets) + tlv(0x85, user_octets)
            return v1.update_request(0xA0000001, 9_998).replace(tlv(0x85, bytes((127, 0, 1, 1))) * 2, ends)
        bearer = element(73, b"\x05") + f_teid(4, 0x1002, 1, user_octets)
        body = f_teid(6, 0x2002, 0, octets) + element(93, bearer)
        return message2(34, 0xA0000001, 9_998, body)

    def delete(self) -> bytes:
        """The first device leaves."""
        build = v1.delete_request if self.wire.version == 1 else v2.delete_session
        return build(0xA0000001, 9_999)

    def cause_of(self, answer: bytes) -> int:
        """Where each version has it first."""
        return answer[13] if self.wire.version == 1 else answer[16]


VERSIONS = [Version(V1Wire(), 199, 229, 199, 200), Version(V2Wire(), 120, 113, 116, 68)]
each_version = pytest.mark.parametrize("version", VERSIONS, ids=["v1", "v2"])


def gateway(
    version: Version,
    *partners: Partner,
    apns: int = 1,
    timers: Timers = TIMERS,
    causes: Causes = NO_CAUSES,
) -> GtpcEndpoint:
    return GtpcEndpoint(
        wires=[version.wire],
        address=IPv4Address("127.0.0.1"),
        recovery=3,
        apns=[Apn("soracom.io"), Apn("other.io")][:apns],
        allowed_peers=(),
        random_bytes=counting(100),
        partners=partners,
        timers=timers,
        causes=causes,
        limits=Limits(deciding=ROOM),
    )


def partner(name: str, network: str, priority: Priority = Priority.NORMAL) -> Partner:
    return Partner(name, (IPv4Network(network),), priority=priority)


def taken(machine: GtpcEndpoint) -> int:
    number = 0
    while isinstance(machine.next_event(), SessionRequested):
        number += 1
    return number


def causes(machine: GtpcEndpoint, version: Version) -> set[int]:
    return {version.cause_of(data) for data, _ in machine.datagrams_to_send()}


def storm(
    machine: GtpcEndpoint, version: Version, *, peers: int = 4, first: int = 1, apn: str = "soracom"
) -> None:
    """From several peers, each far below its own part."""
    for number in range(first, first + 2 * ROOM):
        address = f"127.0.{1 + number % peers}.1"
        machine.receive_datagram(version.create(number, address=address, apn=apn), (address, 2123), 0)


@each_version
def test_a_storm_is_refused_at_the_watermark_and_those_who_leave_are_not(version: Version) -> None:
    machine = gateway(version)
    machine.receive_datagram(version.create(1), v1.SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Accepted(replace(session(), access=version.wire.access)), 0)
    machine.datagrams_to_send()
    storm(machine, version, first=2)
    assert taken(machine) == NORMAL
    assert causes(machine, version) == {version.congested}
    machine.receive_datagram(version.delete(), v1.SGSN, 0)
    assert isinstance(machine.next_event(), DeleteRequested)


@each_version
def test_one_peers_storm_leaves_room_for_the_others(version: Version) -> None:
    machine = gateway(version)
    storm(machine, version, peers=1)
    assert taken(machine) == ONE
    assert causes(machine, version) == {version.congested}
    machine.receive_datagram(version.create(999, address="127.0.9.1"), ("127.0.9.1", 2123), 0)
    assert taken(machine) == 1


@each_version
def test_the_addresses_of_one_partner_are_one_peer(version: Version) -> None:
    machine = gateway(version, partner("one", "127.0.0.0/16"))
    storm(machine, version)
    assert taken(machine) == ONE


@each_version
def test_one_apns_storm_is_told_so_and_leaves_room_for_the_other(version: Version) -> None:
    machine = gateway(version, apns=2)
    storm(machine, version)
    assert taken(machine) == ONE
    assert causes(machine, version) == {version.apn_congested}
    machine.receive_datagram(version.create(999, apn="other"), v1.SGSN, 0)
    assert taken(machine) == 1


@each_version
def test_devices_of_low_priority_are_refused_first(version: Version) -> None:
    machine = gateway(version)
    for number in range(ROOM):
        address = f"127.0.{1 + number % 4}.1"
        machine.receive_datagram(version.create(number, address=address, is_low=True), (address, 2123), 0)
    assert taken(machine) == LOW
    machine.receive_datagram(version.create(999), v1.SGSN, 0)
    assert taken(machine) == 1


@each_version
def test_partners_are_refused_by_their_priority(version: Version) -> None:
    high, low = partner("high", "127.0.8.0/24", Priority.HIGH), partner("low", "127.0.9.0/24", Priority.LOW)
    machine = gateway(version, partner("a", "127.0.1.0/24"), partner("b", "127.0.2.0/24"), high, low)
    storm(machine, version, peers=2)
    assert taken(machine) == NORMAL
    for number in range(ROOM):
        for address in ("127.0.8.1", "127.0.9.1"):
            machine.receive_datagram(
                version.create(1_000 + 2 * number + (address == "127.0.9.1"), address=address),
                (address, 2123),
                0,
            )
    assert taken(machine) == HIGH - NORMAL


@each_version
def test_a_create_flood_for_one_sim_leaves_the_others_alone(version: Version) -> None:
    machine = gateway(version)
    flood = version.create(7)
    for sequence in range(1_000):
        again = bytearray(flood)
        at = 8 if version.wire.version == 1 else 9
        again[at : at + 2] = sequence.to_bytes(2, "big")
        machine.receive_datagram(bytes(again), v1.SGSN, 0)
    assert taken(machine) == OF_ONE_SIM_MAX
    assert causes(machine, version) == {version.congested}
    machine.receive_datagram(version.create(1_001), v1.SGSN, 0)
    assert taken(machine) == 1


@each_version
def test_there_is_room_again_as_soon_as_some_are_decided(version: Version) -> None:
    machine = gateway(version)
    for turn in range(5):
        storm(machine, version, first=1 + 2 * ROOM * turn)
        tokens = []
        while isinstance(event := machine.next_event(), SessionRequested):
            tokens.append(event.token)
        assert len(tokens) == NORMAL
        for token in tokens:
            machine.answer(token, Rejected(AttachRefusal.UNKNOWN_SIM), 0)
        machine.datagrams_to_send()


@each_version
def test_a_refusal_is_repeated_with_the_same_bytes(version: Version) -> None:
    machine = gateway(version)
    storm(machine, version, peers=1)
    machine.datagrams_to_send()
    machine.receive_datagram(version.create(2 * ROOM), ("127.0.1.1", 2123), 1)
    ((answer, _),) = machine.datagrams_to_send()
    assert version.cause_of(answer) == version.congested


@each_version
def test_the_last_quarter_of_a_bucket_is_for_those_who_leave(version: Version) -> None:
    slow = Partner("slow", (IPv4Network("127.0.1.0/24"),), requests_per_s=1, burst=20)
    machine = gateway(version, slow)
    for number in range(30):
        machine.receive_datagram(version.create(number), v1.SGSN, 0)
    assert taken(machine) == 15
    assert causes(machine, version) == {version.congested}
    assert only(machine).dropped["rate_exceeded"] == 10


@each_version
def test_a_peer_may_not_have_us_answer_to_somebody_elses_address(version: Version) -> None:
    machine = gateway(version, partner("one", "127.0.1.0/24"), partner("two", "127.0.2.0/24"))
    machine.receive_datagram(version.create(1, address="127.0.2.1"), v1.SGSN, 0)
    assert machine.next_event() is None
    assert causes(machine, version) == {version.not_supported}


ELSEWHERE = Partner("one", (IPv4Network("127.0.1.0/24"),), user_networks=(IPv4Network("127.0.8.0/24"),))


@each_version
@pytest.mark.parametrize(
    ("user", "is_fine"), [("127.0.1.9", True), ("127.0.8.1", True), ("127.0.2.1", False), ("10.0.0.1", False)]
)
def test_tunnels_end_at_the_partners_own_addresses_or_where_its_user_plane_is(
    version: Version, user: str, is_fine: bool
) -> None:
    machine = gateway(version, ELSEWHERE, partner("two", "127.0.2.0/24"))
    machine.receive_datagram(version.create(1, user=user), v1.SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested) is is_fine
    assert causes(machine, version) == (set() if is_fine else {version.not_supported})
    assert only(machine).dropped["refused_foreign_address"] == (not is_fine)
    machine.adopt(replace(session(), access=version.wire.access))
    machine.receive_datagram(version.update("127.0.1.1", user), v1.SGSN, 0)
    assert isinstance(machine.next_event(), UpdateRequested) is is_fine
    assert causes(machine, version) == (set() if is_fine else {version.not_supported})
    machine.receive_datagram(version.create(3), ("127.0.8.1", 2123), 0)
    assert only(machine).dropped["peer_not_allowed"] == 1, "nobody speaks from there"


@each_version
def test_without_a_table_tunnels_end_wherever_a_peer_says(version: Version) -> None:
    machine = gateway(version)
    machine.receive_datagram(version.create(1, user="10.0.0.1"), v1.SGSN, 0)
    assert isinstance(machine.next_event(), SessionRequested)


@each_version
@pytest.mark.parametrize("back_off_s", [0.0, 10.0])
def test_whoever_is_refused_for_a_congested_apn_is_told_how_long_to_stay_away(
    version: Version, back_off_s: float
) -> None:
    machine = gateway(version, apns=2, timers=Timers(back_off_s=back_off_s))
    storm(machine, version)
    (answer,) = {data[12:] for data, _ in machine.datagrams_to_send()}
    back_off = b"\xca\0\x01\x05" if version.wire.version == 1 else element(156, b"\x05")
    cause = b"\x01\xe5" if version.wire.version == 1 else element(2, b"\x71\0")
    assert answer == cause + (back_off if back_off_s else b"")


def refused(machine: GtpcEndpoint, version: Version, reason: AttachRefusal, number: int = 1) -> bytes:
    machine.receive_datagram(version.create(number), v1.SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Rejected(reason), 0)
    ((answer, _),) = machine.datagrams_to_send()
    return answer


@each_version
def test_an_operator_says_what_a_refusal_is_answered_with(version: Version) -> None:
    causes = {Access.GTPV1: {INACTIVE: 229}, Access.GTPV2: {INACTIVE: 113}}
    machine = gateway(version, causes=causes, timers=Timers(back_off_s=10.0))
    answer = refused(machine, version, INACTIVE)
    assert version.cause_of(answer) == version.apn_congested
    assert len(answer) == (14 if version.wire.version == 1 else 18), "nobody else has to stay away for it"
    assert version.cause_of(refused(machine, version, AttachRefusal.SIM_SUSPENDED, 2)) in (209, 92)
    machine.serve(apns=[Apn("soracom.io")], allowed_peers=(), partners=())
    assert version.cause_of(refused(machine, version, INACTIVE, 3)) in (199, 73)


@each_version
def test_a_sim_with_too_many_sessions_is_told_by_a_cause_of_its_own(version: Version) -> None:
    machine = gateway(version)
    machine.receive_datagram(version.create(1), v1.SGSN, 0)
    event = machine.next_event()
    assert isinstance(event, SessionRequested)
    machine.answer(event.token, Rejected(AttachRefusal.TOO_MANY_SESSIONS), 0)
    assert causes(machine, version) == {version.too_many_sessions}
