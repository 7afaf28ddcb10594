"""Who reads a shard of a stream for an application, and how far it has come.

Rules: exactly one consumer at a time reads a shard, under a lease whose ``fence`` only ever rises; the
checkpoint is moved by the lease's holder alone, after the effect of what it read is durable.
"""

from dataclasses import dataclass
from datetime import datetime

SHARD_END = "SHARD_END"
"""The checkpoint of a shard that was closed and read to its end: its children may be read now."""


@dataclass(frozen=True, slots=True)
class ShardLease:
    """One application's reading of one shard; ``checkpoint`` empty: nothing is finished yet.

    ``expires`` is for people: no clock of another worker decides.
    """

    application: str
    shard_id: str
    owner: str
    fence: int
    expires: datetime
    checkpoint: str = ""
    version: int = 0
