"""What a node shows to the outside: the customer API, the control channel and the metrics."""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

from aiohttp import web
from prometheus_client import CollectorRegistry

from core.adapters.passwords import Argon2Passwords
from core.adapters.tokens import JwtTokens
from core.api.app import make_application
from core.api.calls import ApiServices
from core.api.control import ControlServices, make_control
from core.api.customers import CustomerOperations
from core.api.limits import OperatorLimits
from core.app.adapters import Adapters, make_billing
from core.app.held import HeldGateway
from core.app.node import Node
from core.app.operations import Operations
from core.app.readiness import NodeReadiness
from core.config import Config
from core.domain.session import Access
from core.services.audit import AuditTrail
from core.services.exports import Exports
from core.services.groups import Groups
from core.services.guesses import Guesses
from core.services.identity import Identity
from core.services.operators import Operators
from core.services.sims import Sims
from core.services.stats import Stats
from core.services.stock import Stock
from core.telemetry import Metric, Telemetry
from mqtt_bridge.service import SERVED


@dataclass(frozen=True, slots=True, kw_only=True)
class Customers:
    """What the customer API and an operator both act by."""

    identity: Identity
    sims: Sims
    guesses: Guesses
    operators: Operators
    stock: Stock


def make_customers(config: Config, adapters: Adapters, node: Node) -> Customers:
    """On this installation's token key and store, of which what they ask can wait."""
    store, clock, entropy = adapters.store.bulk, adapters.clock, adapters.entropy
    audit = AuditTrail(audit=store.audit, clock=clock, entropy=entropy, actor=config.node.name)
    guesses = Guesses(clock=clock, audit=audit.guessed)
    identity = Identity(
        accounts=store.accounts,
        passwords=Argon2Passwords(),
        tokens=JwtTokens(key=adapters.token_key),
        guesses=guesses,
        clock=clock,
        entropy=entropy,
    )
    sims = Sims(
        store=store,
        control=node.control,
        clock=clock,
        entropy=entropy,
        stock_plmn=config.api.sandbox_plmn,
        static_pool=config.gateway.static_pool,
    )
    return Customers(
        identity=identity,
        sims=sims,
        guesses=guesses,
        operators=Operators(store=store, identity=identity, sims=sims, audit=audit),
        stock=Stock(store=store, clock=clock, audit=audit),
    )


