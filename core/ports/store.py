"""The store of record: one Protocol per aggregate.

Rules:

- A call returns when its write is durable. It raises ``Unavailable`` when the write failed or its outcome is
  unknown (``ambiguous``), and ``StaleVersion`` when a condition did not hold.
- One call writes one partition, in one atomic batch. There is no transaction across partitions: a write to
  two of them is ordered so that repeating the call repairs a crash between them.
- A list is read by pages in key order; ``after`` is the ``next_key`` of the page before.
"""

from collections.abc import AsyncIterator, Collection, Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from ipaddress import IPv4Address
from typing import Generic, Protocol, TypeVar

from core.domain.account import AuthKey, Group, Operator
from core.domain.address_blocks import Block, BlockMap, BlockOwner
from core.domain.audit import AuditEntry
from core.domain.billing import ClosedMonth, Closing, LateMark, Tariff
from core.domain.consumer import ShardLease
from core.domain.gateway import AddressHolder, GatewayLease
from core.domain.lease import Lease
from core.domain.message import MessageCount
from core.domain.session import Nas, QuarantinedResources, Session, SessionEvent
from core.domain.sim import Sim
from core.domain.usage import RollupProgress, UsageReport

T = TypeVar("T")
HeldLease = TypeVar("HeldLease", bound=Lease)

PAGE_MAX = 1_000
"""The most items that one page may hold."""
ROLLUP_FRESH_S = 10.0
"""A node that stores reports knows of a new seal within so many seconds of its own monotonic clock."""
SETTLE_S = 600
"""Seconds after which a row that precedes another in the order of writing is taken as left by a crash, if
the other is still missing."""
BLOCKS_CHANGED_MAX = 64
"""The most blocks that one change of their map takes or gives back."""


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items in key order, and the key to continue from; empty when there are no more."""

    items: tuple[T, ...]
    next_key: str = ""


@dataclass(frozen=True, slots=True)
class DamagedEvent:
    """An event of the outbox that cannot be read."""

    event_id: str
    why: str


class Accounts(Protocol):
    """Operators, their auth keys, and the tokens they logged out. Partition: operator, key or token id."""

    async def operator(self, operator_id: str) -> Operator | None:
        """By id."""
        ...

    async def operator_id_of_email(self, email: str) -> str | None:
        """The operator whose root user has this e-mail address, in lower case."""
        ...

    async def put_operator(self, operator: Operator) -> Operator:
        """Write if the stored version is ``operator.version`` (0: none stored); returns it with the next.

        One that is closed no longer has its e-mail address; repeating the put finishes what a crash left.
        """
        ...

    async def open_operators(self, *, after: str = "", limit: int = 100) -> Page[Operator]:
        """Operators that are not closed, by id; those of an earlier version appear after their next
        change.
        """
        ...

    async def auth_key(self, auth_key_id: str) -> AuthKey | None:
        """By id."""
        ...

    async def auth_keys_of(self, operator_id: str) -> Sequence[AuthKey]:
        """All keys of an operator, by id."""
        ...

    async def put_auth_key(self, key: AuthKey) -> None:
        """Add or replace."""
        ...

    async def delete_auth_key(self, key: AuthKey) -> None:
        """Remove; idempotent."""
        ...

    async def revoke_token(self, token_id: str, expires: datetime) -> None:
        """Refuse this token from now on; forgotten after ``expires``."""
        ...

    async def is_revoked(self, token_id: str) -> bool:
        """Whether ``revoke_token`` was called for it."""
        ...


class Sims(Protocol):
    """The registry. Partition: ``sim_id``; found by IMSI and listed by operator through index rows."""

    async def get(self, sim_id: str) -> Sim | None:
        """By SIM id (primary ICCID)."""
        ...

    async def get_many(self, sim_ids: Sequence[str]) -> Sequence[Sim | None]:
        """The same of several, in their order."""
        ...

    async def count_of_operator(self, operator_id: str) -> int:
        """The number of an operator's SIMs, or, if empty, of SIMs in stock; ``PAGE_MAX + 1`` when there are
        more than ``PAGE_MAX``.
        """
        ...

    async def put_new(self, sims: Sequence[Sim]) -> Sequence[Sim | None]:
        """As ``put`` for each, concurrently; ``None`` in place of one whose id or IMSI is taken."""
        ...

    async def sim_id_of_imsi(self, imsi: str) -> str | None:
        """The SIM that an IMSI belongs to; the binding never changes."""
        ...

    async def sim_id_bound_to_imsi(self, imsi: str) -> str | None:
        """The same for a caller that reads the SIM next: it must see whether the SIM has the IMSI."""
        ...

    async def put(self, sim: Sim) -> Sim:
        """Write if the stored version is ``sim.version`` (0: must not exist); returns it with the next.

        The index rows (IMSI, static address, operator) are written first and are idempotent; readers ignore a
        row whose SIM disagrees. An address that another SIM has is ``StaleVersion``.
        """
        ...

    async def sim_id_of_static_address(self, address: IPv4Address) -> str | None:
        """The SIM that has this static address."""
        ...

    async def with_static_address(self, operator_id: str, *, after: str = "", limit: int = 100) -> Page[Sim]:
        """An operator's SIMs with a static address, in order of address; keys are addresses as numbers."""
        ...

    async def of_operator(self, operator_id: str, *, after: str = "", limit: int = 100) -> Page[Sim]:
        """An operator's SIMs in order of SIM id."""
        ...


