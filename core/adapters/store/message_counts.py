"""Counts of messages: one row for each SIM and day, written under a condition only."""

from core.adapters.store.engine import Batch, Condition, Engine, Put
from core.adapters.store.rows import BodyReader, body_of, get_row
from core.adapters.store.tables import MESSAGE_COUNT
from core.domain.message import MessageCount
from core.domain.values import replace


class WideMessageCounts:
    """Implements ``MessageCounts``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._bodies = BodyReader(MESSAGE_COUNT, MessageCount)

    async def get(self, imsi: str, day: int) -> MessageCount | None:
        """The row as stored."""
        row = await get_row(self._engine, MESSAGE_COUNT, (imsi, day))
        return self._bodies.read_optional((imsi, day), row)

    async def put(self, row: MessageCount) -> MessageCount:
        """Write if the stored version is ``row.version``."""
        stored = replace(row, version=row.version + 1)
        put = Put((), (body_of(stored),), stored.version)
        await self._engine.write(
            Batch(MESSAGE_COUNT, (row.imsi, row.day), (put,), Condition((), row.version))
        )
        return stored