def make_telemetry(node: Node, customers: Customers) -> Telemetry:
    """What this node tells about itself; what its gateways count is added up over those that it holds."""
    telemetry = Telemetry(registry=CollectorRegistry())

    def each(metric: Metric, read: Callable[[HeldGateway], Mapping[str, float]], /, **labels: str) -> None:
        telemetry.watch_each(metric, lambda: _sum(read(held) for held in node.held.values()), **labels)

    each(Metric.SESSIONS_OPEN, lambda held: held.sessions.open_by_access)
    for access in Access:
        each(Metric.ATTACHES, partial(_attaches, access), access=access.value)
    telemetry.watch_each(Metric.RECORDS_DELIVERED, lambda: node.delivery.delivered)
    telemetry.watch(Metric.DEAD_LETTERS, lambda: float(node.delivery.dead_letters))
    telemetry.watch(Metric.EVENTS_TOLD, lambda: float(sum(h.relay.told for h in node.held.values())))
    telemetry.watch(Metric.MESSAGES_COUNTED, lambda: float(node.messages.counted))
    telemetry.watch_each(Metric.RECORDS_PASSED_OVER, lambda: node.messages.passed_over)
    telemetry.watch_table(Metric.LOOP_FAULTS, lambda: node.faults.counts)
    telemetry.watch(Metric.LOOPS_STANDING, lambda: float(len(node.faults.standing)))
    telemetry.watch(
        Metric.USAGE_REPORTS,
        lambda: float(sum(h.usage.reports_durable + h.reported.reports_durable for h in node.held.values())),
    )
    _watch_chores(telemetry, node)
    telemetry.watch_each(
        Metric.RESTART_COUNTER,
        lambda: {gateway_id: held.gateway.restart_counter for gateway_id, held in node.held.items()},
    )
    telemetry.watch_each(Metric.GATEWAYS, lambda: node.holdings.counts)
    each(Metric.LEASES, lambda held: held.gateway.leases)
    for access in (Access.GTPV1, Access.GTPV2):
        each(Metric.DATAGRAMS_DROPPED, partial(_dropped, access), door=access.value)
        each(Metric.GTP_PATH_EVENTS, partial(_path_events, access), access=access.value)
        each(Metric.GTP_CLAIMS, partial(_claims, access), access=access.value)
    each(Metric.GTP_PATH_EVENTS, lambda held: held.user_plane.paths.counts, access="gtpu")
    telemetry.watch_each(Metric.GTP_WAITING, lambda: _sum(_waiting(held) for held in node.held.values()))
    telemetry.watch_table(Metric.GTP_ANSWERS, lambda: _total(map(_answers, node.held.values())))
    telemetry.watch_table(Metric.GTP_PEERS, lambda: _total(map(_peers, node.held.values())))
    telemetry.watch_table(Metric.GTP_SESSIONS, lambda: _total(map(_sessions_of_partners, node.held.values())))
    each(Metric.DATAGRAMS_DROPPED, lambda held: held.radius.dropped, door=Access.RADIUS.value)
    telemetry.watch_table(
        Metric.RADIUS_ANSWERS, lambda: _total(held.radius.answers for held in node.held.values())
    )
    each(Metric.DISCONNECTS, lambda held: held.radius.disconnects)
    each(
        Metric.DATAGRAMS_DROPPED,
        lambda held: {drop.value: count for drop, count in held.user_plane.drops.items()},
        door="gtpu",
    )
    each(
        Metric.GTPU_SIGNALS,
        lambda held: {signal.value: count for signal, count in held.user_plane.signals.items()},
    )
    telemetry.watch_each(Metric.GUESSES_STOPPED, lambda: customers.guesses.stopped)
    telemetry.watch_each(
        Metric.EDGE_DATAGRAMS,
        lambda: {what.value: count for what, count in node.edge.counts.items() if what in SERVED},
    )
    telemetry.watch_each(
        Metric.DATAGRAMS_DROPPED,
        lambda: {reason.value: count for reason, count in node.edge.counts.items() if reason not in SERVED},
        door="edge",
    )
    telemetry.watch(Metric.EDGE_LINKS, lambda: float(node.edge_links.up if node.edge_links else 0))
    telemetry.watch_each(
        Metric.EDGE_LINK_PACKETS,
        lambda: _sum(
            {what.value: count for what, count in side.counts.items()}
            for side in (node.edge_links, node.remote)
            if side is not None
        ),
    )
    if (inside := node.inside) is not None:
        telemetry.watch(Metric.INSIDE_NETWORK_UP, lambda: float(not inside.why_not))
    if (connections := node.connections) is not None:
        telemetry.watch(Metric.CONNECTIONS_OPEN, lambda: float(connections.open))
        telemetry.watch_each(
            Metric.CONNECTIONS, lambda: {what.value: count for what, count in connections.counts.items()}
        )
    return telemetry


def _watch_chores(telemetry: Telemetry, node: Node) -> None:
    for chore, outcomes in node.chores.outcomes.items():
        telemetry.watch_each(Metric.CHORE_STEPS, partial(_same, outcomes), chore=chore)
    telemetry.watch(Metric.DAYS_FOLDED, lambda: float(node.folder.folded))
    telemetry.watch(Metric.FOLD_DAYS_BEHIND, lambda: float(node.folder.days_behind))
    telemetry.watch(Metric.MONTHS_CLOSED, lambda: float(node.closer.closed))
    telemetry.watch(Metric.CLOSING_MONTHS_BEHIND, lambda: float(node.closer.months_behind))
    telemetry.watch(Metric.LATE_USAGE_BYTES, lambda: float(sum(e.quantity_bytes for e in node.closer.late)))


def _attaches(access: Access, held: HeldGateway) -> Mapping[str, float]:
    return held.sessions.attaches[access]


def _dropped(access: Access, held: HeldGateway) -> Mapping[str, float]:
    return held.door.machines[access].dropped


