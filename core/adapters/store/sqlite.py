"""The embedded store: one SQLite file, one writing thread, one reading thread.

Rules:

- WAL and synchronous=FULL: a write is answered after the fsync of the commit that holds it. All writes
  that wait while one commit runs go into the next one (group commit).
- A commit is atomic. When the disk refuses it, every write in it fails with ``Unavailable`` and nothing of it
  is stored; only after an I/O error is the outcome unknown.
- The event loop never touches the file. A caller that is cancelled leaves its write in the commit.
- One process at a time: a lock file says so, and the kernel drops it when the process dies. Reading the
  file meanwhile with the sqlite3 shell is welcome.
"""

import asyncio
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, Generic, TypeVar

from msgspec import Struct

from core.adapters.store.checksums import CHECKSUM
from core.adapters.store.engine import (
    SCAN_ROWS_MAX,
    Batch,
    Key,
    Row,
    RowKey,
    check_scan,
    check_unconditional,
    hot_keys,
    microseconds,
)
from core.adapters.store.hot_entities import HotEntities
from core.adapters.store.sqlite_rows import STATEMENTS, Scan, apply, select
from core.adapters.store.statements import add_column, scan_sql
from core.adapters.store.tables import GATEWAY_LEASE, SCHEMA_VERSION, TABLES, Table
from core.errors import ConfigurationError, StaleVersion, Unavailable
from core.ports.clock import Clock

WRITES_WAITING_MAX = 20_000
"""Batches accepted and not yet durable; beyond it a write is refused at once."""
READS_WAITING_MAX = 20_000
"""Rows and scans asked for and not yet answered."""
LEASES_WAITING_MAX = 64
"""Calls for leases of gateway instances that are accepted when the queue is full: it costs no lease."""
GROUP_REQUESTS_MAX = 1_000
"""Calls in one commit: bounds how long the first of them waits for the others."""
PURGE_INTERVAL_S = 60.0
PURGE_AGAIN_S = 0.1
"""How soon a commit purges again when more was left than one purge may remove."""
PURGE_ROWS_MAX = 250
"""Expired rows that one purge removes: some 5 ms in a table of a million rows."""
BUSY_S = 2.0
"""How long to wait for another process's lock on the file (a sqlite3 shell)."""
WAL_BYTES_MAX = 67_108_864
_WAL_CHECKPOINT_PAGES = 4_000
_PRAGMAS = (
    "PRAGMA journal_mode = WAL",
    "PRAGMA synchronous = FULL",
    f"PRAGMA wal_autocheckpoint = {_WAL_CHECKPOINT_PAGES}",
    f"PRAGMA journal_size_limit = {WAL_BYTES_MAX}",
)

R = TypeVar("R")
Work = TypeVar("Work")
Reading = Callable[[sqlite3.Connection], R]


class _Request(Struct, Generic[Work], frozen=True, eq=False):
    """Work for a thread, who waits for it, and what is called on the loop when it is over."""

    work: Work
    future: asyncio.Future[Any]
    weight: int
    on_end: Callable[[], None] | None


_Outcome = tuple[_Request[Any], Any, BaseException | None]


class _ThreadQueue(Generic[Work]):
    """A thread with its own connection and a bounded queue; everything but ``_run`` is the loop's."""

    def __init__(
        self,
        *,
        name: str,
        connection: sqlite3.Connection,
        waiting_max: int,
        perform: Callable[[sqlite3.Connection, list[_Request[Work]]], Iterable[_Outcome]],
    ) -> None:
        self._connection = connection
        self._waiting_max = waiting_max
        self._perform = perform
        self._loop = asyncio.get_running_loop()
        self._queue: SimpleQueue[_Request[Work] | None] = SimpleQueue()
        self._waiting = 0
        self._is_closed = False
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(
        self, work: Work, weight: int = 1, on_end: Callable[[], None] | None = None, reserve: int = 0
    ) -> asyncio.Future[Any]:
        """Have it done; raises ``Unavailable`` when too much waits already, by more than the ``reserve``.

        ``on_end`` is called on the loop when it ends, even if its caller was cancelled.
        """
        if self._is_closed or self._waiting + weight > self._waiting_max + reserve:
            if on_end is not None:
                on_end()
            why = "closed" if self._is_closed else f"behind: {self._waiting} calls wait"
            raise Unavailable(f"the store is {why}")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting += weight
        self._queue.put(_Request(work, future, weight, on_end))
        return future

    async def aclose(self) -> None:
        """Do what waits, then end the thread and close the connection."""
        if not self._is_closed:
            self._is_closed = True
            self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            requests, is_last = self._take()
            outcomes = list(self._perform(self._connection, requests))
            with suppress(RuntimeError):  # the event loop has ended, and all waiting callers with it
                self._loop.call_soon_threadsafe(self._settle, outcomes)
        self._connection.close()

    def _take(self) -> tuple[list[_Request[Work]], bool]:
        requests: list[_Request[Work]] = []
        request = self._queue.get()
        while request is not None:
            requests.append(request)
            if len(requests) == GROUP_REQUESTS_MAX:
                return requests, False
            try:
                request = self._queue.get_nowait()
            except Empty:
                return requests, False
        return requests, True

    def _settle(self, outcomes: list[_Outcome]) -> None:
        for request, result, error in outcomes:
            self._waiting -= request.weight
            if request.on_end is not None:
                request.on_end()
            if request.future.done():
                continue  # its caller was cancelled
            if error is None:
                request.future.set_result(result)
            else:
                request.future.set_exception(error)


