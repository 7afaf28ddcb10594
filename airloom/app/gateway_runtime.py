"""The runtime of one gateway instance: protocol front ends, user plane, sessions, metering, relay."""

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Network

from airloom.app.adapters import Adapters
from core.config import Config, GatewayInstanceConfig
from core.domain.gateway import GatewayLease
from core.domain.pools import AddressPool, TeidPool
from core.domain.session import Access, CloseReason
from core.errors import ConfigurationError, Refused, Unavailable
from core.ports.user_plane import PacketSink
from core.services.cluster.lease_coordinator import LeaseWords
from core.services.cluster.reconciler import Reconciler
from core.services.gateway.address import ADDRESS_LOOP, AddressKeeper
from core.services.gateway.address_blocks import LOOP as BLOCKS_LOOP
from core.services.gateway.address_blocks import AddressBlocks, start_all
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.gateway.lease_term import LeaseTerm
from core.services.metering.usage import UsageMeter
from core.services.running.audit import AuditTrail
from core.services.running.faults import Faults
from core.services.sessions.dedicated import DedicatedBearers
from core.services.sessions.idle import IdleSessions
from core.services.sessions.nas_accounting import NasAccounting
from core.services.sessions.quarantine import UsageQuarantine
from core.services.sessions.reservations import AddressReservations
from core.services.sessions.service import Sessions
from core.services.sessions.static_addresses import EndAt, StaticAddresses
from core.services.sessions.term_start import TermStart, report_left_counts
from core.services.sessions.unanswered import UnansweredSessions
from core.services.streaming.outbox_relay import OutboxRelay
from gtp.configured import causes_of, partners_of, sources_of, timers_of
from gtp.service import GtpFrontEnd
from gtp.userplane.counter_table import Origin
from gtp.userplane.udp import UdpUserPlane
from radius.accounting import Books
from radius.configured import nas_networks_of
from radius.service import RadiusAddresses, RadiusFrontEnd

GATEWAY_WORDS = LeaseWords(
    starting="reading its sessions",
    serving="serves its {} sessions now",
    stopped="has stopped serving it, its sessions stay open",
)


