"""A virtual gateway: the owner of an address, of TEIDs and of a pool of device addresses.

Rules: exactly one node holds a virtual gateway at a time, under a lease whose ``fence`` only ever rises;
the restart counter rises only when sessions were truly lost (TS 23.007 §18), never on a mere restart.
"""

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class GatewayLease:
    """Who holds a virtual gateway, until when, and with which fence."""

    gateway_id: str
    owner: str
    fence: int
    expires: datetime
    restart_counter: int
    version: int = 0
