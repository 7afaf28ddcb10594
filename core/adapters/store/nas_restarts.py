"""Restarts of NASes: a row for each, written once."""

from datetime import UTC, datetime

from core.adapters.store.engine import Batch, Condition, Engine, Put, microseconds
from core.adapters.store.rows import get_row
from core.adapters.store.tables import NAS_RESTART
from core.errors import StaleVersion, Unavailable


class WideNasRestarts:
    """Implements ``NasRestarts``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine

    async def first_heard(self, network: str, authenticator: bytes, now: datetime) -> datetime:
        """Write the row unless it is there."""
        partition = (network, authenticator.hex())
        put = Put((), (microseconds(now),), 1)
        try:
            await self._engine.write(Batch(NAS_RESTART, partition, (put,), Condition((), 0)))
        except StaleVersion:
            row = await get_row(self._engine, NAS_RESTART, partition)
            if row is None:
                raise Unavailable(f"a restart of a NAS of {network} was forgotten just now") from None
            return datetime.fromtimestamp(int(row.values[0]) / 1_000_000, UTC)
        return now
