"""A lease: which node does a thing that exactly one node may do at a time, and with which fence.

Rule: the fence rises with each taking and never falls; whoever writes for the thing names it.
"""

from datetime import datetime
from typing import Self

from msgspec import Struct, field

from core.domain.values import replace


class Lease(Struct, frozen=True):
    """Who holds it. ``lease_id`` names the thing, as stored under the key that gateways had first.

    ``contact`` is the holder's control channel, empty when it has none; ``is_released``: the holder gave it
    up in order, everything counted is durable. ``renewed`` is for people: no clock of another node decides.
    ``folder_id`` names the data folder that the holder counts into: by it a node knows its own earlier life.
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
        """Whether a node of this name took it on this folder, in its present life or an earlier one."""
        return self.owner == owner and self.folder_id in ("", folder_id)

    def taken(self, owner: str, contact: str, folder_id: str, now: datetime) -> Self:
        """As this node takes it from whoever had it: the fence rises, what else it says stays."""
        return replace(
            self,
            owner=owner,
            fence=self.fence + 1,
            renewed=now,
            contact=contact,
            is_released=False,
            folder_id=folder_id,
        )
