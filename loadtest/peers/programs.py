"""What runs on a simulated device: programs that send messages by each protocol and wait for the answer.

Rules: MQTT is paho's (through aiomqtt) and HTTP is aiohttp's, so that not our own codec talks to itself; each
program has one socket, made in the devices' network and bound to its device's address; ``send`` says whether
the message was acknowledged, and sends nothing twice.
"""

import asyncio
import logging
import socket
from typing import Any, Protocol, Self

import aiohttp
import aiomqtt

from core.config import EdgeConfig
from loadtest.peers.device import SimulatedDevice

ANSWER_S = 10.0
CONNECTED = "mqtt", "http", "tcp"
"""The protocols that need a TCP of the device's own."""
SILENT = logging.getLogger("airloom.loadtest.mqtt")
SILENT.setLevel(logging.CRITICAL)
"""paho's log, ignored: errors are also raised, and the sender counts them."""


class Program(Protocol):
    """One device's program."""

    async def open(self) -> Self:
        """Connect."""
        ...

    async def send(self, payload: bytes) -> bool:
        """Send one message; whether it was acknowledged."""
        ...

    async def aclose(self) -> None:
        """Say good-bye."""
        ...


class UdpProgram:
    """A datagram, and ``200`` comes back."""

    def __init__(self, device: SimulatedDevice) -> None:
        self._device = device

    async def open(self) -> Self:
        """There is nothing to connect."""
        return self

    async def send(self, payload: bytes) -> bool:
        """One datagram."""
        return await self._device.send_raw(payload) == b"200"

    async def aclose(self) -> None:
        """There is nothing to close."""


class TcpProgram:
    """A line, and a line with ``200`` comes back."""

    def __init__(self, own: socket.socket, edge: EdgeConfig) -> None:
        self._socket = own
        self._to = (str(edge.message_address), edge.tcp_port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self) -> Self:
        """Connect."""
        await asyncio.get_running_loop().sock_connect(self._socket, self._to)
        self._streams = await asyncio.open_connection(sock=self._socket)
        return self

    async def send(self, payload: bytes) -> bool:
        """One line; the payload must have no line end in it."""
        assert self._streams is not None, "it is open"
        reader, writer = self._streams
        writer.write(payload + b"\n")
        async with asyncio.timeout(ANSWER_S):
            return await reader.readline() == b"200\r\n"

    async def aclose(self) -> None:
        """Close, and wait until the other side did."""
        if self._streams is None:
            return
        reader, writer = self._streams
        try:
            writer.write_eof()
            await reader.read()
        finally:
            writer.transport.abort()


class HttpProgram:
    """``POST /``, and 204 comes back."""

    def __init__(self, own: socket.socket, edge: EdgeConfig) -> None:
        self._url = f"http://{edge.message_address}:{edge.http_port}/"
        connector = aiohttp.TCPConnector(socket_factory=lambda _: own, limit=1)
        timeout = aiohttp.ClientTimeout(total=ANSWER_S)
        self._client = aiohttp.ClientSession(connector=connector, timeout=timeout)

    async def open(self) -> Self:
        """It connects with its first request."""
        return self

    async def send(self, payload: bytes) -> bool:
        """One request."""
        async with self._client.post(self._url, data=payload) as answer:
            return answer.status == 204

    async def aclose(self) -> None:
        """Close the connection."""
        await self._client.close()


class MqttProgram:
    """PUBLISH with QoS 1, and PUBACK comes back."""

    def __init__(self, own: socket.socket, edge: EdgeConfig, *, version: aiomqtt.ProtocolVersion) -> None:
        self._to = (str(edge.mqtt_address), edge.mqtt_port)
        self._socket = own
        self._client = aiomqtt.Client(*self._to, protocol=version, timeout=ANSWER_S, logger=SILENT)
        paho: Any = self._client._client  # the one way to give it a socket of ours
        paho._create_socket_connection = self._connect

    async def open(self) -> Self:
        """CONNECT."""
        await self._client.__aenter__()
        return self

    async def send(self, payload: bytes) -> bool:
        """One PUBLISH."""
        await self._client.publish("devices/status", payload, qos=1)
        return True

    async def aclose(self) -> None:
        """DISCONNECT."""
        ended: asyncio.Future[None] = self._client._disconnected
        try:
            await self._client.__aexit__(None, None, None)
        finally:
            if ended.done() and not ended.cancelled():
                ended.exception()  # looked at, so that asyncio does not report it as never retrieved

    def _connect(self) -> socket.socket:
        """Runs in paho's thread, which blocks."""
        self._socket.settimeout(ANSWER_S)
        self._socket.connect(self._to)
        return self._socket
