"""A link between two nodes: whole messages, in order, until it breaks.

Rule: a link connects nodes that trust each other; both are authenticated before it opens.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Link(Protocol):
    """One end of a link."""

    def send(self, message: bytes) -> bool:
        """Send as soon as possible; false when it is not accepted: queue full, or link broken."""
        ...

    def messages(self) -> AsyncIterator[bytes]:
        """Messages from the other end, until the link breaks."""
        ...


class Links(Protocol):
    """Makes links to other nodes."""

    def connect(self, contact: str) -> AbstractAsyncContextManager[Link]:
        """A link to the node at ``contact``; raises ``Unavailable`` when it cannot be opened."""
        ...
