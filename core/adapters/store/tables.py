"""The tables of the store, declared once for every engine.

Rules:

- A table is read by its whole partition key, and within a partition in clustering order. Nothing else.
- The value columns stand beside four columns that the engines keep for each row: ``version`` (what a
  condition is about), ``written_us`` (what USING TIMESTAMP compares), ``expires_us`` (0: never) and
  ``checksum`` (of all the others; 0: a row of 0.2.0 or older).
- An entity is one JSON ``body``, so that a person can read it; usage rows are typed columns.
- A row that is written under a condition is never also written without one (facts of Paxos in Cassandra).
- A new version adds: tables, value columns at the end, fields of bodies that have a default. What an older
  row lacks is empty or 0; what an older node does not know it leaves alone, or drops when it writes the body.
  So nodes of two versions work side by side, once the tables are migrated.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

SCHEMA_VERSION = 5
READABLE_FROM = 3
"""The oldest version whose nodes may work on these tables."""
DAY_US = 86_400_000_000
EVENT_LIFE_US = 32 * DAY_US
"""A line of a SIM's session history is kept this long after it happened."""
USAGE_LIFE_S = 580 * 86_400
"""Daily and monthly statistics reach back 18 months; they are computed from rolled up days."""
SLOT_LIFE_S = 80 * 86_400
"""Statistics by minutes reach back 32 days; the rest is how late a day may be rolled up."""


class ColumnType(Enum):
    """What a column holds: Cassandra's name of it, and Python's."""

    TEXT = "text", str
    BIGINT = "bigint", int
    BLOB = "blob", bytes

    def __init__(self, cql: str, python: type[str] | type[int] | type[bytes]) -> None:
        self.cql = cql
        self.python = python


EMPTY: Mapping[ColumnType, str | int | bytes] = {
    ColumnType.TEXT: "",
    ColumnType.BIGINT: 0,
    ColumnType.BLOB: b"",
}
"""What a column holds in rows that are older than it."""


@dataclass(frozen=True, slots=True)
class Column:
    """A typed column."""

    name: str
    type: ColumnType


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """A table: partition key, clustering columns (all ascending) and values. There is one object of each.

    ``ttl_s`` is the lifetime of a row without one of its own; 0: no expiry. ``hot``: rows whose clustering
    key begins so are read far more often than written, and never expire.
    """

    name: str
    partition: tuple[Column, ...]
    clustering: tuple[Column, ...]
    values: tuple[Column, ...]
    ttl_s: int = 0
    hot: str | None = None
    types: tuple[tuple[type, ...], tuple[type, ...], tuple[type, ...]] = field(init=False, repr=False)
    """Python's, of the partition key, of the clustering key, and of this and the values: what every write is
    checked for.
    """
    bigints: tuple[tuple[int, ...], tuple[int, ...]] = field(init=False, repr=False)
    """Where there are numbers in the partition key, and in clustering key and values."""

    def __post_init__(self) -> None:
        parts = (self.partition, self.clustering, self.clustering + self.values)
        types = tuple(tuple(c.type.python for c in part) for part in parts)
        object.__setattr__(self, "types", types)
        numbers = (tuple(at for at, kind in enumerate(part) if kind is int) for part in types[::2])
        object.__setattr__(self, "bigints", tuple(numbers))


def _texts(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, ColumnType.TEXT) for name in names)


def _bigints(*names: str) -> tuple[Column, ...]:
    return tuple(Column(name, ColumnType.BIGINT) for name in names)


_BODY = _texts("body")
_TEIDS = ("teid_control", "teid_user")
_BINDING = (*_texts("owner"), *_bigints("bound_us"))

OPERATOR = Table("operator", _texts("operator_id"), (), _BODY, hot="")
OPERATOR_OPEN = Table("operator_open", _texts("part"), _texts("operator_id"), ())
"""The operators that are not closed, all in one partition: some 30 bytes each."""
OPERATOR_BY_EMAIL = Table("operator_by_email", _texts("email"), (), _BINDING)
AUTH_KEY = Table("auth_key", _texts("auth_key_id"), (), _BODY, hot="")
AUTH_KEY_BY_OPERATOR = Table("auth_key_by_operator", _texts("operator_id"), _texts("auth_key_id"), ())
REVOKED_TOKEN = Table("revoked_token", _texts("token_id"), (), ())
SIM_GROUP = Table("sim_group", _texts("operator_id"), _texts("group_id"), _BODY, hot="")

