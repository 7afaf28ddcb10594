"""A link between two nodes: whole messages, in order, until it breaks.

Rule: a link is between nodes that trust each other; who is at its other end was settled before it stood.
"""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from typing import Protocol


class Link(Protocol):
    """One end of a link."""

    def send(self, message: bytes) -> bool:
        """Send as soon as possible; false when it was not taken: too much waits, or the link is broken."""
        ...

    def messages(self) -> AsyncIterator[bytes]:
        """What comes from the other end, until the link breaks."""
        ...


class Links(Protocol):
    """Makes links to other nodes."""

    def connect(self, contact: str) -> AbstractAsyncContextManager[Link]:
        """A link to the node at ``contact``; raises ``Unavailable`` when there is none to be had."""
        ...
