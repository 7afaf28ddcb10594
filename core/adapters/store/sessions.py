"""Open sessions and the history of sessions, in the partition of their SIM.

Rules:

- A session's row and its event are one batch under a condition on the session's version.
- The gateway's index row is written first, in one write with the session, and removed last, or left to
  expire, because it also lists what is in quarantine. Its reader also reads the session. An index row without
  a session keeps its address and TEIDs in quarantine, and is removed once no write can be pending. So does
  the index row of a session that cannot be read, which is reported.
- An event for the stream has an outbox row, written first in the same way and removed once the stream has the
  event; an outbox row without an event is left from a crash.
- The key of an event is its time in microseconds and its id, so that a history is read by time.
"""

import asyncio
from collections.abc import AsyncIterator, Container, Sequence
from datetime import datetime
from ipaddress import IPv4Address
from zlib import crc32

from core.adapters.store.checksums import CorruptRow, as_stored, is_damaged, why_damaged
from core.adapters.store.engine import (
    BATCH_WRITES_MAX,
    SCAN_ROWS_MAX,
    Batch,
    Condition,
    Delete,
    Engine,
    Key,
    Put,
    Row,
    RowKey,
    microseconds,
)
from core.adapters.store.rows import (
    CONDITIONAL_TRIES_MAX,
    SETTLE_US,
    BodyReader,
    body_of,
    collect_page,
    get_row,
)
from core.adapters.store.tables import EVENT_LIFE_US, OUTBOX, SESSION_BY_GATEWAY, SIM
from core.domain.session import QuarantinedResources, Session, SessionEvent, ipv4_text
from core.domain.values import replace
from core.errors import StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.store import DamagedEvent, Page

BUCKETS = 16
"""Partitions of one gateway's index: a million sessions are 62,500 rows in each."""
BUCKETS_AT_ONCE = 4
"""Read side by side: while the rows of one are read the sessions of another are decoded."""
OUTBOX_BUCKETS = 4
_SESSION, _EVENT = "session", "event"


