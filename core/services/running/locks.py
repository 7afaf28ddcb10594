"""One at a time for each key, without a lock kept for every key there ever was."""

import asyncio

from msgspec import Struct

_Held = tuple[asyncio.Lock | None, int]
"""The lock, once a task waits for it, and how many hold it or wait."""
_FREE: _Held = (None, 0)


class KeyedLocks:
    """Those who hold the same key wait for each other, in order; a key costs memory while it is held."""

    def __init__(self) -> None:
        self._locks: dict[str, _Held] = {}

    def __len__(self) -> int:
        """How many keys are held or waited for."""
        return len(self._locks)

    def hold(self, key: str) -> "_Hold":
        """Hold ``key`` within the block of ``async with``."""
        return _Hold(self._locks, key)


class _Hold(Struct):
    """One holding; a class, for a generator's context manager costs three times as much."""

    _locks: dict[str, _Held]
    _key: str

    async def __aenter__(self) -> None:
        lock, count = self._locks.get(self._key, _FREE)
        if count and lock is None:
            lock = asyncio.Lock()
            await lock.acquire()  # in the name of the one that holds the key; no other has it, so at once
        self._locks[self._key] = (lock, count + 1)
        if lock is not None:
            try:
                await lock.acquire()
            except BaseException:
                self._leave()
                raise

    async def __aexit__(self, *_: object) -> None:
        lock = self._locks[self._key][0]
        if lock is not None:
            lock.release()
        self._leave()

    def _leave(self) -> None:
        lock, count = self._locks[self._key]
        if count == 1:
            del self._locks[self._key]
        else:
            self._locks[self._key] = (lock, count - 1)
