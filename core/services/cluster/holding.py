"""Which virtual gateways this node holds: taking, keeping, handing over and taking over.

Rules:

- A node takes its home gateways when it starts, and any gateway whose holder is gone. A holder is gone when
  it said so (released), when its host says so (``Peers.is_dead``), or when its lease stood unchanged for
  ``GONE_AFTER_S`` of this node's own clock. A clock of another node decides nothing.
- A node knows its own earlier life by its name and its data folder. A lease of its name and another folder
  that is renewed is of another living node: one of the two must not be.
- A node asks for a home gateway that another one holds, and is handed it: one at a time, for while one is
  read back nobody answers for it.
- Whoever holds more waits a little longer before it takes a free gateway, so that many nodes share what a
  lost one held; and the more nodes there are, the more seldom each reads a lease, so that all of them
  together read it as often as one.
- A gateway's work begins with its tenure and ends with it; what ends one gateway leaves the others alone.
  One that a fault of ours ended is begun again, after a pause that grows until another node takes it.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from typing import Generic, Protocol, TypeVar
from zlib import crc32

from core.domain.gateway import GatewayLease
from core.errors import ConfigurationError, LeaseLost, StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.peers import Peers
from core.ports.store import Leases
from core.services.gateway.virtual_gateway import LEASE_S, RENEW_S, Tenure, take_lease
from core.services.running.faults import Faults
from core.services.running.recurring import Recurring

LOOP, LEASES, START = "gateway", "lease", "gateway-start"
GONE_AFTER_S = LEASE_S + 2.0
"""Longer than a tenure lasts without a renewal, by more than a write is under way when it begins."""
LOOK_S = 0.25
"""How often all nodes together read the lease of a gateway; each of them, when it may soon be free."""
LOOK_S_MAX = 10.0
"""Of one node among many: below ``GONE_AFTER_S``, so that a standstill is noticed before it lasted enough."""
STILL_S = 3 * RENEW_S
"""A lease that stood so long may soon be free."""
RELEASED_S = 1.0
"""A released gateway waits so long for its home node."""
RETRY_S = 1.0
RENEWED_WITHIN_S = 3.0
"""A living holder renews its lease within so long, unless its store is slow."""
TURN_S, TURN_S_MAX = 0.03, 0.5
"""Nodes that could take a free gateway take turns, so far apart at the mean; within so long at most."""
SURPLUS_S, SURPLUS_S_MAX = 0.6, 3.0
"""For each gateway that this node holds more than the others at the mean, it waits so much longer: more than
their turns are apart, for a node reads back one after the other."""


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


class State(Enum):
    """How it is with a gateway that this node could hold."""

    HELD = "held"
    BEGINNING = "beginning"
    FAILING = "failing"
    ELSEWHERE = "elsewhere"
    FREE = "free"


@dataclass(frozen=True, slots=True)
class Standing:
    """A gateway's state; ``detail`` says who holds it, or why it cannot begin."""

    state: State
    detail: str = ""


S = TypeVar("S", bound=Seat)
R = TypeVar("R")


@dataclass(slots=True)
class _Seen:
    """A lease as it stood since ``since``, and since when it may be taken, if it may."""

    version: int = -1
    since: float = 0.0
    free_since: float | None = None


