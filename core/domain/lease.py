"""A lease: the node that holds a gateway instance or a singleton job, and its fence.

Rule: the fence rises with each new holder and never falls; each write of the holder carries it.
"""

from datetime import datetime
from typing import Self

from msgspec import Struct, field

from core.domain.values import replace


class Lease(Struct, frozen=True):
    """The holder. ``lease_id`` is stored as ``gateway_id``, the key of the first leases.

    ``contact`` is the holder's control channel, empty when it has none. ``is_released``: the holder released
    it in order, and all its counters are durable. ``renewed`` is informative: other nodes do not compare it
    with their clocks. ``folder_id`` identifies the holder's data folder, by which a restarted node
    recognises its own lease.
    """

    lease_id: str = field(name="gateway_id")
    owner: str
    fence: int
    renewed: datetime
    contact: str = ""
    is_released: bool = False
    folder_id: str = ""
    version: int = 0

    def is_of(self, owner: str, folder_id: str) -> bool:
        """Whether this node took it with this data folder, before or after a restart."""
        return self.owner == owner and self.folder_id in ("", folder_id)

    def taken(self, owner: str, contact: str, folder_id: str, now: datetime) -> Self:
        """The lease as taken by this node: the fence rises, other fields stay."""
        return replace(
            self,
            owner=owner,
            fence=self.fence + 1,
            renewed=now,
            contact=contact,
            is_released=False,
            folder_id=folder_id,
        )
