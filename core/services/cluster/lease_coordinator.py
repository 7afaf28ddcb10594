"""What this node leases: taking, keeping, handing over and taking over.

Rules:

- Whose a lease is and when it may be taken is found by ``core.services.cluster.lease_seeking``; what follows
  what stands in ``core.services.cluster.lease_states``.
- A worker begins with its term and ends with it; what ends one leaves the others alone. One that a fault of
  ours ended is begun again, after a pause that grows until another node takes its lease.
- What is leased is the caller's: gateway instances, and jobs that one node does for all
  (``core.services.cluster.singleton_jobs``). It makes the worker, and says in its own words what an operator
  reads.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from typing import Generic

from core.domain.lease import Lease
from core.errors import ConfigurationError, LeaseLost, Unavailable
from core.ports.clock import Clock
from core.ports.peers import Peers
from core.ports.store import Leases
from core.services.cluster.lease_seeking import GONE_AFTER_S, RETRY_S, LeaseHolder, LeaseSeeker, patiently
from core.services.cluster.lease_slot import L, LeaseSlot, W
from core.services.cluster.lease_states import LeaseAction, LeaseEvent, LeaseState
from core.services.gateway.lease_term import LeaseTerm
from core.services.running.faults import Faults
from core.services.running.recurring import Recurring


class State(Enum):
    """How it is with a lease that this node could hold, as an operator sees it."""

    HELD = "held"
    BEGINNING = "beginning"
    FAILING = "failing"
    ELSEWHERE = "elsewhere"
    FREE = "free"


_SHOWN: Mapping[LeaseState, State] = {
    LeaseState.STARTING: State.BEGINNING,
    LeaseState.FAILING: State.FAILING,
    LeaseState.SERVING: State.HELD,
    LeaseState.RELEASING: State.BEGINNING,  # it serves nothing, and no other node may begin yet
    LeaseState.ENDING: State.BEGINNING,
}
"""Of a lease that this node holds."""


@dataclass(frozen=True, slots=True)
class LeaseStatus:
    """A lease's state; ``detail`` says who holds it, or why it cannot begin."""

    state: State
    detail: str = ""


@dataclass(frozen=True, slots=True)
class LeaseWords:
    """What a line for the operator says about the worker; ``{}`` is how much was read back."""

    starting: str = "starting"
    serving: str = "serves it now"
    stopped: str = "has stopped serving it"


class _HandedOver(Exception):
    """The term ends in order."""


