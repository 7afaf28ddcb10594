"""The composition root: the only place that knows every room and chooses the default adapters.

Rules: a ``Node`` is one process with one virtual gateway; it is assembled from adapters handed in, the
same on a laptop, in a test and in a simulation. What was read back is installed before a socket opens, so
that no peer is ever told that a living tunnel is unknown.
"""

import asyncio
from dataclasses import dataclass

from core.config import Config
from core.domain.pools import AddressPool, TeidPool
from core.domain.session import Access
from core.ports.clock import Clock, Entropy
from core.ports.network import Network
from core.ports.object_store import ObjectStore
from core.ports.store import Store
from core.ports.stream import Stream
from core.services.delivery import Delivery
from core.services.gateway import VirtualGateway, keep_lease, take_lease
from core.services.sessions import Sessions
from core.services.usage import UsageMeter
from gtp.service import GtpV1Door
from gtp.userplane.slots import SlotTable
from gtp.userplane.udp import UdpUserPlane
from mqtt_bridge.service import DeviceEdge


@dataclass(frozen=True, slots=True, kw_only=True)
class Adapters:
    """The world that a node runs in."""

    clock: Clock
    entropy: Entropy
    network: Network
    store: Store
    stream: Stream
    objects: ObjectStore
    slots: SlotTable


class Node:
    """One process and its virtual gateway: doors, user plane, edge, meter, and the loops that drive them.

    The ``make_*`` methods are where a test puts a broken part in the place of a good one.
    """

    def __init__(self, *, config: Config, adapters: Adapters) -> None:
        self._config = config
        self._adapters = adapters

    async def start(self) -> int:
        """Take the virtual gateway, read its sessions back, open the sockets; how many sessions."""
        config, world = self._config, self._adapters
        self._lease = await take_lease(
            world.store.leases, world.clock, gateway_id=config.gateway.id, owner=config.node.name
        )
        quarantine_s = config.gateway.quarantine_s
        self.gateway = VirtualGateway(
            lease=self._lease,
            address=str(config.gateway.address),
            addresses=AddressPool(config.gateway.ue_pool, quarantine_s=quarantine_s),
            teids=TeidPool(world.entropy.random_bytes, quarantine_s=quarantine_s),
            clock=world.clock,
        )
        self.user_plane = self.make_user_plane()
        self.usage = self.make_usage_meter()
        self.sessions = self.make_sessions()
        self.door = self.make_gtpv1_door()
        self.sessions.attach_door(Access.GTPV1, self.door)
        self.delivery = Delivery(stream=world.stream, clock=world.clock, entropy=world.entropy)
        self.edge = self.make_edge()
        self.user_plane.on_edge_packet = self.edge.on_edge_packet
        recovered = await self.sessions.recover()
        await self.user_plane.start()
        await self.door.start()
        return recovered

    async def run(self) -> None:
        """Drive every loop until cancelled; a loop that fails ends all."""
        world = self._adapters
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(keep_lease(world.store.leases, world.clock, self._lease))
            tasks.create_task(self.sessions.end_forbidden())
            tasks.create_task(self.sessions.finish_unfinished())
            tasks.create_task(self.usage.run())
            tasks.create_task(self.delivery.run())
            tasks.create_task(self.edge.run())
            tasks.create_task(self.door.run())

    async def aclose(self) -> None:
        """Stop taking in, report what was counted, let go; sessions stay open for the next start."""
        await self.door.aclose()
        await self.user_plane.aclose()
        await self.usage.sweep()

    def make_user_plane(self) -> UdpUserPlane:
        """What forwards and counts."""
        ...

    def make_usage_meter(self) -> UsageMeter:
        """What reports the counts."""
        return UsageMeter(
            user_plane=self.user_plane,
            usage=self._adapters.store.usage,
            clock=self._adapters.clock,
            interval_s=self._config.usage.report_interval_s,
        )

    def make_sessions(self) -> Sessions:
        """What opens and closes sessions."""
        return Sessions(
            store=self._adapters.store,
            gateway=self.gateway,
            user_plane=self.user_plane,
            usage=self.usage,
            clock=self._adapters.clock,
            entropy=self._adapters.entropy,
            apns=frozenset(self._config.gateway.apns),
            dns=tuple(str(address) for address in self._config.gateway.dns),
        )

    def make_gtpv1_door(self) -> GtpV1Door:
        """The GTPv1-C door."""
        ...

    def make_edge(self) -> DeviceEdge:
        """What devices speak to inside their tunnel."""
        ...
