"""Blocks of device addresses, all in one partition.

Rules: each change is a batch conditional on the version of the map that was read; the first row of the
partition has the version. So blocks never overlap, and a pending write of a node fails once another node has
raised the version.
"""

from collections.abc import Collection

from core.adapters.store.engine import SCAN_ROWS_MAX, Batch, Condition, Delete, Engine, Key, Put, Row
from core.adapters.store.tables import UE_BLOCK
from core.domain.address_blocks import Block, BlockMap, BlockOwner

_PARTITION: Key = ("ue",)
_HEAD: Key = (-1,)


class WideBlocks:
    """Implements ``Blocks``."""

    def __init__(self, *, engine: Engine) -> None:
        self._engine = engine

    async def read(self) -> BlockMap:
        """The map, its version first: a change while it is read makes it stale."""
        rows: list[Row] = []
        above: Key = ()
        while True:
            page = await self._engine.scan(UE_BLOCK, _PARTITION, above=above)
            rows += page
            if len(page) < SCAN_ROWS_MAX:
                break
            above = page[-1].clustering
        version = rows[0].version if rows and rows[0].clustering == _HEAD else 0
        return BlockMap(version, dict(_block(row) for row in rows if row.clustering != _HEAD))

    async def change(
        self,
        seen: BlockMap,
        owner: BlockOwner,
        *,
        taken: Collection[Block] = (),
        given_back: Collection[Block] = (),
    ) -> None:
        """One batch with the version of the whole."""
        puts = [Put((block.first,), (block.prefix, owner.gateway_id, owner.fence), 1) for block in taken]
        deletes = [Delete((block.first,)) for block in given_back]
        head = Put(_HEAD, (0, "", 0), seen.version + 1)
        condition = Condition(_HEAD, seen.version)
        await self._engine.write(Batch(UE_BLOCK, _PARTITION, (head, *puts, *deletes), condition))


def _block(row: Row) -> tuple[Block, BlockOwner]:
    prefix, gateway_id, fence = row.values
    return Block(int(row.clustering[0]), int(prefix)), BlockOwner(str(gateway_id), int(fence))
