"""The HTTP entry point and the metadata service on real sockets."""

import asyncio
import gc
import gzip
from contextlib import suppress

import aiohttp
import pytest
from aiohttp.web_protocol import RequestHandler

from mqtt_bridge.edge.http import BODY_BYTES_MAX
from tests.support.edge import HTTP, METADATA, edge, until
from tests.unit.mqtt_bridge.test_packets import session


@pytest.mark.parametrize(("method", "path", "body", "status"), [
    ("POST", "/", b"21.5", 204),
    ("PUT", "/", b"21.5", 204),
    ("POST", "/", b"", 204),
    ("POST", "/", b"x" * (BODY_BYTES_MAX + 1), 413),
    ("GET", "/", None, 405),
    ("POST", "/elsewhere", b"x", 404),
])  # fmt: skip
async def test_http(method: str, path: str, body: bytes | None, status: int) -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        async with client.request(method, made.url(HTTP, path), data=body) as answer:
            assert answer.status == status
        assert made.payloads() == ([body] if status == 204 else [])


async def test_http_is_answered_after_the_stream_and_never_when_it_gives_up() -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        made.stream.is_flowing.clear()
        asked = asyncio.create_task(client.post(made.url(HTTP), data=b"one"))
        await until(lambda: made.delivery.waiting == 1)
        await asyncio.sleep(0.1)
        assert not asked.done()
        made.stream.is_flowing.set()
        assert (await asked).status == 204
        made.holder = None
        async with client.post(made.url(HTTP), data=b"two") as answer:
            assert answer.status == 503
            assert answer.headers["Retry-After"] == "1"


def served_connections() -> set[int]:
    """Those that something still refers to."""
    gc.collect()
    return {id(each) for each in gc.get_objects() if isinstance(each, RequestHandler)}


async def test_a_device_that_is_gone_before_its_answer_leaves_nothing_behind() -> None:
    before = served_connections()
    async with edge() as made:
        made.stream.is_flowing.clear()
        _, writer = await made.open(HTTP)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1")
        await until(lambda: made.delivery.waiting == 1)
        writer.transport.abort()
        await until(lambda: made.connections.open == 0)
        made.stream.is_flowing.set()
        await until(lambda: made.delivery.waiting == 0)
        await asyncio.sleep(0.1)
        assert served_connections() <= before, "no deadline for a next request keeps it"


REQUEST = b"POST / HTTP/1.1\r\nHost: unified.soracom.io\r\nExpect: 100-continue\r\n"


@pytest.mark.parametrize(
    "begun", [b"POST / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nbegun", b""]
)
async def test_a_request_that_never_ends_costs_its_connection(
    begun: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mqtt_bridge.edge.http.UNFINISHED_S_MAX", 0.3)
    async with edge() as made:
        reader, writer = await made.open(HTTP)
        writer.write(begun)
        try:
            answer = await asyncio.wait_for(reader.read(), 15)
        except ConnectionError:
            answer = b""
        assert answer.startswith(b"HTTP/1.1 408") if begun.endswith(b"begun") else answer == b""
        await until(lambda: made.connections.open == 0)
        assert made.payloads() == []


@pytest.mark.parametrize(("head", "body"), [
    (b"Content-Length: 12\r\n", b"hello-expect"),
    (b"Transfer-Encoding: chunked\r\n", b"c\r\nhello-expect\r\n0\r\n\r\n"),
])  # fmt: skip
async def test_a_device_that_asks_first_is_told_to_go_on(head: bytes, body: bytes) -> None:
    async with edge() as made:
        reader, writer = await made.open(HTTP)
        writer.write(REQUEST + head + b"\r\n")
        assert await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert made.payloads() == []
        writer.write(body)
        assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 204 ")
        assert made.payloads() == [b"hello-expect"]


@pytest.mark.parametrize(("head", "status"), [
    (REQUEST + b"Content-Length: 131073\r\n", b"413"),
    (REQUEST.replace(b"/ ", b"/x ") + b"Content-Length: 1\r\n", b"404"),
    (REQUEST.replace(b"POST", b"PATCH") + b"Content-Length: 1\r\n", b"405"),
    (REQUEST.replace(b"100-continue", b"200-maybe") + b"Content-Length: 1\r\n", b"417"),
    (REQUEST + b"Content-Length: 1\r\nContent-Encoding: compress\r\n", b"415"),
])  # fmt: skip
async def test_what_the_head_already_says_is_answered_without_the_body(head: bytes, status: bytes) -> None:
    async with edge() as made:
        reader, writer = await made.open(HTTP)
        writer.write(head + b"\r\n")
        assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] == status


