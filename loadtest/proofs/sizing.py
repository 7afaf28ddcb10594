"""How an installation is laid out for so many SIMs: arithmetic, from what was measured and what is assumed.

Rules: what a thing costs is a named figure with where it comes from; writes are those that the code makes
(tests/unit/loadtest/proofs/test_sizing.py counts them); what lives how long is read from the tables
themselves.
"""

import math
from dataclasses import dataclass

from core.adapters.store.tables import DAY_US, EVENT_LIFE_US, MESSAGE_COUNT, USAGE, USAGE_DAY
from core.domain.usage import SLOT_S
from core.services.cluster.lease_seeking import LOOK_S
from core.services.gateway.lease_term import RENEW_S

DAY_S, GIB = 86_400, 2**30
ATTACH_US, DETACH_US = 1_400.0, 1_400.0
"""CPU of a node: 1.0 ms of it writes session, event and index rows to Cassandra."""
REPORT_US, MESSAGE_US, PACKET_US = 65.0, 28.0, 8.0
"""`./run bench records`, `./run bench bridge`, `./run bench userplane`."""
READ_BACK_US = 150.0
"""Seconds per session at a takeover, from Cassandra."""
SESSION_BYTES = 4_096
"""Of a node's memory."""
ATTACH_WRITES, ATTACH_CONDITIONAL = 3, 1
"""Plain: index row, outbox row and its removal; session and event are one batch under a condition."""
DETACH_WRITES, DETACH_CONDITIONAL = 3, 1
EVENT_ROW_BYTES, SESSION_ROW_BYTES, USAGE_ROW_BYTES, COUNT_ROW_BYTES = 450, 900, 200, 300
"""Before compression, which halves them or better; keys and Cassandra's own columns included."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the SIMs do. ``bursts_per_day``: how often each talks; ``peak``: the busiest hour to the mean."""

    sims: int = 10_000_000
    attached_share: float = 0.6
    attaches_per_day: float = 2.0
    bursts_per_day: float = 24.0
    burst_s: float = 10.0
    packets_per_burst: float = 20.0
    packet_bytes: float = 200.0
    messages_per_burst: float = 1.0
    message_bytes: float = 300.0
    peak: float = 3.0


@dataclass(frozen=True, slots=True)
class Supply:
    """What parts can do, and how far to go. A node is one process on one core, busy so far at the peak; what
    it held when its process is killed is noticed, read back and moved by the others of its zone within
    ``take_over_s_max``. What a Cassandra node of 8 cores takes is assumed; Kinesis' limits are documented.
    """

    sims_per_gateway: int = 10_000
    busy_share: float = 0.4
    take_over_s_max: float = 3.0
    notice_s: float = 0.75
    move_s: float = 0.5
    zones: int = 3
    report_interval_s: float = 5.0
    replicas: int = 3
    store_writes_per_s: float = 10_000.0
    store_conditional_per_s: float = 1_500.0
    store_node_gib: float = 2_000.0
    shard_records_per_s: float = 1_000.0
    shard_bytes_per_s: float = 1_000_000.0


@dataclass(frozen=True, slots=True)
class Layout:
    """What comes out. Rates are those of the peak."""

    gateways: int
    sessions: int
    sessions_per_gateway: int
    addresses_prefix: int
    nodes: int
    nodes_by: str
    gateways_per_node: int
    node_cores_busy: float
    node_memory_gib: float
    read_back_s: float
    attaches_per_s: float
    reports_per_s: float
    messages_per_s: float
    packets_per_s: float
    renewals_per_s: float
    lease_reads_per_s: float
    writes_per_s: float
    conditional_per_s: float
    rows_per_day: dict[str, float]
    gib_per_day: dict[str, float]
    gib_kept: dict[str, float]
    store_nodes: int
    store_nodes_by: str
    shards: int


