"""Devices' connections on real sockets: identity, bounds, one budget, and a stream that refuses."""

import asyncio
import base64
from ipaddress import IPv4Address

import aiohttp
import pytest

from mqtt_bridge.connections import GIVE_WAY_S, ConnectionCount
from tests.support.edge import HERE, HTTP, METADATA, MQTT, TCP, edge, until
from tests.unit.mqtt_bridge.mqtt.test_connection import connect, publish
from tests.unit.mqtt_bridge.test_packets import session


async def test_a_session_that_ends_takes_its_connections_with_it() -> None:
    async with edge() as made:
        reader, writer = await made.open(TCP)
        writer.write(b"one\n")
        assert await reader.readline() == b"200\r\n"
        made.holder = None
        made.connections.end_session(session(1).session_id)
        with pytest.raises(ConnectionError):
            assert await reader.read() == b"", "closed"
            raise ConnectionError
        await until(lambda: made.connections.open == 0)
        late, _ = await made.open(TCP)
        with pytest.raises(ConnectionError):
            assert await late.read() == b""
            raise ConnectionError
        assert made.connections.counts[ConnectionCount.NO_SESSION] == 1


async def test_connections_are_bounded() -> None:
    async with edge() as made:
        pairs = [await made.open(TCP) for _ in range(5)]
        await until(lambda: made.connections.counts[ConnectionCount.TOO_MANY] == 1)
        assert made.connections.open == 4
        for _, writer in pairs:
            writer.close()
        await until(lambda: made.connections.open == 0)


async def test_a_record_that_is_never_taken_becomes_a_dead_letter_whatever_the_entry_point() -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        made.stream.poison = base64.b64encode(b"poison")
        async with client.post(made.url(HTTP), data=b"poison") as answer:
            assert answer.status == 400
        reader, writer = await made.open(TCP)
        writer.write(b"poison\n")
        assert await reader.readexactly(5) == b"400\r\n"
        writer.write(b"good\n")
        assert await reader.readexactly(5) == b"200\r\n"
        for version, answers in ((4, [b"\x40\2\0\1"]), (5, [b"\x40\3\0\1\x99"])):
            reader, writer = await made.open(MQTT)
            writer.write(connect(version) + publish(1, b"poison", version=version))
            await reader.readexactly(2)
            await reader.readuntil(answers[0])
        made.holder = None
        assert made.delivery.dead_letters == 4
        assert made.payloads() == [b"good"]


async def test_a_sim_has_a_budget_for_what_is_no_message() -> None:
    async with edge(burst=3, per_s=0.001) as made, aiohttp.ClientSession() as client:
        statuses = []
        for _ in range(5):
            async with client.get(made.url(METADATA, "/v1/subscriber.imsi")) as answer:
                statuses.append(answer.status)
        assert statuses == [200, 200, 200, 429, 429]
        reader, writer = await made.open(MQTT)
        writer.write(connect(5) + b"\xc0\0" * 1_000)
        assert (await reader.read()).endswith(b"\xe0\x01\x96"), "message rate too high"
        for number in range(10):
            async with client.post(made.url(HTTP), data=b"%d" % number) as answer:
                assert answer.status == 204, "messages are not counted"
        refusal = bytearray(40)
        refusal[0], refusal[9], refusal[33] = 0x45, 6, 0x14
        refusal[16:20] = HERE.packed
        made.network.deliver(bytes(refusal))
        assert made.injected == []
        assert made.connections.counts[ConnectionCount.OVER_BUDGET] >= 4


async def test_abandoned_connections_give_way() -> None:
    async with edge() as made:
        dead = [await made.open(TCP) for _ in range(4)]
        made.clock.ahead_s += GIVE_WAY_S / 2
        alive, alive_writer = dead.pop(0)
        alive_writer.write(b"one\n")
        assert await alive.readexactly(5) == b"200\r\n"
        made.clock.ahead_s += GIVE_WAY_S / 2
        for number in range(3):
            reader, writer = await made.open(TCP)
            writer.write(b"%d\n" % number)
            assert await asyncio.wait_for(reader.readexactly(5), 5) == b"200\r\n"
        assert made.connections.counts[ConnectionCount.GAVE_WAY] == 3
        for reader, _ in dead:
            with pytest.raises(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
                raise ConnectionError
        alive_writer.write(b"two\n")
        assert await alive.readexactly(5) == b"200\r\n"
        assert made.connections.open == 4
    assert made.connections._by_sim == {}


async def test_packets_go_to_the_holder_of_the_address_alone() -> None:
    async with edge() as made:
        packet = bytearray(20)
        packet[16:20] = HERE.packed
        made.network.deliver(bytes(packet))
        assert made.injected == [(session(1).session_id, bytes(packet))]
        packet[16:20] = IPv4Address("10.128.0.99").packed
        made.network.deliver(bytes(packet))
        made.network.deliver(b"\x45")
        assert len(made.injected) == 1
        assert made.connections.counts[ConnectionCount.NO_HOLDER] == 1
        for _ in range(3):
            made.connections.on_packet_up(bytes(packet))
        assert made.connections.counts[ConnectionCount.NOT_TAKEN] == 1
