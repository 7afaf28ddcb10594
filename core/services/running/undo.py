"""Steps of which all are kept, or none: each says when it is done what takes it back.

Rule: what is in memory is taken back without waiting; what is in the store only by who may still write there.
"""

from collections.abc import Awaitable, Callable
from typing import Any


class Undo:
    """What takes the steps back that are done, the last first, until they are kept."""

    __slots__ = ("_steps", "_stored")

    def __init__(self) -> None:
        self._steps: list[tuple[Callable[..., None], tuple[Any, ...]]] = []
        self._stored: list[tuple[Callable[..., Awaitable[None]], tuple[Any, ...]]] = []

    def push(self, undo: Callable[..., None], *arguments: Any) -> None:
        """A step is done."""
        self._steps.append((undo, arguments))

    def push_stored(self, undo: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        """A step is done, or begun, that wrote into the store."""
        self._stored.append((undo, arguments))

    def keep(self) -> None:
        """Nothing is taken back any more."""
        self._steps.clear()
        self._stored.clear()

    def take_back(self) -> None:
        """All but what is in the store."""
        while self._steps:
            undo, arguments = self._steps.pop()
            undo(*arguments)

    async def take_back_stored(self) -> None:
        """What is in the store."""
        while self._stored:
            undo, arguments = self._stored.pop()
            await undo(*arguments)
