"""Steps of which all are kept, or none: each says when it is done what takes it back.

Rule: what is in memory is taken back without waiting; what is in the store only by who may still write there.
"""

from collections.abc import Awaitable, Callable


class Undo:
    """What takes the steps back that are done, the last first, until they are kept."""

    __slots__ = ("_steps", "_stored", "push", "push_stored")

    def __init__(self) -> None:
        self._steps: list[Callable[[], None]] = []
        self._stored: list[Callable[[], Awaitable[None]]] = []
        self.push = self._steps.append
        """A step is done, and this takes it back."""
        self.push_stored = self._stored.append
        """A step is done, or begun, that wrote into the store, and this takes it back."""

    def keep(self) -> None:
        """Nothing is taken back any more."""
        self._steps.clear()
        if self._stored:
            self._stored.clear()

    def take_back(self) -> None:
        """All but what is in the store."""
        while self._steps:
            self._steps.pop()()

    async def take_back_stored(self) -> None:
        """What is in the store."""
        while self._stored:
            await self._stored.pop()()
