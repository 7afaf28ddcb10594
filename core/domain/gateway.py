"""A gateway instance: it owns an address, TEIDs and blocks of device addresses.

Rules: exactly one node holds a gateway instance at a time, under a lease whose ``fence`` only ever rises;
the restart counter rises only when sessions were lost (TS 23.007 §18), not on a restart.
"""

from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address

from core.domain.lease import Lease


class GatewayLease(Lease, frozen=True):
    """The lease of a gateway instance; ``restart_counter`` is sent to peers as Recovery."""

    restart_counter: int = 1


@dataclass(frozen=True, slots=True)
class AddressHolder:
    """The session that has a static address, since when, and the lease term in which it was assigned.

    With ``rests_until`` the session has ended, and until then no other SIM gets the address.
    """

    address: IPv4Address
    session_id: str
    sim_id: str
    gateway_id: str
    fence: int
    since: datetime
    rests_until: datetime | None = None
    version: int = 0
