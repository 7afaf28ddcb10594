"""Which virtual gateways this node holds: taking, keeping, handing over and taking over.

Rules:

- A node takes its home gateways when it starts, and any gateway whose holder is gone. A holder is gone when
  it said so (released), when its host says so (``Peers.is_dead``), or when its lease stood unchanged for
  ``GONE_AFTER_S`` of this node's own clock. A clock of another node decides nothing.
- A node knows its own earlier life by its name and its data folder. A lease of its name and another folder
  that is renewed is of another living node: one of the two must not be.
- A node asks for a home gateway that another one holds, and is handed it.
- A gateway's work begins with its tenure and ends with it; what ends one gateway leaves the others alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Generic, Protocol, TypeVar

from core.domain.gateway import GatewayLease
from core.errors import ConfigurationError, LeaseLost, StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.peers import Peers
from core.ports.store import Leases
from core.services.gateway import LEASE_S, Tenure, take_lease

GONE_AFTER_S = LEASE_S + 2.0
"""Longer than a tenure lasts without a renewal, by more than a write is under way when it begins."""
LOOK_S = 0.25
"""How often the lease of a gateway that another node holds is read."""
RELEASED_S = 1.0
"""A released gateway waits so long for its home node."""
RETRY_S = 1.0
RENEWED_WITHIN_S = 3.0
"""A living holder renews its lease within so long, unless its store is slow."""


class Seat(Protocol):
    """What works for one virtual gateway during one tenure."""

    async def start(self) -> int:
        """Read the sessions back, then open the sockets; how many. Raises ``Unavailable``,
        ``ConfigurationError``.
        """
        ...

    async def run(self) -> None:
        """Work until cancelled."""
        ...

    def fence(self) -> None:
        """Answer and forward nothing any more, at once. Idempotent."""
        ...

    async def settle(self) -> None:
        """After ``fence``: make durable what was counted. Raises ``Unavailable``."""
        ...

    async def aclose(self) -> None:
        """Let go of everything; idempotent."""
        ...


S = TypeVar("S", bound=Seat)
R = TypeVar("R")


@dataclass(slots=True)
class _Seen:
    """A lease as it stood since ``since``."""

    version: int
    since: float


@dataclass(slots=True)
class _Place(Generic[S]):
    """A gateway and, while this node holds it, who works for it."""

    gateway_id: str
    tenure: Tenure | None = None
    seat: S | None = None
    wanted_back: asyncio.Event = field(default_factory=asyncio.Event)


class _HandedOver(Exception):
    """The tenure ends in order."""


class Holdings(Generic[S]):
    """The virtual gateways of one node.

    ``make(tenure, before)`` makes what works for a gateway; ``before`` is the lease as it was.
    ``settle_left`` is awaited when another node turns out to hold a gateway: what was counted here for it is
    made durable.
    ``tell`` is called with a line for the operator when a gateway comes or goes.
    """

    def __init__(
        self,
        *,
        leases: Leases,
        peers: Peers,
        clock: Clock,
        owner: str,
        contact: str,
        folder_id: str,
        gateways: Sequence[str],
        home: Collection[str],
        make: Callable[[Tenure, GatewayLease | None], S],
        settle_left: Callable[[str], Awaitable[None]],
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._leases = leases
        self._peers = peers
        self._clock = clock
        self._owner = owner
        self._contact = contact
        self._folder_id = folder_id
        self._home = frozenset(home)
        self._make = make
        self._settle_left = settle_left
        self._tell = tell
        self._places = {gateway_id: _Place[S](gateway_id) for gateway_id in gateways}
        self.is_draining = False
        """Nothing is taken any more."""
        self.held: dict[str, S] = {}
        """Who works now, by gateway id."""

    async def start(self) -> int:
        """Take the home gateways that are free and begin their work; how many sessions were read back.

        Raises ``ConfigurationError``, also when another living node has this one's name.
        """
        recovered = 0
        for gateway_id in sorted(self._home):
            place = self._places[gateway_id]
            lease = await self._patiently(partial(self._leases.get, gateway_id))
            await self._demand_name(gateway_id, lease)
            if lease is None or lease.is_released or self._is_own(lease):
                try:
                    place.tenure = await self._take(gateway_id, lease)
                except StaleVersion:
                    taken = await self._patiently(partial(self._leases.get, gateway_id))
                    await self._demand_name(gateway_id, taken)
                except Unavailable:
                    pass  # sought again when it runs
            if place.tenure is not None:
                recovered += await self._begin(place, place.tenure, lease)
        return recovered

    async def run(self) -> None:
        """Hold and seek, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for place in self._places.values():
                tasks.create_task(self._hold_for_ever(place))

    async def hand_over(self, gateway_id: str) -> None:
        """End a tenure in order, so that another node may begin its own; nothing when it is not held."""
        place = self._places.get(gateway_id)
        if place is not None and place.tenure is not None:
            place.wanted_back.set()
            while place.tenure is not None:  # noqa: ASYNC110 - the end of a tenure has many reasons
                await asyncio.sleep(0.01)

    async def drain(self) -> None:
        """Hand over everything and take nothing any more."""
        self.is_draining = True
        for gateway_id in self._places:
            await self.hand_over(gateway_id)

    async def aclose(self) -> None:
        """Let go without a word to the others: the tenures end by themselves."""
        for place in self._places.values():
            if place.seat is not None:
                await self._leave(place)

    # -- one gateway ----------------------------------------------------------------------------------

    async def _hold_for_ever(self, place: _Place[S]) -> None:
        while True:
            before: GatewayLease | None = None
            if place.tenure is None:
                place.tenure, before = await self._seek(place.gateway_id)
            try:
                await self._hold(place, place.tenure, before)
            finally:
                if place.seat is not None:
                    await self._leave(place)
                place.tenure = None
                place.wanted_back.clear()

    async def _hold(self, place: _Place[S], tenure: Tenure, before: GatewayLease | None) -> None:
        """One tenure, to its end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep(place, tenure))
                if place.seat is None:
                    self._tell(f"{place.gateway_id}: the lease is taken")
                    count = await self._begin_later(place, tenure, before)
                    self._tell(f"{place.gateway_id}: taken over, {count} sessions")
                assert place.seat is not None, "it has just begun"
                tasks.create_task(place.seat.run())
                await self._end_when_asked(place, place.seat)
        except* LeaseLost as lost:
            self._tell(str(lost.exceptions[0]))
        except* _HandedOver:
            with suppress(
                Unavailable, LeaseLost
            ):  # else it is found gone when the lease has stood long enough
                await tenure.release()
            self._tell(f"{place.gateway_id}: handed over")
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # a TaskGroup forgets it beside an error of its own (3.11)

    async def _keep(self, place: _Place[S], tenure: Tenure) -> None:
        try:
            await tenure.keep()
        except LeaseLost:
            if place.seat is not None:
                place.seat.fence()
            raise

    async def _end_when_asked(self, place: _Place[S], seat: S) -> None:
        await place.wanted_back.wait()
        self.held.pop(place.gateway_id, None)
        seat.fence()
        await self._patiently(seat.settle)
        raise _HandedOver

    async def _begin(self, place: _Place[S], tenure: Tenure, before: GatewayLease | None) -> int:
        while True:
            place.seat = self._make(tenure, before)
            try:
                count = await place.seat.start()
            except Unavailable:
                await self._leave(place)
                await asyncio.sleep(RETRY_S)
                continue
            except BaseException:
                await self._leave(place)
                raise
            self.held[place.gateway_id] = place.seat
            return count

    async def _begin_later(self, place: _Place[S], tenure: Tenure, before: GatewayLease | None) -> int:
        """The address may still be the old holder's for a moment: the lease is kept meanwhile."""
        while True:
            try:
                return await self._begin(place, tenure, before)
            except ConfigurationError as error:
                self._tell(f"{place.gateway_id}: {error}; trying again")
                await asyncio.sleep(RETRY_S)

    async def _leave(self, place: _Place[S]) -> None:
        seat, place.seat = place.seat, None
        self.held.pop(place.gateway_id, None)
        if seat is not None:
            seat.fence()
            await seat.aclose()

    # -- whose is it ----------------------------------------------------------------------------------

    async def _seek(self, gateway_id: str) -> tuple[Tenure, GatewayLease | None]:
        """Wait until the gateway may be taken, and take it; with the lease as it was."""
        seen, is_settled = _Seen(-1, 0.0), False
        while True:
            with suppress(Unavailable, StaleVersion):
                lease = await self._leases.get(gateway_id)
                if not is_settled and lease is not None and not self._is_own(lease):
                    await self._settle_left(gateway_id)
                    is_settled = True
                if not self.is_draining and await self._may_take(gateway_id, lease, seen):
                    return await self._take(gateway_id, lease), lease
            await asyncio.sleep(LOOK_S)

    async def _may_take(self, gateway_id: str, lease: GatewayLease | None, seen: _Seen) -> bool:
        now, is_home = self._clock.monotonic(), gateway_id in self._home
        version = lease.version if lease else 0
        if version != seen.version:
            if lease is not None and self._is_twin(lease) and seen.version >= 0:
                raise self._two_of_one_name(lease)
            seen.version, seen.since = version, now
        stood_s = now - seen.since
        if lease is None or lease.is_released:
            return is_home or stood_s > RELEASED_S
        if self._is_own(lease) or stood_s > GONE_AFTER_S:
            return True
        if self._is_twin(lease):
            return False
        self._peers.watch(lease.contact)
        if await self._peers.is_dead(lease.contact):
            return True
        if is_home:
            await self._peers.hand_over(lease.contact, gateway_id)
        return False

    async def _take(self, gateway_id: str, lease: GatewayLease | None) -> Tenure:
        return await take_lease(
            self._leases,
            self._clock,
            lease,
            gateway_id=gateway_id,
            owner=self._owner,
            contact=self._contact,
            folder_id=self._folder_id,
        )

    def _is_own(self, lease: GatewayLease) -> bool:
        """Of this node, or of an earlier life of it."""
        return lease.is_of(self._owner, self._folder_id)

    def _is_twin(self, lease: GatewayLease) -> bool:
        """Of a node of the same name that is another one."""
        return lease.owner == self._owner and not self._is_own(lease) and not lease.is_released

    async def _demand_name(self, gateway_id: str, lease: GatewayLease | None) -> None:
        """Raises ``ConfigurationError`` when the lease is of another living node of this one's name."""
        if lease is None or lease.owner != self._owner or lease.is_released:
            return
        is_elsewhere = lease.contact not in ("", self._contact)
        if is_elsewhere and await self._peers.name_at(lease.contact) == self._owner:
            raise self._two_of_one_name(lease)
        for _ in range(round(RENEWED_WITHIN_S / LOOK_S) if self._is_twin(lease) else 0):
            await asyncio.sleep(LOOK_S)
            now = await self._patiently(partial(self._leases.get, gateway_id))
            if now is not None and self._is_twin(now) and now.version != lease.version:
                raise self._two_of_one_name(lease)

    def _two_of_one_name(self, lease: GatewayLease) -> ConfigurationError:
        where = f"is at {lease.contact}" if lease.contact else f"holds {lease.gateway_id}"
        return ConfigurationError(
            f"node.name: another node named {self._owner} {where}; give each its own name"
        )

    async def _patiently(self, ask: Callable[[], Awaitable[R]]) -> R:
        """Until the store answers."""
        while True:
            try:
                return await ask()
            except Unavailable:
                await asyncio.sleep(RETRY_S)
