"""Address blocks, and which gateway instance allocates from which.

Rules: blocks never overlap, whichever sizes the nodes are configured with. Even a small network is divided
into several blocks, so that addresses can come from one while another is held back.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from typing import NamedTuple

PREFIX_MAX = 29
"""The longest prefix: a smaller block has hardly any address to allocate (``core.domain.pools``)."""
_CUT_BITS = 3


class Block(NamedTuple):
    """A network as two numbers, its first address and its prefix length: a map may hold thousands."""

    first: int
    prefix: int

    @property
    def last(self) -> int:
        """Its last address."""
        return self.first + (1 << (32 - self.prefix)) - 1

    @property
    def network(self) -> IPv4Network:
        """The same."""
        return IPv4Network((self.first, self.prefix))

    @classmethod
    def of(cls, network: IPv4Network) -> "Block":
        """The same."""
        return cls(int(network.network_address), network.prefixlen)

    @classmethod
    def around(cls, address: IPv4Address, prefix: int) -> "Block":
        """The block of this size that contains an address."""
        size = 1 << (32 - prefix)
        return cls(int(address) // size * size, prefix)


@dataclass(frozen=True, slots=True)
class BlockOwner:
    """A gateway instance, and the fence of the lease term that took the block."""

    gateway_id: str
    fence: int


@dataclass(frozen=True, slots=True)
class BlockMap:
    """Every block that has an owner. ``version`` rises with each change of the map."""

    version: int
    owners: Mapping[Block, BlockOwner]


def prefix_within(network: IPv4Network, wished: int) -> int:
    """The prefix length of a network's blocks: as configured, or longer for a small network."""
    return max(network.prefixlen, min(PREFIX_MAX, max(wished, network.prefixlen + _CUT_BITS)))


def first_free(network: IPv4Network, prefix: int, taken: Iterable[Block]) -> Block | None:
    """The lowest block of a network that overlaps no taken block."""
    whole, size = Block.of(network), 1 << (32 - prefix)
    place = whole.first
    for other in sorted(taken):
        if other.last < place:
            continue
        if other.first >= place + size:
            break
        place = (other.last // size + 1) * size
    return Block(place, prefix) if place + size - 1 <= whole.last else None
