"""A proxy in front of a Kinesis server that injects the real service's faults, by seed.

Rules: an answer without a fault is the server's own, byte for byte. A seeded generator chooses the faults:
calls throttled or refused before and after they were carried out, connections cut before and after, single
records of a call that fail while others are stored. Random faults affect only PutRecords; a fault that a test
requests (``refuse``) affects the next call of any kind, once.
"""

import json
import random
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp import web

PUT = "Kinesis_20131202.PutRecords"
BODY_BYTES_MAX = 16 * 1_048_576
THROTTLED = {"ErrorCode": "ProvisionedThroughputExceededException", "ErrorMessage": "slow down"}


@dataclass(frozen=True, slots=True)
class Faults:
    """How often each goes wrong, as a share of calls; ``record``: of records."""

    throttle: float = 0.02
    error_before: float = 0.03
    error_after: float = 0.03
    cut_before: float = 0.02
    cut_after: float = 0.02
    record: float = 0.05


class Front:
    """The front; ``happened`` counts what it did."""

    def __init__(self, target: str, faults: Faults, seed: int) -> None:
        self._target = target
        self._faults = faults
        self._dice = random.Random(seed)
        self._client: aiohttp.ClientSession | None = None
        self.happened: Counter[str] = Counter()
        self._refusals: list[tuple[str, str, str, str]] = []

    def refuse(self, operation: str, kind: str, message: str, *, asked: str = "") -> None:
        """Answer the next call of an operation (whose body has ``asked`` in it) so, when those before are."""
        self._refusals.append((operation, kind, message, asked))

    def _refused(self, request: web.Request, body: bytes) -> web.Response | None:
        if not self._refusals:
            return None
        operation, kind, message, asked = self._refusals[0]
        is_meant = request.headers.get("X-Amz-Target", "").endswith(f".{operation}")
        if not is_meant or asked.encode() not in body:
            return None
        del self._refusals[0]
        self.happened[f"refused_{operation}"] += 1
        return _response(400, json.dumps({"__type": kind, "message": message}).encode())

    @asynccontextmanager
    async def served(self, port: int) -> AsyncIterator[str]:
        """It listens inside; its endpoint."""
        application = web.Application(client_max_size=BODY_BYTES_MAX)
        application.router.add_route("*", "/{rest:.*}", self._on_request)
        runner = web.AppRunner(application, access_log=None)
        async with aiohttp.ClientSession(auto_decompress=False) as self._client:
            await runner.setup()
            try:
                await web.TCPSite(runner, "127.0.0.1", port).start()
                yield f"http://127.0.0.1:{port}"
            finally:
                await runner.cleanup()

    async def _on_request(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        if (refused := self._refused(request, body)) is not None:
            return refused
        if request.headers.get("X-Amz-Target") != PUT:
            status, answer = await self._pass_on(request, body)
            return _response(status, answer)
        broken = self._broken(request, "before")
        if broken is None:
            status, answer = await self._put_some(request, body)
            broken = self._broken(request, "after")
        return broken or _response(status, answer)

    def _broken(self, request: web.Request, when: str) -> web.StreamResponse | None:
        """What goes wrong with the call at this point, if anything."""
        faults = self._faults
        if when == "before" and self._happens("throttle", faults.throttle):
            return _fault(400, THROTTLED["ErrorCode"])
        error, cut = (
            (faults.error_before, faults.cut_before)
            if when == "before"
            else (faults.error_after, faults.cut_after)
        )
        if self._happens(f"error_{when}", error):
            return _fault(500, "InternalFailure")
        if self._happens(f"cut_{when}", cut):
            if request.transport is not None:
                request.transport.abort()
            return web.Response(status=500)
        return None

    async def _put_some(self, request: web.Request, body: bytes) -> tuple[int, bytes]:
        """Let some records through, and say of the others that they were throttled."""
        asked: dict[str, Any] = json.loads(body)
        records = asked["Records"]
        taken = [not self._happens("record", self._faults.record) for _ in records]
        some = [record for record, is_taken in zip(records, taken, strict=True) if is_taken]
        if not some:
            return 200, _results([THROTTLED] * len(records))
        status, answer = await self._pass_on(request, json.dumps({**asked, "Records": some}).encode())
        if status != 200:
            return status, answer
        stored = iter(json.loads(answer)["Records"])
        return 200, _results([next(stored) if is_taken else THROTTLED for is_taken in taken])

    async def _pass_on(self, request: web.Request, body: bytes) -> tuple[int, bytes]:
        assert self._client is not None, "ask inside served()"
        headers = {
            name: value
            for name, value in request.headers.items()
            if name.lower() not in ("host", "content-length", "transfer-encoding")
        }
        async with self._client.request(
            request.method, self._target + request.path_qs, data=body, headers=headers
        ) as answer:
            return answer.status, await answer.read()

    def _happens(self, what: str, share: float) -> bool:
        happens = self._dice.random() < share
        self.happened[what] += happens
        return happens


def _results(records: list[dict[str, str]]) -> bytes:
    failed = sum(record is THROTTLED for record in records)
    return json.dumps({"FailedRecordCount": failed, "Records": records}).encode()


def _response(status: int, body: bytes) -> web.Response:
    return web.Response(status=status, body=body, content_type="application/x-amz-json-1.1")


def _fault(status: int, kind: str) -> web.Response:
    return _response(status, json.dumps({"__type": kind, "message": "by the front"}).encode())
