"""A Kinesis data stream.

Rules:

- Records go in by PutRecords over HTTP, signed here (Signature Version 4): the SDK walks every record's shape
  three times, which costs more than all the rest. Everything else is the SDK's, as are the credentials.
- Nothing is repeated here, nor by the SDK: the caller knows which records may be put again, and in which
  order.
- A call that is refused because of its content is divided in two until the record at fault is found.
- Unreadable parts of the service's answers are not trusted.
- A position that the service refuses (GetShardIterator: InvalidArgumentException) is lost: it belongs to
  another stream, or was trimmed. An iterator that it refuses has expired: another one is requested.
"""

import asyncio
import io
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any

import aioboto3
import aiohttp
import msgspec
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config as SdkConfig
from botocore.exceptions import BotoCoreError, ClientError

from core.adapters.stream.rules import FAILED, THROTTLED, check_limit, check_put
from core.domain.message import StreamRecord
from core.errors import ConfigurationError, PositionLost, SourceGone, Unavailable
from core.ports.stream import IteratorType, PutResult, ReadResult, Shard, StoredRecord

CONNECT_S, CALL_S = 3.0, 10.0
CONNECTIONS = 16
WHOLE_BYTES_MAX = 1_048_576
"""A longer body is written piece by piece, so that others have their turn."""
SERVICE = "kinesis"
_THROTTLES = frozenset({THROTTLED, "LimitExceededException", "ThrottlingException", "KMSThrottlingException"})
_FAULTS_IN_CALL = frozenset({"ValidationException", "InvalidArgumentException", "SerializationException"})
_NOT_CARRIED_OUT = frozenset(
    {
        "AccessDeniedException",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidSignatureException",
        "MissingAuthenticationTokenException",
        "RequestExpired",
        "ResourceNotFoundException",
        "UnrecognizedClientException",
    }
)
_SEQUENCE_NUMBER_DIGITS_MAX = 128


class _Placed(msgspec.Struct):
    SequenceNumber: str | None = None
    ShardId: str | None = None
    ErrorCode: str | None = None


class _Answer(msgspec.Struct):
    Records: list[_Placed]


class _Fault(msgspec.Struct):
    type: str = msgspec.field(default="", name="__type")
    message: str = ""


class _Refused(Unavailable):
    """The service found something wrong with what was asked."""


