"""One MQTT connection as its server sees it, without I/O (OASIS MQTT 3.1.1, MQTT 5.0).

Rules:

- Bytes go in by ``receive_data``, what a client wants comes out by ``next_event`` and is settled by
  ``accepted`` or ``refused``, bytes come out by ``data_to_send``; time is an argument.
- PUBACKs go out in the order of the PUBLISHes (§4.6), each after its message was accepted.
- At most ``window`` messages wait; then no event comes and ``wants_data`` is false, and the keep-alive
  stands still: a client that is not read cannot be heard.
- A client that breaks the protocol is told why (version 5) and cut off; nothing that it sends raises.
- There is no session state and nothing to subscribe to: what is not offered is said in CONNACK or refused.
"""

from collections import deque
from dataclasses import dataclass

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
    decode_subscribe,
    decode_unsubscribe,
    encode,
    encode_connack,
    encode_disconnect,
    encode_puback,
    encode_suback,
)

WINDOW = 64
"""Messages of one connection that may wait; Receive Maximum (MQTT 5.0 §3.2.2.3.3)."""
PACKET_BYTES_MAX = 131_072
CONNECT_S = 10.0
"""How long a client may take for its CONNECT."""
KEEP_ALIVE_S_MAX = 1_200
IDLE_S_MAX = 1_800.0
"""A client without keep-alive is cut off after this silence."""
SUBSCRIPTION_REFUSED = {VERSION_3: 0x80, VERSION_5: Reason.IMPLEMENTATION_SPECIFIC_ERROR}


@dataclass(frozen=True, slots=True)
class Connected:
    """The client may go on; ``client_id`` is its name within its SIM."""

    client_id: str


@dataclass(slots=True)
class Published:
    """A message; settle it by ``accepted`` or ``refused``."""

    message: Message
    reason: Reason | None = None


Event = Connected | Published


