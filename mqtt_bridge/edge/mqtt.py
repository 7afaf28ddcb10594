"""The MQTT entry point: a machine per connection, and what stands between it and the socket.

Rules: a message is acknowledged after the stream accepted it, never before; a client is not read while its
window is full, or while it does not read what it is sent; a client that connects under an id that its SIM
uses already takes over (MQTT 5.0 §3.1.4). What cannot be delivered now ends the connection, unacknowledged,
so that the client sends it again; a PUBLISH of version 3.1.1 that is too long becomes a dead letter, or the
client would send it for ever. What is asked besides messages is taken from the SIM's budget. While more of a
client's messages wait, acknowledgements linger for each other: the last one never does.
"""

import asyncio
from contextlib import suppress
from functools import partial
from typing import cast

from core.errors import Refused, Unavailable
from core.ports.clock import Entropy
from core.services.streaming.delivery import Outcome, Receipt
from mqtt_bridge.connections import DeviceConnection, DeviceConnections
from mqtt_bridge.mqtt.codec import Reason
from mqtt_bridge.mqtt.connection import Connected, MqttConnection, Published

SOURCE_PROTOCOL = "mqtt"
LINGER_S = 0.005
"""How long an acknowledgement may wait for those behind it, to go out in one write."""
WATCH_S = 30.0
"""The longest that a deadline which came nearer may go unseen."""


class MqttEntryPoint:
    """What all connections share: ``url`` is the entry point's name in the record, the topic follows it."""

    def __init__(self, *, url: str, connections: DeviceConnections, entropy: Entropy) -> None:
        self.url = url
        self.connections = connections
        self._entropy = entropy
        self._named: dict[tuple[str, str], MqttProtocol] = {}

    def __call__(self, connection: DeviceConnection) -> "MqttProtocol":
        """Serve one connection."""
        machine = MqttConnection(
            now=connection.heard_at,
            assigned_client_id=f"airloom-{self._entropy.random_bytes(8).hex()}",
            refused=self.connections.refused_packets,
        )
        return MqttProtocol(self, connection, machine)

    def take_over(self, imsi: str, client_id: str, by: "MqttProtocol") -> None:
        """From now on ``by`` is the SIM's client of this name."""
        before = self._named.get((imsi, client_id))
        self._named[imsi, client_id] = by
        if before is not None:
            before.end(Reason.SESSION_TAKEN_OVER)

    def forget(self, imsi: str, client_id: str, of: "MqttProtocol") -> None:
        """The client is gone, if the name is still its."""
        if self._named.get((imsi, client_id)) is of:
            del self._named[imsi, client_id]


class MqttProtocol(asyncio.Protocol):
    """One connection."""

    def __init__(self, entry: MqttEntryPoint, connection: DeviceConnection, machine: MqttConnection) -> None:
        self._entry = entry
        self._connection = connection
        self._session = connection.session
        self._clock = entry.connections.clock
        self._delivery = entry.connections.delivery
        self._machine = machine
        self._client_id: str | None = None
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._linger: asyncio.TimerHandle | None = None
        self._is_reading = True
        self._is_heard = True

    # -- asyncio.Protocol -----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The client connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._watch_time()

    def data_received(self, data: bytes) -> None:
        """The client sent something."""
        now = self._connection.heard_at
        self._machine.receive_data(data, now)
        self._pump(now)

    def pause_writing(self) -> None:
        """The client does not read: nothing more is taken from it."""
        self._is_heard = False
        self._pump(self._clock.monotonic())

    def resume_writing(self) -> None:
        """It reads again."""
        self._is_heard = True
        self._pump(self._clock.monotonic())

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone; its will is a message like any other."""
        self._transport = None
        for timer in (self._timer, self._linger):
            if timer is not None:
                timer.cancel()
        if self._client_id is not None:
            self._entry.forget(self._session.imsi, self._client_id, self)
        will = self._machine.connection_lost()
        if will is not None:
            with suppress(Refused, Unavailable):
                url = f"{self._entry.url}/{will.topic}"
                message = self._entry.connections.message(self._session, SOURCE_PROTOCOL, url, will.payload)
                self._delivery.send(message, lambda *_: None, self._clock.monotonic())

    def end(self, reason: Reason) -> None:
        """Cut the client off."""
        self._machine.close(reason)
        self._write()

    # -- inside ---------------------------------------------------------------------------------------

    def _pump(self, now: float) -> None:
        """Go as far as the window lets, send what there is to send, and read on or not."""
        transport, machine = self._transport, self._machine
        if transport is None or transport.is_closing():
            return
        while self._is_heard and (event := machine.next_event()) is not None:
            if isinstance(event, Published):
                self._take(event, now)
            elif isinstance(event, Connected):
                self._client_id = event.client_id
                self._entry.take_over(self._session.imsi, event.client_id, self)
            elif not self._entry.connections.may_answer(self._session):
                machine.close(Reason.MESSAGE_RATE_TOO_HIGH)
        if machine.outgoing or machine.is_closing:
            self._write()
        wants_data = self._is_heard and machine.wants_data
        if wants_data != self._is_reading and not machine.is_closing:
            self._is_reading = wants_data
            if wants_data:
                transport.resume_reading()
            else:
                transport.pause_reading()

    def _write(self) -> None:
        """Send what there is to send, and close when that was the last of it."""
        transport = self._transport
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if transport is None or transport.is_closing():
            return
        if data := self._machine.data_to_send():
            transport.write(data)
        if self._machine.is_closing:
            transport.close()

    def _take(self, published: Published, now: float) -> None:
        content, settled = published.message, partial(self._on_settled, published)
        url = f"{self._entry.url}/{content.topic}"
        try:
            message = self._entry.connections.message(self._session, SOURCE_PROTOCOL, url, content.payload)
            if published.octets_missing:
                self._delivery.keep_aside(message, published.octets_missing, settled)
            else:
                self._delivery.send(message, settled, now)
        except Refused:
            self._machine.close(Reason.QUOTA_EXCEEDED)
        except Unavailable:
            self._machine.close(Reason.SERVER_UNAVAILABLE)

    def _on_settled(self, published: Published, outcome: Outcome, now: float) -> None:
        machine = self._machine
        if isinstance(outcome, Receipt):
            machine.accepted(published, now)
        elif isinstance(outcome, Refused):
            machine.kept_aside(published, Reason.PAYLOAD_FORMAT_INVALID, now)
        else:
            machine.close(Reason.SERVER_UNAVAILABLE)
        if machine.unsettled and not machine.is_closing:
            if self._linger is None and self._transport is not None:
                self._linger = asyncio.get_running_loop().call_later(LINGER_S, self._on_lingered)
        elif self._is_reading:
            self._write()
        else:
            self._pump(now)

    def _on_lingered(self) -> None:
        self._linger = None
        self._pump(self._clock.monotonic())

    def _watch_time(self) -> None:
        """Look when the machine's time may be over; it moves on with everything that is heard."""
        now = self._clock.monotonic()
        self._machine.handle_timer(now)
        self._pump(now)
        if self._transport is not None and not self._machine.is_closing:
            due = self._machine.get_timer()
            delay_s = 1.0 if due is None else min(max(0.1, due - now), WATCH_S)
            self._timer = asyncio.get_running_loop().call_later(delay_s, self._watch_time)
