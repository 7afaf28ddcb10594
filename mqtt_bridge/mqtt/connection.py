"""One MQTT connection as its server sees it, without I/O (OASIS MQTT 3.1.1, MQTT 5.0).

Rules:

- Bytes go in by ``receive_data``, what a client wants comes out by ``next_event`` and is settled by
  ``accepted`` or ``refused``, bytes come out by ``data_to_send``; time is an argument.
- PUBACKs go out in the order of the PUBLISHes (§4.6), each after its message was accepted.
- At most ``window`` messages wait; then no event comes and ``wants_data`` is false, and the keep-alive
  stands still: a client that is not read cannot be heard.
- CONNECT has a deadline, and so has every packet that was begun; the keep-alive counts whole packets
  (§3.1.2.10).
- A client that breaks the protocol is disconnected, in version 5 with the reason; nothing that it sends
  raises.
- Which packet may come when, and what it does, stands in ``mqtt_bridge.mqtt.states``.
- There is no session state and nothing to subscribe to: what is not offered is said in CONNACK or refused.
  Version 3.1.1 cannot refuse some of it, and a client that is cut off sends the same again for ever. So it is
  served as far as it can be: QoS 2 within a connection; of a PUBLISH that is too long the beginning, to be
  kept aside; a message to be retained, as a message.
"""

from collections import Counter, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from msgspec import Struct

from core.domain.machine import refuse, step
from mqtt_bridge.mqtt.codec import (
    VERSION_3,
    VERSION_5,
    Connect,
    Malformed,
    Message,
    PacketType,
    Property,
    Reason,
    decode_connect,
    decode_disconnect,
    decode_publish,
    decode_release,
    decode_subscribe,
    decode_unsubscribe,
    encode,
    encode_connack,
    encode_disconnect,
    encode_puback,
    encode_release,
    encode_suback,
)
from mqtt_bridge.mqtt.states import CONNECTION, Action, ConnectionState, Signal

WINDOW = 64
"""Messages of one connection that may wait; Receive Maximum (MQTT 5.0 §3.2.2.3.3)."""
PACKET_BYTES_MAX = 131_072
CONNECT_S = 10.0
"""How long a client may take for its CONNECT."""
KEEP_ALIVE_S_MAX = 1_200
IDLE_S_MAX = 1_800.0
"""A client without keep-alive is cut off after this silence."""
PACKET_S_MAX = 120.0
"""How long a client may take for one packet, whatever its keep-alive."""
SUBSCRIPTION_REFUSED = {VERSION_3: 0x80, VERSION_5: Reason.IMPLEMENTATION_SPECIFIC_ERROR}


@dataclass(frozen=True, slots=True)
class Connected:
    """The client may go on; ``client_id`` is its name within its SIM."""

    client_id: str


class Published(Struct, eq=False):
    """A message; settle it by ``accepted`` or ``kept_aside``.

    ``octets_missing``: how much of its payload was passed over, for it is too long.
    """

    message: Message
    reason: Reason | None = None
    octets_missing: int = 0


@dataclass(frozen=True, slots=True)
class Served:
    """A request was answered that is no message: PINGREQ, SUBSCRIBE or UNSUBSCRIBE."""


SERVED = Served()
Event = Connected | Published | Served


class _Packet(Struct, frozen=True, gc=False):
    """Type, flags and content; ``octets_missing``: of the content, behind what is there."""

    kind: int
    flags: int
    content: bytes
    octets_missing: int


