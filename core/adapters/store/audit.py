"""The audit: entries of a day in one partition; there are few."""

from core.adapters.store.engine import Batch, Engine, Put
from core.adapters.store.rows import BodyReader, body_of
from core.adapters.store.tables import AUDIT
from core.domain.audit import AuditEntry
from core.domain.usage import day_of
from core.ports.store import Page


class WideAudit:
    """Implements ``Audit``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._bodies = BodyReader(AUDIT, AuditEntry)

    async def record(self, entry: AuditEntry) -> None:
        """One row."""
        put = Put((entry.entry_id,), (body_of(entry),))
        await self._engine.write(Batch(AUDIT, (day_of(entry.at),), (put,)))

    async def of_day(self, day: int, *, after: str = "", limit: int = 100) -> Page[AuditEntry]:
        """A day's entries, oldest first."""
        rows = await self._engine.scan(AUDIT, (day,), above=(after,) if after else (), limit=limit)
        entries = tuple(self._bodies.read((day,), row) for row in rows)
        return Page(entries, entries[-1].entry_id if len(entries) == limit else "")