class Groups(Protocol):
    """Groups. Partition: operator."""

    async def get(self, operator_id: str, group_id: str) -> Group | None:
        """By id, within its operator."""
        ...

    async def put(self, group: Group) -> Group:
        """Write if the stored version is ``group.version`` (0: must not exist); returns it with the next."""
        ...

    async def delete(self, operator_id: str, group_id: str) -> None:
        """Remove; idempotent."""
        ...

    async def of_operator(self, operator_id: str, *, after: str = "", limit: int = 100) -> Page[Group]:
        """An operator's groups in order of id."""
        ...


class Sessions(Protocol):
    """Open sessions and the history of sessions. Partition: ``sim_id``, the same as the SIM's.

    A gateway instance finds its sessions by index rows, written before the session and removed after it, and
    by the same rows what its sessions left in quarantine.
    """

    async def put(self, session: Session, event: SessionEvent) -> Session:
        """Session and event in one batch, if the stored version is ``session.version`` (0: none). The event
        is of this moment.
        """
        ...

    async def close(
        self, session: Session, event: SessionEvent, *, quarantined_until: datetime | None = None
    ) -> None:
        """Remove the open session and write the event, in one batch; idempotent by ``event.event_id``.

        Until ``quarantined_until`` ``of_gateway`` lists its address and TEIDs as in quarantine.
        """
        ...

    async def record(self, event: SessionEvent) -> None:
        """An event alone (a refused attach); it does not go into the stream."""
        ...

    async def outbox(self, gateway_id: str, *, limit: int) -> Sequence[SessionEvent | DamagedEvent]:
        """Events of ``put`` and ``close`` that are not yet in the stream, oldest first."""
        ...

    async def sent(self, gateway_id: str, events: Sequence[SessionEvent | DamagedEvent]) -> None:
        """Remove events that the stream has, or will never accept, from the outbox; idempotent."""
        ...

    async def of_sim(self, sim_id: str) -> Sequence[Session]:
        """The open sessions of one SIM, oldest first."""
        ...

    async def of_sims(self, sim_ids: Sequence[str]) -> Sequence[Sequence[Session]]:
        """The same of each of several SIMs, in one read."""
        ...

    def of_gateway(
        self, gateway_id: str, *, known: Container[str] = ()
    ) -> AsyncIterator[Session | QuarantinedResources]:
        """The open sessions of a gateway instance, and the quarantined addresses and TEIDs of ended ones:
        what a node must load to take it over. Sessions whose ids are ``known`` are omitted. No full scan.
        """
        ...

    async def events(
        self,
        sim_id: str,
        *,
        since: datetime,
        until: datetime,
        after: str = "",
        limit: int = 100,
    ) -> Page[SessionEvent]:
        """A SIM's history within [since, until], newest first."""
        ...


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A report that was not accepted, for a person to examine: it contradicts the stored ones, is
    implausible, or matches no session. One from a NAS has its ``client`` and ``nas``, and the time ``at``.
    """

    report: UsageReport
    why: str
    client: str = ""
    nas: Nas | None = None
    at: datetime | None = None


class Usage(Protocol):
    """Usage of sessions. Partition: (IMSI, UTC day); row: (slot, session, epoch, segment).

    Days are rolled up: the highest report of each segment is kept after the slots expire (80 days).
    """

    async def record(self, reports: Sequence[UsageReport]) -> None:
        """Keep each report, the highest ``timestamp_us`` of a row winning; durable on return; idempotent.

        A report of a sealed day is also marked as late, and rolled up, on return.
        """
        ...

    async def of_day(self, imsi: str, day: int) -> Sequence[UsageReport]:
        """All rows of one IMSI and UTC day (yyyymmdd), by slot, session, epoch, segment."""
        ...

    async def of_each_day(self, imsi: str, days: Sequence[int]) -> Sequence[Sequence[UsageReport]]:
        """The same of each of several days, in few reads."""
        ...

    async def of_days(self, imsi: str, days: Sequence[int]) -> Sequence[UsageReport]:
        """The highest report of each segment on these days, by day, session, epoch, segment, from rolled up
        days and slots: what bills and statistics are computed from.
        """
        ...

    async def roll_up(self, imsi: str, day: int) -> None:
        """Raise the rolled up day to the slots' highest reports, and quarantine contradicting ones.

        Idempotent, also by several nodes at once, at any time: no value falls, none are added.
        """
        ...

    async def rollup_progress(self) -> RollupProgress | None:
        """How far rollup has come."""
        ...

    async def put_rollup_progress(self, rollup_progress: RollupProgress) -> RollupProgress:
        """Write if the stored version is ``rollup_progress.version`` (0: none stored); returns it with the
        next.
        """
        ...

    async def operators_of(self, day: int, *, after: str = "", limit: int = 100) -> Page[str]:
        """The operators with rows of a UTC day not older than 80 days, in order, for rollup. An index row,
        written before the first usage row of the day.
        """
        ...

    async def imsis_of(self, operator_id: str, day: int, *, after: str = "", limit: int = 100) -> Page[str]:
        """The IMSIs with rows of this operator on a UTC day, in order, for its bill: the SIMs may have
        another owner by now. An index row, written before the first usage row of the day.
        """
        ...

    def late_of(self, month: int) -> AsyncIterator[LateMark]:
        """The usage of a month (yyyymm) that was stored after its day was sealed: all that may be missing in
        a bill made from rolled up days.
        """
        ...

    async def insert_if_absent(self, report: UsageReport) -> bool:
        """Write a row unless one with its key is there (sandbox statistics); false when it was."""
        ...

    async def quarantine(self, item: Quarantined) -> None:
        """Quarantine a contradicting report. Partition: day."""
        ...

    async def quarantined(self, day: int) -> Sequence[Quarantined]:
        """The reports quarantined on a UTC day."""
        ...


class Bills(Protocol):
    """Versions of the tariff and closed months. Partition: the tariff, the operator; compare-and-set."""

    async def tariffs(self) -> Sequence[Tariff]:
        """The versions in order, the last 1,000 of them."""
        ...

    async def add_tariff(self, tariff: Tariff) -> None:
        """Add a version; raises ``StaleVersion`` when there is one of this number."""
        ...

    async def closed_month(self, operator_id: str, month: int) -> ClosedMonth | None:
        """An operator's month (yyyymm), once it is closed."""
        ...

    async def put_closed_month(self, closed: ClosedMonth) -> None:
        """Close a month permanently; raises ``StaleVersion`` when it is already closed."""
        ...

    async def closing(self) -> Closing | None:
        """How far closing has come."""
        ...

    async def put_closing(self, closing: Closing) -> Closing:
        """Write if the stored version is ``closing.version`` (0: none stored); returns it with the next."""
        ...