class LeaseCoordinator(Generic[L, W]):
    """The leases of one kind that one node could hold, ``lease_ids``, of which it holds ``preferred`` first.

    ``make(term, before)`` makes what works for a lease; ``before`` is the lease as it was.
    ``flush_left`` is awaited when another node turns out to hold one: what was counted here for it is made
    durable. ``tell`` is called with a line for the operator when one comes or goes, in these ``words``;
    ``loop`` names the loops in what ``faults`` reports.
    """

    def __init__(
        self,
        *,
        leases: Leases[L],
        kind: type[L],
        peers: Peers,
        clock: Clock,
        owner: str,
        contact: str,
        folder_id: str = "",
        lease_ids: Sequence[str],
        preferred: Collection[str],
        make: Callable[[LeaseTerm[L], L | None], W],
        flush_left: Callable[[str], Awaitable[None]],
        faults: Faults,
        loop: str,
        words: LeaseWords = LeaseWords(),
        log: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._faults = faults
        self._owner = owner
        self._preferred = frozenset(preferred)
        self._make = make
        self._loop = loop
        self._words = words
        self._log = log
        self._trouble = Recurring(say=log, clock=clock)
        self.refused: Counter[str] = Counter()
        """What the table of a lease's states refused, as ``EVENT_while_STATE``."""
        self._slots = {lease_id: LeaseSlot[L, W](lease_id, self.refused) for lease_id in lease_ids}
        self._seeker = LeaseSeeker[L, W](
            leases=leases,
            kind=kind,
            peers=peers,
            clock=clock,
            node=LeaseHolder(owner, contact, folder_id),
            slots=self._slots,
            preferred=self._preferred,
            flush_left=flush_left,
            faults=faults,
        )
        self.held: dict[str, W] = {}
        """Who works now, by lease id."""

    @property
    def is_draining(self) -> bool:
        """Whether nothing is taken any more."""
        return self._seeker.is_draining

    @property
    def states(self) -> dict[str, LeaseStatus]:
        """Of each lease that this node could hold, how it is with it."""
        return {lease_id: self._status_of(slot) for lease_id, slot in self._slots.items()}

    @property
    def counts(self) -> dict[str, int]:
        """How many of them are in each state."""
        found = Counter(each.state for each in self.states.values())
        return {state.value: found[state] for state in State}

    def _status_of(self, slot: LeaseSlot[L, W]) -> LeaseStatus:
        if (shown := _SHOWN.get(slot.state)) is not None:
            return LeaseStatus(shown, slot.trouble if shown is State.FAILING else "")
        if slot.holder in ("", self._owner):  # what this node lost has no other holder
            return LeaseStatus(State.FREE)
        return LeaseStatus(State.ELSEWHERE, slot.holder)

    async def start(self) -> int:
        """Take the preferred leases that are free and begin their work; how much was read back.

        Raises ``ConfigurationError``, also when another living node has this one's name.
        """
        recovered = 0
        keeping: list[asyncio.Task[None]] = []
        try:
            for lease_id in sorted(self._preferred):
                slot = self._slots[lease_id]
                before = await self._seeker.take_first(slot)
                if slot.term is not None:
                    keeping.append(asyncio.create_task(self._keep(slot, slot.term)))
                    try:
                        recovered += await self._start(slot, slot.term, before)
                    except LeaseLost:
                        pass  # ``run`` finds the same, and seeks again
                    except Exception as error:
                        self._faults.crashed(self._loop, error, lease_id)
                        await self._end(slot)
            await self._seeker.meet_others()
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
        return recovered

    async def run(self) -> None:
        """Hold and seek, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._faults.supervise("holders", self._seeker.watch_holders))
            for slot in self._slots.values():
                hold = partial(self._hold_for_ever, slot)
                tasks.create_task(self._faults.supervise(self._loop, hold, slot.lease_id))

    async def hand_over(self, lease_id: str) -> None:
        """End a term in order, so that another node may begin its own; nothing when it is not held."""
        slot = self._slots.get(lease_id)
        if slot is not None and (term := slot.term) is not None:
            slot.wanted_back.set()
            while slot.term is term:  # noqa: ASYNC110 - the end of a term has many reasons
                await asyncio.sleep(0.01)

    async def drain(self) -> None:
        """Hand over everything and take nothing any more; what is being taken is handed over, too."""
        self._seeker.is_draining = True
        for lease_id, slot in self._slots.items():
            while slot.state is LeaseState.TAKING:  # noqa: ASYNC110 - it is taken, or another was faster
                await asyncio.sleep(0.01)
            await self.hand_over(lease_id)

    async def aclose(self) -> None:
        """Let go without a word to the others: the terms end by themselves."""
        for slot in self._slots.values():
            if slot.worker is not None:
                await self._end(slot)

    # -- one lease ------------------------------------------------------------------------------------

    async def _hold_for_ever(self, slot: LeaseSlot[L, W]) -> None:
        while True:
            before = await self._seeker.seek(slot) if slot.term is None else None
            assert slot.term is not None, "it was taken"
            self._seeker.note(slot, slot.term.lease)
            try:
                await self._hold(slot, slot.term, before)
            finally:
                await self._end(slot)

    async def _hold(self, slot: LeaseSlot[L, W], term: LeaseTerm[L], before: L | None) -> None:
        """One term, to its end."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._keep(slot, term))
                if slot.worker is None:
                    await self._start_patiently(slot, term, before)
                assert slot.worker is not None, "it has just started"
                tasks.create_task(slot.worker.run())
                await self._flush_when_asked(slot, slot.worker)
        except* LeaseLost as lost:
            self._log(f"{lost.exceptions[0]}; {self._owner} has stopped serving it and stands by")
        except* _HandedOver:
            self._log(f"{slot.lease_id}: handed over; {await self._released(term)}")
        if (task := asyncio.current_task()) is not None and task.cancelling():
            raise asyncio.CancelledError  # a TaskGroup forgets it beside an error of its own (3.11)

    async def _released(self, term: LeaseTerm[L]) -> str:
        """Give the lease up; what an operator should know of it."""
        stopped = f"{self._owner} {self._words.stopped}"
        try:
            await term.release()
        except (Unavailable, LeaseLost) as error:
            return (
                f"{stopped}; its lease was not released ({error}), another node may take it after"
                f" {GONE_AFTER_S:g} s"
            )
        return f"{stopped}; its lease is released, another node can take it now"

    async def _keep(self, slot: LeaseSlot[L, W], term: LeaseTerm[L]) -> None:
        try:
            await term.keep()
        except LeaseLost:
            self._step(slot, LeaseEvent.LOST)
            raise

    async def _flush_when_asked(self, slot: LeaseSlot[L, W], worker: W) -> None:
        await slot.wanted_back.wait()
        self._step(slot, LeaseEvent.HAND_OVER)
        await patiently(worker.flush)
        raise _HandedOver

    async def _start(self, slot: LeaseSlot[L, W], term: LeaseTerm[L], before: L | None) -> int:
        """Until the store lets the worker start; how much was read back."""
        start = f"{self._loop}-start"
        while True:
            slot.worker = self._make(term, before)
            try:
                count = await slot.worker.start()
            except Unavailable as error:
                self._faults.stands(start, error, slot.lease_id)
                await self._close_worker(slot)
                if not term.is_running:
                    raise LeaseLost(f"{slot.lease_id}: could not start within its lease") from None
                await asyncio.sleep(RETRY_S)
                continue
            except BaseException:
                await self._close_worker(slot)
                raise
            self._faults.goes_on(start, slot.lease_id)
            self._step(slot, LeaseEvent.STARTED)
            return count

    async def _start_patiently(self, slot: LeaseSlot[L, W], term: LeaseTerm[L], before: L | None) -> None:
        """The address may still be the old holder's for a moment: the lease is kept meanwhile."""
        self._log(f"{slot.lease_id}: lease acquired ({_left_by(before)}); {self._words.starting}")
        while True:
            try:
                count = await self._start(slot, term, before)
            except ConfigurationError as error:
                slot.trouble = str(error)
                self._step(slot, LeaseEvent.START_FAILED)
                with suppress(TimeoutError):
                    async with asyncio.timeout(RETRY_S):
                        await slot.wanted_back.wait()
                        self._step(slot, LeaseEvent.HAND_OVER)
                        raise _HandedOver from None
            else:
                serving = self._words.serving.format(count)
                return self._log(f"{slot.lease_id}: taken over; {self._owner} {serving}")

    async def _end(self, slot: LeaseSlot[L, W]) -> None:
        """The term is over, whatever ended it."""
        self._step(slot, LeaseEvent.STOPPED)
        try:
            await self._close_worker(slot)
        finally:
            self._step(slot, LeaseEvent.CLOSED)

    async def _close_worker(self, slot: LeaseSlot[L, W]) -> None:
        worker, slot.worker = slot.worker, None
        if worker is not None:
            worker.fence()
            await worker.aclose()

    def _step(self, slot: LeaseSlot[L, W], event: LeaseEvent) -> None:
        """Go where the table says, and do what it says."""
        match slot.step(event):
            case LeaseAction.SERVE:
                assert slot.worker is not None, "it has just started"
                self.held[slot.lease_id] = slot.worker
                slot.trouble = ""
                self._trouble.over(slot.lease_id)
            case LeaseAction.REPORT_TROUBLE:
                self._trouble.tell(slot.lease_id, f"{slot.lease_id}: {slot.trouble}; trying again")
            case LeaseAction.FENCE:
                self.held.pop(slot.lease_id, None)
                if slot.worker is not None:
                    slot.worker.fence()
            case LeaseAction.FORGET_TERM:
                slot.term = None
                slot.wanted_back.clear()


def _left_by(before: Lease | None) -> str:
    if before is None:
        return "no node held it before"
    return f"{before.owner} {'had released it' if before.is_released else 'was lost'}"
