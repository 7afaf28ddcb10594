"""argon2id hashes of passwords, worked out beside the event loop (RFC 9106)."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from core.domain.reasons import RequestRefusal
from core.errors import Refused

PARALLEL_MAX = 2
"""Hashes worked out at a time: each takes 64 MiB and a core."""
WAITING_MAX = 64
"""Requests that wait for their turn; the next one is refused."""


class Argon2Passwords:
    """Implements ``Passwords``; ``hasher`` carries the cost."""

    def __init__(self, *, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._turns = asyncio.Semaphore(PARALLEL_MAX)
        self._waiting = 0

    async def hash(self, password: str) -> str:
        """A salted hash with its parameters."""
        async with self._turn():
            return await asyncio.to_thread(self._hasher.hash, password)

    async def verify(self, password_hash: str, password: str) -> bool:
        """Whether it fits; a hash that cannot be read fits nothing."""
        async with self._turn():
            try:
                return await asyncio.to_thread(self._hasher.verify, password_hash, password)
            except (VerificationError, InvalidHashError):
                return False

    @asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        if self._waiting >= WAITING_MAX:
            raise Refused(RequestRefusal.TOO_MANY_REQUESTS, "too many sign-ins at a time")
        self._waiting += 1
        try:
            await self._turns.acquire()
        finally:
            self._waiting -= 1
        try:
            yield
        finally:
            self._turns.release()