class NasRestarts(Protocol):
    """Accounting-On and -Off requests that were received, by authenticator. Partition: both."""

    async def first_heard(self, network: str, authenticator: bytes, now: datetime) -> datetime:
        """When this one was first received, ``now`` if it is new; durable on return. Kept for 19 months."""
        ...


class Leases(Protocol[HeldLease]):
    """Leases: what exactly one node may hold. Compare-and-set; partition: lease."""

    async def get(self, lease_id: str) -> HeldLease | None:
        """The lease as stored, expired or not."""
        ...

    async def put(self, lease: HeldLease) -> HeldLease:
        """Write if the stored version is ``lease.version`` (0: must not exist); returns it with the next."""
        ...


class Holders(Protocol):
    """Which session has a static address. Compare-and-set; partition: address."""

    async def get(self, address: IPv4Address) -> AddressHolder | None:
        """The row as stored."""
        ...

    async def put(self, holder: AddressHolder) -> AddressHolder:
        """Write if the stored version is ``holder.version`` (0: must not exist); returns it with the next."""
        ...


class Blocks(Protocol):
    """Which gateway instance allocates from which block of device addresses. Compare-and-set on the whole;
    one partition.
    """

    async def read(self) -> BlockMap:
        """All of it, as stored."""
        ...

    async def change(
        self,
        seen: BlockMap,
        owner: BlockOwner,
        *,
        taken: Collection[Block] = (),
        given_back: Collection[Block] = (),
    ) -> None:
        """Write ``taken`` as the owner's and remove ``given_back``, ``BLOCKS_CHANGED_MAX`` at most, if the
        map is still at the version of ``seen``. The version rises even if both are empty.
        """
        ...


