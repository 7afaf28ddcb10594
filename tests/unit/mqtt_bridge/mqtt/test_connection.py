"""The MQTT server's machine: who is let in, what is acknowledged and when, what is cut off and told why.

Packets are written by hand, octet by octet, so that they do not lean on our codec.
"""

from typing import Any

import pytest

from mqtt_bridge.mqtt.codec import Reason
from mqtt_bridge.mqtt.connection import (
    CONNECT_S,
    IDLE_S_MAX,
    KEEP_ALIVE_S_MAX,
    PACKET_BYTES_MAX,
    PACKET_S_MAX,
    SERVED,
    WINDOW,
    Connected,
    MqttConnection,
    Published,
)

V3, V5 = 4, 5


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return len(data).to_bytes(2, "big") + data


def packet(first: int, content: bytes) -> bytes:
    length, encoded = len(content), b""
    while True:
        length, digit = length >> 7, length & 127
        encoded += bytes((digit | (128 if length else 0),))
        if not length:
            return bytes((first,)) + encoded + content


def connect(
    version: int = V3,
    *,
    client_id: str | bytes = "meter",
    flags: int = 2,
    keep_alive: int = 60,
    properties: bytes = b"",
    rest: bytes = b"",
    name: str = "MQTT",
) -> bytes:
    head = text(name) + bytes((version, flags)) + keep_alive.to_bytes(2, "big")
    head += bytes((len(properties),)) + properties if version == V5 else b""
    return packet(0x10, head + text(client_id) + rest)


def publish(
    packet_id: int = 1,
    payload: bytes = b"21.5",
    *,
    qos: int = 1,
    version: int = V3,
    topic: str | bytes = "meters/1",
    flags: int = 0,
    properties: bytes = b"",
) -> bytes:
    content = text(topic) + (packet_id.to_bytes(2, "big") if qos else b"")
    content += bytes((len(properties),)) + properties if version == V5 else b""
    return packet(0x30 | qos << 1 | flags, content + payload)


def machine(version: int = 0, **options: Any) -> MqttConnection:
    """Fresh, or with a client of this version."""
    made = MqttConnection(now=0, assigned_client_id="assigned", **options)
    if version:
        made.receive_data(connect(version), 0)
        assert isinstance(made.next_event(), Connected)
        made.data_to_send()
    return made


def published(made: MqttConnection, data: bytes) -> list[Published]:
    made.receive_data(data, 0)
    events = []
    while (event := made.next_event()) is not None:
        if event is not SERVED:
            assert isinstance(event, Published)
            events.append(event)
    return events


def told(made: MqttConnection) -> list[bytes]:
    """What is sent, packet by packet (all are shorter than 128 octets)."""
    data, packets = made.data_to_send(), []
    while data:
        packets.append(data[: 2 + data[1]])
        data = data[2 + data[1] :]
    return packets


def test_version_3_is_let_in() -> None:
    made = machine()
    made.receive_data(connect(), 0)
    assert made.next_event() == Connected("meter")
    assert made.data_to_send() == b"\x20\x02\x00\x00"


def test_version_5_is_told_what_is_offered() -> None:
    made = machine()
    made.receive_data(connect(V5, client_id="", keep_alive=0), 0)
    assert made.next_event() == Connected("assigned")
    ((head, properties),) = [(p[:4], p[5:]) for p in told(made)]
    assert (head[0], head[2:4]) == (0x20, b"\x00\x00")
    assert b"\x11\0\0\0\0" in properties, "no session"
    assert b"\x21" + WINDOW.to_bytes(2, "big") in properties, "Receive Maximum"
    assert b"\x24\x01" in properties, "Maximum QoS"
    assert b"\x27" + PACKET_BYTES_MAX.to_bytes(4, "big") in properties, "Maximum Packet Size"
    assert b"\x12" + text("assigned") in properties
    assert b"\x13" + KEEP_ALIVE_S_MAX.to_bytes(2, "big") in properties


def test_pubacks_go_out_in_order_and_after_acceptance() -> None:
    made = machine(V3)
    first, second, third = published(made, publish(7) + publish(8) + publish(9))
    assert told(made) == []
    made.accepted(second, 0)
    assert told(made) == []
    made.accepted(first, 0)
    assert told(made) == [b"\x40\x02\x00\x07", b"\x40\x02\x00\x08"]
    made.accepted(third, 0)
    assert told(made) == [b"\x40\x02\x00\x09"]


