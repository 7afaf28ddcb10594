"""Open sessions and the history of sessions, in the partition of their SIM.

Rules:

- A session's row and its event are one batch under a condition on the session's version.
- The gateway's index row is written first, in one write with the session, and removed last. Who reads it
  asks the session itself; an index row that stayed behind is removed once nobody can be on the way to it.
- An event's place is its time in microseconds and its id, so a history is read by time.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import datetime
from zlib import crc32

from core.adapters.store.engine import (
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
from core.adapters.store.tables import EVENT_LIFE_US, SESSION_BY_GATEWAY, SIM
from core.domain.session import Session, SessionEvent
from core.errors import StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.store import Page

BUCKETS = 16
"""Partitions of one gateway's index: a million sessions are 62,500 rows in each."""
_SESSION, _EVENT = "session", "event"


class WideSessions:
    """Implements ``Sessions``."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._sessions = BodyReader(SIM, Session)
        self._events = BodyReader(SIM, SessionEvent)

    async def put(self, session: Session, event: SessionEvent) -> Session:
        """Index row, then session and event in one batch."""
        stored = replace(session, version=session.version + 1)
        key = _session_key(session.session_id)
        put = Put(key, (body_of(stored),), stored.version)
        condition = Condition(key, session.version)
        batch = Batch(SIM, (session.sim_id,), (put, _event_put(event)), condition)
        index = Put((session.session_id,), (session.sim_id, microseconds(self._clock.now())))
        await self._engine.write(Batch(SESSION_BY_GATEWAY, _index_of(session), (index,)), batch)
        return stored

    async def close(self, session: Session, event: SessionEvent) -> None:
        """Session and event in one batch, whatever the stored version is; then the index row."""
        key = _session_key(session.session_id)
        version = session.version
        for _ in range(CONDITIONAL_TRIES_MAX):
            writes = (_event_put(event), Delete(key)) if version else (_event_put(event),)
            index = Batch(SESSION_BY_GATEWAY, _index_of(session), (Delete((session.session_id,)),))
            batch = Batch(SIM, (session.sim_id,), writes, Condition(key, version))
            try:
                return await self._engine.write(batch, index)
            except StaleVersion:
                row = await get_row(self._engine, SIM, (session.sim_id,), key)
                version = row.version if row else 0
        raise Unavailable(f"session {session.session_id} changes too fast to be closed")

    async def record(self, event: SessionEvent) -> None:
        """An event alone."""
        await self._engine.write(Batch(SIM, (event.sim_id,), (_event_put(event),)))

    async def of_sim(self, sim_id: str) -> Sequence[Session]:
        """The open sessions of one SIM, oldest first (ids are time-ordered).

        One scan: an IMSI has at most 11 NSAPIs (TS 29.060 §7.7.17), so a SIM stays far below its limit.
        """
        rows = await self._engine.scan(SIM, (sim_id,), prefix=(_SESSION,))
        return [self._sessions.read((sim_id,), row) for row in rows]

    async def of_gateway(self, gateway_id: str) -> AsyncIterator[Session]:
        """The open sessions of a virtual gateway, bucket by bucket."""
        for bucket in range(BUCKETS):
            partition: Key = (gateway_id, bucket)
            above: Key = ()
            while True:
                rows = await self._engine.scan(SESSION_BY_GATEWAY, partition, above=above)
                for session in await self._resolve(gateway_id, partition, rows):
                    yield session
                if len(rows) < SCAN_ROWS_MAX:
                    break
                above = rows[-1].clustering

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

    async def _resolve(self, gateway_id: str, partition: Key, rows: Sequence[Row]) -> list[Session]:
        keys = [RowKey((row.values[0],), _session_key(str(row.clustering[0]))) for row in rows]
        found = await self._engine.get(SIM, keys)
        sessions: list[Session] = []
        settled_us = microseconds(self._clock.now()) - SETTLE_US
        for index, key, row in zip(rows, keys, found, strict=True):
            if row is not None:
                session = self._sessions.read(key.partition, row)
                if session.gateway_id == gateway_id:
                    sessions.append(session)
            elif int(index.values[1]) < settled_us:
                await self._engine.write(Batch(SESSION_BY_GATEWAY, partition, (Delete(index.clustering),)))
        return sessions


def _session_key(session_id: str) -> Key:
    return (_SESSION, session_id)


def _index_of(session: Session) -> Key:
    return (session.gateway_id, crc32(session.session_id.encode()) % BUCKETS)


def _time_key(at_us: int) -> str:
    # Times before 1970 sort as 1970: nothing is stored there, they only bound a scan.
    return f"{max(at_us, 0):016x}"


def _event_put(event: SessionEvent) -> Put:
    at_us = microseconds(event.at)
    key = (_EVENT, _time_key(at_us) + event.event_id)
    return Put(key, (body_of(event),), expires_us=at_us + EVENT_LIFE_US)
