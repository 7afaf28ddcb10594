"""Gateway instances: the addresses and protocols of each, and what no two of them share."""

from collections import Counter
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network
from typing import Annotated

from pydantic import Field

from core.config.base import Name, Section
from core.config.node import AccessProtocol


class GatewayInstanceConfig(Section):
    """One gateway instance: the address of its protocols, and its part of the pool.

    GTP-U ends at ``user_address``, or at ``address`` if there is none. ``protocols``: ``gtp`` (GTP-C and
    GTP-U) and ``radius``, which is open only when ``radius`` has ``clients``. A node holds an instance only
    if it has the roles of all its protocols. With ``ue_pool`` its devices' addresses are of that part of
    ``gateway.ue_pool``, from which no other instance allocates; an access point's own pool is shared by all.
    """

    id: Name
    address: IPv4Address
    user_address: IPv4Address | None = None
    ue_pool: IPv4Network | None = None
    protocols: Annotated[tuple[AccessProtocol, ...], Field(min_length=1)] = ("gtp", "radius")

    @property
    def addresses(self) -> tuple[IPv4Address, ...]:
        """Its own, the one of GTP-U last."""
        return (self.address,) if self.user_address is None else (self.address, self.user_address)


def demand_own_addresses(instances: Sequence[GatewayInstanceConfig], ue_pool: IPv4Network) -> None:
    """Raises ``ValueError`` when two share an id, an address or a pool, or a pool is outside ``ue_pool``."""
    used = Counter(address for each in instances for address in each.addresses)
    for one in instances:
        if any(used[address] > 1 for address in one.addresses):
            raise ValueError(f"instances {one.id}: address and user_address must be unique and differ")
        if one.user_address is not None and "gtp" not in one.protocols:
            raise ValueError(f"instances {one.id}: user_address is used by the protocol gtp only; remove it")
    for place, one in enumerate(instances):
        if one.ue_pool is not None and not one.ue_pool.subnet_of(ue_pool):
            raise ValueError(f"instances {one.id}: {one.ue_pool} is not within ue_pool {ue_pool}")
        for other in instances[:place]:
            if one.id == other.id:
                raise ValueError(f"instances {one.id}: the id must be unique")
            if one.ue_pool and other.ue_pool and one.ue_pool.overlaps(other.ue_pool):
                raise ValueError(f"instances {one.id}: {one.ue_pool} overlaps {other.id}'s {other.ue_pool}")
