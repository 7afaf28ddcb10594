"""Access point names: what their devices get, and what no two of them may have different."""

from collections.abc import Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Annotated

from pydantic import Field

from core.config.base import DEVICE_CHARACTERS_MAX, Name, Section, TunName
from core.domain.apn import MTU_BYTES_DEFAULT, MTU_BYTES_MAX, Apn
from core.domain.session import PdnType

OWN_KEYS = "ue_pool, ue_prefixes and tun"
"""The keys with which an access point is separate from the others."""
APN_POOLS_MAX = 64
"""Pools of access points' own: each gateway instance holds a block of each."""


class ApnConfig(Section):
    """An access point, and what its devices get.

    ``pdn_types`` (empty: all that there are pools for), name servers (empty: the gateway's), P-CSCFs, and the
    MTU of their link, which is sent in options and Router Advertisements and which no packet down exceeds
    (docs/gateway-operations.md has the arithmetic).

    With ``ue_pool`` its devices' addresses are of that network only, and their /64s of ``ue_prefixes``,
    without which they have no IPv6; without ``ue_pool`` both are the gateway's. Access points that name the
    same ``ue_pool`` share it. Packets to and from the internet go through the TUN device ``tun``, or without
    one through the gateway's.
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
        """The values of ``OWN_KEYS``, the same for all access points that share a pool."""
        return self.ue_pool, self.ue_prefixes, self.tun

    def access_point(
        self,
        *,
        pdn_types: frozenset[PdnType],
        dns: tuple[IPv4Address, ...],
        dns_ipv6: tuple[IPv6Address, ...],
        mtu_bytes_max: int,
    ) -> Apn:
        """The access point; the arguments are the gateway's, where the table has no key of its own."""
        return Apn(
            name=self.name,
            pdn_types=frozenset(self.pdn_types) or pdn_types,
            dns=self.dns or dns,
            dns_ipv6=self.dns_ipv6 or dns_ipv6,
            p_cscf=self.p_cscf,
            mtu_bytes=min(self.mtu_bytes, mtu_bytes_max),
            ue_pool=self.ue_pool,
        )


def pools_of(apns: Sequence[ApnConfig]) -> Mapping[IPv4Network, ApnConfig]:
    """The pools that access points have of their own, each with the first access point that names it."""
    return {each.ue_pool: each for each in reversed(apns) if each.ue_pool is not None}


def demand_equal_shares(apns: Sequence[ApnConfig], gateway_tun: str) -> None:
    """Raises ``ValueError`` for too many pools, for access points that share a pool but not all of
    ``OWN_KEYS``, and for a ``tun`` without a pool.
    """
    pools = pools_of(apns)
    if len(pools) > APN_POOLS_MAX:
        raise ValueError(
            f"apns: at most {APN_POOLS_MAX} different ue_pool values; let access points share pools"
        )
    for each in apns:
        other = pools[each.ue_pool] if each.ue_pool is not None else each
        if each.own != other.own:
            raise ValueError(
                f"apns {each.name}: shares ue_pool {each.ue_pool} with {other.name}, so {OWN_KEYS}"
                " must be equal; or give it its own ue_pool"
            )
        if each.tun and (each.ue_pool is None or each.tun == gateway_tun):
            need = "must not be gateway.tun" if each.tun == gateway_tun else "must have an ue_pool beside it"
            raise ValueError(f"apns {each.name}: tun {each.tun} {need}; or leave it out")


def demand_room_for_numbers(tuns: Iterable[str], *, instances: int) -> None:
    """Raises ``ValueError`` for a TUN name that is too long once an instance's number is appended to it."""
    number = f"-{instances - 1}" if instances > 1 else ""
    for tun in tuns:
        if len(tun + number) > DEVICE_CHARACTERS_MAX:
            most = DEVICE_CHARACTERS_MAX - len(number)
            raise ValueError(
                f"tun {tun}: a number is appended for each gateway instance; at most {most} characters"
            )
