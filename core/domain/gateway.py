"""A virtual gateway: the owner of an address, of TEIDs and of a pool of device addresses.

Rules: exactly one node holds a virtual gateway at a time, under a lease whose ``fence`` only ever rises;
the restart counter rises only when sessions were truly lost (TS 23.007 §18), never on a mere restart.
"""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address

from core.domain.lease import Lease


class GatewayLease(Lease, frozen=True):
    """Who holds a virtual gateway; ``restart_counter`` is what peers are told as Recovery."""

    restart_counter: int = 1


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
