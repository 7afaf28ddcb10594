"""Pools of a gateway instance: device addresses and TEIDs.

Rules: nothing is allocated twice. A released address or TEID stays in quarantine before it is allocated
again, so that a late packet for the old holder never reaches the new one. TEIDs are unpredictable and never
0. Memory grows with the number allocated or in quarantine, not with the size of the network. (Queues are
``OrderedDict``: finding the first key of a ``dict`` slows down with each key removed before it.)
"""

from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from heapq import heappop, heappush
from ipaddress import IPv4Address, IPv4Network, IPv6Network

TEID_DRAWS_MAX = 64
"""A draw meets a TEID in use with probability below 2**-12 even at a million sessions."""
NEVER_ALLOCATED = 3
"""Addresses of each block: its network, first host and broadcast address."""


class PoolExhausted(Exception):
    """All addresses or TEIDs are allocated or in quarantine."""


@dataclass(slots=True)
class _Block:
    """A block of a pool. ``following`` to ``last`` were never allocated, ``free`` are those whose
    quarantine has ended; ``unused`` counts addresses neither allocated nor in quarantine. A block that is not
    ``allocating`` keeps its allocated addresses.
    """

    network: IPv4Network
    first: int
    following: int
    last: int
    unused: int
    allocating: bool
    is_open: bool = False
    free: OrderedDict[int, None] = field(default_factory=OrderedDict)

    @property
    def is_allocated_from(self) -> bool:
        """Whether its unused addresses can be allocated now."""
        return self.is_open and self.allocating

    @property
    def is_empty(self) -> bool:
        """Whether none of its addresses is allocated or in quarantine."""
        return self.unused == self.network.num_addresses - NEVER_ALLOCATED


class AddressPool:
    """The IPv4 addresses of some blocks that do not overlap, without those ``NEVER_ALLOCATED``.

    Addresses of one block are allocated in order, then in the order in which quarantines end, until it is
    exhausted: so the other blocks become empty.
    """

    def __init__(self, *, quarantine_s: float) -> None:
        self._quarantine_s = quarantine_s
        self._blocks: dict[int, _Block] = {}
        self._masks: Counter[int] = Counter()
        self._waiting: list[tuple[float, int]] = []
        self._usable: dict[int, _Block] = {}
        self._unused = 0
        self._allocated: set[int] = set()
        self._quarantined: OrderedDict[int, tuple[float, str]] = OrderedDict()

    @property
    def allocated(self) -> int:
        """How many are allocated."""
        return len(self._allocated)

    @property
    def blocks(self) -> frozenset[IPv4Network]:
        """The blocks that it allocates from."""
        return frozenset(block.network for block in self._blocks.values())

    def unused(self, now: float) -> int:
        """How many addresses can be allocated now."""
        self._wake(now)
        return self._unused

    def empty_blocks(self, now: float) -> list[IPv4Network]:
        """Blocks without an address that is allocated, in quarantine or held back."""
        self._wake(now)
        return [block.network for block in self._blocks.values() if block.is_open and block.is_empty]

    def add(self, network: IPv4Network, opens: float, *, allocating: bool = True) -> None:
        """Allocate from this block too, from the time ``opens`` on; until then its addresses can only be
        claimed.

        If it is not ``allocating``, they can only ever be claimed.
        """
        first = int(network.network_address)
        if first not in self._blocks:
            count = network.num_addresses
            unused, last = count - NEVER_ALLOCATED, first + count - 2
            self._blocks[first] = _Block(network, first, first + 2, last, unused, allocating)
            self._masks[int(network.netmask)] += 1
            heappush(self._waiting, (opens, first))

    def remove(self, network: IPv4Network) -> None:
        """Stop allocating from a block that is open and empty."""
        first = int(network.network_address)
        block = self._blocks.pop(first)
        self._masks -= Counter([int(network.netmask)])
        self._usable.pop(first, None)
        self._unused -= block.unused if block.is_allocated_from else 0

    def allocate(self, now: float) -> IPv4Address:
        """Allocate a free address; raises ``PoolExhausted``."""
        self._wake(now)
        if not self._usable:
            raise PoolExhausted("all addresses are allocated")
        block = self._usable[next(iter(self._usable))]
        number = self._next_of(block)
        self._use(block)
        self._allocated.add(number)
        return IPv4Address(number)

    def claim(self, address: IPv4Address, *, holder: str) -> bool:
        """Allocate this address to ``holder``; false when it is not free.

        An address in quarantine is allocated only to the holder that it was released for.
        """
        quarantined = self._quarantined.get(int(address))
        return (quarantined is None or quarantined[1] == holder) and self.reclaim(address)

    def reclaim(self, address: IPv4Address) -> bool:
        """Mark an open session's address as allocated, even one in quarantine; false when another session
        has it, or no block contains it.
        """
        number = int(address)
        block = self._block_of(number)
        if block is None or number in self._allocated or not block.first + 2 <= number <= block.last:
            return False
        if self._quarantined.pop(number, None) is None:
            block.free.pop(number, None)
            self._use(block)
        self._allocated.add(number)
        return True

    def release(self, address: IPv4Address, now: float, *, holder: str = "") -> None:
        """Release it into quarantine; meanwhile only ``holder`` may claim it. Idempotent."""
        if (number := int(address)) in self._allocated:
            self._allocated.remove(number)
            self._quarantined[number] = (now + self._quarantine_s, holder)

    def quarantine(self, address: IPv4Address, now: float) -> None:
        """Start a full quarantine, unless it is allocated: then it stays so."""
        if self.reclaim(address):
            self.release(address, now)

    def _use(self, block: _Block) -> None:
        block.unused -= 1
        if block.is_allocated_from:
            self._unused -= 1
            if not block.unused:
                del self._usable[block.first]

    def _next_of(self, block: _Block) -> int:
        while block.following <= block.last:
            number = block.following
            block.following += 1
            if not (number in self._allocated or number in self._quarantined or number in block.free):
                return number
        return block.free.popitem(last=False)[0]

    def _wake(self, now: float) -> None:
        """Open blocks that are due, and free addresses whose quarantine has ended."""
        while self._waiting and self._waiting[0][0] <= now:
            first = heappop(self._waiting)[1]
            if (opened := self._blocks.get(first)) is not None and not opened.is_open:
                opened.is_open = True
                if opened.allocating and opened.unused:
                    self._unused += opened.unused
                    self._usable[first] = opened
        while self._quarantined:
            number, (until, _) = next(iter(self._quarantined.items()))
            if until > now:
                return
            del self._quarantined[number]
            block = self._block_of(number)
            assert block is not None, "a block is returned only when none of its addresses is in quarantine"
            block.unused += 1
            block.free[number] = None
            if block.is_allocated_from:
                self._unused += 1
                self._usable.setdefault(block.first, block)

    def _block_of(self, number: int) -> _Block | None:
        for mask in self._masks:
            block = self._blocks.get(number & mask)
            if block is not None and number <= block.last + 1:
                return block
        return None