def test_qos_0_is_taken_and_not_acknowledged() -> None:
    made = machine(V5)
    (event,) = published(made, publish(qos=0, version=V5))
    assert (event.message.topic, event.message.payload) == ("meters/1", b"21.5")
    made.accepted(event, 0)
    assert told(made) == []


def test_a_full_window_stops_reading_and_the_clock() -> None:
    made = machine(V3, window=3)
    events = published(made, b"".join(publish(n) for n in range(1, 6)))
    assert len(events) == 3
    assert (made.wants_data, made.get_timer()) == (False, None)
    made.accepted(events[0], 100)
    assert (made.wants_data, made.get_timer()) == (True, 190), "heard of when it could be read again"
    event = made.next_event()
    assert isinstance(event, Published)
    assert event.message.packet_id == 4
    assert not made.wants_data


def test_a_message_that_can_never_be_stored() -> None:
    five = machine(V5)
    first, second = published(five, publish(1, version=V5) + publish(2, version=V5))
    five.accepted(second, 0)
    five.kept_aside(first, Reason.PAYLOAD_FORMAT_INVALID, 0)
    assert told(five) == [b"\x40\x03\x00\x01\x99", b"\x40\x02\x00\x02"]
    three = machine(V3)
    (event,) = published(three, publish())
    three.kept_aside(event, Reason.PAYLOAD_FORMAT_INVALID, 0)
    assert (three.is_closing, told(three)) == (False, [b"\x40\x02\x00\x01"]), "3.1.1 has no word for it"


def test_what_comes_late_is_not_acknowledged_after_the_end() -> None:
    made = machine(V5)
    (event,) = published(made, publish(version=V5))
    made.close(Reason.SESSION_TAKEN_OVER)
    made.accepted(event, 0)
    assert told(made) == [b"\xe0\x01\x8e"]


@pytest.mark.parametrize("version", [V3, V5])
def test_ping_subscribe_unsubscribe(version: int) -> None:
    made = machine(version)
    none = b"\0" if version == V5 else b""
    subscribe = packet(0x82, b"\0\x05" + none + text("down/#") + b"\1" + text("x") + b"\0")
    unsubscribe = packet(0xA2, b"\0\x06" + none + text("x"))
    assert published(made, b"\xc0\0" + subscribe + unsubscribe) == []
    refused = b"\x80" if version == V3 else b"\x83"
    assert told(made) == [
        b"\xd0\0",
        packet(0x90, b"\0\x05" + none + refused * 2),
        packet(0xB0, b"\0\x06" + (b"\0\0" if version == V5 else b"")),
    ]


def test_time_is_up() -> None:
    silent = machine()
    assert silent.get_timer() == CONNECT_S
    silent.handle_timer(CONNECT_S)
    assert (silent.is_closing, silent.data_to_send()) == (True, b"")
    for keep_alive, patience_s in ((60, 90), (0, IDLE_S_MAX)):
        made = machine()
        made.receive_data(connect(keep_alive=keep_alive), 0)
        made.next_event()
        made.receive_data(b"\xc0\0", 5)
        made.next_event()
        assert made.get_timer() == 5 + patience_s
    five = machine(V5)
    five.handle_timer(90)
    assert told(five) == [b"\xe0\x01\x8d"]


@pytest.mark.parametrize("octets", [connect(), connect()[:-1], b""])
def test_the_time_for_connect_is_a_deadline(octets: bytes) -> None:
    made = machine()
    for number, octet in enumerate(octets):
        made.receive_data(bytes((octet,)), number * 0.4)
        assert (made.next_event() is not None) is (number == len(connect()) - 1)
    if octets == connect():
        assert made.get_timer() == (len(octets) - 1) * 0.4 + 90
    else:
        assert made.get_timer() == CONNECT_S
        made.handle_timer(CONNECT_S)
        assert made.is_closing


def test_a_packet_that_was_begun_has_a_deadline_and_the_keep_alive_counts_whole_ones() -> None:
    made = machine(V3)
    message = publish(1, b"x" * 1_000)
    made.receive_data(message[:1], 50)
    assert made.next_event() is None
    assert made.get_timer() == 50 + PACKET_S_MAX
    made.receive_data(message[1:900], 100)
    assert made.next_event() is None
    assert made.get_timer() == 50 + PACKET_S_MAX, "octets do not move it"
    made.receive_data(message[900:] + b"\xc0", 150)
    assert isinstance(made.next_event(), Published)
    assert made.next_event() is None
    assert made.get_timer() == 150 + PACKET_S_MAX, "the next one's"
    made.receive_data(b"\0", 160)
    assert made.next_event() is SERVED
    assert made.get_timer() == 160 + 90
    made.receive_data(b"\xc0", 170)
    assert made.next_event() is None
    made.handle_timer(170 + PACKET_S_MAX)
    assert made.is_closing