class GatewayRuntime:
    """Implements ``LeaseWorker``. ``before`` is the gateway's lease as it was before this term.

    ``on_edge_packet`` takes packets from devices to the platform, ``on_session_end`` a session's id when its
    bearer is cut; ``end_at`` ends sessions on any gateway. The ``make_*`` methods are where a test puts a
    faulty part in the place of a good one.
    """

    def __init__(
        self,
        *,
        config: Config,
        adapters: Adapters,
        own: GatewayInstanceConfig,
        term: LeaseTerm[GatewayLease],
        before: GatewayLease | None,
        end_at: EndAt,
        on_edge_packet: PacketSink,
        on_session_end: Callable[[str], None],
        faults: Faults,
    ) -> None:
        self._faults = faults
        self._config = config
        self._world = adapters
        self._before = before
        self._protocols = config.protocols_of(own)
        self.own = own
        self._end_at = end_at
        world, quarantine_s = adapters, config.gateway.quarantine_s
        self._audit = AuditTrail(
            audit=world.store.audit, clock=world.clock, entropy=world.entropy, actor=config.node.name
        )
        pool = partial(AddressPool, quarantine_s=quarantine_s)
        addresses, apn_pools = pool(), {each: pool() for each in config.gateway.apn_pools}
        self.gateway = GatewayInstance(
            term=term,
            address=str(own.address),
            addresses=addresses,
            teids=TeidPool(world.entropy.random_bytes, quarantine_s=quarantine_s),
            quarantine_s=quarantine_s,
            clock=world.clock,
            static_pool=config.gateway.static_pool,
            prefixes=config.gateway.prefixes,
            apn_pools=apn_pools,
        )
        self._keeper = AddressKeeper(
            addresses=own.addresses,
            floating_ip=world.floating_ip,
            gateway=self.gateway,
            remaining_s=lambda: term.remaining_s,
            faults=faults,
        )
        self._counter_table = world.open_counters(own.id)
        self.user_plane = self.make_user_plane()
        self.blocks = self.make_blocks(own, addresses)
        self.apn_address_blocks = [
            self.make_blocks(own, pool, network) for network, pool in apn_pools.items()
        ]
        self.usage = self.make_usage_meter()
        self.sessions = self.make_sessions()
        common = self.sessions.common
        self.reconciler = Reconciler(index=common.index, modifier=self.sessions.modifier, faults=faults)
        self.dedicated = DedicatedBearers(common=common, modifier=self.sessions.modifier)
        self.gtp = self.make_gtp_front_end()
        self.relay = self.make_relay()
        common.handle_event = self.relay.handle
        common.handle_end = on_session_end
        common.handle_close = self.gtp.closed
        for access in self.gtp.endpoint.versions:
            common.front_ends[access] = self.gtp
        self.nas_accounting = self.make_nas_accounting()
        self.radius = self.make_radius_front_end()
        common.front_ends[Access.RADIUS] = self.radius
        self.user_plane.on_edge_packet(on_edge_packet)
        self.user_plane.on_error_indication(self.gtp.on_error_indication)
        self.gtp.on_asleep(self.user_plane.watch)
        self.user_plane.on_heard(self.gtp.heard)

    async def start(self) -> int:
        """Read the sessions back, then open the sockets, so that no peer is answered that an open tunnel is
        unknown; how many sessions.
        """
        try:
            recovered = await self.make_term_start().run(lost_counts=self.lost_counts)
        except Refused as refusal:
            gateway_id = self.gateway.gateway_id
            raise ConfigurationError(
                f"{gateway_id} has more sessions than gateway.sessions_max ({refusal}); stop this node,"
                f" raise gateway.sessions_max, and move {gateway_id}.slots out of node.data_dir"
            ) from None
        await self._keeper.attach()
        if "gtp" in self._protocols:
            await self.user_plane.start()
            await self.gtp.start()
        if "radius" in self._protocols:
            await self.radius.start()
        return recovered

    async def run(self) -> None:
        """Drive every loop until cancelled. One that reads what others wrote is begun again when it fails; a
        front end that fails ends this gateway: it must not look alive.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.gtp.run())
            tasks.create_task(self.radius.run())
            for loop, run in self._supervised():
                tasks.create_task(self._faults.supervise(loop, run, self.gateway.gateway_id))

    def _supervised(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        yield "reconciler", self.reconciler.run
        yield "session-ends", self.sessions.closer.finish_unfinished
        yield "late-sessions", self.sessions.recovery.end_late
        for blocks in (self.blocks, *self.apn_address_blocks):
            yield BLOCKS_LOOP, blocks.run
        yield "usage-meter", self.usage.run
        yield "idle-sessions", self.make_idle().run
        yield "user-paths", self._watch_user_paths
        yield "outbox-relay", self.relay.run
        yield "unanswered-sessions", self.make_unanswered().run
        yield ADDRESS_LOOP, self._keeper.run

    def fence(self) -> None:
        """Answer and forward nothing any more."""
        self.gateway.fence()
        self.gtp.close()
        self.radius.close()
        self.user_plane.fence()

    def reload(self, config: Config) -> None:
        """Take over what may change while sessions are open (``RELOADABLE``); raises ``ConfigurationError``
        for what the host does not let change, and is as it was.
        """
        gateway = config.gateway
        self.user_plane.serve(gateway.access_points, gateway.mtu_bytes, sources_of(gateway))
        self._config = config
        self.sessions.serve(gateway.access_points)
        self.gtp.serve(
            apns=gateway.access_points,
            allowed_peers=gateway.allowed_peers,
            partners=partners_of(gateway),
            causes=causes_of(gateway),
        )

    async def flush(self) -> None:
        """Make durable what was counted, and let the address go; raises ``Unavailable``."""
        await self.usage.sweep()
        await self._keeper.detach()

    async def aclose(self) -> None:
        """Sessions stay open for the next term; the counter table keeps what was not reported."""
        with suppress(Unavailable):  # then it ends when the term would have
            await self._keeper.detach()
        await self.user_plane.aclose()

    @property
    def lost_counts(self) -> str:
        """Empty, or why the counts of open sessions were lost: audited, for the bill may be too low."""
        opening = self._counter_table.opening
        if opening.origin is not Origin.LOST:
            return ""
        return (
            f"the counter file is unusable ({opening.why}): open sessions continue from their last stored"
            f" usage report, and later usage is not billed; the file is kept as {opening.kept_as}"
        )

    def make_term_start(self) -> TermStart:
        """What reads the sessions back."""
        before = self._before
        return TermStart(
            gateway_id=self.gateway.gateway_id,
            before=before,
            is_own=before is None or before.is_of(self._config.node.name, self._world.folder_id),
            recovery=self.sessions.recovery,
            keep=partial(start_all, (self.blocks, *self.apn_address_blocks)),
            read_outbox=partial(self.relay.handle, None),
            audit=self._audit,
            faults=self._faults,
            report_interval_s=self._config.usage.report_interval_s,
        )

    def make_user_plane(self) -> UdpUserPlane:
        """What forwards packets."""
        config, world, own = self._config.gateway, self._world, self.own
        return UdpUserPlane(
            counter_table=self._counter_table,
            clock=world.clock,
            network=world.network,
            address=own.addresses[-1],
            ue_pool=config.ue_pool,
            platform_network=self._config.edge.platform_network,
            port=config.user_port,
            devices=config.devices,
            prefixes=config.prefixes,
            forbidden=config.forbidden,
            apns=config.access_points,
            mtu_bytes=config.mtu_bytes,
            is_numbered=config.user_sequence_numbers,
            sources=sources_of(config),
            tuns=world.open_tuns(config, own.id),  # as of now: it may have been reloaded
        )

    def make_blocks(
        self, own: GatewayInstanceConfig, pool: AddressPool, network: IPv4Network | None = None
    ) -> AddressBlocks:
        """What finds the addresses that are allocated, of an access point's ``network`` or of the common one.

        An Access-Accept may reserve one until its time is over, and a write that was given up
        may name one. Where neither can be, every allocated address is read back.
        """
        config, world = self._config, self._world
        apn = config.gateway.apn_pools[network].name if network else ""
        reserved_s = config.radius.reservation_ttl_s if config.radius.clients else 0.0
        unknown_s = max(world.late_s, reserved_s)
        held_back_s = unknown_s + config.gateway.quarantine_s if unknown_s else 0.0
        return AddressBlocks(
            blocks=world.store.blocks,
            pool=pool,
            gateway=self.gateway,
            clock=world.clock,
            entropy=world.entropy,
            network=network or own.ue_pool or config.gateway.ue_pool,
            apart=config.gateway.pools_of_others(own),
            apn_pools=tuple(config.gateway.apn_pools),
            prefix=config.gateway.block_prefix,
            held_back_s=held_back_s,
            route=partial(self.user_plane.route, apn=apn),
            unroute=partial(self.user_plane.unroute, apn=apn),
            faults=self._faults,
        )

    def make_static_addresses(self) -> StaticAddresses:
        """What sees to it that a static address has one session."""
        return StaticAddresses(
            store=self._world.store,
            gateway=self.gateway,
            clock=self._world.clock,
            end_at=self._end_at,
            route=self.user_plane.route,
            unroute=self.user_plane.unroute,
        )

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
            static_addresses=self.make_static_addresses(),
            clock=self._world.clock,
            entropy=self._world.entropy,
            apns=self._config.gateway.access_points,
            sessions_per_sim_max=self._config.gateway.sessions_per_sim_max,
        )

    def make_gtp_front_end(self) -> GtpFrontEnd:
        """The GTP-C front end."""
        config = self._config.gateway
        return GtpFrontEnd(
            network=self._world.network,
            address=(self.gateway.address, config.control_port),
            user_address=self.own.user_address,
            sessions=self.sessions,
            audit=self._audit,
            gateway_id=self.gateway.gateway_id,
            clock=self._world.clock,
            entropy=self._world.entropy,
            recovery=self.gateway.restart_counter,
            apns=config.access_points,
            allowed_peers=config.allowed_peers,
            partners=partners_of(config),
            timers=timers_of(config),
            causes=causes_of(config),
            up_packets_of=self.user_plane.up_packets,
        )

    def make_idle(self) -> IdleSessions:
        """What ends sessions through which nothing goes."""
        idle = IdleSessions(
            index=self.sessions.common.index,
            clock=self._world.clock,
            idle_timeout_s=self._config.gateway.idle_timeout_s,
            end_all=lambda ended: self.gtp.end_all(ended, CloseReason.IDLE, tell_peer=True),
        )
        self.usage.on_moved(idle.handle_moved)
        return idle

    def make_unanswered(self) -> UnansweredSessions:
        """What asks about sessions that a kill may have left without their answer."""
        before = self._before
        return UnansweredSessions(
            index=self.sessions.common.index,
            renewed=None if before is None or before.is_released else before.renewed,
            patience_s=timers_of(self._config.gateway).patience_s,
            is_used=lambda session_id: self.user_plane.up_packets(session_id) > 0,
            ask=lambda session_id: self.gtp.ask_about((session_id,)),
        )

    def make_radius_front_end(self) -> RadiusFrontEnd:
        """The RADIUS front end."""
        config, world = self._config.radius, self._world
        address = str(config.address or self.gateway.address)
        return RadiusFrontEnd(
            network=world.network,
            addresses=RadiusAddresses(
                authentication=(address, config.authentication_port),
                accounting=(address, config.accounting_port),
                disconnect=(address, 0),
            ),
            clients=nas_networks_of(config),
            books=Books(
                sessions=self.sessions,
                reservations=AddressReservations(
                    gateway=self.gateway,
                    clock=world.clock,
                    entropy=world.entropy,
                    lifetime_s=config.reservation_ttl_s,
                ),
                usage=self.nas_accounting,
                quarantine=UsageQuarantine(usage=world.store.usage, audit=self._audit, clock=world.clock),
                restarts=world.store.nas_restarts,
            ),
            clock=world.clock,
            interim_interval_s=config.interim_s,
            silent_s=config.silent_s,
        )

    def make_nas_accounting(self) -> NasAccounting:
        """What records the counts of NASes."""
        world = self._world
        return NasAccounting(
            usage=world.store.usage,
            index=self.sessions.common.index,
            modifier=self.sessions.modifier,
            clock=world.clock,
            late_s=world.late_s,
        )

    def make_relay(self) -> OutboxRelay:
        """What puts events of sessions into the stream."""
        return OutboxRelay(
            sessions=self._world.store.sessions,
            stream=self._world.stream,
            gateway_id=self.gateway.gateway_id,
            clock=self._world.clock,
            faults=self._faults,
            audit=self._audit,
        )

    async def _watch_user_paths(self) -> None:
        config = self._config.gateway
        await self.user_plane.watch_paths(timers_of(config), interval_s=config.user_echo_interval_s)


async def flush_left(config: Config, adapters: Adapters, gateway_id: str) -> None:
    """Another node holds the gateway: see ``report_left_counts``."""
    counter_table = adapters.left_counters(gateway_id)
    if counter_table is None:
        return
    user_plane = UdpUserPlane(
        counter_table=counter_table,
        clock=adapters.clock,
        network=adapters.network,
        address=config.gateway.address,
        ue_pool=config.gateway.ue_pool,
        platform_network=config.edge.platform_network,
    )
    meter = UsageMeter(
        user_plane=user_plane, usage=adapters.store.usage, clock=adapters.clock, interval_s=0.0
    )
    trail = AuditTrail(
        audit=adapters.store.audit, clock=adapters.clock, entropy=adapters.entropy, actor=config.node.name
    )
    try:
        await report_left_counts(
            gateway_id, sessions=counter_table.in_use, report=meter.report_orphans, audit=trail
        )
    finally:
        await user_plane.aclose()
