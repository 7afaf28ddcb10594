"""Reading a stream to its effect: who reads which shard, in which order, and how far it has come.

Rules:

- A shard is read by one consumer at a time, under a lease that it renews with each checkpoint; a lease that
  ran out may be taken by another, and a consumer with too few takes one from a consumer with too many.
- A lease runs out ``LEASE_S`` after its renewal began, by its holder's monotonic clock; for others, when it
  stood unchanged for as long by their own. A wall clock that jumps decides nothing.
- A shard's children are read only after its end is checkpointed, so order holds over a split and a merge.
- The checkpoint moves after the effect, never before. So an effect may meet a record again, and must know
  it by its place (shard and sequence number) or by its record id.
- What cannot be read now is tried again. What can never be read (``core.services.running.faults``) is passed
  over, counted and audited: a record that alone makes the effect fail, a checkpoint that is worth nothing, a
  shard that is gone. The checkpoint moves past it only once the audit is durable.
"""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from datetime import timedelta

from core.domain.consumer import SHARD_END, ShardLease
from core.domain.values import replace
from core.errors import PositionLost, SourceGone, StaleVersion, Unavailable, Unreadable
from core.ports.clock import Clock
from core.ports.store import ShardLeases
from core.ports.stream import IteratorType, ReadResult, Shard, StoredRecord, Stream
from core.services.running.audit import AuditTrail
from core.services.running.faults import Fault, Faults

LEASE_S = 10.0
SYNC_S = 2.0
"""How often it is looked which shards there are and who reads them."""
POLL_S = 1.0
READ_RECORDS_MAX = 1_000
GONE_S = 5.0
"""How long a reader waits before it looks again for a stream or a shard that is not there."""
PASSED_OVER_MAX = 100
"""Records of a shard that are passed over one after the other: more than that are no foreign records, the
effect is at fault, and the reader stands still before them.
"""

Effect = Callable[[Sequence[StoredRecord]], Awaitable[None]]
"""What is done with some records of one shard, in their order; raises ``Unavailable`` to be asked again, and
anything else for records of which at least one can never be handled. It may be asked again with a part.
"""


class _LeaseGone(Exception):
    """Another worker reads the shard now."""