class MqttConnection:
    """The machine. ``assigned_client_id`` is what a client without a name is called; ``refused`` counts the
    packets that came in a state that does not have them, of all connections that share it.
    """

    def __init__(
        self,
        *,
        now: float,
        assigned_client_id: str,
        window: int = WINDOW,
        packet_bytes_max: int = PACKET_BYTES_MAX,
        refused: Counter[str] | None = None,
    ) -> None:
        self._enter(ConnectionState.AWAITING_CONNECT)
        self.refused: Counter[str] = Counter() if refused is None else refused
        self._assigned_client_id = assigned_client_id
        self._window = window
        self._packet_bytes_max = packet_bytes_max
        self.version = 0
        """Of the protocol, once the client has said it; 0 before."""
        self._received = b""
        self._at = self._end = 0
        """What of ``_received`` is still to be read."""
        self._partial = bytearray()
        """The beginning of a packet of which ``_wanted`` octets at the least are needed to go on."""
        self._wanted = 0
        self._too_long: _Packet | None = None
        """What is kept of a packet that is too long, of which ``_passed_over`` octets are still to come."""
        self._passed_over = 0
        self.outgoing = bytearray()
        """What is to be sent, until ``data_to_send`` gives it out."""
        self.unsettled: deque[Published] = deque()
        """Messages that wait, the oldest first."""
        self._unreleased = 0
        """A bit for each packet identifier of QoS 2 that waits for its PUBREL (§4.3.3)."""
        self._heard = self._now = now
        """When the last packet was whole, or the one under way was begun, or the client was read again."""
        self._patience_s = CONNECT_S
        self._packet_s = PACKET_S_MAX
        self._will: Message | None = None
        self.closed_because: Reason | None = None

    @property
    def wants_data(self) -> bool:
        """Whether the client shall be read."""
        return len(self.unsettled) < self._window and not self.is_closing

    def receive_data(self, data: bytes, now: float) -> None:
        """Take in what the client sent; however it is cut, an octet is moved a fixed number of times."""
        if self.is_closing:
            return
        self._now = now
        if self._passed_over:
            passed_over = data[: self._passed_over]
            self._passed_over -= len(passed_over)
            data = data[len(passed_over) :]
        if self._partial:
            self._partial += data
            if len(self._partial) < self._wanted:
                return
            data = bytes(self._partial)
            self._partial.clear()
        self._received = self._received[self._at :] + data
        self._at, self._end = 0, len(self._received)

    def next_event(self) -> Event | None:
        """The next thing the client wants; ``None`` until more comes, or until the window opens."""
        while (self._at < self._end or self._too_long is not None) and self.wants_data:
            try:
                packet = self._next_packet()
                if packet is None:
                    return None
                event = self._on_packet(packet)
            except Malformed as error:
                self.close(error.reason)
                return None
            if event is not None:
                return event
        return None

    def accepted(self, published: Published, now: float, reason: Reason = Reason.SUCCESS) -> None:
        """The message is stored: acknowledge it when its turn comes."""
        unsettled = self.unsettled
        if len(unsettled) >= self._window:
            self._heard = self._now = now  # it could not be heard until now
        published.reason = reason
        while unsettled and (settled := unsettled[0].reason) is not None:
            message = unsettled.popleft().message
            if message.qos == 1 and not self.is_closing:
                self.outgoing += encode_puback(message.packet_id, settled)
            elif message.qos and not self.is_closing:
                self.outgoing += encode_release(PacketType.PUBREC, message.packet_id)

    def kept_aside(self, published: Published, reason: Reason, now: float) -> None:
        """It is a dead letter: version 5 gets the reason, 3.1.1 success, or would send it again for ever."""
        self.accepted(published, now, reason if self.version == VERSION_5 else Reason.SUCCESS)

    def close(self, reason: Reason) -> None:
        """Cut the client off; what waits is not acknowledged. Nothing more when it is closing already."""
        action = self._signal(Signal.CUT_OFF)
        if action is None:
            return
        if action is Action.SEND_CONNACK:
            self.outgoing += encode_connack(self.version or VERSION_3, reason, {})
        elif self.version == VERSION_5:
            self.outgoing += encode_disconnect(reason)
        self.closed_because = reason
        self._received, self._at, self._end = b"", 0, 0
        self._partial.clear()
        self._too_long, self._passed_over = None, 0

    def connection_lost(self) -> Message | None:
        """The connection is gone: the will that the client left for this case (§3.1.2.5)."""
        return self._will if self._signal(Signal.LOST) is Action.LEAVE_WILL else None

    def data_to_send(self) -> bytes:
        """What is to be sent now."""
        if not self.outgoing:
            return b""
        data, self.outgoing = bytes(self.outgoing), bytearray()
        return data

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due; ``None`` while we are the ones who do not read."""
        if not self.wants_data:
            return None
        is_begun = self.state is ConnectionState.CONNECTED and (self._partial or self._passed_over)
        return self._heard + (self._packet_s if is_begun else self._patience_s)

    def handle_timer(self, now: float) -> None:
        """Cut off a client of whom no packet was heard for too long."""
        due = self.get_timer()
        if due is not None and due <= now:
            self.close(Reason.KEEP_ALIVE_TIMEOUT)

    # -- inside ---------------------------------------------------------------------------------------

    def _next_packet(self) -> "_Packet | None":
        """The next whole packet."""
        if self._too_long is not None:
            if self._passed_over:
                return None
            packet, self._too_long = self._too_long, None
            self._on_activity()
            return packet
        received, begin, received_end = self._received, self._at, self._end
        length, shift, at = 0, 0, begin + 1
        while True:
            if at >= received_end:
                self._wait_for(at + 1 - begin)
                return None
            octet = received[at]
            length |= (octet & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if octet < 0x80:
                break
            if shift == 28:
                raise Malformed("a remaining length of more than four octets")
        end = at + length
        kind, flags = received[begin] >> 4, received[begin] & 15
        if end - begin > self._packet_bytes_max:
            return self._next_too_long(kind, flags, at, end)
        if end > received_end:
            self._wait_for(end - begin)
            return None
        self._at = end
        self._on_activity()
        return _Packet(kind, flags, received[at:end], 0)

    def _next_too_long(self, kind: int, flags: int, at: int, end: int) -> "_Packet | None":
        """A packet of more than ``packet_bytes_max``, whose content is ``at`` to ``end``: its beginning."""
        begin = self._at
        kept_end = begin + self._packet_bytes_max
        if not (kind == PacketType.PUBLISH and self.version == VERSION_3):
            raise Malformed(f"a packet of {end - begin} octets", Reason.PACKET_TOO_LARGE)
        if kept_end > self._end:
            self._wait_for(kept_end - begin)
            return None
        self._too_long = _Packet(kind, flags, self._received[at:kept_end], end - kept_end)
        self._at = min(end, self._end)
        self._begin_to_hear()
        self._passed_over = end - self._at
        self._packet_s = PACKET_S_MAX * (end - begin) / self._packet_bytes_max
        return self._next_packet()

    def _wait_for(self, wanted: int) -> None:
        """Go on when so many octets of the packet under way are there."""
        self._begin_to_hear()
        self._partial += self._received[self._at :]
        self._received, self._at, self._end = b"", 0, 0
        self._wanted, self._packet_s = wanted, PACKET_S_MAX

    def _begin_to_hear(self) -> None:
        if not self._wanted and self.state is ConnectionState.CONNECTED:
            self._heard = self._now

    def _on_activity(self) -> None:
        self._wanted = 0
        if self.state is ConnectionState.CONNECTED:
            self._heard = self._now

    def _signal(self, signal: Signal) -> Action | None:
        """Step by what is no packet; what is to be done."""
        following, action = step(CONNECTION, self.state, signal, self.refused) or (self.state, None)
        self._enter(following)
        return action

    def _enter(self, state: ConnectionState) -> None:
        self.state = state
        self.is_closing = state in (ConnectionState.CLOSING, ConnectionState.CLOSED)
        """Send what is to be sent, then close."""
        self._row = _STEPS[state]

    def _on_packet(self, packet: "_Packet") -> Event | None:
        """Step by a packet; raises ``Malformed`` when the state does not have it, or its action refuses."""
        found = self._row.get(packet.kind)
        if found is None:
            name = PacketType(packet.kind).name if packet.kind else "RESERVED"
            refuse(self.refused, name, self.state.name)
            raise Malformed(f"{name} while {self.state.value}", Reason.PROTOCOL_ERROR)
        following, act = found
        event = act(self, packet)
        if following is not self.state:
            self._enter(following)
        return event

    def _on_ping(self, packet: "_Packet") -> Event:
        _demand_flags(packet, 0)
        self.outgoing += encode(PacketType.PINGRESP, 0, b"")
        return SERVED

    def _on_subscribe(self, packet: "_Packet") -> Event:
        _demand_flags(packet, 2)
        wanted = decode_subscribe(packet.content, self.version)
        refused = SUBSCRIPTION_REFUSED[self.version]
        self.outgoing += encode_suback(self.version, PacketType.SUBACK, wanted, refused)
        return SERVED

    def _on_unsubscribe(self, packet: "_Packet") -> Event:
        _demand_flags(packet, 2)
        wanted = decode_unsubscribe(packet.content, self.version)
        self.outgoing += encode_suback(self.version, PacketType.UNSUBACK, wanted, Reason.SUCCESS)
        return SERVED

    def _on_disconnect(self, packet: "_Packet") -> Event:
        _demand_flags(packet, 0)
        reason = decode_disconnect(packet.content, self.version).reason
        self._will = self._will if reason == Reason.DISCONNECT_WITH_WILL else None
        return SERVED

    def _on_connect(self, packet: "_Packet") -> Event:
        if packet.flags:
            raise Malformed("fixed header flags", Reason.PROTOCOL_ERROR)
        connect = decode_connect(packet.content)
        self.version = connect.version
        client_id = connect.client_id or self._assigned_client_id
        if connect.authentication_method:
            raise Malformed("CONNECT refused", Reason.BAD_AUTHENTICATION_METHOD)
        if not connect.client_id and connect.version == VERSION_3 and not connect.is_clean:
            raise Malformed("CONNECT refused", Reason.CLIENT_IDENTIFIER_NOT_VALID)
        if connect.will is not None and connect.will.qos > 1 and connect.version == VERSION_5:
            raise Malformed("CONNECT refused", Reason.QOS_NOT_SUPPORTED)
        if connect.will is not None and connect.will.is_retain and connect.version == VERSION_5:
            raise Malformed("CONNECT refused", Reason.RETAIN_NOT_SUPPORTED)
        keep_alive_s = self._answer_connect(connect, client_id)
        self._patience_s = keep_alive_s * 1.5 if keep_alive_s else IDLE_S_MAX
        self._will, self._heard = connect.will, self._now
        return Connected(client_id)

    def _answer_connect(self, connect: Connect, client_id: str) -> int:
        """CONNACK, with what is offered; the keep-alive that holds."""
        properties: dict[Property, int | str] = {
            Property.SESSION_EXPIRY_INTERVAL: 0,
            Property.RECEIVE_MAXIMUM: self._window,
            Property.MAXIMUM_QOS: 1,
            Property.RETAIN_AVAILABLE: 0,
            Property.MAXIMUM_PACKET_SIZE: self._packet_bytes_max,
            Property.WILDCARD_SUBSCRIPTION_AVAILABLE: 0,
            Property.SUBSCRIPTION_IDENTIFIER_AVAILABLE: 0,
            Property.SHARED_SUBSCRIPTION_AVAILABLE: 0,
        }
        keep_alive_s = connect.keep_alive_s
        if connect.version == VERSION_5 and not 0 < keep_alive_s <= KEEP_ALIVE_S_MAX:
            properties[Property.SERVER_KEEP_ALIVE] = keep_alive_s = KEEP_ALIVE_S_MAX
        if not connect.client_id:
            properties[Property.ASSIGNED_CLIENT_IDENTIFIER] = client_id
        self.outgoing += encode_connack(connect.version, Reason.SUCCESS, properties)
        return keep_alive_s

    def _on_publish(self, packet: "_Packet") -> Published | None:
        message = decode_publish(packet.flags, packet.content, self.version)
        if self.version == VERSION_5:
            if message.qos > 1:
                raise Malformed("QoS 2", Reason.QOS_NOT_SUPPORTED)
            if message.is_retain:
                raise Malformed("retain", Reason.RETAIN_NOT_SUPPORTED)
        elif message.qos > 1:
            identifier = 1 << message.packet_id
            if self._unreleased & identifier:
                self._on_repeated(message.packet_id)
                return None
            self._unreleased |= identifier
        published = Published(message, octets_missing=packet.octets_missing)
        self.unsettled.append(published)
        return published

    def _on_repeated(self, packet_id: int) -> None:
        """A PUBLISH of QoS 2 once more: PUBREC once more, if the first one was stored."""
        if all(each.message.qos < 2 or each.message.packet_id != packet_id for each in self.unsettled):
            self.outgoing += encode_release(PacketType.PUBREC, packet_id)

    def _on_release(self, packet: "_Packet") -> Event | None:
        if self.version == VERSION_5:
            _demand_flags(packet, 0)
            raise Malformed("PUBREL without QoS 2", Reason.PROTOCOL_ERROR)
        packet_id = decode_release(packet.flags, packet.content)
        identifier = 1 << packet_id
        was_waiting = self._unreleased & identifier
        self._unreleased &= ~identifier
        self.outgoing += encode_release(PacketType.PUBCOMP, packet_id)
        return None if was_waiting else SERVED


def _demand_flags(packet: _Packet, flags: int) -> None:
    """Those that its type reserves (§2.1.3)."""
    if packet.flags != flags:
        raise Malformed("fixed header flags")


_ACTIONS: Mapping[Action, Callable[[MqttConnection, _Packet], Event | None]] = {
    Action.ADMIT: MqttConnection._on_connect,
    Action.TAKE_MESSAGE: MqttConnection._on_publish,
    Action.RELEASE: MqttConnection._on_release,
    Action.REFUSE_SUBSCRIPTION: MqttConnection._on_subscribe,
    Action.CONFIRM_UNSUBSCRIBE: MqttConnection._on_unsubscribe,
    Action.ANSWER_PING: MqttConnection._on_ping,
    Action.DROP_WILL: MqttConnection._on_disconnect,
}
_STEPS = {
    state: {
        int(event): (following, _ACTIONS[action])
        for event, (following, action) in row.items()
        if action is not None and action in _ACTIONS
    }
    for state, row in CONNECTION.items()
}
"""The table's packets, with what does their actions: looked up once for each packet."""
