"""The table of an MQTT connection: every state meets every packet type and signal."""

import pytest

from mqtt_bridge.mqtt.codec import PacketType, Reason
from mqtt_bridge.mqtt.connection import MqttConnection
from mqtt_bridge.mqtt.states import CONNECTION, ConnectionState, Signal
from tests.unit.mqtt_bridge.mqtt.test_connection import V3, connect, machine, packet, publish, told

RESERVED = 0
PACKETS: dict[int, bytes] = {
    PacketType.CONNECT: connect(),
    PacketType.PUBLISH: publish(),
    PacketType.PUBREL: b"\x62\x02\x00\x01",
    PacketType.SUBSCRIBE: b"\x82\x06\x00\x01\x00\x01a\x00",
    PacketType.UNSUBSCRIBE: b"\xa2\x05\x00\x01\x00\x01a",
    PacketType.PINGREQ: b"\xc0\x00",
    PacketType.DISCONNECT: b"\xe0\x00",
    **{kind: packet(kind << 4, b"") for kind in (RESERVED, 2, 4, 5, 7, 9, 11, 13, 15)},
}
"""One of each type, as its specification has it, or empty where no server is sent it."""
WILL = connect(flags=6, rest=b"\x00\x01w\x00\x01!")


def in_state(state: ConnectionState) -> MqttConnection:
    """A machine that came there as connections do, whose client left a will once it was connected."""
    made = machine()
    if state is not ConnectionState.AWAITING_CONNECT:
        made.receive_data(WILL, 0)
        assert made.next_event() is not None
    if state is ConnectionState.CLOSING:
        made.close(Reason.SERVER_UNAVAILABLE)
    elif state is ConnectionState.CLOSED:
        made.connection_lost()
    made.data_to_send()
    assert made.state is state
    return made


def test_every_packet_type_is_tried() -> None:
    assert set(PACKETS) == set(range(16))
    assert set(CONNECTION) == set(ConnectionState)


@pytest.mark.parametrize("state", ConnectionState)
@pytest.mark.parametrize("kind", range(16))
def test_every_state_meets_every_packet(state: ConnectionState, kind: int) -> None:
    made = in_state(state)
    row = {int(event): following for event, (following, _) in CONNECTION[state].items()}
    made.receive_data(PACKETS[kind], 0)
    event = made.next_event()
    if state in (ConnectionState.CLOSING, ConnectionState.CLOSED):
        assert (made.state, event, made.data_to_send()) == (state, None, b""), "nothing is read any more"
        assert made.refused == {}
    elif kind in row:
        assert (made.state, made.closed_because, made.refused) == (row[kind], None, {})
    else:
        assert (made.state, event) == (ConnectionState.CLOSING, None)
        assert made.closed_because is Reason.PROTOCOL_ERROR
        name = PacketType(kind).name if kind else "RESERVED"
        assert made.refused == {f"{name}_while_{state.name}".lower(): 1}


@pytest.mark.parametrize("state", ConnectionState)
def test_every_state_can_be_cut_off(state: ConnectionState) -> None:
    made = in_state(state)
    made.close(Reason.SERVER_BUSY)
    assert made.state is CONNECTION[state][Signal.CUT_OFF][0]
    connack = [b"\x20\x02\x00\x03"] if state is ConnectionState.AWAITING_CONNECT else []
    assert told(made) == connack, "version 3.1.1 has no DISCONNECT of a server"
    assert made.refused == {}


@pytest.mark.parametrize("state", ConnectionState)
def test_every_state_can_lose_its_transport(state: ConnectionState) -> None:
    made = in_state(state)
    will = made.connection_lost()
    assert made.state is ConnectionState.CLOSED
    assert (will is not None) is (state in (ConnectionState.CONNECTED, ConnectionState.CLOSING))
    assert made.refused == ({"lost_while_closed": 1} if state is ConnectionState.CLOSED else {})


def test_a_connect_that_is_refused_leaves_the_state_for_connack() -> None:
    made = machine()
    made.receive_data(connect(V3, client_id="", flags=0), 0)
    assert made.next_event() is None
    assert (made.state, told(made)) == (ConnectionState.CLOSING, [b"\x20\x02\x00\x02"])


def test_connections_that_share_a_count_add_up() -> None:
    first = machine()
    second = MqttConnection(now=0, assigned_client_id="assigned", refused=first.refused)
    for made in (first, second):
        made.receive_data(PACKETS[PacketType.PINGREQ], 0)
        assert made.next_event() is None
    assert first.refused == {"pingreq_while_awaiting_connect": 2}
