"""The lease and checkpoint of one application's reader of a shard.

Rules: exactly one consumer at a time reads a shard, under a lease whose ``fence`` only ever rises; only
the lease's holder moves the checkpoint, after the effect of the records is durable.
"""

from dataclasses import dataclass
from datetime import datetime

SHARD_END = "SHARD_END"
"""The checkpoint of a closed shard that was read to its end: its children may be read now."""


@dataclass(frozen=True, slots=True)
class ShardLease:
    """One application's reading of one shard; ``checkpoint`` empty: nothing is processed yet.

    ``expires`` is informative: other workers do not compare it with their clocks.
    """

    application: str
    shard_id: str
    owner: str
    fence: int
    expires: datetime
    checkpoint: str = ""
    version: int = 0
