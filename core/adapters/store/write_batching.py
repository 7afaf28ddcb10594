"""Writes of several partitions in one message, as group commit does for a disk.

Rules:

- What is asked for in one turn of the loop and has the same first replica goes there in unlogged batches:
  that node keeps a copy of every row itself, and the others get what they would get anyway.
- Cassandra applies such a batch partition by partition and gives its rows one time: only writes that need no
  order and no atomicity between them, because each has a timestamp of its own, may come here.
- A batch that is refused whole says nothing of its parts: each of them is then asked alone.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from cassandra.metadata import Metadata
from cassandra.policies import LoadBalancingPolicy
from cassandra.pool import Host
from cassandra.query import BoundStatement, PreparedStatement

from core.adapters.store.engine import Key
from core.errors import Unavailable

BATCHED_MAX = 10
"""Writes of one batch: Cassandra warns of more partitions, and of 5 KiB, which are twelve rows of usage."""
_Waiting = tuple[BoundStatement, asyncio.Future[None]]


class BatchedWrites:
    """Writes that wait for the end of this turn of the loop.

    ``execute`` sends one batch and raises ``Unavailable``, not ambiguous only if nothing of it was applied.
    """

    def __init__(
        self,
        *,
        metadata: Metadata,
        policy: LoadBalancingPolicy,
        execute: Callable[[Sequence[BoundStatement]], Awaitable[None]],
    ) -> None:
        self._replicas_of = metadata.get_replicas
        self._hosts_for = policy.make_query_plan
        self._execute = execute
        self._loop = asyncio.get_running_loop()
        self._writers: dict[PreparedStatement, list[Callable[[Any, int], bytes]]] = {}
        self._waiting: list[_Waiting] = []
        self._sending: set[asyncio.Task[None]] = set()

    def add(self, statement: PreparedStatement, values: Key) -> asyncio.Future[None]:
        """Done when the write is durable. ``values`` are of their columns' types, as ``Batch`` checks."""
        writers = self._writers.get(statement)
        if writers is None:
            writers = [column.type.serialize for column in statement.column_metadata]
            self._writers[statement] = writers
        bound, version = BoundStatement(statement), statement.protocol_version
        bound.values = [write(value, version) for write, value in zip(writers, values, strict=True)]
        future: asyncio.Future[None] = self._loop.create_future()
        if not self._waiting:
            self._loop.call_soon(self._send)
        self._waiting.append((bound, future))
        return future

    def _send(self) -> None:
        waiting, self._waiting = self._waiting, []
        try:
            groups = self._by_host(waiting)
        except Exception as error:
            _settle(waiting, Unavailable(f"Cassandra: no replica is known: {error}"))
            return
        for writes in groups:
            for start in range(0, len(writes), BATCHED_MAX):
                task = self._loop.create_task(self._send_together(writes[start : start + BATCHED_MAX]))
                self._sending.add(task)
                task.add_done_callback(self._sending.discard)

    def _by_host(self, waiting: Sequence[_Waiting]) -> Collection[list[_Waiting]]:
        by_host: dict[Host | None, list[_Waiting]] = {}
        by_range: dict[
            int, tuple[Any, list[_Waiting]]
        ] = {}  # the policy and a host's hash are dear: once a range
        for write in waiting:
            statement, _ = write
            replicas = self._replicas_of(statement.keyspace, statement.routing_key)
            if id(replicas) not in by_range:
                host = next(iter(self._hosts_for(statement.keyspace, statement)), None)
                by_range[id(replicas)] = replicas, by_host.setdefault(host, [])
            by_range[id(replicas)][1].append(write)
        return by_host.values()

    async def _send_together(self, writes: Sequence[_Waiting]) -> None:
        error: Exception | None = None
        try:
            await self._execute([statement for statement, _ in writes])
        except Exception as caught:
            error = caught
        if len(writes) > 1 and isinstance(error, Unavailable) and not error.ambiguous:
            await asyncio.gather(*(self._send_together([write]) for write in writes))
        else:
            _settle(writes, error)


def _settle(writes: Sequence[_Waiting], error: Exception | None) -> None:
    for _, future in writes:
        if future.done():
            continue  # its caller was cancelled
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)