class SqliteEngine:
    """Implements ``Engine`` over one SQLite file. Make one with ``open``.

    ``commits`` counts the transactions that were committed.
    """

    def __init__(
        self, *, clock: Clock, lock: int, writer: sqlite3.Connection, reader: sqlite3.Connection
    ) -> None:
        self._clock = clock
        self._lock: int | None = lock
        self.hot = HotEntities()
        self.commits = 0
        self._purge_due = clock.monotonic() + PURGE_INTERVAL_S
        self._writes: _ThreadQueue[tuple[Batch, ...]] = _ThreadQueue(
            name="store-writer",
            connection=writer,
            waiting_max=WRITES_WAITING_MAX,
            perform=self._commit_group,
        )
        self._reads: _ThreadQueue[Reading[Any]] = _ThreadQueue(
            name="store-reader",
            connection=reader,
            waiting_max=READS_WAITING_MAX,
            perform=_read_group,
        )

    @classmethod
    async def open(cls, *, path: Path, clock: Clock) -> "SqliteEngine":
        """Open or make the file; raises ``ConfigurationError`` saying in one line what is wrong with it."""
        lock, writer, reader = await asyncio.to_thread(_open_file, path)
        return cls(clock=clock, lock=lock, writer=writer, reader=reader)

    async def get(self, table: Table, keys: Sequence[RowKey]) -> Sequence[Row | None]:
        """The rows with these keys."""
        sql = STATEMENTS[table.name].get

        def read(connection: sqlite3.Connection) -> list[Row | None]:
            rows: list[Row | None] = []
            for key in keys:
                scan = Scan(table, key.partition, sql, (*key.partition, *key.clustering), 1)
                rows += select(connection, scan, self._now_us) or (None,)
            return rows

        number = len(keys)
        reading = read if number == 1 else _at_one_moment(read)
        rows: list[Row | None] = await self._reads.submit(reading, number, reserve=_reserve(table))
        return rows

    async def scan(
        self,
        table: Table,
        partition: Key,
        *,
        prefix: Key = (),
        above: Key = (),
        below: Key = (),
        limit: int = SCAN_ROWS_MAX,
        reverse: bool = False,
    ) -> Sequence[Row]:
        """Rows of one partition in clustering order."""
        check_scan(table, prefix, above, below, limit)
        sql = scan_sql(table, len(prefix), len(above), len(below), reverse=reverse)
        wanted = Scan(table, partition, sql, (*partition, *prefix, *above, *below), limit)
        rows: list[Row] = await self._reads.submit(
            lambda connection: select(connection, wanted, self._now_us)
        )
        return rows

    async def scan_each(
        self, table: Table, partitions: Sequence[Key], *, prefix: Key = (), limit: int = SCAN_ROWS_MAX
    ) -> Sequence[Sequence[Row]]:
        """Rows of several partitions, all of one moment."""
        check_scan(table, prefix, (), (), limit)
        sql = scan_sql(table, len(prefix), 0, 0, reverse=False)
        wanted = [Scan(table, each, sql, (*each, *prefix), limit) for each in partitions]

        def read(connection: sqlite3.Connection) -> list[list[Row]]:
            return [select(connection, scan, self._now_us) for scan in wanted]

        found: list[list[Row]] = await self._reads.submit(_at_one_moment(read), len(wanted))
        return found

    async def write(self, *batches: Batch) -> None:
        """Write batches in this order."""
        reserve = _reserve(batches[0].table) if batches else 0
        on_end = self.hot.begin_write(keys) if (keys := hot_keys(batches)) else None
        await self._writes.submit(batches, len(batches), on_end, reserve)

    async def write_all(self, batches: Sequence[Batch]) -> None:
        """Write unconditional batches, all in one commit."""
        check_unconditional(batches)
        await self.write(*batches)

    async def aclose(self) -> None:
        """Commit what was accepted, then close the file."""
        await self._writes.aclose()
        await self._reads.aclose()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _now_us(self) -> int:
        return microseconds(self._clock.now())

    # -- on the writing thread ------------------------------------------------------------------------

    def _commit_group(
        self, connection: sqlite3.Connection, requests: list[_Request[tuple[Batch, ...]]]
    ) -> Iterable[_Outcome]:
        try:
            return self._commit(connection, requests)
        except sqlite3.OperationalError as error:
            failure = _unavailable(error)
            return [(request, None, failure) for request in requests]
        except Exception:  # one of them can never be written: find it, and keep the others
            return [self._commit_alone(connection, request) for request in requests]

    def _commit_alone(self, connection: sqlite3.Connection, request: _Request[tuple[Batch, ...]]) -> _Outcome:
        try:
            return self._commit(connection, [request])[0]
        except sqlite3.DatabaseError as error:
            return request, None, _unavailable(error)
        except Exception as error:
            return request, None, error

    def _commit(
        self, connection: sqlite3.Connection, requests: list[_Request[tuple[Batch, ...]]]
    ) -> list[_Outcome]:
        outcomes: list[_Outcome] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            now_us = self._now_us()
            for request in requests:
                try:
                    for batch in request.work:
                        apply(connection, batch, now_us)
                    outcomes.append((request, None, None))
                except StaleVersion as error:
                    outcomes.append((request, None, error))
            self._purge_when_due(connection, now_us)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
        self.commits += 1
        return outcomes

    def _purge_when_due(self, connection: sqlite3.Connection, now_us: int) -> None:
        if self._clock.monotonic() < self._purge_due:
            return
        left = PURGE_ROWS_MAX
        for statements in STATEMENTS.values():
            left -= connection.execute(statements.purge, (now_us, left, now_us)).rowcount
        self._purge_due = self._clock.monotonic() + (PURGE_INTERVAL_S if left else PURGE_AGAIN_S)


