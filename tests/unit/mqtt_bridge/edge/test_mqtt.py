"""The MQTT entry point on real sockets: order, acknowledgement, the window, take-over, wills."""

import asyncio
import base64
import json
from contextlib import suppress

import aiomqtt
import pytest

from mqtt_bridge.mqtt.connection import PACKET_BYTES_MAX, WINDOW
from tests.support.edge import HERE, MQTT, edge, until
from tests.unit.mqtt_bridge.mqtt.test_connection import connect, publish
from tests.unit.mqtt_bridge.test_packets import session


@pytest.mark.parametrize("version", [aiomqtt.ProtocolVersion.V311, aiomqtt.ProtocolVersion.V5])
async def test_aiomqtt_publishes_in_order(version: aiomqtt.ProtocolVersion) -> None:
    async with edge() as made:
        async with aiomqtt.Client(str(HERE), made.network.ports[MQTT], protocol=version) as client:
            for number in range(20):
                await client.publish("meters/1", b"%d" % number, qos=number % 2)
        await until(lambda: len(made.records()) == 20)
        assert made.payloads() == [b"%d" % number for number in range(20)]
        first = made.records()[0]
        assert (first["sourceProtocol"], first["imsi"]) == ("mqtt", session(1).imsi)
        assert first["destination"]["resourceUrl"] == "mqtt://edge/meters/1"


async def test_no_puback_before_the_stream_has_it_and_no_reading_past_the_window() -> None:
    async with edge() as made:
        made.stream.is_flowing.clear()
        reader, writer = await made.open(MQTT)
        writer.write(connect() + b"".join(publish(n, b"%d" % n) for n in range(1, WINDOW + 40)))
        assert await reader.readexactly(4) == b"\x20\x02\0\0"
        await until(lambda: made.delivery.waiting == WINDOW)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readexactly(4), 0.2)
        assert made.delivery.waiting == WINDOW, "memory is flat"
        made.stream.is_flowing.set()
        for number in range(1, WINDOW + 40):
            assert await reader.readexactly(4) == b"\x40\x02" + number.to_bytes(2, "big")
        assert made.payloads() == [b"%d" % number for number in range(1, WINDOW + 40)]


async def test_a_client_that_never_reads_is_not_read_either() -> None:
    """All buffers on the way are small, so that what the edge does not take comes back to the client soon."""
    async with edge(burst=100_000_000, buffer_bytes=4_096) as made:
        reader, writer = await made.open(MQTT)
        transport = writer.transport
        writer.write(connect(keep_alive=0) + b"\xc0\0" * 10)
        await reader.readexactly(4)
        transport.pause_reading()  # type: ignore[attr-defined]  # a socket's transport has it
        (protocol,) = made.mqtt._named.values()
        server = protocol._transport
        assert server is not None
        sent = 0
        while server.is_reading():
            writer.write(b"\xc0\0" * 10_000)
            sent += 1
            assert sent < 100, "what it sends is taken no more"
            with suppress(TimeoutError):
                await asyncio.wait_for(writer.drain(), 0.1)
        waiting = server.get_write_buffer_size()
        assert 0 < waiting < 1_000_000
        writer.write(b"\xc0\0" * 10_000)
        await asyncio.sleep(0.1)
        assert (server.is_reading(), server.get_write_buffer_size()) == (False, waiting)
        transport.resume_reading()  # type: ignore[attr-defined]  # as above
        await until(server.is_reading)


async def test_a_second_client_of_the_same_name_takes_over() -> None:
    async with edge() as made:
        first, first_writer = await made.open(MQTT)
        first_writer.write(connect(5))
        await first.readexactly(5)
        second, second_writer = await made.open(MQTT)
        second_writer.write(connect(5))
        await second.readexactly(5)
        assert (await first.read()).endswith(b"\xe0\x01\x8e")
        second_writer.write(publish(9, version=5))
        assert (await second.readuntil(b"\x40\x02\x00\x09")).endswith(b"\x40\x02\x00\x09")
        assert len(made.mqtt._named) == 1


async def test_a_packet_out_of_its_state_ends_the_connection_and_is_counted() -> None:
    async with edge() as made:
        for _ in range(2):
            reader, writer = await made.open(MQTT)
            writer.write(publish())
            assert await reader.read(1) == b"", "before CONNECT"
        assert made.connections.refused_packets == {"publish_while_awaiting_connect": 2}


async def test_a_will_is_delivered() -> None:
    async with edge() as made:
        reader, writer = await made.open(MQTT)
        will = b"\0\x01w" + b"\0\x04gone"
        writer.write(connect(flags=0x06, rest=will))
        await reader.readexactly(4)
        writer.transport.abort()
        await until(lambda: made.payloads() == [b"gone"])


async def test_version_3_is_served_where_it_has_no_word_for_a_refusal() -> None:
    """QoS 2, a payload of no octets, one that is too long, one to be retained: each once, and the next."""
    too_long = b"x" * (PACKET_BYTES_MAX + 50_000)
    async with edge() as made:
        reader, writer = await made.open(MQTT)
        writer.write(
            connect()
            + publish(qos=0, payload=b"", flags=1)
            + publish(7, b"")
            + publish(8, b"two", qos=2)
            + publish(8, b"two", qos=2, flags=8)
            + b"\x62\2\0\x08"
            + publish(9, too_long)
            + publish(10, b"on", flags=1)
        )
        assert await reader.readexactly(4) == b"\x20\2\0\0"
        told = await asyncio.wait_for(reader.readexactly(5 * 4), 10)
        told = b"".join(sorted(told[at : at + 4] for at in range(0, len(told), 4)))
        assert told == b"\x40\2\0\7" + b"\x40\2\0\x09" + b"\x40\2\0\x0a" + b"\x50\2\0\x08" + b"\x70\2\0\x08"
        assert made.payloads() == [b"", b"", b"two", b"on"]
        ((name, kept),) = made.objects._objects.items()
        letter = json.loads(kept)
        beginning = base64.b64decode(letter["payloads"])
        assert name == f"dead-letters/{letter['recordId']}"
        assert beginning == b"x" * len(beginning)
        assert len(beginning) + letter["octetsMissing"] == len(too_long)
        assert letter["destination"]["resourceUrl"] == "mqtt://edge/meters/1"