class ShardLeases(Protocol):
    """Who reads which shard, and how far. Compare-and-set; partition: application."""

    async def of_application(self, application: str) -> Sequence[ShardLease]:
        """Every lease of an application, by shard id, expired or not; a stream has at most some hundreds."""
        ...

    async def put(self, lease: ShardLease) -> ShardLease:
        """Write if the stored version is ``lease.version`` (0: must not exist); returns it with the next."""
        ...


class MessageCounts(Protocol):
    """Message counts. Partition: (IMSI, UTC day)."""

    async def get(self, imsi: str, day: int) -> MessageCount | None:
        """The row as stored."""
        ...

    async def put(self, row: MessageCount) -> MessageCount:
        """Write if the stored version is ``row.version`` (0: must not exist); returns it with the next."""
        ...


class Audit(Protocol):
    """The audit log. Partition: UTC day."""

    async def record(self, entry: AuditEntry) -> None:
        """Durable on return; idempotent by ``entry.entry_id``."""
        ...

    async def of_day(self, day: int, *, after: str = "", limit: int = 100) -> Page[AuditEntry]:
        """The entries of a UTC day (yyyymmdd), oldest first: their ids are time-ordered."""
        ...


class Store(Protocol):
    """All aggregates over one connection."""

    @property
    def accounts(self) -> Accounts:
        """Operators and keys."""
        ...

    @property
    def sims(self) -> Sims:
        """The registry."""
        ...

    @property
    def groups(self) -> Groups:
        """Groups."""
        ...

    @property
    def sessions(self) -> Sessions:
        """Sessions and their history."""
        ...

    @property
    def usage(self) -> Usage:
        """Usage rows."""
        ...

    @property
    def bills(self) -> Bills:
        """Tariffs and closed months."""
        ...

    @property
    def nas_restarts(self) -> NasRestarts:
        """Restarts of NASes."""
        ...

    @property
    def leases(self) -> Leases[GatewayLease]:
        """Leases of gateway instances."""
        ...

    @property
    def job_leases(self) -> Leases[Lease]:
        """Leases of singleton jobs."""
        ...

    @property
    def holders(self) -> Holders:
        """Who has which static address."""
        ...

    @property
    def blocks(self) -> Blocks:
        """Blocks of device addresses."""
        ...

    @property
    def shard_leases(self) -> ShardLeases:
        """Consumers' leases and checkpoints."""
        ...

    @property
    def message_counts(self) -> MessageCounts:
        """Counts of messages."""
        ...

    @property
    def audit(self) -> Audit:
        """The audit."""
        ...

    @property
    def bulk(self) -> "Store":
        """The same store for callers that can wait: their calls never delay attaches and lease renewals."""
        ...

    async def prove(self, node: str) -> None:
        """Write a row that is this node's own and read it back; raises ``Unavailable``."""
        ...

    async def aclose(self) -> None:
        """Finish accepted writes, then close; idempotent."""
        ...