class WideSessions:
    """Implements ``Sessions``."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._sessions = BodyReader(SIM, Session)
        self._events = BodyReader(SIM, SessionEvent)

    async def put(self, session: Session, event: SessionEvent) -> Session:
        """Index row, then session and event in one batch. The event is of this moment: it dates the row."""
        stored = replace(session, version=session.version + 1)
        key = _session_key(session.session_id)
        put = Put(key, (body_of(stored),), stored.version)
        condition = Condition(key, session.version)
        at_us = microseconds(event.at)
        batch = Batch(SIM, (session.sim_id,), (put, _event_put(event, at_us)), condition)
        outbox = _outbox_batch(session.gateway_id, event, at_us, at_us)
        await self._engine.write(_index_batch(session, at_us), outbox, batch)
        return stored

    async def close(
        self, session: Session, event: SessionEvent, *, quarantined_until: datetime | None = None
    ) -> None:
        """Session and event in one batch, whatever the stored version is; then the index row."""
        index = Batch(SESSION_BY_GATEWAY, _index_of(session), (Delete((session.session_id,)),))
        if quarantined_until is not None:
            quarantined_until_us = microseconds(quarantined_until)
            index = _index_batch(session, quarantined_until_us, expires_us=quarantined_until_us)
        key = _session_key(session.session_id)
        version = session.version
        at_us = microseconds(event.at)
        put = _event_put(event, at_us)
        for _ in range(CONDITIONAL_TRIES_MAX):
            writes = (put, Delete(key)) if version else (put,)
            batch = Batch(SIM, (session.sim_id,), writes, Condition(key, version))
            try:
                now_us = microseconds(self._clock.now())
                outbox = _outbox_batch(session.gateway_id, event, at_us, now_us)
                return await self._engine.write(outbox, batch, index)
            except StaleVersion:
                row = await get_row(self._engine, SIM, (session.sim_id,), key)
                version = row.version if row else 0
        raise Unavailable(f"session {session.session_id} concurrent updates; not closed")

    async def outbox(self, gateway_id: str, *, limit: int) -> Sequence[SessionEvent | DamagedEvent]:
        """Events that are not yet in the stream, oldest first."""
        found: list[SessionEvent | DamagedEvent] = []
        for bucket in range(OUTBOX_BUCKETS):
            partition: Key = (gateway_id, bucket)
            scanned = await self._engine.scan(OUTBOX, partition, limit=limit)
            rows = [row for row in scanned if not is_damaged(row)]
            found += [_damaged_event(row) for row in scanned if is_damaged(row)]
            keys = [
                RowKey((row.values[0],), _event_key(int(row.values[1]), row.clustering[0])) for row in rows
            ]
            events = await self._engine.get(SIM, keys) if keys else ()
            settled_us = microseconds(self._clock.now()) - SETTLE_US
            for row, key, event in zip(rows, keys, events, strict=True):
                if event is not None:
                    found.append(self._read_event(str(row.clustering[0]), key.partition, event))
                elif int(row.values[2]) < settled_us:
                    await self._engine.write(Batch(OUTBOX, partition, (Delete(row.clustering),)))
        return sorted(found, key=lambda event: event.event_id)[:limit]

    def _read_event(self, event_id: str, partition: Key, row: Row) -> SessionEvent | DamagedEvent:
        try:
            return self._events.read(partition, row)
        except CorruptRow as error:
            return DamagedEvent(event_id, str(error))

    async def sent(self, gateway_id: str, events: Sequence[SessionEvent | DamagedEvent]) -> None:
        """The stream has these events, or they can never go there."""
        batches: dict[int, list[Delete]] = {}
        for event in events:
            is_known = isinstance(event, SessionEvent)  # else its id, too, may be another than it was
            for bucket in (
                (_bucket_of(event.event_id, OUTBOX_BUCKETS),) if is_known else range(OUTBOX_BUCKETS)
            ):
                batches.setdefault(bucket, []).append(Delete((event.event_id,)))
        await self._engine.write_all(
            [
                Batch(OUTBOX, (gateway_id, bucket), tuple(deletes[at : at + BATCH_WRITES_MAX]))
                for bucket, deletes in batches.items()
                for at in range(0, len(deletes), BATCH_WRITES_MAX)
            ]
        )

    async def record(self, event: SessionEvent) -> None:
        """An event alone."""
        await self._engine.write(Batch(SIM, (event.sim_id,), (_event_put(event, microseconds(event.at)),)))

    async def of_sim(self, sim_id: str) -> Sequence[Session]:
        """The open sessions of one SIM, oldest first (ids are time-ordered).

        One scan: an IMSI has at most 11 NSAPIs (TS 29.060 §7.7.17), so a SIM stays far below its limit.
        """
        rows = await self._engine.scan(SIM, (sim_id,), prefix=(_SESSION,))
        return [self._sessions.read((sim_id,), row) for row in rows]

    async def of_sims(self, sim_ids: Sequence[str]) -> Sequence[Sequence[Session]]:
        """The same of each of several SIMs, in one read."""
        found = await self._engine.scan_each(SIM, [(each,) for each in sim_ids], prefix=(_SESSION,))
        return [
            [self._sessions.read((sim_id,), row) for row in rows]
            for sim_id, rows in zip(sim_ids, found, strict=True)
        ]

    async def of_gateway(
        self, gateway_id: str, *, known: Container[str] = ()
    ) -> AsyncIterator[Session | QuarantinedResources]:
        """The open sessions of a gateway instance and what is in quarantine, some buckets side by side."""
        for first in range(0, BUCKETS, BUCKETS_AT_ONCE):
            buckets = range(first, first + BUCKETS_AT_ONCE)
            reading = (self._of_bucket((gateway_id, bucket), known) for bucket in buckets)
            for of_bucket in await asyncio.gather(*reading):
                for found in of_bucket:
                    yield found

    async def _of_bucket(self, partition: Key, known: Container[str]) -> list[Session | QuarantinedResources]:
        found: list[Session | QuarantinedResources] = []
        above: Key = ()
        while True:
            rows = await self._engine.scan(SESSION_BY_GATEWAY, partition, above=above)
            asked = [row for row in rows if not is_damaged(row) and row.clustering[0] not in known]
            found += await self._resolve(str(partition[0]), partition, asked)
            found += [_resting_damaged(row) for row in rows if is_damaged(row)]
            if len(rows) < SCAN_ROWS_MAX:
                return found
            above = as_stored(rows[-1]).clustering

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
        above = (_time_key(microseconds(since)),)
        end = _time_key(microseconds(until) + 1)

        async def scan(after: str, limit: int) -> Sequence[Row]:
            return await self._engine.scan(
                SIM,
                (sim_id,),
                prefix=(_EVENT,),
                above=above,
                below=(min(after, end) if after else end,),
                limit=limit,
                reverse=True,
            )

        async def resolve(rows: Sequence[Row]) -> Sequence[SessionEvent | None]:
            return [self._events.read((sim_id,), row) for row in rows]

        return await collect_page(scan, resolve, after=after, limit=limit)

    async def _resolve(
        self, gateway_id: str, partition: Key, rows: Sequence[Row]
    ) -> list[Session | QuarantinedResources]:
        keys = [RowKey((row.values[0],), _session_key(str(row.clustering[0]))) for row in rows]
        found = await self._engine.get(SIM, keys)
        resolved: list[Session | QuarantinedResources] = []
        settled_us = microseconds(self._clock.now()) - SETTLE_US
        for index, key, row in zip(rows, keys, found, strict=True):
            if row is not None:
                try:
                    session = self._sessions.read(key.partition, row)
                except CorruptRow as error:
                    if not index.values[2]:
                        raise
                    resolved.append(replace(_in_quarantine(index), unreadable=str(error)))
                    continue
                if session.gateway_id == gateway_id:
                    resolved.append(session)
            elif int(index.values[1]) < settled_us:
                await self._engine.write(Batch(SESSION_BY_GATEWAY, partition, (Delete(index.clustering),)))
            elif index.values[2]:  # a row of an earlier version names no address
                resolved.append(_in_quarantine(index))
        return resolved


def _session_key(session_id: str) -> Key:
    return (_SESSION, session_id)


def _index_of(session: Session) -> Key:
    return (session.gateway_id, _bucket_of(session.session_id, BUCKETS))


def _index_batch(session: Session, indexed_us: int, *, expires_us: int = 0) -> Batch:
    teid_control, teid_user = session.teids[:2] or (0, 0)
    values = (session.sim_id, indexed_us, ipv4_text(session.ue_address), teid_control, teid_user)
    put = Put((session.session_id,), values, expires_us=expires_us)
    return Batch(SESSION_BY_GATEWAY, _index_of(session), (put,))


def _in_quarantine(index: Row) -> QuarantinedResources:
    teids = tuple(int(teid) for teid in index.values[3:] if teid)
    return QuarantinedResources(str(index.clustering[0]), IPv4Address(str(index.values[2])), teids)


def _resting_damaged(index: Row) -> QuarantinedResources:
    """As far as it can be read; raises ``CorruptRow`` if it names no address."""
    try:
        return replace(_in_quarantine(as_stored(index)), unreadable=why_damaged(index))
    except ValueError:
        raise CorruptRow(why_damaged(index)) from None


def _damaged_event(row: Row) -> DamagedEvent:
    return DamagedEvent(str(as_stored(row).clustering[0]), why_damaged(row))


def _time_key(at_us: int) -> str:
    # Times before 1970 sort as 1970: nothing is stored there, they only bound a scan.
    return f"{at_us if at_us > 0 else 0:016x}"


def _event_key(at_us: int, event_id: object) -> Key:
    return (_EVENT, f"{_time_key(at_us)}{event_id}")


def _event_put(event: SessionEvent, at_us: int) -> Put:
    key = _event_key(at_us, event.event_id)
    return Put(key, (body_of(event),), expires_us=at_us + EVENT_LIFE_US)


def _outbox_batch(gateway_id: str, event: SessionEvent, at_us: int, now_us: int) -> Batch:
    put = Put((event.event_id,), (event.sim_id, at_us, now_us))
    return Batch(OUTBOX, (gateway_id, _bucket_of(event.event_id, OUTBOX_BUCKETS)), (put,))


def _bucket_of(id_: str, buckets: int) -> int:
    return crc32(id_.encode()) % buckets
