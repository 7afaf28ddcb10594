"""Wiring of metrics; counters of gateways are summed over those that the node serves."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from prometheus_client import CollectorRegistry

from airloom.app.gateway_runtime import GatewayRuntime
from airloom.app.node import Node
from core.domain.session import Access
from core.services.customers.guesses import Guesses
from core.telemetry import Metric, Telemetry


def make_telemetry(node: Node, guesses: Guesses) -> Telemetry:
    """Every metric of ``core.telemetry`` that is read from the node, not counted where it happens."""
    telemetry = Telemetry(registry=CollectorRegistry())
    telemetry.watch_each(Metric.GUESSES_STOPPED, lambda: guesses.stopped)
    telemetry.watch_table(Metric.LOOP_FAULTS, lambda: node.faults.counts)
    telemetry.watch(Metric.LOOPS_STANDING, lambda: float(len(node.faults.standing)))
    telemetry.watch_each(Metric.GATEWAYS, lambda: node.coordinator.counts)
    telemetry.watch_each(
        Metric.TRANSITIONS_REFUSED, lambda: node.coordinator.refused, machine="gateway_lease"
    )
    telemetry.watch_each(Metric.TRANSITIONS_REFUSED, lambda: node.singleton_jobs.refused, machine="job_lease")
    _watch_gateways(telemetry, node)
    _watch_gtp(telemetry, node)
    _watch_radius(telemetry, node)
    _watch_stream(telemetry, node)
    _watch_edge(telemetry, node)
    _watch_singleton_jobs(telemetry, node)
    return telemetry


def _each(
    telemetry: Telemetry,
    node: Node,
    metric: Metric,
    read: Callable[[GatewayRuntime], Mapping[str, float]],
    /,
    **labels: str,
) -> None:
    telemetry.watch_each(metric, lambda: _sum(read(held) for held in node.held.values()), **labels)


def _watch_gateways(telemetry: Telemetry, node: Node) -> None:
    each = partial(_each, telemetry, node)
    each(Metric.SESSIONS_OPEN, lambda held: held.sessions.common.index.count_by_access)
    for access in Access:
        each(Metric.ATTACHES, partial(_attaches, access), access=access.value)
    each(Metric.TRANSITIONS_REFUSED, lambda held: held.sessions.common.refused_events, machine="session")
    each(Metric.ALLOCATED, lambda held: held.gateway.allocated)
    telemetry.watch(
        Metric.USAGE_REPORTS,
        lambda: float(
            sum(h.usage.reports_durable + h.nas_accounting.reports_durable for h in node.held.values())
        ),
    )
    telemetry.watch_each(
        Metric.RESTART_COUNTER,
        lambda: {gateway_id: held.gateway.restart_counter for gateway_id, held in node.held.items()},
    )


def _watch_gtp(telemetry: Telemetry, node: Node) -> None:
    each = partial(_each, telemetry, node)
    for access in (Access.GTPV1, Access.GTPV2):
        each(Metric.DATAGRAMS_DROPPED, partial(_dropped, access), interface=access.value)
        each(Metric.GTP_PATH_EVENTS, partial(_path_events, access), access=access.value)
        each(Metric.GTP_CLAIMS, partial(_claims, access), access=access.value)
    each(Metric.GTP_PATH_EVENTS, lambda held: held.user_plane.paths.counts, access="gtpu")
    telemetry.watch_each(Metric.GTP_WAITING, lambda: _sum(_waiting(held) for held in node.held.values()))
    telemetry.watch_table(Metric.GTP_ANSWERS, lambda: _total(map(_answers, node.held.values())))
    telemetry.watch_table(Metric.GTP_PEERS, lambda: _total(map(_peers, node.held.values())))
    telemetry.watch_table(Metric.GTP_SESSIONS, lambda: _total(map(_sessions_of_partners, node.held.values())))
    each(
        Metric.DATAGRAMS_DROPPED,
        lambda held: {drop.value: count for drop, count in held.user_plane.drops.items()},
        interface="gtpu",
    )
    each(
        Metric.GTPU_SIGNALS,
        lambda held: {signal.value: count for signal, count in held.user_plane.signals.items()},
    )


def _watch_radius(telemetry: Telemetry, node: Node) -> None:
    each = partial(_each, telemetry, node)
    each(Metric.DATAGRAMS_DROPPED, lambda held: held.radius.dropped, interface=Access.RADIUS.value)
    each(Metric.DISCONNECTS, lambda held: held.radius.disconnects)
    telemetry.watch_table(
        Metric.RADIUS_ANSWERS, lambda: _total(held.radius.answers for held in node.held.values())
    )


def _watch_stream(telemetry: Telemetry, node: Node) -> None:
    telemetry.watch_each(Metric.RECORDS_DELIVERED, lambda: node.delivery.delivered)
    telemetry.watch(Metric.DEAD_LETTERS, lambda: float(node.delivery.dead_letters))
    telemetry.watch(Metric.EVENTS_RELAYED, lambda: float(sum(h.relay.relayed for h in node.held.values())))
    telemetry.watch(Metric.MESSAGES_COUNTED, lambda: float(node.messages.counted))
    telemetry.watch_each(Metric.RECORDS_PASSED_OVER, lambda: node.messages.passed_over)


def _watch_edge(telemetry: Telemetry, node: Node) -> None:
    telemetry.watch_each(Metric.EDGE_DATAGRAMS, lambda: node.edge.served)
    telemetry.watch_each(Metric.DATAGRAMS_DROPPED, lambda: node.edge.dropped, interface="edge")
    telemetry.watch(Metric.EDGE_LINKS, lambda: float(node.edge_links.up if node.edge_links else 0))
    telemetry.watch_each(
        Metric.EDGE_LINK_PACKETS,
        lambda: _sum(
            {what.value: count for what, count in side.counts.items()}
            for side in (node.edge_links, node.remote)
            if side is not None
        ),
    )
    if (device_network := node.device_network) is not None:
        telemetry.watch(Metric.DEVICE_NETWORK_UP, lambda: float(not device_network.why_not))
    if (connections := node.edge.connections) is not None:
        telemetry.watch(Metric.CONNECTIONS_OPEN, lambda: float(connections.open))
        telemetry.watch_each(
            Metric.CONNECTIONS, lambda: {what.value: count for what, count in connections.counts.items()}
        )
        telemetry.watch_each(
            Metric.TRANSITIONS_REFUSED, lambda: connections.refused_packets, machine="mqtt_connection"
        )


def _watch_singleton_jobs(telemetry: Telemetry, node: Node) -> None:
    for job, outcomes in node.singleton_jobs.outcomes.items():
        telemetry.watch_each(Metric.SINGLETON_JOB_STEPS, partial(_same, outcomes), job=job)
    telemetry.watch(Metric.DAYS_ROLLED_UP, lambda: float(node.rollup.rolled_up))
    telemetry.watch(Metric.ROLLUP_DAYS_BEHIND, lambda: float(node.rollup.days_behind))
    telemetry.watch(Metric.MONTHS_CLOSED, lambda: float(node.closer.closed))
    telemetry.watch(Metric.CLOSING_MONTHS_BEHIND, lambda: float(node.closer.months_behind))
    telemetry.watch(Metric.LATE_USAGE_BYTES, lambda: float(sum(e.quantity_bytes for e in node.closer.late)))


def _attaches(access: Access, held: GatewayRuntime) -> Mapping[str, float]:
    return held.sessions.opener.attaches[access]


def _dropped(access: Access, held: GatewayRuntime) -> Mapping[str, float]:
    return held.gtp.endpoint.versions[access].dropped


def _path_events(access: Access, held: GatewayRuntime) -> Mapping[str, float]:
    return held.gtp.endpoint.versions[access].path_events


def _claims(access: Access, held: GatewayRuntime) -> Mapping[str, float]:
    return held.gtp.endpoint.versions[access].claims


def _waiting(held: GatewayRuntime) -> Mapping[str, float]:
    return {access.value: version.waiting for access, version in held.gtp.endpoint.versions.items()}


def _answers(held: GatewayRuntime) -> Mapping[tuple[str, ...], float]:
    return {
        (access.value, partner, version.procedure_of(response_type), str(cause)): count
        for access, version in held.gtp.endpoint.versions.items()
        for (partner, response_type, cause), count in version.answers.items()
    }


def _peers(held: GatewayRuntime) -> Mapping[tuple[str, ...], float]:
    return Counter(
        (access.value, peer.partner, peer.path.path.value)
        for access in held.gtp.endpoint.versions
        for peer in held.gtp.endpoint.peers(access)
        if peer.sessions
    )


def _sessions_of_partners(held: GatewayRuntime) -> Mapping[tuple[str, ...], float]:
    found: Counter[tuple[str, ...]] = Counter()
    for access in held.gtp.endpoint.versions:
        for peer in held.gtp.endpoint.peers(access):
            if peer.sessions:
                found[access.value, peer.partner] += peer.sessions
    return found


def _total(tables: Iterable[Mapping[tuple[str, ...], float]]) -> Mapping[tuple[str, ...], float]:
    total: Counter[tuple[str, ...]] = Counter()
    for table in tables:
        total.update({key: int(value) for key, value in table.items()})
    return total


def _same(table: Mapping[str, float]) -> Mapping[str, float]:
    return table


def _sum(tables: Iterable[Mapping[str, float]]) -> Mapping[str, float]:
    total: Counter[str] = Counter()
    for table in tables:
        total.update({key: int(value) for key, value in table.items()})
    return total