SIM = Table("sim", _texts("sim_id"), _texts("kind", "id"), _BODY, hot="sim")
"""The SIM, its open sessions and its history in one partition: a session and its event are one batch."""
SIM_BY_IMSI = Table("sim_by_imsi", _texts("imsi"), (), _BINDING, hot="")
SIM_BY_OPERATOR = Table("sim_by_operator", _texts("operator_id"), _texts("sim_id"), ())
"""One partition per operator: some 50 bytes a SIM, so 100,000 SIMs are 5 MB and a million still below the
100 MB that a Cassandra partition should stay under. A page is one read, without merging shards."""
STATIC_ADDRESS = Table("static_address", _texts("address"), (), _BINDING)
STATIC_BY_OPERATOR = Table("static_by_operator", _texts("operator_id"), _bigints("address"), _texts("sim_id"))
ADDRESS_HOLDER = Table("address_holder", _texts("address"), (), _BODY)
"""One row for each static address that ever had a session."""
SESSION_BY_GATEWAY = Table(
    "session_by_gateway",
    (*_texts("gateway_id"), *_bigints("bucket")),
    _texts("session_id"),
    (*_texts("sim_id"), *_bigints("indexed_us"), *_texts("ue_address"), *_bigints(*_TEIDS)),
)
"""A row whose session is not there says what is in quarantine; after a session's end it lives as long as
that."""
OUTBOX = Table(
    "outbox",
    (*_texts("gateway_id"), *_bigints("bucket")),
    _texts("event_id"),
    (*_texts("sim_id"), *_bigints("at_us", "indexed_us")),
)
"""Events that are not yet in the stream: each names its row in the SIM's partition."""

USAGE = Table(
    "usage",
    (*_texts("imsi"), *_bigints("day")),
    (*_bigints("slot"), *_texts("session_id"), *_bigints("epoch", "segment")),
    (
        *_texts("operator_id", "speed_class", "plmn"),
        *_bigints("up_bytes", "down_bytes", "up_packets", "down_packets", "timestamp_us"),
    ),
    ttl_s=SLOT_LIFE_S,
)
USAGE_DAY = Table(
    "usage_day",
    (*_texts("imsi"), *_bigints("month")),
    (*_bigints("day"), *_texts("session_id"), *_bigints("epoch", "segment")),
    (*_bigints("slot"), *USAGE.values),
    ttl_s=USAGE_LIFE_S,
)
"""What was rolled up: the highest report of each segment, written under its own timestamp like any other."""
USAGE_OPERATOR = Table("usage_operator", _bigints("day"), _texts("operator_id"), (), ttl_s=SLOT_LIFE_S)
"""Whose usage is to be rolled up and billed; written before the first row of an operator's day."""
USAGE_LATE = Table(
    "usage_late",
    _bigints("month"),
    _texts("operator_id", "imsi"),
    _bigints("at_us"),
    ttl_s=USAGE_LIFE_S,
)
"""Whose usage was stored after its day was sealed, and when last: where late usage of closed months is."""
TARIFF = Table("tariff", _texts("name"), _bigints("number"), _BODY)
CLOSED_MONTH = Table("closed_month", _texts("operator_id"), _bigints("month"), _BODY)
CLOSING = Table("closing", _texts("name"), (), _BODY)
ROLLUP = Table("folding", _texts("name"), (), _BODY)
USAGE_BY_OPERATOR = Table(
    "usage_by_operator", (*_texts("operator_id"), *_bigints("day")), _texts("imsi"), (), ttl_s=USAGE_LIFE_S
)
QUARANTINE = Table(
    "quarantine",
    _bigints("day"),
    (*_texts("imsi", "session_id"), *_bigints("epoch", "segment", "timestamp_us")),
    _BODY,
    ttl_s=USAGE_LIFE_S,
)
NAS_RESTART = Table(
    "nas_restart", _texts("network", "authenticator"), (), _bigints("heard_us"), ttl_s=USAGE_LIFE_S
)
"""A repeat of an Accounting-On or -Off is recognised by its authenticator, in hex."""
GATEWAY_LEASE = Table("gateway_lease", _texts("gateway_id"), (), _BODY)
"""Leases of gateway instances and of singleton jobs; and of each node a row that shows that the store takes
writes."""
UE_BLOCK = Table(
    "ue_block",
    _texts("pool"),
    _bigints("first"),
    (*_bigints("prefix"), *_texts("gateway_id"), *_bigints("fence")),
)
"""All blocks in one partition, the version of the whole in a row before them: some 60 bytes each, and 8,192
of them in a /9."""
SHARD_LEASE = Table("shard_lease", _texts("application"), _texts("shard_id"), _BODY)
AUDIT = Table("audit", _bigints("day"), _texts("entry_id"), _BODY, ttl_s=USAGE_LIFE_S)
MESSAGE_COUNT = Table("message_count", (*_texts("imsi"), *_bigints("day")), (), _BODY, ttl_s=USAGE_LIFE_S)

TABLES = (
    OPERATOR,
    OPERATOR_OPEN,
    OPERATOR_BY_EMAIL,
    AUTH_KEY,
    AUTH_KEY_BY_OPERATOR,
    REVOKED_TOKEN,
    SIM_GROUP,
    SIM,
    SIM_BY_IMSI,
    SIM_BY_OPERATOR,
    STATIC_ADDRESS,
    STATIC_BY_OPERATOR,
    ADDRESS_HOLDER,
    SESSION_BY_GATEWAY,
    OUTBOX,
    USAGE,
    USAGE_DAY,
    USAGE_OPERATOR,
    USAGE_LATE,
    TARIFF,
    CLOSED_MONTH,
    CLOSING,
    ROLLUP,
    USAGE_BY_OPERATOR,
    QUARANTINE,
    NAS_RESTART,
    GATEWAY_LEASE,
    UE_BLOCK,
    SHARD_LEASE,
    AUDIT,
    MESSAGE_COUNT,
)
