"""The address blocks that one gateway instance allocates from, pool by pool.

Rules:

- What was read of the map of blocks counts only once this gateway has changed the map from just that state:
  whatever a holder before, or this node itself, still had under way can then never take effect.
- Of the blocks that were there before a lease term, the open sessions keep their addresses; the rest is held
  back until no reservation of the holder before and no write of its can come. Where neither can ever come
  (``held_back_s`` is 0) a lease term allocates from them at once; else it allocates from blocks that it took
  itself.
- The first block that a lease term takes beside held ones is small, and each next one twice as large up to
  the size configured: a node that starts again and again uses up little of the pool each time.
- A block is of one pool: what is allocated under an access point with a pool of its own is of no other. A
  block that is in none any more, for the configuration changed, keeps its open sessions and is allocated from
  no more.
- The next block is taken before the last one is used up, so that an attach waits for no store; a block that
  is empty and not needed is given back, some time later.
"""

import asyncio
from collections.abc import Callable, Collection, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

from core.domain.address_blocks import PREFIX_MAX, Block, BlockMap, BlockOwner, first_free, prefix_within
from core.domain.pools import NEVER_ALLOCATED, AddressPool
from core.errors import StaleVersion, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.store import BLOCKS_CHANGED_MAX, Blocks
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.running.faults import Faults

LOOP = "address-blocks"
LOOK_S = 1.0
"""How often the pool is looked at while nothing is allocated."""
GIVE_BACK_S = 60.0
EXHAUSTED_S = 10.0
"""How long a gateway that found no free block waits until it looks again."""
SMALLER_BITS = 3
"""The first block beside held ones is an eighth of an ordinary one, but never below ``PREFIX_MAX``."""
CHANGE_TRIES_MAX = 64
"""How often the map is read again because another gateway changed it meanwhile."""
TURN_S = 0.05
"""A gateway waits at most so long for its next try, that not all come at once."""


