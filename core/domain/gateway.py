"""A virtual gateway: the owner of an address, of TEIDs and of a pool of device addresses.

Rules: exactly one node holds a virtual gateway at a time, under a lease whose ``fence`` only ever rises;
the restart counter rises only when sessions were truly lost (TS 23.007 §18), never on a mere restart.
"""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address


@dataclass(frozen=True, slots=True)
class GatewayLease:
    """Who holds a virtual gateway and with which fence.

    ``contact`` is the holder's control channel, empty when it has none; ``is_released``: the holder gave it
    up in order, everything counted is durable. ``renewed`` is for people: no clock of another node decides.
    ``folder_id`` names the data folder that the holder counts into: by it a node knows its own earlier life.
    """

    gateway_id: str
    owner: str
    fence: int
    renewed: datetime
    restart_counter: int
    contact: str = ""
    is_released: bool = False
    folder_id: str = ""
    version: int = 0

    def is_of(self, owner: str, folder_id: str) -> bool:
        """Whether a node of this name took it on this folder, in its present life or an earlier one."""
        return self.owner == owner and self.folder_id in ("", folder_id)


@dataclass(frozen=True, slots=True)
class AddressHolder:
    """Which session has a static address, since when, and in which tenure of its gateway it took it.

    With ``rests_until`` it has it no longer, and until then no other SIM may.
    """

    address: IPv4Address
    session_id: str
    sim_id: str
    gateway_id: str
    fence: int
    since: datetime
    rests_until: datetime | None = None
    version: int = 0
