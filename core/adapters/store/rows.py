"""What the repositories share: bodies, pages, and names that belong to one owner.

Rules:

- A name (an IMSI, an e-mail address) is bound to its owner before the owner is written, and a binding counts
  only if the owner has the name. A binding without such an owner is left from a crash: its own owner may use
  it at once, another one only after ``SETTLE_US``, when no write of the first can be pending. Either writes
  the binding again, so that a removal of the earlier one fails.
- A row that cannot be read is reported by table and key, never skipped.
"""

from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Network
from socket import AF_INET, inet_pton
from typing import Any, Generic, TypeVar

import msgspec

from core.adapters.store.checksums import CorruptRow
from core.adapters.store.engine import Batch, Condition, Delete, Engine, Key, Put, Row, RowKey
from core.adapters.store.hot_entities import Place
from core.adapters.store.tables import Table
from core.domain.session import ipv4_text
from core.errors import StaleVersion, Unavailable
from core.ports.store import PAGE_MAX, SETTLE_S, Page

T = TypeVar("T")

SETTLE_US = SETTLE_S * 1_000_000
"""An index row without its entity is left from a crash when it is older than this."""
CONDITIONAL_TRIES_MAX = 16
"""How often a removal reads again after a concurrent write."""


def _encode_other(value: Any) -> str:
    if type(value) is IPv4Address:
        return ipv4_text(value)
    if type(value) is IPv6Network:
        return str(value)
    raise NotImplementedError(type(value).__name__)


def _decode_other(expected: type[Any], value: Any) -> Any:
    if expected is IPv4Address:
        return _ipv4_address(value)
    if expected is IPv6Network:
        return IPv6Network(value)
    raise NotImplementedError(expected.__name__)


def _ipv4_address(text: str) -> IPv4Address:
    """As the class reads it, which is three times slower where a hundred thousand sessions are read back."""
    try:
        return IPv4Address(inet_pton(AF_INET, text))
    except OSError:
        raise ValueError(f"{text!r} is no IPv4 address") from None


_ENCODER = msgspec.json.Encoder(enc_hook=_encode_other)


def body_of(entity: Any) -> str:
    """An entity as JSON text."""
    return _ENCODER.encode(entity).decode()


def entity_of(body: bytes, entity: type[T]) -> T:
    """What ``body_of`` wrote; raises ``ValueError``."""
    try:
        return msgspec.json.decode(body, type=entity, dec_hook=_decode_other)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from error


class BodyReader(Generic[T]):
    """Reads the bodies of one type of entity."""

    def __init__(self, table: Table, entity: type[T]) -> None:
        self._table = table
        self._decode: Callable[[str], T] = msgspec.json.Decoder(entity, dec_hook=_decode_other).decode

    def read(self, partition: Key, row: Row) -> T:
        """The entity; raises ``CorruptRow``."""
        try:
            return self._decode(str(row.values[0]))
        except (msgspec.DecodeError, ValueError) as error:
            key = ", ".join(map(str, partition + row.clustering))
            raise CorruptRow(f"table {self._table.name}, key ({key}): {error}") from error

    def read_optional(self, partition: Key, row: Row | None) -> T | None:
        """The entity of a row that may be absent."""
        return None if row is None else self.read(partition, row)


class HotReader(Generic[T]):
    """Entities of one table by key: as they are kept, or read, and then kept if table and engine let it.

    ``read(partition, row)`` makes the entity of a row; all callers get the same object.
    """

    def __init__(self, engine: Engine, table: Table, read: Callable[[Key, Row], T]) -> None:
        self._engine = engine
        self._table = table
        self._read = read
        self._hot = None if table.hot is None else engine.hot
        self._kept: Mapping[Place, T] = {} if self._hot is None else self._hot.kept_of(table)

    async def get(self, partition: Key, clustering: Key = ()) -> T | None:
        """The entity with this key."""
        place = (partition, clustering)
        if (kept := self._kept.get(place)) is not None:
            return kept
        token = self._hot.begin_read(self._table, (place,)) if self._hot is not None else None
        entity: T | None = None
        try:
            (row,) = await self._engine.get(self._table, (RowKey(partition, clustering),))
            if row is not None:
                entity = self._read(partition, row)
        finally:
            if self._hot is not None:
                self._hot.end_read(self._table, (place,), token, (entity,))
        return entity

    async def get_many(self, places: Sequence[Place]) -> Sequence[T | None]:
        """The entities with these keys, in their order."""
        kept = list(map(self._kept.get, places))
        missing = [place for place, entity in zip(places, kept, strict=True) if entity is None]
        if not missing:
            return kept
        read = iter(await self._read_all(missing))
        return [next(read) if entity is None else entity for entity in kept]

    async def _read_all(self, places: Sequence[Place]) -> Sequence[T | None]:
        keys = [RowKey(partition, clustering) for partition, clustering in places]
        token = self._hot.begin_read(self._table, places) if self._hot is not None else None
        entities: Sequence[T | None] = ()
        try:
            rows = await self._engine.get(self._table, keys)
            entities = [
                None if row is None else self._read(key.partition, row)
                for key, row in zip(keys, rows, strict=True)
            ]
        finally:
            if self._hot is not None:
                self._hot.end_read(self._table, places, token, entities)
        return entities