class Consumer:
    """One worker of an application; ``owner`` names it among the application's workers."""

    def __init__(
        self,
        *,
        stream: Stream,
        leases: ShardLeases,
        clock: Clock,
        application: str,
        owner: str,
        effect: Effect,
        faults: Faults,
        audit: AuditTrail,
        poll_s: float = POLL_S,
    ) -> None:
        self._stream = stream
        self._leases = leases
        self._clock = clock
        self._application = application
        self._owner = owner
        self._effect = effect
        self._faults = faults
        self._audit = audit
        self._poll_s = poll_s
        self._passed_over: Counter[str] = Counter()
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._until: dict[str, float] = {}
        self._stood: dict[str, tuple[int, float]] = {}
        self._is_due = asyncio.Event()

    @property
    def reading(self) -> frozenset[str]:
        """The shards that this worker reads now."""
        return frozenset(self._reading)

    async def run(self) -> None:
        """Take shards and read them, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            while True:
                self._is_due.clear()
                pause_s = SYNC_S
                try:
                    await self._sync(tasks)
                    self._faults.goes_on(self._application)
                except StaleVersion:
                    pass  # another worker was faster: look again
                except Unavailable as error:
                    self._faults.stands(self._application, error)
                    if isinstance(error, SourceGone):
                        pause_s = GONE_S
                with suppress(TimeoutError):
                    async with asyncio.timeout(pause_s):
                        await self._is_due.wait()

    # -- which shards ---------------------------------------------------------------------------------

    async def _sync(self, tasks: asyncio.TaskGroup) -> None:
        leases = {lease.shard_id: lease for lease in await self._leases.of_application(self._application)}
        shards = {shard.shard_id: shard for shard in await self._stream.shards()}  # later than the leases
        readable = [shard for shard in shards.values() if _is_readable(shard, shards, leases)]
        for shard in self._chosen(readable, leases):
            lease = self._mine(shard.shard_id, leases.get(shard.shard_id))
            if lease.checkpoint == SHARD_END:  # it is open: a shard that was closed never opens again
                lease = await self._from_the_oldest(lease, "the stream was recreated")
            else:
                lease = await self._put(lease)
            self._reading[shard.shard_id] = tasks.create_task(self._read(lease))
        for lease in leases.values():
            if lease.shard_id not in shards and lease.checkpoint != SHARD_END:
                await self._give_up(lease)

    async def _give_up(self, lease: ShardLease) -> None:
        """The shard is no longer listed: whatever it had after the checkpoint is gone."""
        if lease.shard_id not in self._reading:
            checkpoint = lease.checkpoint or "its beginning"
            await self._say_skipped(
                lease.shard_id, f"the shard no longer exists; its records after {checkpoint} are lost"
            )
            await self._leases.put(replace(lease, checkpoint=SHARD_END))
            self._faults.goes_on(self._application, lease.shard_id)

    def _chosen(self, readable: Sequence[Shard], leases: Mapping[str, ShardLease]) -> list[Shard]:
        """What to take: the free ones up to a fair share, or else one of a worker that has too many."""
        holders = self._holders(readable, leases)
        workers = {*holders.values(), self._owner}
        fair = -(-len(readable) // len(workers))
        room = fair - len(self._reading)
        others = [shard for shard in readable if shard.shard_id not in self._reading]
        free = [shard for shard in others if holders.get(shard.shard_id, self._owner) == self._owner]
        if free or room <= 0:
            return free[: max(room, 0)]
        loads = Counter(holders[shard.shard_id] for shard in others)
        return [shard for shard in others if loads[holders[shard.shard_id]] > fair][:1]

    def _holders(self, readable: Sequence[Shard], leases: Mapping[str, ShardLease]) -> dict[str, str]:
        """The holders of leases that did not run out, by shard."""
        now, before = self._clock.monotonic(), self._stood
        self._stood = {}
        for lease in (leases[shard.shard_id] for shard in readable if shard.shard_id in leases):
            version, since = before.get(lease.shard_id, (0, now))
            self._stood[lease.shard_id] = (lease.version, since if version == lease.version else now)
        return {
            shard_id: leases[shard_id].owner
            for shard_id, (_, since) in self._stood.items()
            if now - since < LEASE_S
        }

    def _mine(self, shard_id: str, held: ShardLease | None) -> ShardLease:
        if held is None:
            return ShardLease(self._application, shard_id, self._owner, 1, self._clock.now())
        return replace(held, owner=self._owner, fence=held.fence + 1)

    async def _put(self, lease: ShardLease) -> ShardLease:
        """Write it, renewed; raises ``StaleVersion``, ``Unavailable``."""
        began = self._clock.monotonic()
        expires = self._clock.now() + timedelta(seconds=LEASE_S)
        stored = await self._leases.put(replace(lease, expires=expires))
        self._until[lease.shard_id] = began + LEASE_S
        return stored

    # -- one shard ------------------------------------------------------------------------------------

    async def _read(self, lease: ShardLease) -> None:
        try:
            while lease.checkpoint != SHARD_END:
                try:
                    lease = await self._read_on(lease)
                except PositionLost as lost:
                    lease = await self._after_lost_position(lease, lost)
                except SourceGone as gone:
                    self._faults.stands(self._application, gone, lease.shard_id)
                    await asyncio.sleep(GONE_S)
                    return  # taken again if the shard is still there
                except Unavailable as error:
                    self._faults.stands(self._application, error, lease.shard_id)
                    await asyncio.sleep(self._poll_s)
                    lease = await self._renewed(lease)
            self._faults.goes_on(self._application, lease.shard_id)
        except _LeaseGone:
            self._faults.goes_on(self._application, lease.shard_id)
        except Exception as error:
            self._faults.crashed(self._application, error, lease.shard_id)
            await asyncio.sleep(GONE_S)
        finally:
            del self._reading[lease.shard_id], self._until[lease.shard_id]
            self._is_due.set()

    async def _read_on(self, lease: ShardLease) -> ShardLease:
        """From the checkpoint on, until the shard's end."""
        kind = IteratorType.AFTER_SEQUENCE_NUMBER if lease.checkpoint else IteratorType.TRIM_HORIZON
        iterator = await self._stream.iterator(lease.shard_id, kind, lease.checkpoint)
        while iterator:
            result = await self._stream.read(iterator, limit=READ_RECORDS_MAX)
            if result.lost:
                await self._say_lost(lease, result)
            if result.records:
                await self._take_effect(lease, result.records)
                lease = await self._checkpoint(lease, result.records[-1].sequence_number)
            elif self._is_worn(lease):
                lease = await self._checkpoint(lease, lease.checkpoint)
            self._faults.goes_on(self._application, lease.shard_id)
            if not result.records and result.next_iterator:
                await asyncio.sleep(self._poll_s)
            iterator = result.next_iterator
        return await self._checkpoint(lease, SHARD_END)

    async def _take_effect(self, lease: ShardLease, records: Sequence[StoredRecord]) -> None:
        left_s = self._until[lease.shard_id] - self._clock.monotonic()
        if left_s <= 0:
            raise Unavailable("the lease expired while reading the stream")
        try:
            async with asyncio.timeout(left_s):  # the shard's next reader must find this at an end
                await self._take_parts(records)
        except TimeoutError:
            raise Unavailable("processing took longer than the lease") from None

    async def _take_parts(self, records: Sequence[StoredRecord]) -> None:
        """The effect of all records but those that alone make it fail."""
        shard_id = records[0].shard_id
        try:
            await self._effect(records)
            self._passed_over[shard_id] = 0
            return
        except Unavailable as error:
            if not isinstance(error, Unreadable):
                raise
            why = str(error)
        except Exception as error:
            if isinstance(error, TimeoutError) or self._passed_over[shard_id] >= PASSED_OVER_MAX:
                raise
            why = f"{type(error).__name__}: {error}"
        if len(records) > 1:
            middle = len(records) // 2
            await self._take_parts(records[:middle])
            await self._take_parts(records[middle:])
            return
        await self._say_skipped(shard_id, f"record {records[0].sequence_number}: {why}", Fault.ITEM)
        self._passed_over[shard_id] += 1

    # -- what can never be read -----------------------------------------------------------------------

    async def _after_lost_position(self, lease: ShardLease, lost: PositionLost) -> ShardLease:
        if not lease.checkpoint:  # the oldest record is no position that can be lost
            self._faults.stands(self._application, lost, lease.shard_id)
            await asyncio.sleep(GONE_S)
            return await self._renewed(lease)
        lease = await self._renewed(lease)
        try:
            return await self._from_the_oldest(lease, str(lost))
        except (Unavailable, StaleVersion):
            return await self._renewed(lease)

    async def _from_the_oldest(self, lease: ShardLease, why: str) -> ShardLease:
        """Read on from the oldest record that is there. Raises ``StaleVersion``, ``Unavailable``."""
        await self._say_skipped(
            lease.shard_id, f"checkpoint {lease.checkpoint}: {why}; read on from the oldest record"
        )
        return await self._put(replace(lease, checkpoint=""))

    async def _say_lost(self, lease: ShardLease, result: ReadResult) -> None:
        after, before = lease.checkpoint or "the beginning", "the end"
        if result.records:
            before = result.records[0].sequence_number
        why = f"{result.lost} damaged records between {after} and {before} or later"
        await self._say_skipped(lease.shard_id, why, Fault.ITEM, number=result.lost)

    async def _say_skipped(
        self, shard_id: str, why: str, fault: Fault = Fault.POSITION, *, number: int = 1
    ) -> None:
        """Durably; raises ``Unavailable``."""
        await self._audit.records_skipped(f"{self._application} {shard_id}", why)
        self._faults.passed_over(self._application, fault, f"{shard_id}: {why}", number=number)

    async def _checkpoint(self, lease: ShardLease, checkpoint: str) -> ShardLease:
        """Move it and renew the lease, in one write."""
        try:
            return await self._put(replace(lease, checkpoint=checkpoint))
        except StaleVersion:
            return await self._renewed(lease)

    async def _renewed(self, lease: ShardLease) -> ShardLease:
        """The lease as stored, if it is still ours: a write may have been stored without an answer."""
        while True:
            try:
                leases = await self._leases.of_application(self._application)
                break
            except Unavailable:
                await asyncio.sleep(self._poll_s)
        stored = next((each for each in leases if each.shard_id == lease.shard_id), None)
        if stored is None or (stored.owner, stored.fence) != (lease.owner, lease.fence):
            raise _LeaseGone
        try:
            return await self._put(stored)
        except (StaleVersion, Unavailable):
            raise _LeaseGone from None  # taken anew at the next look, if no other worker did

    def _is_worn(self, lease: ShardLease) -> bool:
        return self._until[lease.shard_id] - self._clock.monotonic() < LEASE_S * 2 / 3


def _is_readable(shard: Shard, shards: Mapping[str, Shard], leases: Mapping[str, ShardLease]) -> bool:
    """Not at its end, and nothing that came before it is still to be read; a parent that is gone is over.

    An open shard is never at its end, whatever a lease says that is older than the stream.
    """

    def is_over(shard_id: str) -> bool:
        lease = leases.get(shard_id)
        return lease is not None and lease.checkpoint == SHARD_END and not shards[shard_id].is_open

    return not is_over(shard.shard_id) and all(
        is_over(parent) for parent in shard.parents if parent in shards
    )
