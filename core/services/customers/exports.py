"""Links to exported files: who holds one may fetch the file, for a while.

Rules: a link names operator, object key and end of life and is signed with HMAC-SHA256; nothing is kept for
it. An export's id is such a name too, and is good for its own operator alone.
"""

import hashlib
import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from datetime import UTC, datetime, timedelta

import msgspec

from core.domain.reasons import RequestRefusal
from core.errors import Refused
from core.ports.clock import Clock
from core.ports.object_store import ObjectStore

LINK_LIFETIME = timedelta(hours=1)
EXPORT_LIFETIME = timedelta(days=7)
_SIGNATURE_BYTES = 32


class _Name(msgspec.Struct, array_like=True, frozen=True):
    """What is signed."""

    use: str
    operator_id: str
    key: str
    expires_s: int


class Exports:
    """Makes and resolves signed names of objects. ``key`` is secret, and shared by all nodes."""

    def __init__(self, *, objects: ObjectStore, clock: Clock, key: bytes) -> None:
        self._objects = objects
        self._clock = clock
        self._key = hashlib.sha256(b"exports" + key).digest()

    def link(self, operator_id: str, object_key: str) -> str:
        """One path segment that fetches the object without further credentials, for an hour."""
        return self._name("link", operator_id, object_key, LINK_LIFETIME)

    def export_id(self, operator_id: str, object_key: str) -> str:
        """An id by which the operator may ask for links, for a week."""
        return self._name("export", operator_id, object_key, EXPORT_LIFETIME)

    def key_of_export(self, operator_id: str, export_id: str) -> str:
        """The object behind an export's id; raises ``Refused(NOT_FOUND)``."""
        name = self._resolve("export", export_id)
        if name.operator_id != operator_id:
            raise _not_found()
        return name.key

    async def fetch(self, link: str) -> bytes:
        """The file; raises ``Refused(NOT_FOUND)``."""
        content = await self._objects.get(self._resolve("link", link).key)
        if content is None:
            raise _not_found()
        return content

    def _name(self, use: str, operator_id: str, key: str, lifetime: timedelta) -> str:
        expires_s = int((self._clock.now() + lifetime).timestamp())
        payload = msgspec.msgpack.encode(_Name(use, operator_id, key, expires_s))
        return urlsafe_b64encode(self._sign(payload) + payload).decode().rstrip("=")

    def _resolve(self, use: str, text: str) -> _Name:
        try:
            raw = urlsafe_b64decode(text.encode("ascii") + b"=" * (-len(text) % 4))
        except ValueError:
            raise _not_found() from None
        signature, payload = raw[:_SIGNATURE_BYTES], raw[_SIGNATURE_BYTES:]
        if not hmac.compare_digest(signature, self._sign(payload)):
            raise _not_found()
        name = msgspec.msgpack.decode(payload, type=_Name)
        if name.use != use or datetime.fromtimestamp(name.expires_s, UTC) <= self._clock.now():
            raise _not_found()
        return name

    def _sign(self, payload: bytes) -> bytes:
        return hmac.digest(self._key, payload, "sha256")


def _not_found() -> Refused:
    return Refused(RequestRefusal.NOT_FOUND, "No such file found.")