async def get_row(engine: Engine, table: Table, partition: Key, clustering: Key = ()) -> Row | None:
    """One row."""
    (row,) = await engine.get(table, [RowKey(partition, clustering)])
    return row


async def collect_page(
    scan: Callable[[str, int], Awaitable[Sequence[Row]]],
    resolve: Callable[[Sequence[Row]], Awaitable[Sequence[T | None]]],
    *,
    after: str,
    limit: int,
) -> Page[T]:
    """A page of what ``resolve`` makes of the rows; a row that it makes ``None`` of is passed over.

    ``scan(after, limit)`` reads rows whose last clustering column is their page key.
    """
    limit = min(max(limit, 1), PAGE_MAX)
    found: list[tuple[str, T]] = []
    while True:
        wanted = limit + 1 - len(found)
        rows = await scan(after, wanted)
        items = await resolve(rows)
        keys = [str(row.clustering[-1]) for row in rows]
        found += [(key, item) for key, item in zip(keys, items, strict=True) if item is not None]
        if len(found) > limit:
            return Page(tuple(item for _, item in found[:limit]), found[limit - 1][0])
        if len(rows) < wanted:
            return Page(tuple(item for _, item in found))
        after = keys[-1]


class Names:
    """A table of names, each bound to one owner. ``holds(owner, name)`` asks the owner itself."""

    def __init__(self, engine: Engine, table: Table, holds: Callable[[str, str], Awaitable[bool]]) -> None:
        self._engine = engine
        self._table = table
        self._holds = holds
        self._owners = HotReader(engine, table, _owner_of)

    def bound_to(self, name: str) -> Coroutine[Any, Any, str | None]:
        """The owner that the name is bound to, who may not have it."""
        return self._owners.get((name,))

    async def owner(self, name: str) -> str | None:
        """Who has the name."""
        owner = await self._owners.get((name,))
        return owner if owner is not None and await self._holds(owner, name) else None

    async def bind(self, name: str, owner: str, now_us: int) -> Batch | None:
        """The batch that binds a name, ``None`` when it is bound; raises ``StaleVersion`` if to another."""
        row = await get_row(self._engine, self._table, (name,))
        version = 0
        if row is not None:
            holder, bound_us = str(row.values[0]), int(row.values[1])
            is_held = await self._holds(holder, name)
            if holder == owner and is_held:
                return None
            if holder != owner and (is_held or now_us - bound_us < SETTLE_US):
                raise StaleVersion(f"{self._table.name}: {name} belongs to {holder}")
            version = row.version
        put = Put((), (owner, now_us), version + 1)
        return Batch(self._table, (name,), (put,), Condition((), version))

    async def unbind(self, name: str, owner: str) -> None:
        """Free a name if it is this owner's; idempotent."""
        row = await get_row(self._engine, self._table, (name,))
        if row is not None and row.values[0] == owner:
            await delete_current(self._engine, self._table, (name,), row=row)


def _owner_of(_: Key, row: Row) -> str:
    return str(row.values[0])


async def delete_current(
    engine: Engine, table: Table, partition: Key, clustering: Key = (), *, row: Row | None = None
) -> None:
    """Remove a row that is written under conditions, whatever its version; with ``row``, that one only."""
    for _ in range(CONDITIONAL_TRIES_MAX):
        stored = row or await get_row(engine, table, partition, clustering)
        if stored is None:
            return
        condition = Condition(clustering, stored.version)
        try:
            return await engine.write(Batch(table, partition, (Delete(clustering),), condition))
        except StaleVersion:
            if row is not None:
                return
    raise Unavailable(f"table {table.name}: {partition} concurrent updates; not removed")