def _path_events(access: Access, held: HeldGateway) -> Mapping[str, float]:
    return held.door.machines[access].path_events


def _claims(access: Access, held: HeldGateway) -> Mapping[str, float]:
    return held.door.machines[access].claims


def _waiting(held: HeldGateway) -> Mapping[str, float]:
    return {access.value: machine.waiting for access, machine in held.door.machines.items()}


def _answers(held: HeldGateway) -> Mapping[tuple[str, ...], float]:
    return {
        (access.value, partner, machine.procedure_of(response_type), str(cause)): count
        for access, machine in held.door.machines.items()
        for (partner, response_type, cause), count in machine.answers.items()
    }


def _peers(held: HeldGateway) -> Mapping[tuple[str, ...], float]:
    return Counter(
        (access.value, peer.partner, peer.path.path.value)
        for access, machine in held.door.machines.items()
        for peer in machine.peers()
        if peer.sessions
    )


def _sessions_of_partners(held: HeldGateway) -> Mapping[tuple[str, ...], float]:
    found: Counter[tuple[str, ...]] = Counter()
    for access, machine in held.door.machines.items():
        for peer in machine.peers():
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


def make_api(
    config: Config,
    adapters: Adapters,
    node: Node,
    customers: Customers,
    *,
    telemetry: Telemetry,
    readiness: NodeReadiness,
) -> web.Application:
    """The customer API. What it asks of the store can wait."""
    store = adapters.store.bulk
    services = ApiServices(
        identity=customers.identity,
        sims=customers.sims,
        operators=customers.operators,
        guesses=customers.guesses,
        groups=Groups(store=store, control=node.control, clock=adapters.clock, entropy=adapters.entropy),
        stats=Stats(usage=store.usage, clock=adapters.clock),
        billing=make_billing(config, store=store, objects=adapters.objects, clock=adapters.clock),
        exports=Exports(objects=adapters.objects, clock=adapters.clock, key=adapters.token_key),
        clock=adapters.clock,
        sandbox=config.api.sandbox,
        limits=OperatorLimits(clock=adapters.clock, calls_per_s=config.api.calls_per_s),
        readiness=readiness.of,
        on_answer=lambda operation, status: telemetry.count(
            Metric.API_REQUESTS, operation=operation, status=str(status)
        ),
        proxies=config.api.proxies,
    )
    return make_application(services)


def make_control_channel(
    config: Config,
    adapters: Adapters,
    node: Node,
    customers: Customers,
    *,
    is_own: bool = False,
    readiness: NodeReadiness,
    drain: Callable[[], None],
    reload: Callable[[], Awaitable[list[str]]],
) -> web.Application:
    """What the other nodes and an operator ask of this one.

    ``is_own``: on the socket in its data folder, where no secret is asked for. ``drain`` begins its end;
    ``reload`` reads the configuration again.
    """
    return make_control(
        ControlServices(
            name=config.node.name,
            secret=None if is_own else config.control.secret.get_secret_value(),
            guesses=customers.guesses,
            customers=CustomerOperations(customers.operators, customers.stock),
            fences=lambda: {gateway_id: held.gateway.epoch for gateway_id, held in node.held.items()},
            gateways=lambda: {
                gateway_id: len(held.sessions.open_sessions) for gateway_id, held in node.held.items()
            },
            readiness=readiness.of,
            places=lambda: {
                gateway_id: f"{each.state.value} {each.detail}".strip()
                for gateway_id, each in node.holdings.states.items()
            },
            standing=lambda: node.faults.standing,
            hand_over=node.holdings.hand_over,
            end_sessions_of=node.end_sessions_of,
            refresh_sessions_of=node.refresh_sessions_of,
            group_changed=node.group_changed,
            drain=drain,
            reload=reload,
            operations=Operations(node=node, clock=adapters.clock),
            billing=node.closer.state,
            serve_link=node.remote.serve if "edge" in config.node.roles else None,
        )
    )


def add_metrics(application: web.Application, telemetry: Telemetry) -> None:
    """``/metrics``, for whoever reaches it."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=telemetry.render(), content_type="text/plain")

    application.router.add_get("/metrics", metrics)