def _reserve(table: Table) -> int:
    return LEASES_WAITING_MAX if table is GATEWAY_LEASE else 0


def _read_group(connection: sqlite3.Connection, requests: list[_Request[Reading[Any]]]) -> Iterable[_Outcome]:
    for request in requests:
        try:
            yield request, request.work(connection), None
        except sqlite3.DatabaseError as error:
            yield request, None, Unavailable(f"the store cannot be read: {error}")
        except Exception as error:
            yield request, None, error


def _at_one_moment(read: Reading[R]) -> Reading[R]:
    """All that is read is of one moment; the file is locked once, not for each row."""

    def at_one_moment(connection: sqlite3.Connection) -> R:
        connection.execute("BEGIN")
        try:
            return read(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")

    return at_one_moment


def _unavailable(error: sqlite3.DatabaseError) -> Unavailable:
    # After a failed fsync the content of the medium is unknown; a full disk or a lock wrote nothing.
    is_io_error = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_IOERR
    return Unavailable(f"the store cannot write: {error}", ambiguous=is_io_error)


# -- opening ------------------------------------------------------------------------------------------


def _open_file(path: Path) -> tuple[int, sqlite3.Connection, sqlite3.Connection]:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigurationError(f"store {path}: {error.strerror}; use a writable folder") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return lock, _open_writer(path), _connect(path)
    except BlockingIOError as error:
        os.close(lock)
        raise ConfigurationError(
            f"store {path}: in use by another process; stop it or name another file"
        ) from error
    except BaseException:
        os.close(lock)
        raise


def _open_writer(path: Path) -> sqlite3.Connection:
    connection: sqlite3.Connection | None = None
    try:
        connection = _connect(path)
        for pragma in _PRAGMAS:
            connection.execute(pragma)
        connection.execute("BEGIN IMMEDIATE")
        _create_schema(connection, path)
        connection.execute("COMMIT")
        return connection
    except (sqlite3.Error, ConfigurationError) as error:
        if connection is not None:
            connection.close()
        if isinstance(error, ConfigurationError):
            raise
        raise ConfigurationError(f"store {path}: {error}; repair it or configure another file") from error


def _create_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, or bring them to this version."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise ConfigurationError(f"store {path}: schema {version}, this version reads {SCHEMA_VERSION}")
    for table in TABLES:
        for sql in STATEMENTS[table.name].create:
            connection.execute(sql)
        there = {name for _, name, *_ in connection.execute(f'PRAGMA table_info("{table.name}")')}
        for column in (*table.values, CHECKSUM):
            if column.name not in there:
                connection.execute(add_column(table, column))
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _connect(path: Path) -> sqlite3.Connection:
    # The connection is created here and used by one thread only, so it is not checked.
    return sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False, cached_statements=256
    )
