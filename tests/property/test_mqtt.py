"""Any octets, in any pieces: the machine never raises, and says the same however they were cut."""

from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from mqtt_bridge.mqtt.codec import Property, Reader, encode_properties, encode_variable
from mqtt_bridge.mqtt.connection import Connected, MqttConnection, Published, Served
from tests.unit.mqtt_bridge.mqtt.test_connection import V3, V5, connect, publish

pieces = st.lists(
    st.one_of(
        st.binary(max_size=40),
        st.sampled_from([b"\xc0\0", b"\xe0\0", connect(V3), connect(V5), b"\x62\2\0\1"]),
        st.builds(
            publish,
            st.integers(1, 65_535),
            st.binary(max_size=20) | st.just(b"long" * 30),
            qos=st.integers(0, 2),
            version=st.sampled_from([V3, V5]),
        ),
    ),
    max_size=12,
)


def run(data: bytes, cuts: list[int]) -> tuple[list[object], bytes, bool]:
    machine = MqttConnection(now=0, assigned_client_id="assigned", window=4, packet_bytes_max=100)
    seen: list[object] = []
    sent = b""
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    for start, end in pairwise(edges):
        machine.receive_data(data[start:end], 0)
        while (event := machine.next_event()) is not None:
            if isinstance(event, Published):
                seen.append((event.message, event.octets_missing))
                machine.accepted(event, 0)
            else:
                assert isinstance(event, Connected | Served)
                seen.append(event)
        sent += machine.data_to_send()
    return seen, sent, machine.is_closing


@given(st.sampled_from([b"", connect(V3), connect(V5)]), pieces, st.lists(st.integers(0, 10_000), max_size=8))
def test_any_octets_however_they_are_cut(first: bytes, rest: list[bytes], cuts: list[int]) -> None:
    data = first + b"".join(rest)
    assert run(data, cuts) == run(data, [])


untyped: Any = Properties  # paho has no types


@given(st.integers(0, 268_435_455))
def test_variable_byte_integers(value: int) -> None:
    assert Reader(encode_variable(value)).variable() == value


@given(
    st.integers(0, 2**32 - 1), st.integers(1, 65_535), st.text(max_size=20).filter(lambda t: "\0" not in t)
)
def test_paho_reads_our_properties(expiry: int, maximum: int, name: str) -> None:
    encoded = encode_properties(
        {
            Property.SESSION_EXPIRY_INTERVAL: expiry,
            Property.RECEIVE_MAXIMUM: maximum,
            Property.ASSIGNED_CLIENT_IDENTIFIER: name,
        }
    )
    theirs = untyped(PacketTypes.CONNACK)
    theirs.unpack(encoded)
    assert theirs.json() == {
        "SessionExpiryInterval": expiry,
        "ReceiveMaximum": maximum,
        "AssignedClientIdentifier": name,
    }
