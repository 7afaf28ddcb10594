"""The world of a node: which adapters, the embedded or the production ones, is chosen here."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from billing.service import BillingService
from core.adapters.clock import SystemClock, SystemEntropy
from core.adapters.data_directory import DataDirectory
from core.adapters.floating_ip.none import StaysInPlace
from core.adapters.links import NoLinks, WebSocketLinks
from core.adapters.network import UdpNetwork
from core.adapters.object_store.files import FolderObjectStore
from core.adapters.peers import HttpPeers, NoPeers
from core.adapters.secrets.tokens import key_of_file, key_of_secret
from core.adapters.store.engine import Engine
from core.adapters.store.sqlite import SqliteEngine
from core.adapters.store.wide_column import WideColumnStore
from core.adapters.stream.log import STREAM_FOLDER, LogStream
from core.config import Config, GatewayConfig
from core.domain.billing import Tariff
from core.errors import ConfigurationError, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.device_network import RetriedDeviceNetwork
from core.ports.floating_ip import FloatingIp
from core.ports.links import Links
from core.ports.network import Network
from core.ports.object_store import ObjectStore
from core.ports.peers import Peers
from core.ports.store import Store
from core.ports.stream import Stream
from core.services.metering.message_meter import MESSAGE_METER
from core.services.sessions.recovery import LATE_S
from gtp.userplane.counter_table import CounterTable, open_file
from gtp.userplane.links import device_mtus
from gtp.userplane.tun import Tun
from gtp.userplane.udp import inner_addresses

if TYPE_CHECKING:
    from core.adapters.device_network.late import LateNetwork
    from core.adapters.store.cassandra import CassandraAddress

METADATA_PORT = 80
SEQUENCE_DIGITS_MAX = 19
"""A checkpoint of so many digits or more is none of the embedded stream's."""
NO_PEERS, NO_LINKS, STAYS_IN_PLACE = NoPeers(), NoLinks(), StaysInPlace()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The world that a node runs in.

    ``open_counters(gateway_id)`` opens a gateway instance's counter table, ``left_counters`` one that is
    there from an earlier lease term; ``open_tuns(config, gateway_id)`` its ways to the internet side, by
    access point that has its own, the common one under ""; ``device_network`` is the network that devices'
    connections end in, where there is one;
    ``peers`` are the other nodes and ``links`` lead to them; ``floating_ip`` brings a gateway instance's
    addresses here; ``folder_id`` tells this node's data folder from any other. ``stream_damage`` is what was
    found damaged or missing when the stream was opened, a line each; ``stream_lost`` how many records at
    least. ``late_s`` is how long a write to the store may be under way when its sender is dead (0: the file
    of a dead process changes no more).
    """

    clock: Clock
    entropy: Entropy
    network: Network
    store: Store
    stream: Stream
    objects: ObjectStore
    open_counters: Callable[[str], CounterTable]
    left_counters: Callable[[str], CounterTable | None]
    token_key: bytes = field(repr=False)
    folder_id: str = ""
    stream_damage: Sequence[str] = ()
    stream_lost: int = 0
    late_s: float = LATE_S
    device_network: RetriedDeviceNetwork | None = None
    peers: Peers = NO_PEERS
    links: Links = NO_LINKS
    floating_ip: FloatingIp = STAYS_IN_PLACE
    open_tuns: Callable[[GatewayConfig, str], Mapping[str, Tun]] = lambda *_: {}


def make_billing(config: Config, *, store: Store, objects: ObjectStore, clock: Clock) -> BillingService:
    """Bills by the configured tariff."""
    tariff = config.billing
    return BillingService(
        usage=store.usage,
        bills=store.bills,
        objects=objects,
        clock=clock,
        configured=Tariff(
            currency=tariff.currency, nano_per_byte=tariff.nano_per_byte, unit_bytes=tariff.unit_bytes
        ),
    )


@asynccontextmanager
async def default_adapters(config: Config) -> AsyncIterator[Adapters]:
    """The embedded defaults under ``node.data_dir``; raises ``ConfigurationError`` before anything runs."""
    demand_shared_objects(config)
    clock, entropy, folder = SystemClock(), SystemEntropy(), config.node.data_dir
    async with AsyncExitStack() as open_parts:
        own_folder = await asyncio.to_thread(DataDirectory.open, folder, entropy)
        open_parts.callback(own_folder.close)
        device_network = _device_network_of(config)  # made in a child: meanwhile the rest opens
        if device_network is not None:
            open_parts.push_async_callback(device_network.aclose)
        store = await open_store(config, clock)
        open_parts.push_async_callback(store.aclose)
        peers: Peers = NO_PEERS
        links: Links = NO_LINKS
        secret = config.control.secret.get_secret_value()
        if secret:
            peers, links = HttpPeers(secret=secret), WebSocketLinks(secret=secret)
            open_parts.push_async_callback(peers.aclose)
        floating_ip = await _open_floating_ip(config)
        open_parts.push_async_callback(floating_ip.aclose)
        stream = await _open_stream(config, clock, store)
        open_parts.push_async_callback(stream.aclose)
        if device_network is not None:
            await _wait_for(device_network, config)
        yield Adapters(
            clock=clock,
            entropy=entropy,
            network=UdpNetwork(),
            store=store,
            stream=stream,
            objects=await _open_objects(config, open_parts),
            open_counters=partial(_open_counters, config),
            left_counters=partial(_left_counters, config),
            token_key=key_of_secret(secret) if secret else key_of_file(folder / "token.key", entropy),
            folder_id=own_folder.folder_id,
            stream_damage=stream.damage if isinstance(stream, LogStream) else (),
            stream_lost=stream.lost if isinstance(stream, LogStream) else 0,
            late_s=LATE_S if config.store.cassandra else 0.0,
            open_tuns=_open_tuns,
            device_network=device_network,
            peers=peers,
            links=links,
            floating_ip=floating_ip,
        )


def _open_counters(config: Config, gateway_id: str) -> CounterTable:
    path = config.node.data_dir / f"{gateway_id}.slots"
    return open_file(path, capacity=config.gateway.sessions_max)


def _left_counters(config: Config, gateway_id: str) -> CounterTable | None:
    path = config.node.data_dir / f"{gateway_id}.slots"
    return _open_counters(config, gateway_id) if path.exists() else None


def _open_tuns(config: GatewayConfig, gateway_id: str) -> Mapping[str, Tun]:
    """Each gateway instance has devices of its own: the first named as configured, the others on from it."""
    number = [each.id for each in config.held].index(gateway_id)
    wanted = {"": (config.tun, config.ue_pool)} if config.tun else {}
    wanted |= {each.name: (each.tun, each.ue_pool) for each in config.apns if each.tun and each.ue_pool}
    opened: dict[str, Tun] = {}
    with ExitStack() as undo:
        mtus = device_mtus(config.access_points, {apn: name for apn, (name, _) in wanted.items()})
        for name, pool in wanted.values():
            if name not in opened:
                device = f"{name}-{number}" if number else name
                addresses = inner_addresses(pool, config.prefixes)
                opened[name] = Tun(device, addresses=addresses, mtu_bytes=mtus.get(name, config.mtu_bytes))
                undo.callback(opened[name].close)
        undo.pop_all()
    return {apn: opened[name] for apn, (name, _) in wanted.items()}


async def open_store(config: Config, clock: Clock) -> Store:
    """The configured store; raises ``ConfigurationError``."""
    return WideColumnStore(engine=await _open_engine(config, clock), clock=clock)


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


async def _open_stream(config: Config, clock: Clock, store: Store) -> Stream:
    stream = config.stream
    if stream.kinesis:
        from core.adapters.stream.kinesis import KinesisStream  # noqa: PLC0415 - else no AWS SDK is loaded

        return await KinesisStream.open(name=stream.kinesis, region=stream.region, endpoint=stream.endpoint)
    return await LogStream.open(
        folder=config.node.data_dir / STREAM_FOLDER,
        clock=clock,
        shards=stream.shards,
        numbers_from=await _numbers_from(store),
    )


async def _numbers_from(store: Store) -> dict[str, int]:
    """The lowest sequence numbers that no consumer has gone past: a folder that is older than the store, or
    was removed with its marks, must not give those out again.

    The meter is the only consumer whose checkpoints the store keeps. A program that reads the folder beside
    the node (``LogReader``) keeps none when it ends.
    """
    try:
        leases = await store.shard_leases.of_application(MESSAGE_METER)
    except Unavailable:
        return {}  # the folder's own marks are enough, if it is the one that was there
    checkpoints = ((lease.shard_id, lease.checkpoint) for lease in leases)
    return {
        shard_id: int(checkpoint) + 1
        for shard_id, checkpoint in checkpoints
        if checkpoint.isdecimal() and len(checkpoint) < SEQUENCE_DIGITS_MAX
    }


def demand_shared_objects(config: Config) -> None:
    """Raise ``ConfigurationError`` when nodes share a store, but not what this one puts aside as files."""
    kept = {"api": "exports", "edge": "dead letters"}
    here = [what for role, what in kept.items() if role in config.node.roles]
    if config.store.cassandra and here and not config.objects.s3 and config.objects.folder is None:
        raise ConfigurationError(
            f"objects.s3: not set, but nodes share a store (store.cassandra) and the other nodes could not"
            f" read {' and '.join(here)} in this node's folder; set a bucket, or objects.folder to a folder"
            f" that all nodes mount"
        )


async def _open_objects(config: Config, open_parts: AsyncExitStack) -> ObjectStore:
    objects = config.objects
    if not objects.s3:
        return await FolderObjectStore.open(root=objects.folder or config.node.data_dir / "objects")
    from core.adapters.object_store.s3 import S3ObjectStore  # noqa: PLC0415 - else no AWS SDK is loaded

    bucket = await S3ObjectStore.open(
        bucket=objects.s3, prefix=objects.prefix, region=objects.region, endpoint=objects.endpoint
    )
    open_parts.push_async_callback(bucket.aclose)
    return bucket


async def _open_floating_ip(config: Config) -> FloatingIp:
    gateway = config.gateway
    if gateway.floating_ip == "none" or not config.holdable:
        return STAYS_IN_PLACE
    from core.adapters.floating_ip.interface import InterfaceFloatingIp  # noqa: PLC0415 - else no netlink is loaded

    interface = await InterfaceFloatingIp.open(gateway.floating_ip_interface)
    if gateway.floating_ip == "interface":
        return interface
    from core.adapters.floating_ip.ec2 import Ec2FloatingIp  # noqa: PLC0415 - elsewhere, no model of EC2 is loaded

    return await Ec2FloatingIp.open(interface=interface, station=interface.station)


def _device_network_of(config: Config) -> "LateNetwork | None":
    edge = config.edge
    if edge.device_network == "off" or "edge" not in config.node.roles:
        return None
    from core.adapters.device_network.late import LateNetwork  # noqa: PLC0415 - else no netlink is loaded
    from core.adapters.device_network.namespace import NamespaceNetwork  # noqa: PLC0415 - else netlink is loaded

    return LateNetwork(
        partial(
            NamespaceNetwork.open,
            local=edge.platform_network,
            remote=config.gateway.devices,
            mtu_bytes=config.gateway.mtu_bytes,
            listeners=[
                (edge.mqtt_address, edge.mqtt_port),
                (edge.message_address, edge.tcp_port),
                (edge.message_address, edge.http_port),
                (edge.metadata_address, METADATA_PORT),
            ],
        )
    )


async def _wait_for(device_network: "LateNetwork", config: Config) -> None:
    try:
        await device_network.wait(insist=config.edge.device_network == "on")
    except ConfigurationError as error:
        raise ConfigurationError(
            f"edge.device_network: {error}; or set it to off to serve UDP only"
        ) from None
