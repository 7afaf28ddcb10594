"""The meaning of each answer of Kinesis: refused, throttled, unreachable, or perhaps stored."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from botocore.credentials import ReadOnlyCredentials

from core.adapters.stream import kinesis
from core.adapters.stream.kinesis import KinesisStream
from core.domain.message import StreamRecord
from core.errors import Unavailable
from core.ports.stream import PutResult
from loadtest.external.kinesis import ENVIRONMENT

RECORDS = [StreamRecord(f"k{n}", b"%d" % n) for n in range(4)]
THROTTLE = "ProvisionedThroughputExceededException"
Script = Callable[[web.Request, list[Any]], Awaitable[web.StreamResponse]]


def stored(records: list[Any]) -> web.Response:
    placed = [{"SequenceNumber": str(n), "ShardId": "shardId-000000000000"} for n in range(len(records))]
    return web.json_response({"FailedRecordCount": 0, "Records": placed})


def fault(status: int, code: str) -> web.Response:
    text = json.dumps({"__type": f"com.amazon.coral#{code}", "message": "no"})
    return web.Response(status=status, text=text)


@asynccontextmanager
async def scripted(script: Script, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[KinesisStream]:
    """A stream whose PutRecords are answered by ``script``."""

    async def on_request(request: web.BaseRequest) -> web.StreamResponse:
        assert isinstance(request, web.Request)
        asked = json.loads(await request.read())
        if request.headers["X-Amz-Target"].endswith("PutRecords"):
            return await script(request, asked["Records"])
        return web.json_response({"StreamDescriptionSummary": {}})

    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    application = web.Application()
    application.router.add_post("/", on_request)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    stream = await KinesisStream.open(name="devices", endpoint=f"http://{host}:{port}")
    try:
        yield stream
    finally:
        await stream.aclose()
        await runner.cleanup()


@pytest.mark.parametrize(("status", "code", "is_ambiguous"), [
    (500, "InternalFailure", True),
    (503, "ServiceUnavailable", True),
    (429, "", False),
    (400, "ResourceNotFoundException", False),
    (400, "InvalidSignatureException", False),
    (400, "RequestExpired", False),
    (400, "ExpiredTokenException", False),
    (403, "AccessDeniedException", False),
    (400, "UnrecognizedClientException", False),
])  # fmt: skip
async def test_a_call_that_failed(
    status: int, code: str, is_ambiguous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F3 and F10: the queues try again; only what may have been stored may come twice."""

    async def script(_: web.Request, __: list[Any]) -> web.StreamResponse:
        return fault(status, code)

    async with scripted(script, monkeypatch) as stream:
        with pytest.raises(Unavailable, match=str(status)) as raised:
            await stream.put(RECORDS)
        assert raised.value.ambiguous is is_ambiguous


@pytest.mark.parametrize("code", [THROTTLE, "LimitExceededException", "KMSThrottlingException"])
async def test_a_call_that_is_throttled(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(_: web.Request, __: list[Any]) -> web.StreamResponse:
        return fault(400, code)

    async with scripted(script, monkeypatch) as stream:
        assert await stream.put(RECORDS) == [PutResult(error=THROTTLE)] * 4


async def test_records_that_failed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(_: web.Request, __: list[Any]) -> web.StreamResponse:
        good = {"SequenceNumber": "1", "ShardId": "shardId-000000000001"}
        bad = {"ErrorCode": THROTTLE, "ErrorMessage": "slow down"}
        return web.json_response({"FailedRecordCount": 2, "Records": [good, bad, {}, good]})

    async with scripted(script, monkeypatch) as stream:
        results = await stream.put(RECORDS)
    assert [result.error for result in results] == ["", THROTTLE, "InternalFailure", ""]
    assert not any(result.is_poison for result in results)


@pytest.mark.parametrize("code", ["ValidationException", "InvalidArgumentException"])
async def test_poison_is_found_among_its_neighbours(code: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """F7: the call is refused as a whole; the record at fault is the only one that is not stored."""

    async def script(_: web.Request, records: list[Any]) -> web.StreamResponse:
        has_poison = any(record["PartitionKey"] == "k2" for record in records)
        return fault(400, code) if has_poison else stored(records)

    async with scripted(script, monkeypatch) as stream:
        results = await stream.put(RECORDS)
    assert [(result.error, result.is_poison) for result in results] == [
        ("", False), ("", False), (code, True), ("", False)
    ]  # fmt: skip


@pytest.mark.parametrize("answer", [b"", b"nonsense", b'{"Records": []}', b'{"Records": [{}]}'])
async def test_an_answer_that_says_nothing(answer: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    async def script(_: web.Request, __: list[Any]) -> web.StreamResponse:
        return web.Response(body=answer)

    async with scripted(script, monkeypatch) as stream:
        with pytest.raises(Unavailable) as raised:
            await stream.put(RECORDS)
        assert raised.value.ambiguous


async def test_a_cut_and_a_stall(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = 0

    async def script(request: web.Request, records: list[Any]) -> web.StreamResponse:
        nonlocal calls
        calls += 1
        if calls == 1:
            assert request.transport is not None
            request.transport.abort()
        if calls == 2:
            await asyncio.sleep(3.0)
        return stored(records)

    monkeypatch.setattr(kinesis, "CALL_S", 0.5)
    async with scripted(script, monkeypatch) as stream:
        for _ in range(2):
            with pytest.raises(Unavailable) as raised:
                await stream.put(RECORDS)
            assert raised.value.ambiguous, "it may be stored"
        assert [result.error for result in await stream.put(RECORDS)] == [""] * 4


async def test_a_token_that_expires_in_mid_run_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """F10: each call is signed with what the credentials are then."""
    tokens: list[str | None] = []

    async def script(request: web.Request, records: list[Any]) -> web.StreamResponse:
        tokens.append(request.headers.get("X-Amz-Security-Token"))
        return stored(records) if tokens[-1] == "second" else fault(400, "ExpiredTokenException")

    class Refreshing:
        token = "first"

        async def get_frozen_credentials(self) -> Any:
            return ReadOnlyCredentials("key", "secret", self.token)

    async with scripted(script, monkeypatch) as stream:
        credentials = Refreshing()
        monkeypatch.setattr(stream, "_credentials", credentials)
        with pytest.raises(Unavailable) as raised:
            await stream.put(RECORDS)
        assert not raised.value.ambiguous, "it was not carried out"
        credentials.token = "second"
        assert [result.error for result in await stream.put(RECORDS)] == [""] * 4
    assert tokens == ["first", "second"]