def lay_out(demand: Demand, supply: Supply) -> Layout:
    """The arithmetic."""
    sessions = demand.sims * demand.attached_share
    gateways = math.ceil(demand.sims / supply.sims_per_gateway)
    per_gateway = math.ceil(sessions / gateways)
    rate = sessions / DAY_S * demand.peak
    attaches = demand.sims * demand.attaches_per_day / DAY_S * demand.peak
    reports = rate * demand.bursts_per_day * (math.ceil(demand.burst_s / supply.report_interval_s) + 1)
    messages = rate * demand.bursts_per_day * demand.messages_per_burst
    packets = rate * demand.bursts_per_day * demand.packets_per_burst
    cores = (
        attaches * (ATTACH_US + DETACH_US) + reports * REPORT_US + messages * MESSAGE_US + packets * PACKET_US
    ) / 1e6
    read_back_s = per_gateway * READ_BACK_US / 1e6
    by_cpu = math.ceil(cores / supply.busy_share / supply.zones)
    each_begins = (supply.take_over_s_max - supply.notice_s) / (read_back_s + supply.move_s)
    by_loss = _nodes_for_a_loss(gateways / supply.zones, each_begins)
    nodes = supply.zones * max(by_cpu, by_loss)
    renewals = gateways / RENEW_S
    plain = attaches * (ATTACH_WRITES + DETACH_WRITES) + reports
    conditional = attaches * (ATTACH_CONDITIONAL + DETACH_CONDITIONAL) + messages + renewals
    rows, kept = _rows(demand, sessions)
    gib = {table: count * _BYTES[table] / GIB for table, count in rows.items()}
    stored = sum(gib[table] * days for table, days in kept.items()) + sessions * SESSION_ROW_BYTES / GIB
    needs = {
        "writes": plain * supply.replicas / supply.store_writes_per_s,
        "conditional writes": conditional * supply.replicas / supply.store_conditional_per_s,
        "disk": stored * supply.replicas / 2 / supply.store_node_gib,
    }
    most = max(needs, key=lambda what: needs[what])
    return Layout(
        gateways=gateways,
        sessions=round(sessions),
        sessions_per_gateway=per_gateway,
        addresses_prefix=32 - math.ceil(math.log2(per_gateway * 1.2)),
        nodes=nodes,
        nodes_by="CPU" if by_cpu > by_loss else "the time of a takeover",
        gateways_per_node=math.ceil(gateways / nodes),
        node_cores_busy=cores / nodes,
        node_memory_gib=math.ceil(gateways / nodes) * per_gateway * SESSION_BYTES / GIB,
        read_back_s=read_back_s,
        attaches_per_s=attaches,
        reports_per_s=reports,
        messages_per_s=messages,
        packets_per_s=packets,
        renewals_per_s=renewals,
        lease_reads_per_s=gateways / (LOOK_S * 0.75),
        writes_per_s=plain,
        conditional_per_s=conditional,
        rows_per_day=rows,
        gib_per_day=gib,
        gib_kept={table: gib[table] * days for table, days in kept.items()},
        store_nodes=supply.zones * math.ceil(max(needs.values()) / supply.zones),
        store_nodes_by=most,
        shards=math.ceil(
            max(
                messages / supply.shard_records_per_s,
                messages * demand.message_bytes / supply.shard_bytes_per_s,
            )
        ),
    )


def _nodes_for_a_loss(gateways: float, each_begins: float) -> int:
    """So many in a zone that its survivors begin no more than so many gateways each, at least one."""
    nodes = 2
    while math.ceil(gateways / nodes) > (nodes - 1) * max(1, int(each_begins)):
        nodes += 1
    return nodes


_BYTES = {
    "sim (events)": EVENT_ROW_BYTES,
    "usage": USAGE_ROW_BYTES,
    "usage_day": USAGE_ROW_BYTES,
    "message_count": COUNT_ROW_BYTES,
}


def _rows(demand: Demand, sessions: float) -> tuple[dict[str, float], dict[str, float]]:
    """New rows a day, and for how many days each table keeps them. A session that is open over midnight has a
    segment, and so a folded row, on either day.
    """
    slots = min(demand.bursts_per_day, DAY_S / SLOT_S)
    rows = {
        "sim (events)": demand.sims * demand.attaches_per_day * 2,
        "usage": sessions * slots,
        "usage_day": sessions + demand.sims * demand.attaches_per_day,
        "message_count": sessions,
    }
    kept = {
        "sim (events)": EVENT_LIFE_US / DAY_US,
        "usage": USAGE.ttl_s / DAY_S,
        "usage_day": USAGE_DAY.ttl_s / DAY_S,
        "message_count": MESSAGE_COUNT.ttl_s / DAY_S,
    }
    return rows, kept


def as_lines(layout: Layout) -> list[str]:
    """For a terminal."""
    figures = (
        ("gateway instances", f"{layout.gateways:,}, {layout.sessions_per_gateway:,} sessions each"),
        ("device addresses", f"a /{layout.addresses_prefix} each"),
        ("nodes", f"{layout.nodes}, {layout.gateways_per_node} gateways each, for {layout.nodes_by}"),
        ("of a node", f"{layout.node_cores_busy:.0%} of a core, {layout.node_memory_gib:.2f} GiB"),
        ("read back at a takeover", f"{layout.read_back_s:.2f} s a gateway"),
        ("attaches, reports /s", f"{layout.attaches_per_s:,.0f}, {layout.reports_per_s:,.0f}"),
        ("messages, packets /s", f"{layout.messages_per_s:,.0f}, {layout.packets_per_s:,.0f}"),
        ("store writes /s", f"{layout.writes_per_s:,.0f}, conditional {layout.conditional_per_s:,.0f}"),
        ("of these lease renewals /s", f"{layout.renewals_per_s:,.0f}"),
        ("lease reads /s", f"{layout.lease_reads_per_s:,.0f}"),
        *(
            (
                f"table {table}",
                f"{layout.rows_per_day[table] / 1e6:,.0f} M rows, {layout.gib_per_day[table]:,.1f} GiB a day,"
                f" {layout.gib_kept[table]:,.0f} GiB kept",
            )
            for table in layout.rows_per_day
        ),
        ("Cassandra nodes", f"{layout.store_nodes}, for {layout.store_nodes_by}"),
        ("Kinesis shards", f"{layout.shards}"),
    )
    width = max(len(name) for name, _ in figures)
    return [f"{name.ljust(width)}  {figure}" for name, figure in figures]
