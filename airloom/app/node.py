"""A node: one process, the gateway instances that it holds, and what they share.

Rules: it is assembled from adapters handed in, the same on a laptop, in a test and in a simulation; what a
session belongs to is asked of the gateways that are held at that moment.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address

from airloom.app.adapters import Adapters, make_billing
from airloom.app.gateway_runtime import GATEWAY_WORDS, GatewayRuntime, flush_left
from api.views import subscriber_view
from billing.closing import MonthCloser
from core.adapters.store.rows import body_of, entity_of
from core.config import Config, reloadable_changes
from core.domain.gateway import GatewayLease
from core.domain.session import Session
from core.errors import ConfigurationError
from core.ports.user_plane import PacketSink
from core.services.cluster.control import ClusterControl
from core.services.cluster.edge_links import EdgeLinks, RemoteSessions
from core.services.cluster.held_gateways import HeldGateways
from core.services.cluster.lease_coordinator import LeaseCoordinator
from core.services.cluster.singleton_jobs import SingletonJobs, Step
from core.services.customers.metadata import DeviceMetadata
from core.services.gateway.lease_term import LeaseTerm
from core.services.metering.message_meter import MESSAGE_METER, MessageMeter
from core.services.metering.rollup import UsageRollup
from core.services.running.audit import AuditTrail
from core.services.running.faults import Fault, Faults
from core.services.streaming.consumer import Consumer
from core.services.streaming.delivery import Delivery
from mqtt_bridge.configured import addresses_of
from mqtt_bridge.edge.http import Metadata
from mqtt_bridge.service import DeviceEdge


class Node:
    """One process. ``tell`` logs a line when a gateway is taken or lost.

    The ``make_*`` methods and ``held_type`` are where a test puts a broken part in the place of a good one.
    """

    held_type = GatewayRuntime

    def __init__(
        self, *, config: Config, adapters: Adapters, tell: Callable[[str], None] = lambda _: None
    ) -> None:
        self._config = config
        self.name = config.node.name
        self._world = world = adapters
        self.faults = Faults(clock=world.clock, log=tell)
        """Of every loop of this process that reads what others wrote."""
        self._tell = tell
        self.device_network = world.device_network
        own = [each.id for each in config.gateways_within(world.floating_ip.may_attach)]
        self.coordinator = LeaseCoordinator(
            leases=world.store.leases,
            kind=GatewayLease,
            peers=world.peers,
            clock=world.clock,
            owner=config.node.name,
            contact=config.control.contact,
            folder_id=world.folder_id,
            lease_ids=own,
            preferred=[each for each in own if each in config.node.preferred_gateways]
            if config.node.preferred_gateways
            else own,
            make=self._make_held,
            flush_left=partial(flush_left, config, adapters),
            faults=self.faults,
            loop="gateway",
            words=GATEWAY_WORDS,
            log=tell,
        )
        self.held = self.coordinator.held
        self.gateways = HeldGateways(self.held)
        gateway_ids = [each.id for each in config.gateway.held]
        self.control = ClusterControl(
            store=world.store, peers=world.peers, held=self.held, gateway_ids=gateway_ids
        )
        self.delivery = self._make_delivery()
        self.messages = self.make_message_meter()
        self.audit = AuditTrail(
            audit=world.store.audit, clock=world.clock, entropy=world.entropy, actor=config.node.name
        )
        self.consumer = self.make_consumer()
        self.rollup = UsageRollup(
            usage=world.store.usage, clock=world.clock, after_s=config.usage.rollup_after_s
        )
        self.billing = make_billing(config, store=world.store, objects=world.objects, clock=world.clock)
        self.closer = self._make_closer()
        self.singleton_jobs = self._make_singleton_jobs()
        self.metadata = DeviceMetadata(store=world.store.bulk)
        self.edge = self.make_edge()
        self.remote = RemoteSessions(
            clock=world.clock,
            decode=partial(entity_of, entity=Session),
            on_packet=self.edge.on_edge_packet,
            on_end=self.edge.end_session,
        )
        """Of gateways on other nodes that hand their devices' packets to this one."""
        self.edge_links = self.make_edge_links()
        self.deliver: PacketSink = self.edge_links.deliver if self.edge_links else self.edge.on_edge_packet
        """Where packets for the platform go; a simulation that watches them replaces it before ``start``."""

    async def start(self) -> int:
        """Begin the work of the preferred gateways; how many sessions were read back."""
        await self.edge.start()
        return await self.coordinator.start()

    async def run(self) -> None:
        """Drive every loop until cancelled; one that fails ends no other: see
        ``core.services.running.faults``.
        """
        supervise = self.faults.supervise
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.coordinator.run())
            for loop, run in self._loops_of_roles():
                tasks.create_task(supervise(loop, run))
            await asyncio.Event().wait()  # a node of the API alone has no loop

    def _loops_of_roles(self) -> Iterator[tuple[str, Callable[[], Awaitable[None]]]]:
        roles = self._config.node.roles
        if self._world.stream_damage:
            yield "stream", self._report_damage
        if self.edge_links is not None:
            yield "edge-links", self.edge_links.run
        if "edge" in roles:
            yield "delivery", self.delivery.run
            yield "device-edge", self.edge.run
            yield "remote-sessions", self.remote.run
            if self.device_network is not None:
                yield "device-network", partial(self.device_network.run, self._tell)
        if {"api", "meter"} & set(roles):
            yield "tariff", self._store_tariff
        if "meter" in roles:
            yield MESSAGE_METER, self.consumer.run
            yield "singleton-jobs", self.singleton_jobs.run

    async def _report_damage(self) -> None:
        """What was found when the stream was opened; raises ``Unavailable``, to be asked again."""
        damage = self._world.stream_damage
        for line in damage:
            await self.audit.records_skipped("stream", line)
        self.faults.passed_over("stream", Fault.ITEM, "; ".join(damage), number=self._world.stream_lost)

    def reload(self, config: Config) -> list[str]:
        """Take over what differs in ``config``; the keys. Raises ``ConfigurationError`` for what cannot be
        changed in a running node, and then changes nothing.
        """
        keys = reloadable_changes(self._config, config)
        try:
            for held in self.held.values():
                held.reload(config)
        except ConfigurationError:
            for held in self.held.values():
                with suppress(ConfigurationError):
                    held.reload(self._config)
            raise
        self._config = config
        return sorted(keys)

    async def drain(self) -> None:
        """Hand over every gateway and every singleton job, and take nothing any more."""
        await self.coordinator.drain()
        await self.singleton_jobs.drain()

    async def aclose(self) -> None:
        """Take nothing in any more; sessions stay open, and counter tables keep what was not reported."""
        await self.edge.aclose()
        await self.coordinator.aclose()
        await self.singleton_jobs.aclose()

    async def _store_tariff(self) -> None:
        """The configured tariff is in force from the start of the node on, not from the first bill read."""
        await self.billing.tariffs()

    # -- sessions of every gateway held, or handed over by other nodes ----------------------------------

    def session_of(self, session_id: str) -> Session | None:
        """An open session by its id."""
        return self.gateways.session_of(session_id) or self.remote.session_of(session_id)

    def session_at(self, address: IPv4Address) -> Session | None:
        """The open session that has a device address."""
        return self.gateways.session_at(address) or self.remote.session_at(address)

    def inject(self, session_id: str, packet: bytes) -> bool:
        """An IP packet down to a session's device; whether it was sent."""
        return self.gateways.inject(session_id, packet) or self.remote.inject(session_id, packet)

    def _make_held(self, term: LeaseTerm[GatewayLease], before: GatewayLease | None) -> GatewayRuntime:
        own = self._config.gateway.instance(term.lease.lease_id)
        held = self.held_type(
            config=self._config,
            adapters=self._world,
            own=own,
            term=term,
            before=before,
            end_at=self.control.end_at,
            on_edge_packet=self.deliver,
            on_session_end=self.edge_links.end_session if self.edge_links else self.edge.end_session,
            faults=self.faults,
        )
        if held.lost_counts:
            self._tell(f"{own.id}: {held.lost_counts}")
        return held

    def _make_singleton_jobs(self) -> SingletonJobs:
        config, world = self._config, self._world
        steps: Mapping[str, Step] = {"fold": self.rollup.step, "bills": self.closer.step}
        return SingletonJobs(
            leases=world.store.job_leases,
            peers=world.peers,
            clock=world.clock,
            owner=config.node.name,
            contact=config.control.contact,
            folder_id=world.folder_id,
            faults=self.faults,
            steps=steps if "meter" in config.node.roles else {},
        )

    def _make_closer(self) -> MonthCloser:
        world = self._world
        return MonthCloser(
            billing=self.billing,
            usage=world.store.usage,
            bills=world.store.bills,
            clock=world.clock,
            audit=self.audit,
        )

    def _make_delivery(self) -> Delivery:
        world = self._world
        return Delivery(
            stream=world.stream,
            dead_letters=world.objects,
            clock=world.clock,
            entropy=world.entropy,
            faults=self.faults,
        )

    def make_message_meter(self) -> MessageMeter:
        """What counts messages."""
        return MessageMeter(counts=self._world.store.message_counts)

    def make_consumer(self) -> Consumer:
        """What reads the stream for it."""
        return Consumer(
            stream=self._world.stream,
            leases=self._world.store.shard_leases,
            clock=self._world.clock,
            application=MESSAGE_METER,
            owner=self.name,
            effect=self.messages.count,
            faults=self.faults,
            audit=self.audit,
        )

    def make_edge(self) -> DeviceEdge:
        """What devices reach inside their tunnels."""
        edge, world = self._config.edge, self._world
        return DeviceEdge(
            addresses=addresses_of(edge, name_servers=self._config.gateway.dns),
            network=self.device_network,
            delivery=self.delivery,
            session_of=self.session_of,
            session_at=self.session_at,
            inject=self.inject,
            metadata_of=self._metadata_of,
            connections_per_sim_max=edge.connections_per_sim_max,
            clock=world.clock,
            entropy=world.entropy,
        )

    def make_edge_links(self) -> EdgeLinks | None:
        """The way to the edge on other nodes, for a gateway that is none itself."""
        roles = self._config.node.roles
        if "edge" in roles or "gateway" not in roles:
            return None
        return EdgeLinks(
            contacts=self._config.edge.nodes,
            links=self._world.links,
            session_of=self.gateways.session_of,
            inject=self.gateways.inject,
            encode=lambda session: body_of(session).encode(),
            faults=self.faults,
        )

    async def _metadata_of(self, session: Session) -> Metadata | None:
        """As the API shows it."""
        found = await self.metadata.of(session)
        if found is None:
            return None
        return Metadata(subscriber=subscriber_view(found.sim, found.sessions), userdata=found.userdata)
