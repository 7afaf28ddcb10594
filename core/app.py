"""The composition root: the only place that knows every room and chooses the default adapters.

Rules: a ``Node`` is one process with one virtual gateway; it is assembled from adapters handed in, the
same on a laptop, in a test and in a simulation. What was read back is installed before a socket opens, so
that no peer is ever told that a living tunnel is unknown.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CollectorRegistry

from billing.service import BillingService
from billing.tariff import Tariff
from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.files import FolderObjectStore
from core.adapters.inside.namespace import NamespaceNetwork
from core.adapters.network import UdpNetwork
from core.adapters.passwords import Argon2Passwords
from core.adapters.store.engine import Engine
from core.adapters.store.sqlite import SqliteEngine
from core.adapters.store.wide import WideStore
from core.adapters.stream.kinesis import KinesisStream
from core.adapters.stream.log import LogStream
from core.adapters.tokens import JwtTokens, key_of_file
from core.api.app import make_application
from core.api.calls import ApiServices
from core.api.views import subscriber_view
from core.config import Config
from core.domain.pools import AddressPool, TeidPool
from core.domain.session import Access, CloseReason, Session
from core.errors import ConfigurationError, Refused, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.inside import InsideNetwork
from core.ports.network import Network
from core.ports.object_store import ObjectStore
from core.ports.store import Store
from core.ports.stream import Stream
from core.services.admissions import Admissions
from core.services.consumer import Consumer
from core.services.delivery import Delivery
from core.services.exports import Exports
from core.services.gateway import VirtualGateway, keep_lease, take_lease
from core.services.groups import Groups
from core.services.identity import Identity
from core.services.message_meter import MessageMeter
from core.services.relay import EventRelay
from core.services.reported import ReportedUsage
from core.services.sessions import Sessions
from core.services.sims import Sims
from core.services.stats import Stats
from core.services.usage import UsageMeter
from core.telemetry import Metric, Telemetry
from gtp.service import GtpDoor
from gtp.userplane.slots import Origin, Slots, open_file
from gtp.userplane.tun import Tun
from gtp.userplane.udp import UdpUserPlane
from mqtt_bridge.connections import DeviceConnections
from mqtt_bridge.edge.dns import DNS_PORT, NameServer
from mqtt_bridge.edge.http import HttpEntryPoint, Metadata, MetadataService
from mqtt_bridge.edge.mqtt import MqttEntryPoint
from mqtt_bridge.edge.tcp import TcpEntryPoint
from mqtt_bridge.edge.udp import UdpEntryPoint
from mqtt_bridge.service import DeviceEdge
from radius.server import NasNetwork
from radius.service import RadiusAddresses, RadiusDoor

if TYPE_CHECKING:
    from core.adapters.store.cassandra import CassandraAddress

METADATA_PORT = 80
MESSAGE_METER = "message-meter"
"""The application as which all nodes together count messages."""
ROOT_EMAIL = "root@airloom.local"
"""The operator that a first run makes."""
ERROR_INDICATIONS_MAX = 10_000
"""Sessions that wait to be ended because their peer no longer knows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The world that a node runs in. ``tun`` is the way to the internet side, ``inside`` the network that
    devices' connections end in, where there is one.
    """

    clock: Clock
    entropy: Entropy
    network: Network
    store: Store
    stream: Stream
    objects: ObjectStore
    slots: Slots
    token_key: bytes
    tun: Tun | None = None
    inside: InsideNetwork | None = None


@asynccontextmanager
async def default_adapters(config: Config) -> AsyncIterator[Adapters]:
    """The embedded defaults under ``node.data_dir``; raises ``ConfigurationError`` before anything runs."""
    clock, entropy, folder = SystemClock(), SystemEntropy(), config.node.data_dir
    async with AsyncExitStack() as open_parts:
        making_inside = asyncio.create_task(_inside_network(config))  # in a child: meanwhile the rest opens
        open_parts.push_async_callback(_close_inside, making_inside)
        engine = await _open_engine(config, clock)
        store = WideStore(engine=engine, clock=clock)
        open_parts.push_async_callback(store.aclose)
        stream = await _open_stream(config, clock)
        open_parts.push_async_callback(stream.aclose)
        yield Adapters(
            clock=clock,
            entropy=entropy,
            network=UdpNetwork(),
            store=store,
            stream=stream,
            objects=await FolderObjectStore.open(root=folder / "objects"),
            slots=open_file(folder / "meter.slots", capacity=config.gateway.sessions_max),
            token_key=key_of_file(folder / "token.key", entropy),
            tun=Tun(config.gateway.tun, ue_pool=config.gateway.ue_pool) if config.gateway.tun else None,
            inside=await making_inside,
        )


async def _open_engine(config: Config, clock: Clock) -> Engine:
    if not config.store.cassandra:
        return await SqliteEngine.open(path=config.node.data_dir / "airloom.db", clock=clock)
    from core.adapters.store.cassandra import CassandraEngine  # noqa: PLC0415 - embedded, no driver is loaded

    return await CassandraEngine.open(address=cassandra_address(config), clock=clock)


def cassandra_address(config: Config) -> "CassandraAddress":
    """Where the configured cluster is."""
    from core.adapters.store.cassandra import CassandraAddress  # noqa: PLC0415 - embedded, no driver is loaded

    store = config.store
    return CassandraAddress(
        contact_points=store.cassandra,
        keyspace=store.keyspace,
        datacenter=store.datacenter,
        port=store.port,
        user_name=store.user_name,
        password=store.password.get_secret_value(),
    )


async def _open_stream(config: Config, clock: Clock) -> Stream:
    stream = config.stream
    if stream.kinesis:
        return await KinesisStream.open(name=stream.kinesis, region=stream.region, endpoint=stream.endpoint)
    folder = config.node.data_dir / "stream"
    return await LogStream.open(folder=folder, clock=clock, shards=stream.shards)


async def _close_inside(making: "asyncio.Task[InsideNetwork | None]") -> None:
    with suppress(ConfigurationError):
        if (inside := await making) is not None:
            await inside.aclose()


async def _inside_network(config: Config) -> InsideNetwork | None:
    edge = config.edge
    if edge.inside == "off":
        return None
    try:
        return await NamespaceNetwork.open(
            local=edge.platform_network,
            remote=config.gateway.ue_pool,
            listeners=[
                (edge.mqtt_address, edge.mqtt_port),
                (edge.message_address, edge.tcp_port),
                (edge.message_address, edge.http_port),
                (edge.metadata_address, METADATA_PORT),
            ],
        )
    except ConfigurationError as error:
        if edge.inside == "on":
            raise ConfigurationError(f"edge.inside: {error}; or set it to off, to serve UDP alone") from None
        return None


class Node:
    """One process and its virtual gateway: doors, user plane, edge, meter, and the loops that drive them.

    The ``make_*`` methods are where a test puts a broken part in the place of a good one.
    """

    def __init__(self, *, config: Config, adapters: Adapters) -> None:
        self._config = config
        self._world = adapters
        self._peer_lost: asyncio.Queue[str] = asyncio.Queue(ERROR_INDICATIONS_MAX)

    async def start(self) -> int:
        """Take the virtual gateway, read its sessions back, open the sockets; how many sessions."""
        config, world = self._config.gateway, self._world
        self._lease = await take_lease(
            world.store.leases, world.clock, gateway_id=config.id, owner=self._config.node.name
        )
        self.gateway = VirtualGateway(
            lease=self._lease,
            address=str(config.address),
            addresses=AddressPool(config.ue_pool, quarantine_s=config.quarantine_s),
            teids=TeidPool(world.entropy.random_bytes, quarantine_s=config.quarantine_s),
            clock=world.clock,
        )
        self.user_plane = UdpUserPlane(
            slots=world.slots,
            clock=world.clock,
            network=world.network,
            address=config.address,
            ue_pool=config.ue_pool,
            platform_network=self._config.edge.platform_network,
            port=config.user_port,
            tun=world.tun,
        )
        self.usage = self.make_usage_meter()
        self.sessions = self.make_sessions()
        self.door = self.make_door()
        self.delivery = Delivery(
            stream=world.stream, dead_letters=world.objects, clock=world.clock, entropy=world.entropy
        )
        self.relay = EventRelay(
            sessions=world.store.sessions,
            stream=world.stream,
            gateway_id=config.id,
        )
        self.sessions.on_event(self.relay.wake)
        self.messages = self.make_message_meter()
        self.consumer = Consumer(
            stream=world.stream,
            leases=world.store.shard_leases,
            clock=world.clock,
            application=MESSAGE_METER,
            owner=self._config.node.name,
            effect=self.messages.count,
        )
        self.connections = self.make_connections()
        self.edge = self.make_edge()
        for access in self.door.machines:
            self.sessions.attach_door(access, self.door)
        self.reported = self.make_reported_usage()
        self.radius = self.make_radius_door()
        self.sessions.attach_door(Access.RADIUS, self.radius)
        self.user_plane.on_edge_packet(self.edge.on_edge_packet)
        self.user_plane.on_error_indication(self._heed_error_indication)
        recovered = await self.sessions.recover()
        await self.user_plane.start()
        await self.door.start()
        await self.radius.start()
        if self.connections is not None:
            await self._serve_connections(self.connections)
        return recovered

    @property
    def lost_counts(self) -> str:
        """Empty, or why the counts of open sessions were lost: audited, for the bill may be too low."""
        opening = self._world.slots.opening
        if opening.origin is not Origin.LOST:
            return ""
        return (
            f"the meter's file could not be trusted ({opening.why}); sessions are counted on from their last"
            f" durable report, what came after it is not billed; the file is kept as {opening.kept_as}"
        )

    async def run(self) -> None:
        """Drive every loop until cancelled; a loop that fails ends all."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_lease(self._world.store.leases, self._world.clock, self._lease))
            tasks.create_task(self.sessions.end_forbidden())
            tasks.create_task(self.sessions.finish_unfinished())
            tasks.create_task(self.usage.run())
            tasks.create_task(self.delivery.run())
            tasks.create_task(self.consumer.run())
            tasks.create_task(self.relay.run())
            tasks.create_task(self.edge.run())
            tasks.create_task(self.door.run())
            tasks.create_task(self.radius.run())
            tasks.create_task(self._end_lost())

    async def aclose(self) -> None:
        """Take nothing in any more and report what was counted; sessions stay open for the next start."""
        await self.door.aclose()
        await self.radius.aclose()
        if self.connections is not None:
            await self.connections.aclose()
        with suppress(Unavailable):  # the slot table keeps what the store does not take now
            await self.usage.sweep()
        await self.user_plane.aclose()

    def make_usage_meter(self) -> UsageMeter:
        """What reports the counts."""
        return UsageMeter(
            user_plane=self.user_plane,
            usage=self._world.store.usage,
            clock=self._world.clock,
            interval_s=self._config.usage.report_interval_s,
        )

    def make_sessions(self) -> Sessions:
        """What opens and closes sessions."""
        return Sessions(
            store=self._world.store,
            gateway=self.gateway,
            user_plane=self.user_plane,
            usage=self.usage,
            clock=self._world.clock,
            entropy=self._world.entropy,
            apns=frozenset(self._config.gateway.apns),
            dns=tuple(str(address) for address in self._config.gateway.dns),
        )

    def make_door(self) -> GtpDoor:
        """The GTP-C door."""
        config = self._config.gateway
        return GtpDoor(
            network=self._world.network,
            address=(str(config.address), config.control_port),
            sessions=self.sessions,
            clock=self._world.clock,
            entropy=self._world.entropy,
            recovery=self.gateway.restart_counter,
            dns=tuple(str(address) for address in config.dns),
            allowed_peers=config.allowed_peers,
        )

    def make_radius_door(self) -> RadiusDoor:
        """The RADIUS door."""
        config, world = self._config.radius, self._world
        address = str(config.address)
        return RadiusDoor(
            network=world.network,
            addresses=RadiusAddresses(
                authentication=(address, config.authentication_port),
                accounting=(address, config.accounting_port),
                disconnect=(address, 0),
            ),
            clients=[
                NasNetwork(
                    network=client.network,
                    secret=client.secret.get_secret_value().encode(),
                    require_message_authenticator=client.require_message_authenticator,
                    disconnect_port=client.disconnect_port,
                )
                for client in config.clients
            ],
            sessions=self.sessions,
            admissions=Admissions(
                gateway=self.gateway,
                clock=world.clock,
                entropy=world.entropy,
                lifetime_s=config.provisional_s,
            ),
            usage=self.reported,
            clock=world.clock,
            interim_interval_s=config.interim_s,
        )

    def make_reported_usage(self) -> ReportedUsage:
        """What records the counts of NASes."""
        return ReportedUsage(usage=self._world.store.usage, sessions=self.sessions, clock=self._world.clock)

    def make_message_meter(self) -> MessageMeter:
        """What counts messages."""
        return MessageMeter(counts=self._world.store.message_counts)

    def make_edge(self) -> DeviceEdge:
        """What devices speak to inside their tunnel."""
        edge = self._config.edge
        names = {
            **dict.fromkeys(edge.message_names, edge.message_address),
            **dict.fromkeys(edge.mqtt_names, edge.mqtt_address),
            **dict.fromkeys(edge.metadata_names, edge.metadata_address),
        }
        answer = NameServer(names).answer
        return DeviceEdge(
            delivery=self.delivery,
            session_of=self.sessions.open_sessions.get,
            inject=self.user_plane.inject,
            clock=self._world.clock,
            entry_points=(UdpEntryPoint(edge.message_address, edge.udp_port),),
            responders={(address, DNS_PORT): answer for address in self._config.gateway.dns},
            on_tcp=self.connections.on_packet_up if self.connections is not None else None,
        )

    def make_connections(self) -> DeviceConnections | None:
        """What accepts devices' connections, where there is a network for them to end in."""
        if self._world.inside is None:
            return None
        connections = DeviceConnections(
            network=self._world.inside,
            session_at=self.sessions.session_at,
            session_of=self.sessions.open_sessions.get,
            inject=self.user_plane.inject,
            delivery=self.delivery,
            clock=self._world.clock,
        )
        self.sessions.on_end(connections.end_session)
        return connections

    async def _serve_connections(self, connections: DeviceConnections) -> None:
        edge, world = self._config.edge, self._world
        message, mqtt = edge.message_address, edge.mqtt_address
        http = HttpEntryPoint(url=f"http://{message}:{edge.http_port}", connections=connections)
        tcp = TcpEntryPoint(url=f"tcp://{message}:{edge.tcp_port}", connections=connections)
        mqtt_entry = MqttEntryPoint(
            url=f"mqtt://{mqtt}:{edge.mqtt_port}",
            connections=connections,
            clock=world.clock,
            entropy=world.entropy,
        )
        metadata = MetadataService(connections=connections, metadata_of=self._metadata_of)
        await connections.serve(message, edge.http_port, http)
        await connections.serve(message, edge.tcp_port, tcp)
        await connections.serve(mqtt, edge.mqtt_port, mqtt_entry)
        await connections.serve(edge.metadata_address, METADATA_PORT, metadata)

    async def _metadata_of(self, session: Session) -> Metadata | None:
        """What a device may read of its own SIM, if its group lets it (``SoracomAir.metadata.enabled``)."""
        sim = await self._world.store.sims.get(session.sim_id)
        if sim is None or not sim.group_id or sim.operator_id != session.operator_id:
            return None
        group = await self._world.store.groups.get(sim.operator_id, sim.group_id)
        air = group.configuration.get("SoracomAir", {}) if group is not None else {}
        allowed = air.get("metadata")
        if not isinstance(allowed, dict) or allowed.get("enabled") is not True:
            return None
        userdata = air.get("userdata")
        return Metadata(
            subscriber=subscriber_view(sim, await self._world.store.sessions.of_sim(sim.sim_id)),
            userdata=userdata if isinstance(userdata, str) else None,
        )

    def _heed_error_indication(self, session_id: str) -> None:
        with suppress(asyncio.QueueFull):  # the next packet down brings the next indication
            self._peer_lost.put_nowait(session_id)

    async def _end_lost(self) -> None:
        while True:
            session_id = await self._peer_lost.get()
            with suppress(Refused, Unavailable):  # over already, or its end is tried again by the service
                await self.sessions.close(session_id, CloseReason.PEER_LOST)