@dataclass(slots=True)
class _Place(Generic[S]):
    """A gateway and, while this node holds it, who works for it; else, who does as far as is known."""

    gateway_id: str
    holder: str = ""
    contact: str = ""
    look_now: asyncio.Event = field(default_factory=asyncio.Event)
    tenure: Tenure | None = None
    seat: S | None = None
    trouble: str = ""
    """Why it cannot begin, as of the last try."""
    is_taking: bool = False
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
        folder_id: str = "",
        gateways: Sequence[str],
        home: Collection[str],
        make: Callable[[Tenure, GatewayLease | None], S],
        settle_left: Callable[[str], Awaitable[None]],
        faults: Faults,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._faults = faults
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
        self._trouble = Recurring(say=tell, clock=clock)
        self._places = {gateway_id: _Place[S](gateway_id) for gateway_id in gateways}
        self._held_by: Counter[str] = Counter()
        self.is_draining = False
        """Nothing is taken any more."""
        self.held: dict[str, S] = {}
        """Who works now, by gateway id."""

    @property
    def states(self) -> dict[str, Standing]:
        """Of each gateway that this node could hold, how it is with it."""
        return {gateway_id: self._standing(place) for gateway_id, place in self._places.items()}

    @property
    def counts(self) -> dict[str, int]:
        """How many of them are in each state."""
        found = Counter(each.state for each in self.states.values())
        return {state.value: found[state] for state in State}

    def _standing(self, place: _Place[S]) -> Standing:
        if place.gateway_id in self.held:
            return Standing(State.HELD)
        if place.tenure is not None:
            return Standing(State.FAILING, place.trouble) if place.trouble else Standing(State.BEGINNING)
        if place.holder in ("", self._owner):  # what this node lost is nobody else's
            return Standing(State.FREE)
        return Standing(State.ELSEWHERE, place.holder)

    async def start(self) -> int:
        """Take the home gateways that are free and begin their work; how many sessions were read back.

        Raises ``ConfigurationError``, also when another living node has this one's name.
        """
        recovered = 0
        keeping: list[asyncio.Task[None]] = []
        try:
            for gateway_id in sorted(self._home):
                place = self._places[gateway_id]
                lease = await self._patiently(partial(self._leases.get, gateway_id))
                await self._demand_name(gateway_id, lease)
                if lease is None or lease.is_released or self._is_own(lease):
                    place.tenure = await self._take_first(gateway_id, lease)
                if place.tenure is not None:
                    keeping.append(asyncio.create_task(self._keep(place, place.tenure)))
                    try:
                        recovered += await self._begin(place, place.tenure, lease)
                    except LeaseLost:
                        pass  # ``run`` finds the same, and seeks again
                    except Exception as error:
                        self._faults.crashed(LOOP, error, gateway_id)
                        place.tenure = None
            await self._meet_others()
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
        return recovered

    async def _meet_others(self) -> None:
        """Watch whoever holds what is not held here: whoever is ready stands in for them at once."""
        sought = [gateway_id for gateway_id, place in self._places.items() if place.tenure is None]
        with suppress(Unavailable):  # then they are met when their leases are read
            leases = await asyncio.gather(*map(self._leases.get, sought))
            contacts = {lease.contact for lease in leases if lease is not None and not lease.is_released}
            for contact in contacts - {"", self._contact}:
                self._peers.watch(contact)
            await asyncio.gather(*map(self._peers.watches, contacts))

    async def run(self) -> None:
        """Hold and seek, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._faults.supervise("holders", self._heed_deaths))
            for place in self._places.values():
                hold = partial(self._hold_for_ever, place)
                tasks.create_task(self._faults.supervise(LOOP, hold, place.gateway_id))

    async def hand_over(self, gateway_id: str) -> None:
        """End a tenure in order, so that another node may begin its own; nothing when it is not held."""
        place = self._places.get(gateway_id)
        if place is not None and (tenure := place.tenure) is not None:
            place.wanted_back.set()
            while place.tenure is tenure:  # noqa: ASYNC110 - the end of a tenure has many reasons
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
                place.tenure, before = await self._seek(place)
                place.is_taking = False
            self._note(place, place.tenure.lease)
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
                    self._tell(
                        f"{place.gateway_id}: lease acquired ({_left_by(before)}); reading its sessions"
                    )
                    count = await self._begin_later(place, tenure, before)
                    self._tell(
                        f"{place.gateway_id}: taken over; {self._owner} serves its {count} sessions now"
                    )
                assert place.seat is not None, "it has just begun"
                tasks.create_task(place.seat.run())
                await self._end_when_asked(place, place.seat)
        except* LeaseLost as lost:
            self._tell(f"{lost.exceptions[0]}; {self._owner} has stopped serving it and stands by for it")
        except* _HandedOver:
            self._tell(f"{place.gateway_id}: handed over; {await self._released(tenure)}")
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # a TaskGroup forgets it beside an error of its own (3.11)

    async def _released(self, tenure: Tenure) -> str:
        """Give the lease up; what an operator should know of it."""
        stopped = f"{self._owner} has stopped serving it, its sessions stay open"
        try:
            await tenure.release()
        except (Unavailable, LeaseLost) as error:
            return (
                f"{stopped}; its lease was not released ({error}), another node may take it after"
                f" {GONE_AFTER_S:g} s"
            )
        return f"{stopped}; its lease is released, the next node that may hold it takes it now"

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
            except Unavailable as error:
                self._faults.stands(START, error, place.gateway_id)
                await self._leave(place)
                if not tenure.is_running:
                    raise LeaseLost(f"{place.gateway_id}: it could not begin within its lease") from None
                await asyncio.sleep(RETRY_S)
                continue
            except BaseException:
                await self._leave(place)
                raise
            self._faults.goes_on(START, place.gateway_id)
            self.held[place.gateway_id] = place.seat
            place.trouble = ""
            self._trouble.over(place.gateway_id)
            return count

    async def _begin_later(self, place: _Place[S], tenure: Tenure, before: GatewayLease | None) -> int:
        """The address may still be the old holder's for a moment: the lease is kept meanwhile."""
        while True:
            try:
                return await self._begin(place, tenure, before)
            except ConfigurationError as error:
                place.trouble = str(error)
                self._trouble.tell(place.gateway_id, f"{place.gateway_id}: {error}; trying again")
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await place.wanted_back.wait()
                        raise _HandedOver from None

    async def _leave(self, place: _Place[S]) -> None:
        seat, place.seat = place.seat, None
        self.held.pop(place.gateway_id, None)
        if seat is not None:
            seat.fence()
            await seat.aclose()

    # -- whose is it ----------------------------------------------------------------------------------

    async def _seek(self, place: _Place[S]) -> tuple[Tenure, GatewayLease | None]:
        """Wait until the gateway may be taken and it is this node's turn; with the lease as it was."""
        seen, is_settled = _Seen(), False
        while True:
            place.look_now.clear()
            try:
                lease = await self._leases.get(place.gateway_id)
                self._note(place, lease)
                if not is_settled and lease is not None and not self._is_own(lease):
                    await self._settle_left(place.gateway_id)
                    is_settled = True
                if not self.is_draining and await self._may_take(place, lease, seen):
                    place.is_taking = True
                    tenure = await self._take(place.gateway_id, lease)
                    self._faults.goes_on(LEASES, place.gateway_id)
                    return tenure, lease
                self._faults.goes_on(LEASES, place.gateway_id)
            except StaleVersion:
                pass  # somebody was faster
            except Unavailable as error:
                self._faults.stands(LEASES, error, place.gateway_id)
            if not place.look_now.is_set():
                place.is_taking = False
            with suppress(TimeoutError):
                async with asyncio.timeout(self._rest_s(place, seen)):
                    await place.look_now.wait()

    async def _may_take(self, place: _Place[S], lease: GatewayLease | None, seen: _Seen) -> bool:
        now = self._clock.monotonic()
        version = lease.version if lease else 0
        if version != seen.version:
            if lease is not None and self._is_twin(lease) and seen.version >= 0:
                raise self._two_of_one_name(lease)
            seen.version, seen.since = version, now
        if not await self._is_free(place, lease, now - seen.since):
            seen.free_since = None
            return False
        if seen.free_since is None:
            seen.free_since = now
        return now - seen.free_since >= self._turn_s(place)

    async def _is_free(self, place: _Place[S], lease: GatewayLease | None, stood_s: float) -> bool:
        is_home = place.gateway_id in self._home
        if lease is None or lease.is_released:
            return is_home or stood_s > RELEASED_S
        if self._is_own(lease) or stood_s > GONE_AFTER_S:
            return True
        if self._is_twin(lease):
            return False
        self._peers.watch(lease.contact)
        if await self._peers.is_dead(lease.contact):
            return True
        if is_home and not any(each.is_taking or self._is_beginning(each) for each in self._places.values()):
            place.is_taking = True
            await self._peers.hand_over(lease.contact, place.gateway_id)
            place.look_now.set()
        return False

    def _is_beginning(self, place: _Place[S]) -> bool:
        return place.tenure is not None and place.gateway_id not in self.held

    def _turn_s(self, place: _Place[S]) -> float:
        """How long this node lets others go before it takes a free gateway; none where there are none."""
        others = [held for holder, held in self._others().items() if holder != place.holder]
        if not others or place.gateway_id in self._home:
            return 0.0
        mine = sum(each.is_taking or each.tenure is not None for each in self._places.values())
        surplus_s = SURPLUS_S * max(0.0, mine - sum(others) / len(others))
        return min(surplus_s, SURPLUS_S_MAX) + self._lot(place) * min(TURN_S * len(others), TURN_S_MAX)

    def _rest_s(self, place: _Place[S], seen: _Seen) -> float:
        now = self._clock.monotonic()
        if seen.free_since is not None:
            left_s = seen.free_since + self._turn_s(place) - now
            return min(LOOK_S, left_s) if left_s > 0 else LOOK_S
        if place.gateway_id in self._home or not place.contact or now - seen.since > STILL_S:
            return LOOK_S
        return min(LOOK_S * len(self._others()), LOOK_S_MAX) * (0.5 + self._lot(place) / 2)

    def _lot(self, place: _Place[S]) -> float:
        """In [0, 1): of this node for this gateway, always the same and unlike those of others."""
        return crc32(f"{self._owner} {place.gateway_id}".encode()) / 2**32

    def _note(self, place: _Place[S], lease: GatewayLease | None) -> None:
        """Who holds it, by the lease."""
        is_held = lease is not None and not lease.is_released
        self._held_by[place.holder] -= 1
        place.holder, place.contact = (lease.owner, lease.contact) if lease and is_held else ("", "")
        self._held_by[place.holder] += 1

    def _others(self) -> dict[str, int]:
        """How many gateways each other node holds, of those seen here."""
        own = (self._owner, "")
        return {holder: held for holder, held in self._held_by.items() if held > 0 and holder not in own}

    async def _heed_deaths(self) -> None:
        """Look at once at what a node held whose host says that it is gone."""
        while True:
            await asyncio.sleep(LOOK_S)
            sought = [place for place in self._places.values() if place.tenure is None and place.contact]
            contacts = list(dict.fromkeys(place.contact for place in sought))
            signs = await asyncio.gather(*(self._peers.is_dead(contact) for contact in contacts))
            dead = {contact for contact, is_dead in zip(contacts, signs, strict=True) if is_dead}
            for place in sought:
                if place.contact in dead:
                    place.look_now.set()

    async def _take_first(self, gateway_id: str, lease: GatewayLease | None) -> Tenure | None:
        """When the node starts; what cannot be taken is sought later. Raises ``ConfigurationError``."""
        try:
            return await self._take(gateway_id, lease)
        except StaleVersion:
            taken = await self._patiently(partial(self._leases.get, gateway_id))
            await self._demand_name(gateway_id, taken)
        except Unavailable:
            pass
        return None

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


def _left_by(before: GatewayLease | None) -> str:
    if before is None:
        return "no node held it before"
    return f"{before.owner} {'had released it' if before.is_released else 'was gone'}"