def test_a_long_packet_has_time_in_proportion() -> None:
    made = machine(V3, packet_bytes_max=100)
    message = publish(7, b"x" * 1_000, qos=1)
    made.receive_data(message[:100], 10)
    assert made.next_event() is None
    assert made.get_timer() == pytest.approx(10 + PACKET_S_MAX * len(message) / 100)
    made.receive_data(message[100:-1], 500)
    assert made.next_event() is None
    made.receive_data(message[-1:] + publish(8), 600)
    first, second = made.next_event(), made.next_event()
    assert isinstance(first, Published)
    assert isinstance(second, Published)
    assert len(first.message.payload) + first.octets_missing == 1_000
    assert (second.message.packet_id, second.octets_missing) == (8, 0)
    assert made.get_timer() == 600 + 90


def test_quality_2_of_version_3_is_kept_within_the_connection() -> None:
    made = machine(V3)
    once = publish(5, qos=2)
    (event,) = published(made, once + once)
    assert told(made) == [], "not before it is stored"
    made.accepted(event, 0)
    assert told(made) == [b"\x50\2\0\5"]
    assert published(made, once) == []
    assert told(made) == [b"\x50\2\0\5"]
    assert published(made, b"\x62\2\0\5") == []
    assert told(made) == [b"\x70\2\0\5"]
    (again,) = published(made, once)
    assert again.message.packet_id == 5, "its identifier is free"
    made.receive_data(b"\x62\2\0\x09", 0)
    assert made.next_event() is SERVED, "one that nobody waits for is taken from the budget"
    assert told(made) == [b"\x70\2\0\x09"]
    for wrong in (b"\x60\2\0\5", b"\x62\1\0"):
        made = machine(V3)
        assert published(made, wrong) == []
        assert made.is_closing


def test_a_will_of_quality_2_lets_version_3_in() -> None:
    made = machine()
    made.receive_data(connect(flags=0x16, rest=WILL), 0)
    assert made.next_event() == Connected("meter")


class Moved(bytes):
    """Octets that count how many of them are moved."""

    octets = 0

    def __getitem__(self, at: Any) -> Any:
        part = super().__getitem__(at)
        if isinstance(at, slice):
            Moved.octets += len(part)
            return Moved(part)
        return part

    def __add__(self, other: Any) -> "Moved":
        Moved.octets += len(self) + len(other)
        return Moved(super().__add__(other))

    def __radd__(self, other: Any) -> "Moved":
        return NotImplemented if isinstance(other, bytearray) else Moved(other).__add__(self)


@pytest.mark.parametrize("piece", [1, 100, 50_000])
def test_a_packet_in_pieces_is_moved_a_fixed_number_of_times(piece: int) -> None:
    made = machine(V3)
    data = publish(1, b"x" * 40_000) + publish(2, b"y" * 40_000)
    Moved.octets = 0
    events = []
    for at in range(0, len(data), piece):
        made.receive_data(Moved(data[at : at + piece]), 0)
        while (event := made.next_event()) is not None:
            events.append(event)
    assert len(events) == 2
    assert Moved.octets <= 6 * len(data)


WILL = text("meters/1/gone") + text(b"bye")


def test_a_will_is_left_only_by_who_does_not_say_good_bye() -> None:
    for farewell, is_left in ((b"", True), (b"\xe0\0", False)):
        made = machine()
        made.receive_data(connect(flags=0x0E, rest=WILL) + farewell, 0)
        while made.next_event():
            pass
        will = made.connection_lost()
        assert (will is not None) is is_left
        assert made.connection_lost() is None, "once"


def test_version_5_may_say_good_bye_and_leave_its_will() -> None:
    made = machine()
    made.receive_data(connect(V5, flags=0x0E, rest=b"\0" + WILL) + b"\xe0\x01\x04", 0)
    while made.next_event():
        pass
    will = made.connection_lost()
    assert will is not None
    assert (will.topic, will.payload) == ("meters/1/gone", b"bye")


HUGE = b"\x30" + b"\xff\xff\xff\x7f"


@pytest.mark.parametrize(("data", "code"), [
    (connect(3, name="MQIsdp"), 1),
    (connect(9), 1),
    (connect(client_id="", flags=0), 2),
])  # fmt: skip
def test_version_3_is_refused_by_connack(data: bytes, code: int) -> None:
    made = machine()
    made.receive_data(data, 0)
    assert made.next_event() is None
    assert (made.is_closing, made.data_to_send()) == (True, bytes((0x20, 2, 0, code)))