class KinesisStream:
    """Implements ``Stream`` on one stream of Kinesis or of a server that speaks its protocol."""

    keeps_order = False

    def __init__(
        self, *, name: str, sdk: Any, credentials: Any, http: aiohttp.ClientSession, region: str
    ) -> None:
        self._name = name
        self._sdk = sdk
        self._credentials = credentials
        self._http = http
        self._region = region
        self._endpoint = str(sdk.meta.endpoint_url)
        self._encoder = msgspec.json.Encoder()
        self._answers = msgspec.json.Decoder(_Answer)
        self._faults = msgspec.json.Decoder(_Fault)
        self._open_parts = AsyncExitStack()
        self._is_closed = False

    @classmethod
    async def open(cls, *, name: str, region: str = "", endpoint: str = "") -> "KinesisStream":
        """Find credentials by the usual chain, and the stream; raises ``ConfigurationError``."""
        session = aioboto3.Session(region_name=region or None)
        credentials = await session.get_credentials()
        if credentials is None or not session.region_name:
            raise ConfigurationError(
                "stream.kinesis: no AWS credentials or no region; set AWS_PROFILE, AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY, or an instance role, and AWS_DEFAULT_REGION or stream.region"
            )
        sdk_config = SdkConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=CONNECT_S,
            read_timeout=CALL_S,
            parameter_validation=False,
            max_pool_connections=CONNECTIONS,
        )
        async with AsyncExitStack() as parts:
            sdk = await parts.enter_async_context(
                session.client(SERVICE, endpoint_url=endpoint or None, config=sdk_config)
            )
            http = await parts.enter_async_context(
                aiohttp.ClientSession(
                    connector=aiohttp.TCPConnector(limit=CONNECTIONS),
                    timeout=aiohttp.ClientTimeout(total=CALL_S, connect=CONNECT_S),
                    auto_decompress=False,
                )
            )
            region = str(session.region_name)
            stream = cls(name=name, sdk=sdk, credentials=credentials, http=http, region=region)
            await stream._check_exists()
            stream._open_parts = parts.pop_all()
            return stream

    async def put(self, records: Sequence[StreamRecord]) -> Sequence[PutResult]:
        """PutRecords, once."""
        check_put(records)
        if self._is_closed:
            raise Unavailable("the stream is closed")
        body = self._encoder.encode(
            {
                "StreamName": self._name,
                "Records": [
                    {"Data": record.data, "PartitionKey": record.partition_key} for record in records
                ],
            }
        )
        status, answer = await self._call("PutRecords", body)
        if status == 200:
            return self._results(answer, len(records))
        fault = self._fault(answer)
        if fault in _THROTTLES:
            return [PutResult(error=THROTTLED)] * len(records)
        if fault in _FAULTS_IN_CALL and len(records) > 1:
            middle = len(records) // 2
            return [*await self.put(records[:middle]), *await self.put(records[middle:])]
        if fault in _FAULTS_IN_CALL:
            return [PutResult(error=fault, is_poison=True)]
        raise Unavailable(
            f"PutRecords: {status} {fault}", ambiguous=status >= 500 and fault not in _NOT_CARRIED_OUT
        )

    async def shards(self) -> Sequence[Shard]:
        """Every shard that can be read, by id; raises ``SourceGone``, ``Unavailable``."""
        found: list[Shard] = []
        asked: dict[str, Any] = {"StreamName": self._name}
        while True:
            answer = await self._ask("list_shards", **asked)
            found += [_shard(each) for each in answer["Shards"]]
            if not answer.get("NextToken"):
                return sorted(found, key=lambda shard: shard.shard_id)
            asked = {"NextToken": answer["NextToken"]}

    async def iterator(self, shard_id: str, kind: IteratorType, sequence_number: str = "") -> str:
        """GetShardIterator; raises ``PositionLost``, ``SourceGone``, ``Unavailable``."""
        asked = {"StreamName": self._name, "ShardId": shard_id, "ShardIteratorType": kind.value}
        if kind in (IteratorType.AT_SEQUENCE_NUMBER, IteratorType.AFTER_SEQUENCE_NUMBER):
            is_one = sequence_number.isascii() and sequence_number.isdecimal()
            if not is_one or len(sequence_number) > _SEQUENCE_NUMBER_DIGITS_MAX:
                raise PositionLost(f"not a sequence number: {sequence_number[:40]!r}")
            asked["StartingSequenceNumber"] = sequence_number
        try:
            answer = await self._ask("get_shard_iterator", **asked)
        except (_Refused, SourceGone) as refused:
            if "StartingSequenceNumber" not in asked:
                raise
            if isinstance(refused, SourceGone):  # some servers mean the number: is the shard there?
                await self.iterator(shard_id, IteratorType.TRIM_HORIZON)
            raise PositionLost(str(refused)) from refused
        return f"{shard_id} {answer['ShardIterator']}"

    async def read(self, iterator: str, *, limit: int = 1_000) -> ReadResult:
        """GetRecords; raises ``ValueError`` for what ``iterator`` did not return."""
        check_limit(limit)
        shard_id, separator, opaque = iterator.partition(" ")
        if not separator:
            raise ValueError("no iterator of ours")
        answer = await self._ask("get_records", ShardIterator=opaque, Limit=limit)
        records = tuple(
            StoredRecord(
                shard_id,
                each["SequenceNumber"],
                each["PartitionKey"],
                each["Data"],
                each["ApproximateArrivalTimestamp"],
            )
            for each in answer["Records"]
        )
        following = answer.get("NextShardIterator")
        return ReadResult(records, f"{shard_id} {following}" if following else "")

    async def aclose(self) -> None:
        """Let the connections go; idempotent."""
        self._is_closed = True
        await self._open_parts.aclose()

    # -- inside ---------------------------------------------------------------------------------------

    async def _check_exists(self) -> None:
        try:
            await self._sdk.describe_stream_summary(StreamName=self._name)
        except (ClientError, BotoCoreError, aiohttp.ClientError, OSError) as error:
            raise ConfigurationError(
                f"stream.kinesis: {self._name} at {self._endpoint} in {self._region}: {error};"
                " create the stream, or correct stream.endpoint, stream.region or the credentials"
            ) from error

    async def _call(self, operation: str, body: bytes) -> tuple[int, bytes]:
        headers = {
            "Content-Type": "application/x-amz-json-1.1",
            "X-Amz-Target": f"Kinesis_20131202.{operation}",
        }
        request = AWSRequest("POST", self._endpoint + "/", headers=headers, data=body)
        try:
            frozen = await self._credentials.get_frozen_credentials()
            SigV4Auth(frozen, SERVICE, self._region).add_auth(request)
        except BotoCoreError as error:
            raise Unavailable(f"{operation}: {error}") from error
        content = io.BytesIO(body) if len(body) > WHOLE_BYTES_MAX else body
        try:
            async with self._http.post(request.url, data=content, headers=dict(request.headers)) as answer:
                return answer.status, await answer.read()
        except aiohttp.ClientConnectorError as error:
            raise Unavailable(f"{operation}: {error}") from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{operation}: {error!r}", ambiguous=True) from error

    def _results(self, answer: bytes, expected: int) -> list[PutResult]:
        try:
            placed = self._answers.decode(answer).Records
        except msgspec.DecodeError as error:
            raise Unavailable(f"PutRecords: {error}", ambiguous=True) from error
        if len(placed) != expected:
            raise Unavailable(f"PutRecords: {len(placed)} results for {expected}", ambiguous=True)
        return [_result(each) for each in placed]

    def _fault(self, answer: bytes) -> str:
        try:
            return self._faults.decode(answer).type.rpartition("#")[2]
        except msgspec.DecodeError:
            return ""

    async def _ask(self, operation: str, **asked: Any) -> Any:
        try:
            async with asyncio.timeout(CALL_S):
                return await getattr(self._sdk, operation)(**asked)
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _FAULTS_IN_CALL:
                raise _Refused(f"{operation}: {error}") from error
            if code == "ResourceNotFoundException":
                raise SourceGone(f"{operation}: {error}") from error
            raise Unavailable(f"{operation}: {error}") from error
        except (BotoCoreError, aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unavailable(f"{operation}: {error!r}") from error


def _result(placed: _Placed) -> PutResult:
    if placed.ErrorCode or not placed.SequenceNumber:
        return PutResult(error=placed.ErrorCode or FAILED)
    return PutResult(placed.ShardId or "", placed.SequenceNumber)


def _shard(described: Any) -> Shard:
    keys = described["HashKeyRange"]
    parents = (described.get("ParentShardId"), described.get("AdjacentParentShardId"))
    return Shard(
        described["ShardId"],
        int(keys["StartingHashKey"]),
        int(keys["EndingHashKey"]),
        tuple(parent for parent in parents if parent),
        "EndingSequenceNumber" not in described["SequenceNumberRange"],
    )