@pytest.mark.parametrize(("extra", "body", "status", "stored"), [
    (b"Content-Encoding: gzip\r\n", gzip.compress(b"21.5", mtime=0), 204, [b"21.5"]),
    (b"Content-Encoding: gzip\r\n", b"not gzip at all", 400, []),
    (b"Content-Encoding: gzip\r\n", gzip.compress(bytes(10_000_000)), 413, []),
    (b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"21.5", 204, [b"21.5"]),
    (b"Upgrade: h2c\r\nConnection: Upgrade\r\nHTTP2-Settings: x\r\n", b"21.5", 204, [b"21.5"]),
    (b"TE: trailers\r\nRange: bytes=0-1\r\nIf-None-Match: *\r\n", b"21.5", 204, [b"21.5"]),
    (b"Connection: close\r\n", b"21.5", 204, [b"21.5"]),
])  # fmt: skip
async def test_rare_headers(extra: bytes, body: bytes, status: int, stored: list[bytes]) -> None:
    async with edge() as made:
        reader, writer = await made.open(HTTP)
        length = b"Content-Length: %d\r\n" % len(body)
        writer.write(b"POST / HTTP/1.1\r\nHost: x\r\n" + extra + length + b"\r\n" + body)
        assert int((await asyncio.wait_for(reader.readline(), 5)).split()[1]) == status
        assert made.payloads() == stored


async def test_requests_that_are_none_leave_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async with edge() as made:
        for nonsense in (b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/9\r\nHost: x\r\n\r\n", b"\0\1\2\r\n\r\n"):
            reader, writer = await made.open(HTTP)
            writer.write(nonsense)
            assert (await asyncio.wait_for(reader.readline(), 5)).split()[1] in (b"400", b"405")
    assert caplog.records == []


@pytest.mark.parametrize("target", ["POST /", "GET /", "GET /v1/subscriber.imsi"])
@pytest.mark.parametrize("ending", ["no gzip", "ends", "is reset"])
async def test_bodies_that_are_none_leave_no_log(
    target: str, ending: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A radio that drops amid a body is no event of the platform's."""
    head = f"{target} HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 2\r\n\r\n".encode()
    async with edge() as made:
        reader, writer = await made.open(METADATA if "v1" in target else HTTP)
        writer.write(head + (b"ab" if ending == "no gzip" else b"a"))
        await asyncio.sleep(0.05)
        if ending == "is reset":
            writer.transport.abort()
        elif ending == "ends":
            writer.close()
        with suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read()
    assert caplog.records == []


@pytest.mark.parametrize(("path", "status", "body"), [
    ("/v1/subscriber.imsi", 200, session(1).imsi),
    ("/v1/subscriber.tags.name", 200, "meter"),
    ("/v1/subscriber.tags", 200, '{"name": "meter"}'),
    ("/v1/subscriber.tags.no", 404, "Specified key does not exist."),
    ("/v1/userdata", 200, "hello"),
    ("/v2/subscriber", 404, "Specified key does not exist."),
])  # fmt: skip
async def test_metadata(path: str, status: int, body: str) -> None:
    async with edge() as made, aiohttp.ClientSession() as client:
        async with client.get(made.url(METADATA, path)) as answer:
            assert (answer.status, await answer.text()) == (status, body)
        async with client.post(made.url(METADATA, path)) as answer:
            assert answer.status == 405
        made.metadata = None
        async with client.get(made.url(METADATA, path)) as answer:
            told = (answer.status, await answer.text())
            assert told == (403, "You are not allowed to access Metadata Server.")
