"""Groups, an operator's in one partition."""

from collections.abc import Sequence

from core.adapters.store.engine import Batch, Condition, Engine, Put, Row
from core.adapters.store.rows import BodyReader, HotReader, body_of, collect_page, delete_current
from core.adapters.store.tables import SIM_GROUP
from core.domain.account import Group
from core.domain.values import replace
from core.ports.store import Page


class WideGroups:
    """Implements ``Groups``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine
        self._bodies = BodyReader(SIM_GROUP, Group)
        self._groups = HotReader(engine, SIM_GROUP, self._bodies.read)

    async def get(self, operator_id: str, group_id: str) -> Group | None:
        """By id, within its operator."""
        return await self._groups.get((operator_id,), (group_id,))

    async def put(self, group: Group) -> Group:
        """Write if the stored version is ``group.version``."""
        stored = replace(group, version=group.version + 1)
        key = (group.group_id,)
        put = Put(key, (body_of(stored),), stored.version)
        await self._engine.write(
            Batch(SIM_GROUP, (group.operator_id,), (put,), Condition(key, group.version))
        )
        return stored

    async def delete(self, operator_id: str, group_id: str) -> None:
        """Remove; idempotent."""
        await delete_current(self._engine, SIM_GROUP, (operator_id,), (group_id,))

    async def of_operator(self, operator_id: str, *, after: str = "", limit: int = 100) -> Page[Group]:
        """An operator's groups in order of id."""

        async def scan(after: str, limit: int) -> Sequence[Row]:
            above = (after,) if after else ()
            return await self._engine.scan(SIM_GROUP, (operator_id,), above=above, limit=limit)

        async def resolve(rows: Sequence[Row]) -> Sequence[Group | None]:
            return [self._bodies.read((operator_id,), row) for row in rows]

        return await collect_page(scan, resolve, after=after, limit=limit)
