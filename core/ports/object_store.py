"""Whole files under a key: exports and archives."""

from typing import Protocol


class ObjectStore(Protocol):
    """Put once, get."""

    async def put(self, key: str, data: bytes) -> bool:
        """Store atomically; false when the key exists (its content stays). Durable on return."""
        ...

    async def get(self, key: str) -> bytes | None:
        """The content; ``None`` for an unknown key."""
        ...