@dataclass(frozen=True, slots=True)
class UePrefixes:
    """The /64 of each device address: in each pair of pools the n-th /64 belongs to the n-th address.

    So a session has one number, and the state of its IPv4 address (allocated, in quarantine, static, routed
    to its gateway by block) is also that of its prefix.
    """

    pools: tuple[tuple[IPv4Network, IPv6Network], ...] = ()

    def of(self, address: IPv4Address) -> IPv6Network | None:
        """The /64 of an address; ``None`` where IPv6 is not offered."""
        return self.around(IPv4Network(address))

    def around(self, block: IPv4Network) -> IPv6Network | None:
        """The /64s of a whole block, as one network."""
        for pool, prefixes in self.pools:
            if block.subnet_of(pool):
                number = int(block.network_address) - int(pool.network_address)
                return IPv6Network((int(prefixes.network_address) + (number << 64), block.prefixlen + 32))
        return None


NO_PREFIXES = UePrefixes()
"""IPv6 is not offered."""


class TeidPool:
    """32-bit tunnel endpoint identifiers (TS 29.281 §5.1), drawn from a CSPRNG."""

    def __init__(self, random_bytes: Callable[[int], bytes], *, quarantine_s: float) -> None:
        self._random_bytes = random_bytes
        self._quarantine_s = quarantine_s
        self._allocated: set[int] = set()
        self._quarantined: OrderedDict[int, float] = OrderedDict()

    @property
    def allocated(self) -> int:
        """How many are allocated."""
        return len(self._allocated)

    def allocate(self, now: float) -> int:
        """Allocate a TEID that is neither in use nor in quarantine; raises ``PoolExhausted``."""
        while self._quarantined and (oldest := next(iter(self._quarantined.items())))[1] <= now:
            del self._quarantined[oldest[0]]
        for _ in range(TEID_DRAWS_MAX):
            teid = int.from_bytes(self._random_bytes(4), "big")
            if teid and teid not in self._allocated and teid not in self._quarantined:
                self._allocated.add(teid)
                return teid
        raise PoolExhausted("no free TEID found")

    def reclaim(self, teid: int) -> None:
        """Mark an open session's TEID as allocated, even one in quarantine."""
        self._quarantined.pop(teid, None)
        self._allocated.add(teid)

    def release(self, teid: int, now: float) -> None:
        """Release it into quarantine. Idempotent."""
        if teid in self._allocated:
            self._allocated.remove(teid)
            self._quarantined[teid] = now + self._quarantine_s

    def quarantine(self, teid: int, now: float) -> None:
        """Start a full quarantine, unless it is allocated: then it stays so."""
        if teid not in self._allocated:
            self._quarantined.pop(teid, None)
            self._quarantined[teid] = now + self._quarantine_s
