"""What a node shows to the outside: the customer API, the control channel and the metrics."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from airloom.app.adapters import Adapters, make_billing
from airloom.app.node import Node
from airloom.app.operated import make_operations
from airloom.app.readiness import NodeReadiness
from api.app import make_application
from api.calls import ApiServices
from api.limits import OperatorLimits
from api.operator.control import ControlServices, make_control
from api.operator.customers import CustomerOperations
from core.adapters.secrets.passwords import Argon2Passwords
from core.adapters.secrets.tokens import JwtTokens
from core.config import Config
from core.services.customers.exports import Exports
from core.services.customers.groups import Groups
from core.services.customers.guesses import Guesses
from core.services.customers.identity import Identity
from core.services.customers.operators import Operators
from core.services.customers.sims import Sims
from core.services.customers.stock import Stock
from core.services.customers.verified_tokens import VerifiedTokens
from core.services.metering.stats import Stats
from core.services.running.audit import AuditTrail
from core.telemetry import Metric, Telemetry


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
        tokens=VerifiedTokens(tokens=JwtTokens(key=adapters.token_key), clock=clock),
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
                for gateway_id, each in node.coordinator.states.items()
            },
            standing=lambda: node.faults.standing,
            hand_over=node.coordinator.hand_over,
            end_sessions_of=node.gateways.end_sessions_of,
            refresh_sessions_of=node.gateways.refresh_sessions_of,
            group_changed=node.gateways.group_changed,
            drain=drain,
            reload=reload,
            operations=make_operations(node, usage=adapters.store.usage, clock=adapters.clock),
            billing=node.closer.state,
            serve_link=node.remote.serve if "edge" in config.node.roles else None,
        )
    )


def add_metrics(application: web.Application, telemetry: Telemetry) -> None:
    """``/metrics``, without credentials."""

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=telemetry.render(), content_type="text/plain")

    application.router.add_get("/metrics", metrics)
