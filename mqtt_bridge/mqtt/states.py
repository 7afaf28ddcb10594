"""The states of an MQTT connection as its server sees it (OASIS MQTT 3.1.1, MQTT 5.0).

Rules:

- Every transition stands in ``CONNECTION``; ``mqtt_bridge.mqtt.connection`` applies it and adds none.
- An event is a packet that the client sent whole, or one of ``Signal``. Of a packet type that is not in the
  row of the state, the packet is a protocol error: it is counted, and the client is cut off.
- The first packet is CONNECT and no later one is (§3.1, MQTT-3.1.0-1 and -2). The state changes after the
  packet was decoded and its action done: a CONNECT that is refused is answered by CONNACK, not DISCONNECT.
- The protocol's version is no state. Where the versions differ, the action refuses: PUBREL and QoS 2 exist in
  version 3.1.1 alone here, for CONNACK gives version 5 a Maximum QoS of 1.
- In ``CLOSING`` nothing is read any more. A client that is cut off leaves its will (§3.1.2.5), one that sent
  DISCONNECT leaves none unless it asked for it (MQTT 5.0 §3.14.2.1).
"""

from enum import Enum, IntEnum

from core.domain.machine import Table
from mqtt_bridge.mqtt.codec import PacketType


class ConnectionState(Enum):
    """The life of a connection."""

    AWAITING_CONNECT = "awaiting_connect"
    CONNECTED = "connected"
    CLOSING = "closing"  # send what is to be sent, then close
    CLOSED = "closed"


class Signal(IntEnum):
    """What happens to a connection beside its packets; numbered behind the packet types."""

    CUT_OFF = 16  # it broke the protocol, was silent too long, or we cannot serve it
    LOST = 17  # the transport is gone


class Action(Enum):
    """What a step does."""

    ADMIT = "admit"
    TAKE_MESSAGE = "take message"
    RELEASE = "release"
    REFUSE_SUBSCRIPTION = "refuse subscription"
    CONFIRM_UNSUBSCRIBE = "confirm unsubscribe"
    ANSWER_PING = "answer ping"
    DROP_WILL = "drop will"
    SEND_CONNACK = "send CONNACK"
    SEND_DISCONNECT = "send DISCONNECT"
    LEAVE_WILL = "leave will"


_S, _P, _A = ConnectionState, PacketType, Action

CONNECTION: Table[ConnectionState, PacketType | Signal, Action] = {
    _S.AWAITING_CONNECT: {
        _P.CONNECT: (_S.CONNECTED, _A.ADMIT),
        Signal.CUT_OFF: (_S.CLOSING, _A.SEND_CONNACK),
        Signal.LOST: (_S.CLOSED, None),
    },
    _S.CONNECTED: {
        _P.PUBLISH: (_S.CONNECTED, _A.TAKE_MESSAGE),
        _P.PUBREL: (_S.CONNECTED, _A.RELEASE),
        _P.SUBSCRIBE: (_S.CONNECTED, _A.REFUSE_SUBSCRIPTION),
        _P.UNSUBSCRIBE: (_S.CONNECTED, _A.CONFIRM_UNSUBSCRIBE),
        _P.PINGREQ: (_S.CONNECTED, _A.ANSWER_PING),
        _P.DISCONNECT: (_S.CLOSING, _A.DROP_WILL),
        Signal.CUT_OFF: (_S.CLOSING, _A.SEND_DISCONNECT),
        Signal.LOST: (_S.CLOSED, _A.LEAVE_WILL),
    },
    _S.CLOSING: {
        Signal.CUT_OFF: (_S.CLOSING, None),  # once is enough
        Signal.LOST: (_S.CLOSED, _A.LEAVE_WILL),
    },
    _S.CLOSED: {
        Signal.CUT_OFF: (_S.CLOSED, None),  # a message failed whose client is gone
    },
}
"""``{state: {event: (next state, action)}}``."""