@pytest.mark.parametrize("data", [
    b"\xc0\0",
    b"\x11\0",
    connect(flags=3),
    connect(flags=0x1E, rest=WILL),
    connect(flags=0x22),
    connect(flags=0x42, rest=text("password alone")),
    connect(client_id=b"\xff"),
    connect(client_id="a\0b"),
    connect(flags=0x0E, rest=text("a/+") + text("x")),
    connect(rest=b"more"),
    connect(flags=0x82),
    packet(0x10, text("MQTT")[:4]),
    HUGE,
    b"\x10\xff\xff\xff\xff\x01",
    connect(V5, properties=b"\x21\0\0"),
    connect(V5, properties=b"\x11\0\0\0\1\x11\0\0\0\1"),
    connect(V5, properties=b"\x23\0\1"),
    connect(V5, properties=b"\x11\0"),
])  # fmt: skip
def test_nonsense_before_connect_is_cut_off_without_a_word(data: bytes) -> None:
    made = machine()
    made.receive_data(data, 0)
    assert made.next_event() is None
    assert made.is_closing


@pytest.mark.parametrize(("properties", "flags", "rest", "reason"), [
    (b"\x15" + text("SCRAM"), 2, b"", 0x8C),
    (b"", 0x16, b"\0" + WILL, 0x9B),
    (b"", 0x2E, b"\0" + WILL, 0x9A),
])  # fmt: skip
def test_version_5_is_refused_with_a_reason(properties: bytes, flags: int, rest: bytes, reason: int) -> None:
    made = machine()
    made.receive_data(connect(V5, properties=properties, flags=flags, rest=rest), 0)
    assert made.next_event() is None
    (connack,) = told(made)
    assert (connack[0], connack[3]) == (0x20, reason)


@pytest.mark.parametrize(("data", "reason"), [
    (connect(V5), Reason.PROTOCOL_ERROR),
    (publish(qos=2, version=V5), Reason.QOS_NOT_SUPPORTED),
    (publish(qos=3, version=V5), Reason.MALFORMED_PACKET),
    (publish(qos=0, flags=8, version=V5), Reason.MALFORMED_PACKET),
    (publish(0, version=V5), Reason.PROTOCOL_ERROR),
    (publish(version=V5, flags=1), Reason.RETAIN_NOT_SUPPORTED),
    (publish(version=V5, topic=""), Reason.TOPIC_NAME_INVALID),
    (publish(version=V5, topic="a/#"), Reason.TOPIC_NAME_INVALID),
    (publish(version=V5, topic="+/a"), Reason.TOPIC_NAME_INVALID),
    (publish(version=V5, topic="a\0"), Reason.MALFORMED_PACKET),
    (publish(version=V5, topic=b"\xc3\x28"), Reason.MALFORMED_PACKET),
    (publish(version=V5, properties=b"\x23\0\1"), Reason.TOPIC_ALIAS_INVALID),
    (publish(version=V5, properties=b"\x0b\1"), Reason.PROTOCOL_ERROR),
    (publish(version=V5, properties=b"\x7f"), Reason.PROTOCOL_ERROR),
    (packet(0x32, b"\0"), Reason.MALFORMED_PACKET),
    (HUGE, Reason.PACKET_TOO_LARGE),
    (packet(0x80, b"\0\1\0" + text("x") + b"\0"), Reason.MALFORMED_PACKET),
    (packet(0x82, b"\0\0\0" + text("x") + b"\0"), Reason.PROTOCOL_ERROR),
    (packet(0x82, b"\0\1\0"), Reason.PROTOCOL_ERROR),
    (packet(0x62, b"\0\1"), Reason.MALFORMED_PACKET),
    (packet(0xF0, b""), Reason.PROTOCOL_ERROR),
    (packet(0x00, b""), Reason.PROTOCOL_ERROR),
])  # fmt: skip
def test_who_breaks_the_protocol_is_told_and_cut_off(data: bytes, reason: Reason) -> None:
    made = machine(V5)
    assert published(made, data + publish(77, version=V5)) == []
    assert (made.is_closing, told(made)) == (True, [bytes((0xE0, 1, reason))])


def test_the_longest_topic_is_taken() -> None:
    made = machine(V3)
    (event,) = published(made, publish(topic="t" * 65_535))
    assert len(event.message.topic) == 65_535