class AddressBlocks:
    """Keeps ``pool`` in blocks of ``network``, none of them in ``apart``.

    ``apn_pools`` are the networks that access points have of their own. If ``network`` is one, it is theirs
    alone; else it is what all others allocate from, and whatever else is found to be the gateway's is kept
    here.

    ``route`` and ``unroute`` are called for each block that comes and goes. ``held_back_s`` is how long an
    address that the holder before may have allocated is not allocated: 0 when all of these are known.
    """

    def __init__(
        self,
        *,
        blocks: Blocks,
        pool: AddressPool,
        gateway: GatewayInstance,
        clock: Clock,
        entropy: Entropy,
        network: IPv4Network,
        apart: Collection[IPv4Network],
        apn_pools: Collection[IPv4Network] = (),
        prefix: int,
        held_back_s: float,
        route: Callable[[IPv4Network], None],
        unroute: Callable[[IPv4Network], None],
        faults: Faults,
    ) -> None:
        self._faults = faults
        self._blocks = blocks
        self._pool = pool
        self._gateway = gateway
        self._clock = clock
        self._entropy = entropy
        self._network = network
        self._whole = Block.of(network)
        self._apart = [Block.of(each) for each in apart]
        self._others = {Block.of(each) for each in apn_pools} - {Block.of(network)}
        of = network if network in apn_pools else None
        self._is_common = of is None
        self._prefix = prefix_within(network, prefix)
        self._held_back_s = held_back_s
        self._route = route
        self._unroute = unroute
        self._owner = BlockOwner(gateway.gateway_id, gateway.epoch)
        self._next_prefix = self._prefix
        self._ahead = _half_of(self._prefix)
        self._is_unsure = False
        self._may_take_at = self._give_back_at = 0.0
        self._was_allocated = asyncio.Event()
        self._come = asyncio.Event()
        gateway.on_allocation(self._handle_allocation, of)
        gateway.on_need(self._more, of)

    @property
    def allocated_from(self) -> frozenset[IPv4Network]:
        """The blocks that are ours."""
        return self._pool.blocks

    async def start(self, in_use: Collection[IPv4Address]) -> Collection[IPv4Address]:
        """Take up the blocks that are ours, and one that no gateway allocated from lately. Raises
        ``Unavailable``.

        An address ``in_use`` that is in no block is older than blocks are: its block is taken with it. Those
        are returned that another gateway may allocate.
        """
        within = [address for address in in_use if address in self._network]
        while True:
            seen = await self._read()
            own = self._own_in(seen)
            around = {Block.around(each, self._prefix) for each in _outside(own, within)}
            older = [block for block in around if not any(_overlap(block, other) for other in seen.owners)]
            before = {block for block in own if seen.owners[block].fence != self._owner.fence}
            held = before if self._held_back_s else set()
            if held:
                self._next_prefix = min(max(self._prefix, PREFIX_MAX), self._prefix + SMALLER_BITS)
            taken = older[: BLOCKS_CHANGED_MAX - 1]
            fresh = None if own - held else self._free_in(seen, taken)
            is_changed = await self._change(seen, (*taken, fresh) if fresh else taken, held={*held, *taken})
            if is_changed and len(taken) == len(older):
                break
        if fresh:
            self._handle_taken()
        self._give_back_at = self._clock.monotonic() + GIVE_BACK_S
        return _outside({Block.of(network) for network in self._pool.blocks}, within)

    async def run(self) -> None:
        """Take blocks ahead of need and give back what is not needed, until cancelled."""
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._was_allocated.wait()
            self._was_allocated.clear()
            was_unsure = self._is_unsure
            try:
                await self._keep()
            except Unavailable as error:
                self._is_unsure = True
                self._faults.stands(LOOP, error, self._gateway.gateway_id)
                await asyncio.sleep(LOOK_S)
            except Exception:
                self._is_unsure = True  # what was on its way is found when this is run again
                raise
            else:
                if was_unsure:
                    self._faults.goes_on(LOOP, self._gateway.gateway_id)

    async def _keep(self) -> None:
        """What is given back leaves the pool before it is written; if it was not, it is found to be ours."""
        now = self._clock.monotonic()
        spare = self._spare(now)
        for block in spare:
            self._pool.remove(block.network)
        for _ in range(CHANGE_TRIES_MAX):
            is_low = self._is_low(now)
            if not (is_low or spare or self._is_unsure):
                return
            seen = await self._read()
            fresh = self._free_in(seen) if is_low else None
            if is_low and fresh is None:
                self._may_take_at = now + EXHAUSTED_S
                self._wake_waiting()
            if not (fresh or spare or self._is_unsure):
                return
            if await self._change(seen, [fresh] if fresh else [], given_back=spare):
                if fresh:
                    self._handle_taken()
                return
        raise Unavailable("concurrent updates of the block map; try again")

    def _handle_taken(self) -> None:
        """The next one is taken when half of this one is allocated, and twice as large."""
        self._ahead = _half_of(self._next_prefix)
        self._next_prefix = max(self._prefix, self._next_prefix - 1)

    async def _read(self) -> BlockMap:
        self._gateway.demand_held()
        return await self._blocks.read()

    async def _change(
        self,
        seen: BlockMap,
        taken: Collection[Block],
        *,
        given_back: Collection[Block] = (),
        held: Collection[Block] = (),
    ) -> bool:
        """Change the map from what was seen, and allocate from what is then ours; false when it was
        another.
        """
        self._gateway.demand_held()
        given_back = self._own_in(seen).intersection(given_back)
        try:
            await self._blocks.change(seen, self._owner, taken=taken, given_back=given_back)
        except StaleVersion:
            await asyncio.sleep(self._entropy.random_bytes(1)[0] / 255 * TURN_S)
            return False
        now, pooled = self._clock.monotonic(), self._pool.blocks
        for block in {*self._own_in(seen), *taken} - given_back:
            if (network := block.network) not in pooled:
                opens, allocating = now + self._held_back_s if block in held else now, self._is_within(block)
                self._pool.add(network, opens, allocating=allocating)
                self._route(network)
        self._wake_waiting()
        for block in given_back:
            self._unroute(block.network)
        self._is_unsure = False
        return True

    # -- small parts ----------------------------------------------------------------------------------

    def _more(self) -> asyncio.Event | None:
        """Set when another block is there; ``None``: there was none to be had lately."""
        return self._come if self._clock.monotonic() >= self._may_take_at else None

    def _wake_waiting(self) -> None:
        """Blocks came, or will not: those that wait look again."""
        self._come.set()
        self._come = asyncio.Event()

    def _handle_allocation(self, now: float) -> None:
        if self._is_low(now):
            self._was_allocated.set()

    def _is_low(self, now: float) -> bool:
        return now >= self._may_take_at and self._pool.unused(now) < self._ahead

    def _spare(self, now: float) -> list[Block]:
        """Empty blocks without which enough is left, or that are not allocated from, on a slow schedule."""
        if now < self._give_back_at:
            return []
        self._give_back_at = now + GIVE_BACK_S
        left, spare = self._pool.unused(now), []
        for network in self._pool.empty_blocks(now)[:BLOCKS_CHANGED_MAX]:
            block = Block.of(network)
            if self._is_within(block):
                if left - (network.num_addresses - NEVER_ALLOCATED) < 2 * self._ahead - 1:
                    continue
                left -= network.num_addresses - NEVER_ALLOCATED
            spare.append(block)
        return spare

    def _own_in(self, seen: BlockMap) -> set[Block]:
        own = self._owner.gateway_id
        blocks = (block for block, owner in seen.owners.items() if owner.gateway_id == own)
        return {block for block in blocks if self._is_within(block) or self._is_kept(block)}

    def _is_within(self, block: Block) -> bool:
        return _holds(self._whole, block)

    def _is_kept(self, block: Block) -> bool:
        """Whether it is of no pool: one of them must keep it."""
        return self._is_common and not any(_holds(other, block) for other in self._others)

    def _free_in(self, seen: BlockMap, taken: Collection[Block] = ()) -> Block | None:
        return first_free(self._network, self._next_prefix, (*seen.owners, *self._apart, *taken))


def _half_of(prefix: int) -> int:
    """More than half of what may be allocated of such a block."""
    return max(1, (1 << (32 - prefix)) - NEVER_ALLOCATED) // 2 + 1


async def start_all(
    pools: Sequence[AddressBlocks], in_use: Collection[IPv4Address]
) -> Collection[IPv4Address]:
    """``start`` each; those are returned that are in a block of none. Raises ``Unavailable``."""
    lost = [address for each in pools for address in await each.start(in_use)]
    return _outside({Block.of(network) for each in pools for network in each.allocated_from}, lost)


def _outside(blocks: Collection[Block], addresses: Collection[IPv4Address]) -> list[IPv4Address]:
    starts: dict[int, set[int]] = {}
    for block in blocks:
        cut = 32 - block.prefix
        starts.setdefault(cut, set()).add(block.first >> cut)
    outside = list(addresses)
    for cut, within in starts.items():
        outside = [address for address in outside if int(address) >> cut not in within]
    return outside


def _holds(whole: Block, part: Block) -> bool:
    return whole.first <= part.first and part.last <= whole.last


def _overlap(one: Block, other: Block) -> bool:
    return one.first <= other.last and other.first <= one.last