class MqttConnection:
    """The machine. ``assigned_client_id`` is what a client without a name is called."""

    def __init__(
        self,
        *,
        now: float,
        assigned_client_id: str,
        window: int = WINDOW,
        packet_bytes_max: int = PACKET_BYTES_MAX,
    ) -> None:
        self._assigned_client_id = assigned_client_id
        self._window = window
        self._packet_bytes_max = packet_bytes_max
        self._received = b""
        self._at = 0
        self._outgoing = bytearray()
        self._unsettled: deque[Published] = deque()
        self._heard = now
        self._patience_s = CONNECT_S
        self._connect: Connect | None = None
        self._is_answered = False
        self._will: Message | None = None
        self.is_closing = False
        """Send what is to be sent, then close."""
        self.closed_because: Reason | None = None

    @property
    def wants_data(self) -> bool:
        """Whether the client shall be read."""
        return len(self._unsettled) < self._window and not self.is_closing

    @property
    def unsettled(self) -> int:
        """Messages that wait."""
        return len(self._unsettled)

    @property
    def version(self) -> int:
        """Of the protocol, once the client has said it; 0 before."""
        return self._connect.version if self._connect else 0

    def receive_data(self, data: bytes, now: float) -> None:
        """Take in what the client sent."""
        self._heard = now
        if not self.is_closing:
            self._received = self._received[self._at :] + data
            self._at = 0

    def next_event(self) -> Event | None:
        """The next thing the client wants; ``None`` until more comes, or until the window opens."""
        while self.wants_data:
            try:
                packet = self._next_packet()
                if packet is None:
                    return None
                event = self._on_packet(*packet)
            except Malformed as error:
                self.close(error.reason)
                return None
            if event is not None:
                return event
        return None

    def accepted(self, published: Published, now: float) -> None:
        """The message is stored: acknowledge it when its turn comes."""
        self._settle(published, Reason.SUCCESS, now)

    def refused(self, published: Published, reason: Reason, now: float) -> None:
        """The message can never be stored. Version 5 is told so; 3.1.1 has no word for it: cut off."""
        if self.version == VERSION_5:
            self._settle(published, reason, now)
        else:
            self.close(reason)

    def kept_aside(self, published: Published, reason: Reason, now: float) -> None:
        """It is stored, but elsewhere: version 5 is told so, 3.1.1 is acknowledged, or would ask for ever."""
        self._settle(published, reason if self.version == VERSION_5 else Reason.SUCCESS, now)

    def close(self, reason: Reason) -> None:
        """Cut the client off; what waits is not acknowledged."""
        if self.is_closing:
            return
        if not self._is_answered:
            self._outgoing += encode_connack(self.version or VERSION_3, reason, {})
        elif self.version == VERSION_5:
            self._outgoing += encode_disconnect(reason)
        self.is_closing, self.closed_because = True, reason
        self._received, self._at = b"", 0

    def connection_lost(self) -> Message | None:
        """The connection is gone: the will that the client left for this case (§3.1.2.5)."""
        self.is_closing = True
        will, self._will = self._will, None
        return will

    def data_to_send(self) -> bytes:
        """What is to be sent now."""
        if not self._outgoing:
            return b""
        data, self._outgoing = bytes(self._outgoing), bytearray()
        return data

    def get_timer(self) -> float | None:
        """When ``handle_timer`` is due; ``None`` while we are the ones who do not read."""
        return self._heard + self._patience_s if self.wants_data else None

    def handle_timer(self, now: float) -> None:
        """Cut off a client of whom nothing was heard for too long."""
        due = self.get_timer()
        if due is not None and due <= now:
            self.close(Reason.KEEP_ALIVE_TIMEOUT)

    # -- inside ---------------------------------------------------------------------------------------

    def _next_packet(self) -> tuple[int, int, bytes] | None:
        """Type, flags and content of the next whole packet."""
        received, begin = self._received, self._at
        length, shift, at = 0, 0, begin + 1
        while True:
            if at >= len(received):
                return None
            octet = received[at]
            length |= (octet & 0x7F) << shift
            at, shift = at + 1, shift + 7
            if octet < 0x80:
                break
            if shift == 28:
                raise Malformed("a remaining length of more than four octets")
        end = at + length
        if end - begin > self._packet_bytes_max:
            raise Malformed(f"a packet of {end - begin} octets", Reason.PACKET_TOO_LARGE)
        if end > len(received):
            return None
        self._at = end
        return received[begin] >> 4, received[begin] & 15, received[at:end]

    def _on_packet(self, kind: int, flags: int, content: bytes) -> Event | None:
        if self._connect is None:
            if kind != PacketType.CONNECT or flags:
                raise Malformed("not CONNECT first", Reason.PROTOCOL_ERROR)
            return self._on_connect(decode_connect(content))
        if kind == PacketType.PUBLISH:
            return self._on_publish(decode_publish(flags, content, self.version))
        if flags != (2 if kind in (PacketType.SUBSCRIBE, PacketType.UNSUBSCRIBE) else 0):
            raise Malformed("fixed header flags")
        match kind:
            case PacketType.PINGREQ:
                self._outgoing += encode(PacketType.PINGRESP, 0, b"")
            case PacketType.SUBSCRIBE:
                wanted = decode_subscribe(content, self.version)
                refused = SUBSCRIPTION_REFUSED[self.version]
                self._outgoing += encode_suback(self.version, PacketType.SUBACK, wanted, refused)
            case PacketType.UNSUBSCRIBE:
                wanted = decode_unsubscribe(content, self.version)
                self._outgoing += encode_suback(self.version, PacketType.UNSUBACK, wanted, Reason.SUCCESS)
            case PacketType.DISCONNECT:
                reason = decode_disconnect(content, self.version).reason
                self._will = self._will if reason == Reason.DISCONNECT_WITH_WILL else None
                self.is_closing = True
            case _:
                raise Malformed(f"packet type {kind}", Reason.PROTOCOL_ERROR)
        return None

    def _on_connect(self, connect: Connect) -> Event:
        self._connect = connect
        client_id = connect.client_id or self._assigned_client_id
        if connect.authentication_method:
            raise Malformed("CONNECT refused", Reason.BAD_AUTHENTICATION_METHOD)
        if not connect.client_id and connect.version == VERSION_3 and not connect.is_clean:
            raise Malformed("CONNECT refused", Reason.CLIENT_IDENTIFIER_NOT_VALID)
        if connect.will is not None and connect.will.qos > 1:
            raise Malformed("CONNECT refused", Reason.QOS_NOT_SUPPORTED)
        if connect.will is not None and connect.will.is_retain and connect.version == VERSION_5:
            raise Malformed("CONNECT refused", Reason.RETAIN_NOT_SUPPORTED)
        keep_alive_s = self._answer_connect(connect, client_id)
        self._patience_s = keep_alive_s * 1.5 if keep_alive_s else IDLE_S_MAX
        self._will, self._is_answered = connect.will, True
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
        self._outgoing += encode_connack(connect.version, Reason.SUCCESS, properties)
        return keep_alive_s

    def _on_publish(self, message: Message) -> Published:
        if message.qos > 1:
            raise Malformed("QoS 2", Reason.QOS_NOT_SUPPORTED)
        if message.is_retain and self.version == VERSION_5:
            raise Malformed("retain", Reason.RETAIN_NOT_SUPPORTED)
        published = Published(message)
        self._unsettled.append(published)
        return published

    def _settle(self, published: Published, reason: Reason, now: float) -> None:
        if not self.wants_data:
            self._heard = now  # it could not be heard until now
        published.reason = reason
        unsettled = self._unsettled
        while unsettled and (settled := unsettled[0].reason) is not None:
            message = unsettled.popleft().message
            if message.qos and not self.is_closing:
                self._outgoing += encode_puback(message.packet_id, settled)