def make_telemetry(node: Node) -> Telemetry:
    """What this node tells about itself."""
    telemetry = Telemetry(registry=CollectorRegistry())
    sessions = node.sessions
    telemetry.watch_each(Metric.SESSIONS_OPEN, lambda: sessions.open_by_access)
    for access in Access:
        telemetry.watch_each(
            Metric.ATTACHES, partial(sessions.attaches.__getitem__, access), access=access.value
        )
    telemetry.watch_each(Metric.RECORDS_DELIVERED, lambda: node.delivery.delivered)
    telemetry.watch(Metric.DEAD_LETTERS, lambda: float(node.delivery.dead_letters))
    telemetry.watch(Metric.EVENTS_TOLD, lambda: float(node.relay.told))
    telemetry.watch(Metric.MESSAGES_COUNTED, lambda: float(node.messages.counted))
    telemetry.watch(
        Metric.USAGE_REPORTS, lambda: float(node.usage.reports_durable + node.reported.reports_durable)
    )
    telemetry.watch(Metric.RESTART_COUNTER, lambda: float(node.gateway.restart_counter))
    telemetry.watch_each(Metric.LEASES, lambda: node.gateway.leases)
    for access, machine in node.door.machines.items():
        telemetry.watch_each(
            Metric.DATAGRAMS_DROPPED, partial(getattr, machine, "dropped"), door=access.value
        )
    telemetry.watch_each(Metric.DATAGRAMS_DROPPED, lambda: node.radius.dropped, door=Access.RADIUS.value)
    telemetry.watch_each(Metric.DISCONNECTS, lambda: node.radius.disconnects)
    telemetry.watch_each(
        Metric.DATAGRAMS_DROPPED,
        lambda: {drop.value: count for drop, count in node.user_plane.drops.items()},
        door="gtpu",
    )
    telemetry.watch_each(
        Metric.DATAGRAMS_DROPPED,
        lambda: {reason.value: count for reason, count in node.edge.counts.items()},
        door="edge",
    )
    if (connections := node.connections) is not None:
        telemetry.watch(Metric.CONNECTIONS_OPEN, lambda: float(connections.open))
        telemetry.watch_each(
            Metric.CONNECTIONS, lambda: {what.value: count for what, count in connections.counts.items()}
        )
    return telemetry


