"""Whose a lease is, when this node may take it, and when it is its turn.

Rules:

- A node takes its preferred leases when it starts, and any lease whose holder is gone. A holder is gone when
  it said so (released), when its host says so (``Peers.is_dead``), or when its lease stood unchanged for
  ``GONE_AFTER_S`` of this node's own clock. A clock of another node decides nothing.
- A node knows its own earlier life by its name and its data folder. A lease of its name and another folder
  that is renewed is of another living node: one of the two must not be.
- A node requests a preferred lease that another one holds, and is handed it: one at a time, for while a
  gateway is read back no node answers for it.
- A node that holds more waits a little longer before it takes a free lease, so that many nodes share what a
  lost one held; and the more nodes there are, the more seldom each reads a lease, so that all of them
  together read it as often as one.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar
from zlib import crc32

from core.errors import ConfigurationError, StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.peers import Peers
from core.ports.store import Leases
from core.services.cluster.lease_slot import L, LeaseSlot, W
from core.services.cluster.lease_states import LeaseEvent, LeaseState
from core.services.gateway.lease_term import LEASE_S, RENEW_S, take_lease
from core.services.running.faults import Faults

LOOP = "lease"
GONE_AFTER_S = LEASE_S + 2.0
"""Longer than a term lasts without a renewal, by more than a write is under way when it begins."""
LOOK_S = 0.25
"""How often all nodes together read a lease; each of them, when it may soon be free."""
LOOK_S_MAX = 10.0
"""Of one node among many: below ``GONE_AFTER_S``, so that a standstill is noticed before it lasted enough."""
STILL_S = 3 * RENEW_S
"""A lease that stood so long may soon be free."""
RELEASED_S = 1.0
"""A released lease waits so long for its preferred node."""
RETRY_S = 1.0
RENEWED_WITHIN_S = 3.0
"""A living holder renews its lease within so long, unless its store is slow."""
TURN_S, TURN_S_MAX = 0.03, 0.5
"""Nodes that could take a free lease take turns, so far apart at the mean; within so long at most."""
SURPLUS_S, SURPLUS_S_MAX = 0.6, 3.0
"""For each lease that this node holds more than the others at the mean, it waits so much longer: more than
their turns are apart, for a node reads back one gateway after the other."""

R = TypeVar("R")
_AT_REST = (LeaseState.SEEKING, LeaseState.SERVING)


async def patiently(ask: Callable[[], Awaitable[R]]) -> R:
    """Ask until the store answers."""
    while True:
        try:
            return await ask()
        except Unavailable:
            await asyncio.sleep(RETRY_S)


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """This node, as its leases name it (``Lease``)."""

    name: str
    contact: str
    folder_id: str


@dataclass(slots=True)
class _Seen:
    """A lease as it stood since ``since``, and since when it may be taken, if it may."""

    version: int = -1
    since: float = 0.0
    free_since: float | None = None


class LeaseSeeker(Generic[L, W]):
    """Seeks for the ``slots`` of one node. ``kind`` makes a lease that no node held before; ``flush_left`` is
    awaited when another node turns out to hold one.
    """

    def __init__(
        self,
        *,
        leases: Leases[L],
        kind: type[L],
        peers: Peers,
        clock: Clock,
        node: LeaseHolder,
        slots: Mapping[str, LeaseSlot[L, W]],
        preferred: Collection[str],
        flush_left: Callable[[str], Awaitable[None]],
        faults: Faults,
    ) -> None:
        self._leases = leases
        self._kind = kind
        self._peers = peers
        self._clock = clock
        self._node = node
        self._slots = slots
        self._preferred = frozenset(preferred)
        self._flush_left = flush_left
        self._faults = faults
        self._held_by: Counter[str] = Counter()
        self.is_draining = False
        """Nothing is taken any more."""

    async def seek(self, slot: LeaseSlot[L, W]) -> L | None:
        """Wait until the lease may be taken and it is this node's turn, and take it; the lease as it was."""
        seen, is_flushed = _Seen(), False
        while True:
            slot.look_now.clear()
            try:
                lease = await self._leases.get(slot.lease_id)
                self.note(slot, lease)
                if not is_flushed and lease is not None and not self._is_own(lease):
                    await self._flush_left(slot.lease_id)
                    is_flushed = True
                if not self.is_draining and await self._may_take(slot, lease, seen):
                    await self._take(slot, lease)
                    self._faults.goes_on(LOOP, slot.lease_id)
                    return lease
                self._faults.goes_on(LOOP, slot.lease_id)
            except StaleVersion:
                pass  # another node was faster
            except Unavailable as error:
                self._faults.stands(LOOP, error, slot.lease_id)
            if not slot.look_now.is_set():
                slot.step(LeaseEvent.NOT_YET)
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s(slot, seen)):
                    await slot.look_now.wait()

    async def take_first(self, slot: LeaseSlot[L, W]) -> L | None:
        """At the node's start: take a preferred lease, free or of an earlier life; the lease as it was.
        What cannot be taken is sought later. Raises ``ConfigurationError``.
        """
        get = partial(self._leases.get, slot.lease_id)
        lease = await patiently(get)
        await self._demand_name(slot.lease_id, lease)
        if lease is not None and not lease.is_released and not self._is_own(lease):
            return lease
        try:
            await self._take(slot, lease)
        except StaleVersion:
            await self._demand_name(slot.lease_id, await patiently(get))
        except Unavailable:
            pass
        if slot.term is None:
            slot.step(LeaseEvent.NOT_YET)
        return lease

    def note(self, slot: LeaseSlot[L, W], lease: L | None) -> None:
        """Who holds it, by the lease."""
        is_held = lease is not None and not lease.is_released
        self._held_by[slot.holder] -= 1
        slot.holder, slot.contact = (lease.owner, lease.contact) if lease and is_held else ("", "")
        self._held_by[slot.holder] += 1

    async def meet_others(self) -> None:
        """Watch the holders of what is not held here; a ready node takes over at once from one that died."""
        sought = [lease_id for lease_id, slot in self._slots.items() if slot.term is None]
        with suppress(Unavailable):  # then they are met when their leases are read
            leases = await asyncio.gather(*map(self._leases.get, sought))
            contacts = {lease.contact for lease in leases if lease is not None and not lease.is_released}
            for contact in contacts - {"", self._node.contact}:
                self._peers.watch(contact)
            await asyncio.gather(*map(self._peers.watches, contacts))

    async def watch_holders(self) -> None:
        """Look at once at what a node held whose host says that it is gone; until cancelled."""
        while True:
            await asyncio.sleep(LOOK_S)
            sought = [slot for slot in self._slots.values() if slot.term is None and slot.contact]
            contacts = list(dict.fromkeys(slot.contact for slot in sought))
            signs = await asyncio.gather(*(self._peers.is_dead(contact) for contact in contacts))
            dead = {contact for contact, is_dead in zip(contacts, signs, strict=True) if is_dead}
            for slot in sought:
                if slot.contact in dead:
                    slot.look_now.set()

    # -- may it be taken ------------------------------------------------------------------------------

    async def _may_take(self, slot: LeaseSlot[L, W], lease: L | None, seen: _Seen) -> bool:
        now = self._clock.monotonic()
        version = lease.version if lease else 0
        if version != seen.version:
            if lease is not None and self._is_twin(lease) and seen.version >= 0:
                raise self._two_of_one_name(lease)
            seen.version, seen.since = version, now
        if not await self._is_free(slot, lease, now - seen.since):
            seen.free_since = None
            return False
        if seen.free_since is None:
            seen.free_since = now
        return not self.is_draining and now - seen.free_since >= self._turn_s(slot)

    async def _is_free(self, slot: LeaseSlot[L, W], lease: L | None, stood_s: float) -> bool:
        is_preferred = slot.lease_id in self._preferred
        if lease is None or lease.is_released:
            return is_preferred or stood_s > RELEASED_S
        if self._is_own(lease) or stood_s > GONE_AFTER_S:
            return True
        if self._is_twin(lease):
            return False
        self._peers.watch(lease.contact)
        if await self._peers.is_dead(lease.contact):
            return True
        is_at_rest = not self.is_draining and all(each.state in _AT_REST for each in self._slots.values())
        if is_preferred and is_at_rest:
            slot.step(LeaseEvent.CLAIMED)
            await self._peers.hand_over(lease.contact, slot.lease_id)
            slot.look_now.set()
        return False

    def _turn_s(self, slot: LeaseSlot[L, W]) -> float:
        """How long this node lets others go before it takes a free lease; none where there are none."""
        others = [held for holder, held in self._others().items() if holder != slot.holder]
        if not others or slot.lease_id in self._preferred:
            return 0.0
        mine = sum(each.state is not LeaseState.SEEKING for each in self._slots.values())
        surplus_s = SURPLUS_S * max(0.0, mine - sum(others) / len(others))
        return min(surplus_s, SURPLUS_S_MAX) + self._lot(slot) * min(TURN_S * len(others), TURN_S_MAX)

    def _rest_s(self, slot: LeaseSlot[L, W], seen: _Seen) -> float:
        now = self._clock.monotonic()
        if seen.free_since is not None:
            left_s = seen.free_since + self._turn_s(slot) - now
            return min(LOOK_S, left_s) if left_s > 0 else LOOK_S
        if slot.lease_id in self._preferred or not slot.contact or now - seen.since > STILL_S:
            return LOOK_S
        return min(LOOK_S * len(self._others()), LOOK_S_MAX) * (0.5 + self._lot(slot) / 2)

    def _lot(self, slot: LeaseSlot[L, W]) -> float:
        """In [0, 1): of this node for this lease, always the same and unlike those of others."""
        return crc32(f"{self._node.name} {slot.lease_id}".encode()) / 2**32

    def _others(self) -> dict[str, int]:
        """How many leases each other node holds, of those seen here."""
        own = (self._node.name, "")
        return {holder: held for holder, held in self._held_by.items() if held > 0 and holder not in own}

    async def _take(self, slot: LeaseSlot[L, W], before: L | None) -> None:
        """Write the lease and begin the term; raises ``StaleVersion``, ``Unavailable``."""
        slot.step(LeaseEvent.CLAIMED)
        now, node = self._clock.now(), self._node
        lease = before or self._kind(slot.lease_id, "", 0, now)
        wanted = lease.taken(node.name, node.contact, node.folder_id, now)
        slot.term = await take_lease(self._leases, self._clock, wanted)
        slot.step(LeaseEvent.TAKEN)

    # -- whose is it ----------------------------------------------------------------------------------

    def _is_own(self, lease: L) -> bool:
        """Of this node, or of an earlier life of it."""
        return lease.is_of(self._node.name, self._node.folder_id)

    def _is_twin(self, lease: L) -> bool:
        """Of a node of the same name that is another one."""
        return lease.owner == self._node.name and not self._is_own(lease) and not lease.is_released

    async def _demand_name(self, lease_id: str, lease: L | None) -> None:
        """Raises ``ConfigurationError`` when the lease is of another living node of this one's name."""
        if lease is None or lease.owner != self._node.name or lease.is_released:
            return
        is_elsewhere = lease.contact not in ("", self._node.contact)
        if is_elsewhere and await self._peers.name_at(lease.contact) == self._node.name:
            raise self._two_of_one_name(lease)
        for _ in range(round(RENEWED_WITHIN_S / LOOK_S) if self._is_twin(lease) else 0):
            await asyncio.sleep(LOOK_S)
            now = await patiently(partial(self._leases.get, lease_id))
            if now is not None and self._is_twin(now) and now.version != lease.version:
                raise self._two_of_one_name(lease)

    def _two_of_one_name(self, lease: L) -> ConfigurationError:
        where = f"is at {lease.contact}" if lease.contact else f"holds {lease.lease_id}"
        return ConfigurationError(
            f"node.name: another node named {self._node.name} {where}; give each its own name"
        )
