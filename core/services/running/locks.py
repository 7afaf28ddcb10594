"""One at a time for each key, without a lock kept for every key there ever was."""

import asyncio


class KeyedLocks:
    """Those who hold the same key wait for each other, in order; a key costs memory while it is held."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        """How many keys are held or waited for."""
        return len(self._locks)

    def hold(self, key: str) -> "_Hold":
        """Hold ``key`` within the block of ``async with``."""
        return _Hold(self._locks, key)


class _Hold:
    """One holding; a class, for a generator's context manager costs three times as much."""

    __slots__ = ("_key", "_lock", "_locks")

    def __init__(self, locks: dict[str, tuple[asyncio.Lock, int]], key: str) -> None:
        self._locks = locks
        self._key = key

    async def __aenter__(self) -> None:
        self._lock, waiting = self._locks.get(self._key) or (asyncio.Lock(), 0)
        self._locks[self._key] = (self._lock, waiting + 1)
        try:
            await self._lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *_: object) -> None:
        self._lock.release()
        self._leave()

    def _leave(self) -> None:
        lock, waiting = self._locks[self._key]
        if waiting == 1:
            del self._locks[self._key]
        else:
            self._locks[self._key] = (lock, waiting - 1)
