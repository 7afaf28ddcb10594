"""Versions of the tariff, closed months, and how far closing has come.

Rule: every row is written once, or over the version that was read.
"""

from collections.abc import Sequence

from core.adapters.store.engine import Batch, Condition, Engine, Put
from core.adapters.store.rows import BodyReader, body_of, get_row
from core.adapters.store.tables import CLOSED_MONTH, CLOSING, TARIFF
from core.domain.billing import ClosedMonth, Closing, Tariff
from core.domain.values import replace
from core.ports.store import PAGE_MAX

_TARIFF, _CLOSING = ("data",), ("bills",)


class WideBills:
    """Implements ``Bills``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._tariffs = BodyReader(TARIFF, Tariff)
        self._months = BodyReader(CLOSED_MONTH, ClosedMonth)
        self._closings = BodyReader(CLOSING, Closing)

    async def tariffs(self) -> Sequence[Tariff]:
        """All versions, in order."""
        rows = await self._engine.scan(TARIFF, _TARIFF, limit=PAGE_MAX, reverse=True)
        return [self._tariffs.read(_TARIFF, row) for row in reversed(rows)]

    async def add_tariff(self, tariff: Tariff) -> None:
        """A new version; ``StaleVersion`` when it is there."""
        key = (tariff.version,)
        put = Put(key, (body_of(tariff),), 1)
        await self._engine.write(Batch(TARIFF, _TARIFF, (put,), Condition(key, 0)))

    async def closed_month(self, operator_id: str, month: int) -> ClosedMonth | None:
        """As stored."""
        row = await get_row(self._engine, CLOSED_MONTH, (operator_id,), (month,))
        return self._months.read_optional((operator_id,), row)

    async def put_closed_month(self, closed: ClosedMonth) -> None:
        """Once; ``StaleVersion`` when it is there."""
        key = (closed.month,)
        put = Put(key, (body_of(closed),), 1)
        await self._engine.write(Batch(CLOSED_MONTH, (closed.operator_id,), (put,), Condition(key, 0)))

    async def closing(self) -> Closing | None:
        """How far it has come, as stored."""
        return self._closings.read_optional(_CLOSING, await get_row(self._engine, CLOSING, _CLOSING))

    async def put_closing(self, closing: Closing) -> Closing:
        """Write if the stored version is ``closing.version``."""
        stored = replace(closing, version=closing.version + 1)
        put = Put((), (body_of(stored),), stored.version)
        await self._engine.write(Batch(CLOSING, _CLOSING, (put,), Condition((), closing.version)))
        return stored
