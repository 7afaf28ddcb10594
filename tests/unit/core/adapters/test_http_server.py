"""The listener of the API and of the control channel: clients that are slow, many, or speak no HTTP."""

import asyncio
import logging
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any, ClassVar

import aiohttp
import pytest
import uvloop
from aiohttp import web

from core.adapters import http_server
from core.adapters.http_server import Clients, Fault, connections_of, listening
from core.errors import ConfigurationError
from loadtest.serving import free_tcp_port

HOST = "127.76.0.1"
REQUEST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"


async def echo(request: web.Request) -> web.Response:
    return web.Response(body=await request.read())


async def link(request: web.Request) -> web.WebSocketResponse:
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        await socket.send_bytes(message.data)
    return socket


@asynccontextmanager
async def listener(most: int = 100, most_of_address: int = 100) -> AsyncIterator[tuple[int, Clients]]:
    application = web.Application()
    application.router.add_post("/echo", echo)
    application.router.add_get("/link", link)
    clients = Clients(most=most, most_of_address=most_of_address)
    port = free_tcp_port(HOST, 0)
    async with listening(application, section="api", host=HOST, port=port, clients=clients):
        try:
            yield port, clients
        finally:
            while Client.made:
                await Client.made.pop().close()


class Client:
    """A connection that sends the given octets."""

    made: ClassVar[list["Client"]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.made.append(self)

    async def close(self) -> None:
        self.writer.close()
        with suppress(ConnectionError):
            await self.writer.wait_closed()

    @classmethod
    async def to(cls, port: int, local: str = "127.76.0.2") -> "Client":
        return cls(*await asyncio.open_connection(HOST, port, local_addr=(local, 0)))

    async def ask(self, data: bytes) -> bytes:
        """The first line of the answer."""
        self.writer.write(data)
        return await self.reader.readline()

    async def rest(self) -> bytes:
        """What comes until the other side closes."""
        with suppress(ConnectionError):
            async with asyncio.timeout(30):
                return await self.reader.read()
        return b""


async def gone(clients: Clients, left: int) -> None:
    """Until so many connections are left."""
    async with asyncio.timeout(30):
        while clients.open > left:  # noqa: ASYNC110 - the listener says it by its count alone
            await asyncio.sleep(0.01)


async def test_a_head_that_does_not_come_whole_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_S", 0.3)
    async with listener() as (port, clients):
        silent, slow, good = [await Client.to(port) for _ in range(3)]
        slow.writer.write(b"GET /echo HTTP/1.1\r\nHost: ")
        assert b"200" in await good.ask(REQUEST + b"hello")
        assert await slow.rest() == b""
        assert await silent.rest() == b""
        assert clients.faults == {Fault.HEAD_TIMEOUT.value: 2}
        await asyncio.sleep(0.4)
        assert b"hello" in await good.reader.readuntil(b"hello"), "what was answered may rest"
        assert b"200" in await good.ask(REQUEST + b"again")
        await good.reader.readuntil(b"again")
        good.writer.write(b"GET /e")  # the next one is half a head too
        assert await good.rest() == b""
        assert clients.faults == {Fault.HEAD_TIMEOUT.value: 3}
        await gone(clients, 0)


async def test_a_body_that_does_not_come_whole_is_cut_off_without_a_word_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(http_server, "BODY_S", 0.3)
    async with listener() as (port, clients):
        slow, leaving = [await Client.to(port) for _ in range(2)]
        for client in (slow, leaving):
            client.writer.write(REQUEST + b"hel")
        await leaving.writer.drain()
        await asyncio.sleep(0.05)
        await leaving.close()
        assert await slow.rest() == b""
        assert clients.faults == {Fault.BODY_TIMEOUT.value: 1, Fault.INCOMPLETE.value: 2}
        await gone(clients, 0)
    assert [record for record in caplog.records if record.levelno > logging.INFO] == []


async def test_a_link_between_nodes_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_server, "HEAD_S", 0.2)
    monkeypatch.setattr(http_server, "BODY_S", 0.2)
    monkeypatch.setattr(http_server, "IDLE_S", 0.2)
    async with (
        listener() as (port, clients),
        aiohttp.ClientSession() as http,
        http.ws_connect(f"http://{HOST}:{port}/link") as link,
    ):
        for _ in range(10):
            await link.send_bytes(b"packet")
            assert await link.receive_bytes() == b"packet"
            await asyncio.sleep(0.1)
        assert clients.faults == {}


async def test_what_is_no_http_is_counted_and_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    async with listener() as (port, clients):
        for data in (b"GET / HTTP/1.1\r\n\r\n\0\0\0", b"\x16\x03\x01\x02\0", b"GET\r\n\r\n", b"a: b\r\n\r\n"):
            client = await Client.to(port)
            assert b"HTTP/1." in await client.ask(data)
            await client.rest()
        assert clients.faults[Fault.MALFORMED.value] >= 3
        for method, path in (("POST", "/echo"), ("GET", "/none")):
            client = await Client.to(port)
            head = (
                f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n"
            )
            await client.ask(head.encode() + b"ab")
            await client.close()
        assert clients.faults[Fault.INCOMPLETE.value] == 1, "where no body is read none is missed"
        await gone(clients, 0)
    assert [record for record in caplog.records if record.levelno > logging.DEBUG] == []


@pytest.mark.parametrize("make_loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_one_address_has_so_many_connections_and_all_together_so_many(
    make_loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Also on the loop that is served with, which must have nothing to complain of."""
    complaints: list[dict[str, Any]] = []
    with asyncio.Runner(loop_factory=make_loop) as runner:
        runner.get_loop().set_exception_handler(lambda _, context: complaints.append(context))
        runner.run(_connect_too_often())
    assert complaints == []


async def _connect_too_often() -> None:
    async with listener(most=5, most_of_address=3) as (port, clients):
        held = [await Client.to(port, "127.76.0.2") for _ in range(3)]
        assert b" 503 " in await (await Client.to(port, "127.76.0.2")).reader.readline()
        held += [await Client.to(port, "127.76.0.3") for _ in range(2)]
        for client in held:
            assert b"200" in await client.ask(REQUEST + b"hello")
        assert b" 503 " in await (await Client.to(port, "127.76.0.4")).reader.readline()
        assert clients.faults == {Fault.TOO_MANY_OF_ADDRESS.value: 1, Fault.TOO_MANY.value: 1}
        held[0].writer.write_eof()
        await held[0].close()
        await gone(clients, 4)
        assert b"200" in await (await Client.to(port, "127.76.0.2")).ask(REQUEST + b"hello")
        assert set(clients.of_address) == {"127.76.0.2", "127.76.0.3"}


async def test_a_port_that_is_taken_is_named() -> None:
    async with listener() as (port, _):
        with pytest.raises(ConfigurationError, match=r"api\.port.*AIRLOOM_API__PORT"):
            async with listening(
                web.Application(), section="api", host=HOST, port=port, clients=Clients(1, 1)
            ):
                pass


def test_the_limit_of_open_files_is_raised_and_divided() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    script = (
        "import resource; from core.adapters.http_server import raise_open_files\n"
        "_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))\n"
        "print(raise_open_files(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    raised, soft, _ = map(int, said.split())
    assert raised == soft == min(hard, http_server.OPEN_FILES_WANTED)
    assert connections_of(1_024) == (1_024 - http_server.RESERVE) // 4
    for open_files in (3, 64, 300, 1_024, 65_536):
        assert 2 * connections_of(open_files) <= max(2, open_files - min(256, open_files // 2))
