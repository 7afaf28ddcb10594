"""An S3 bucket as object store, shared by every node of an installation.

Rules: an object is put only if its key is new (``If-None-Match: *``), so that it never changes. Nothing is
repeated here after a lost answer: the caller can put again.
"""

from contextlib import AsyncExitStack
from typing import Any

import aioboto3
import aiohttp
from botocore.config import Config as SdkConfig
from botocore.exceptions import BotoCoreError, ClientError

from core.adapters.object_store.files import names_of
from core.errors import ConfigurationError, Unavailable

CONNECT_S, CALL_S = 3.0, 30.0
_TAKEN = frozenset({"PreconditionFailed", "412"})
_ABSENT = frozenset({"NoSuchKey", "404"})
_CUT_OFF = (BotoCoreError, aiohttp.ClientError, OSError)


class S3ObjectStore:
    """Implements ``ObjectStore`` in a bucket, under ``prefix``. Make one with ``open``."""

    def __init__(self, *, sdk: Any, bucket: str, prefix: str) -> None:
        self._sdk = sdk
        self._bucket = bucket
        self._prefix = prefix
        self._open_parts = AsyncExitStack()

    @classmethod
    async def open(
        cls, *, bucket: str, prefix: str = "", region: str = "", endpoint: str = ""
    ) -> "S3ObjectStore":
        """Find credentials by the usual chain, and the bucket; raises ``ConfigurationError``."""
        session = aioboto3.Session(region_name=region or None)
        config = SdkConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=CONNECT_S,
            read_timeout=CALL_S,
            s3={"addressing_style": "path"} if endpoint else {},
        )
        async with AsyncExitStack() as parts:
            sdk = await parts.enter_async_context(
                session.client("s3", endpoint_url=endpoint or None, config=config)
            )
            try:
                await sdk.head_bucket(Bucket=bucket)
            except (ClientError, BotoCoreError) as error:
                fix = "name a bucket that is there, and credentials that may put and get objects in it"
                raise ConfigurationError(f"objects.s3: {bucket}: {error}; {fix}") from error
            made = cls(sdk=sdk, bucket=bucket, prefix=prefix)
            made._open_parts = parts.pop_all()
            return made

    async def put(self, key: str, data: bytes) -> bool:
        """Store atomically; durable on return."""
        try:
            await self._sdk.put_object(**self._where(key), Body=data, IfNoneMatch="*")
        except ClientError as error:
            if _code(error) in _TAKEN:
                return False
            raise Unavailable(f"object {key}: {error}") from error
        except _CUT_OFF as error:
            raise Unavailable(f"object {key}: {error!r}", ambiguous=True) from error
        return True

    async def get(self, key: str) -> bytes | None:
        """The content, or nothing."""
        try:
            answer = await self._sdk.get_object(**self._where(key))
            data: bytes = await answer["Body"].read()
        except ClientError as error:
            if _code(error) in _ABSENT:
                return None
            raise Unavailable(f"object {key}: {error}") from error
        except _CUT_OFF as error:
            raise Unavailable(f"object {key}: {error!r}") from error
        return data

    async def aclose(self) -> None:
        """Disconnect; idempotent."""
        await self._open_parts.aclose()

    def _where(self, key: str) -> dict[str, str]:
        return {"Bucket": self._bucket, "Key": "/".join([*filter(None, [self._prefix]), *names_of(key)])}


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))
