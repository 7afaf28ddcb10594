"""Access point names: what their devices get."""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated

from pydantic import Field

from core.config.base import Name, Section, TunName
from core.domain.apn import MTU_BYTES_DEFAULT, MTU_BYTES_MAX
from core.domain.session import PdnType

OWN_KEYS = "ue_pool, ue_prefixes and tun"
"""Of an access point: what it has apart."""
APN_POOLS_MAX = 64
"""Networks of access points' own: each gateway holds a block of each."""


class ApnConfig(Section):
    """An access point name, and what its devices get: addresses of ``pdn_types`` (empty: of all that there
    are pools for), name servers (empty: the gateway's), P-CSCFs, and the MTU of their link, by options and
    Router Advertisements, which no packet down exceeds (docs/gateway-operations.md has the arithmetic).

    With ``ue_pool`` their addresses are of that network and of no other, and their /64s of ``ue_prefixes``,
    without which they have no IPv6; without it they are of the gateway's. Access points that name the same
    ``ue_pool`` share it. Its packets to and from the internet go through the device ``tun``, or without one
    through the gateway's.
    """

    name: Name
    pdn_types: tuple[PdnType, ...] = ()
    dns: tuple[IPv4Address, ...] = ()
    dns_ipv6: tuple[IPv6Address, ...] = ()
    p_cscf: tuple[IPv4Address | IPv6Address, ...] = ()
    mtu_bytes: Annotated[int, Field(ge=1_280, le=MTU_BYTES_MAX)] = MTU_BYTES_DEFAULT
    ue_pool: IPv4Network | None = None
    ue_prefixes: IPv6Network | None = None
    tun: TunName = ""

    @property
    def own(self) -> tuple[object, ...]:
        """What it has apart from others; access points that share a pool share all of it."""
        return self.ue_pool, self.ue_prefixes, self.tun