def make_api(config: Config, adapters: Adapters, node: Node, identity: Identity) -> web.Application:
    """The customer API over this node, with ``/metrics`` beside it."""
    telemetry = make_telemetry(node)
    billing = config.billing
    services = ApiServices(
        identity=identity,
        sims=Sims(
            store=adapters.store,
            control=node.sessions,
            clock=adapters.clock,
            entropy=adapters.entropy,
            stock_plmn=config.api.sandbox_plmn,
        ),
        groups=Groups(store=adapters.store, clock=adapters.clock, entropy=adapters.entropy),
        stats=Stats(usage=adapters.store.usage, clock=adapters.clock),
        billing=BillingService(
            usage=adapters.store.usage,
            objects=adapters.objects,
            clock=adapters.clock,
            tariff=Tariff(
                currency=billing.currency,
                nano_per_byte=billing.nano_per_byte,
                unit_bytes=billing.unit_bytes,
            ),
        ),
        exports=Exports(objects=adapters.objects, clock=adapters.clock, key=adapters.token_key),
        clock=adapters.clock,
        sandbox=config.api.sandbox,
        is_ready=lambda: True,  # the socket opens only once the node has started
        on_answer=lambda operation, status: telemetry.count(
            Metric.API_REQUESTS, operation=operation, status=str(status)
        ),
    )
    application = make_application(services)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=telemetry.render(), content_type="text/plain")

    application.router.add_get("/metrics", metrics)
    return application


def make_identity(adapters: Adapters) -> Identity:
    """Operators, keys and tokens, on this installation's token key."""
    return Identity(
        accounts=adapters.store.accounts,
        passwords=Argon2Passwords(),
        tokens=JwtTokens(key=adapters.token_key),
        clock=adapters.clock,
        entropy=adapters.entropy,
    )


async def first_run(adapters: Adapters, identity: Identity) -> dict[str, str]:
    """On an empty store: an operator, its root user and an auth key, to be told once; else nothing."""
    if await adapters.store.accounts.operator_id_of_email(ROOT_EMAIL) is not None:
        return {}
    password = "Aa1-" + adapters.entropy.random_bytes(12).hex()
    operator = await identity.create_operator(ROOT_EMAIL, password)
    key = await identity.generate_auth_key(operator.operator_id)
    return {
        "operator_id": operator.operator_id,
        "email": ROOT_EMAIL,
        "password": password,
        "auth_key_id": key.key.auth_key_id,
        "auth_key": key.secret,
    }
