"""The ``udp`` user plane: tunnels over an ordinary UDP socket, counters in a counter table.

Rules: needs no privilege; every packet passes through this process; with a TUN device the kernel is the
internet side, without it only the device edge is reached. An access point may have a TUN device of its own.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from types import MappingProxyType

from core.domain.apn import MTU_BYTES_MAX, Apn
from core.domain.pools import NO_PREFIXES, UePrefixes
from core.domain.reasons import AttachRefusal
from core.domain.usage import SegmentLabel
from core.errors import Refused
from core.ports.clock import Clock
from core.ports.network import DatagramSocket, Network
from core.ports.user_plane import Bearer, Counters, PacketSink
from gtp.transaction import Timers
from gtp.userplane.counter_table import CounterTable, Opening
from gtp.userplane.destinations import Network as DeviceNetwork
from gtp.userplane.forwarding import Forwarding, send_nowhere
from gtp.userplane.links import device_mtus
from gtp.userplane.messages import GTP_U_PORT
from gtp.userplane.paths import Address, UserPaths
from gtp.userplane.reasons import Drop, Signal
from gtp.userplane.sources import NO_SOURCES, Sources
from gtp.userplane.tun import Tun


def inner_addresses(
    ue_pool: IPv4Network, prefixes: UePrefixes
) -> tuple[IPv4Address] | tuple[IPv4Address, IPv6Address]:
    """By which the gateway is seen from inside: an address of the pool that no device is allocated, and the
    first of the /64 that goes with it.
    """
    prefix = prefixes.of(ue_pool[1])
    return (ue_pool[1],) if prefix is None else (ue_pool[1], prefix[1])


class UdpUserPlane:
    """Implements ``UserPlane``; begin with ``start``, end with ``aclose``.

    ``address`` is the gateway's GTP-U address, ``devices`` are the networks of devices' addresses beside
    ``ue_pool``, ``forbidden`` those that no device may reach, ``apns`` the access points with their MTUs
    (``mtu_bytes``: of any other), ``is_numbered`` whether packets get sequence numbers, ``sources`` who may
    send beside a tunnel's peer. ``counter_table`` stays the
    plane's from here on and is released by ``aclose``, and so are ``tuns``, the ways to the internet by
    access point; those that have none there go the way of "", if there is one.
    """

    def __init__(
        self,
        *,
        counter_table: CounterTable,
        clock: Clock,
        network: Network,
        address: IPv4Address,
        ue_pool: IPv4Network,
        platform_network: IPv4Network,
        port: int = GTP_U_PORT,
        devices: tuple[IPv4Network, ...] = (),
        prefixes: UePrefixes = NO_PREFIXES,
        forbidden: tuple[DeviceNetwork, ...] = (),
        apns: Sequence[Apn] = (),
        mtu_bytes: int = MTU_BYTES_MAX,
        is_numbered: bool = False,
        sources: Sources = NO_SOURCES,
        tuns: Mapping[str, Tun] = MappingProxyType({}),
    ) -> None:
        self._counter_table = counter_table
        self._clock = clock
        self._network = network
        self._address = (str(address), port)
        self._tuns = tuns
        self._prefixes = prefixes
        self._socket: DatagramSocket | None = None
        self._forwarding = Forwarding(
            words=counter_table.words,
            monotonic=clock.monotonic,
            address=address,
            inner_addresses=[
                each
                for pool in (*(pool for pool, _ in prefixes.pools), ue_pool)
                for each in inner_addresses(pool, prefixes)
            ],
            devices=(ue_pool, *devices, *(ipv6 for _, ipv6 in prefixes.pools)),
            platform=platform_network,
            forbidden=forbidden,
            apns=apns,
            mtu_bytes=mtu_bytes,
            is_numbered=is_numbered,
            sources=sources,
        )
        self._paths = UserPaths()
        self._forwarding.on_echo_response = self._handle_echo

    @property
    def opening(self) -> Opening:
        """What the counter table was found as; a lost one belongs into the audit."""
        return self._counter_table.opening

    @property
    def paths(self) -> UserPaths:
        """Who was asked whether it is there, and what it said."""
        return self._paths

    async def watch_paths(self, timers: Timers, *, interval_s: float) -> None:
        """Ask each peer every ``interval_s`` whether it is there, for ever; 0: none is asked."""
        while interval_s:
            await asyncio.sleep(interval_s)
            sessions: Counter[str] = Counter()
            for part in self._forwarding.peers():
                sessions.update(part)
                await asyncio.sleep(0)
            self._ask(self._paths.begin(sessions, self._clock.monotonic()))
            for _ in range(timers.n3_requests):
                await asyncio.sleep(timers.t3_response_s)
                self._ask(self._paths.again())
            await asyncio.sleep(timers.t3_response_s)
            self._paths.end()

    def _ask(self, requests: Iterable[tuple[bytes, Address]]) -> None:
        for data, peer in requests:
            self._forwarding.send(data, peer)

    def _handle_echo(self, peer: str, sequence: int | None) -> None:
        if sequence is not None:
            self._paths.handle(peer, sequence, self._clock.monotonic())

    @property
    def drops(self) -> Mapping[Drop, int]:
        """Packets that went no further, by reason, since the start."""
        return self._forwarding.drops

    @property
    def signals(self) -> Mapping[Signal, int]:
        """Messages of the path itself, by what became of them, since the start."""
        return self._forwarding.signals

    def on_edge_packet(self, deliver: PacketSink) -> None:
        """Hand packets for platform addresses to the device edge; ``deliver`` must not raise."""
        self._forwarding.on_edge_packet = deliver

    def on_error_indication(self, handle: Callable[[str], None]) -> None:
        """Call ``handle(session_id)`` when the session's peer no longer knows its end of the tunnel."""
        self._forwarding.on_error_indication = handle

    def watch(self, session_id: str) -> None:
        """Tell of the next packet that this session's device sends."""
        self._forwarding.watch(session_id)

    def on_heard(self, handle: Callable[[str], None]) -> None:
        """Call ``handle(session_id)`` with the next packet of a session that is watched; it must not
        raise.
        """
        self._forwarding.on_heard = handle

    async def start(self) -> None:
        """Open the socket; raises ``ConfigurationError``. Sessions may be installed before."""
        self._socket = await self._network.open_datagram(self._address, self._forwarding.uplink)
        self._forwarding.send = self._socket.send
        for tun in set(self._tuns.values()):
            tun.read_into(self._forwarding.downlink)
        self._forwarding.write_internet_of = {apn: tun.write for apn, tun in self._tuns.items() if apn}
        self._forwarding.write_internet = self._tuns[""].write if "" in self._tuns else None

    def serve(self, apns: Sequence[Apn], mtu_bytes: int, sources: Sources = NO_SOURCES) -> None:
        """Serve these access points from now on: advertisements, packets and devices to the internet have
        their MTUs at once; and hear ``sources``. Raises ``ConfigurationError`` when a device does not take
        its MTU; then the tunnels are as they were.
        """
        for tun, tun_bytes in device_mtus(apns, self._tuns).items():
            tun.resize(tun_bytes)
        self._forwarding.serve(apns, mtu_bytes, sources)

    def fence(self) -> None:
        """Forward no longer, at once: socket and TUNs are let go. Counters may still be read. Idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._forwarding.send = send_nowhere
        self._forwarding.write_internet, self._forwarding.write_internet_of = None, {}
        for tun in self._tuns.values():
            tun.close()

    async def aclose(self) -> None:
        """``fence``, and let go of the counter table; what was counted stays in it."""
        self.fence()
        self._counter_table.release()

    def route(self, network: IPv4Network, apn: str = "") -> None:
        """Devices of this network, under this access point, are behind this gateway from now on."""
        if (tun := self._tun_of(apn)) is not None:
            tun.route(network)
            if (prefixes := self._prefixes.around(network)) is not None:
                tun.route(prefixes)

    def unroute(self, network: IPv4Network, apn: str = "") -> None:
        """None are any more."""
        if (tun := self._tun_of(apn)) is not None:
            tun.unroute(network)
            if (prefixes := self._prefixes.around(network)) is not None:
                tun.unroute(prefixes)

    def _tun_of(self, apn: str) -> Tun | None:
        return self._tuns.get(apn) or self._tuns.get("")

    # -- UserPlane ------------------------------------------------------------------------------------

    def install(self, bearer: Bearer) -> None:
        """Begin or resume; raises ``Refused(NO_RESOURCES)`` when there is no slot left."""
        slot = self._counter_table.find(bearer.session_id)
        if slot is None:
            slot = self._counter_table.take(
                session_id=bearer.session_id,
                imsi=bearer.imsi,
                operator_id=bearer.operator_id,
                epoch=bearer.epoch,
                label=bearer.label,
                begun=self._clock.now(),
            )
        else:
            self._counter_table.reopen(slot)
        self._forwarding.install(bearer, self._counter_table.counters_at(slot))

    def update(self, bearer: Bearer) -> None:
        """Change the session at once; raises ``Refused(UNKNOWN_SESSION)`` when it is not installed."""
        slot = self._counter_table.find(bearer.session_id)
        if slot is None or bearer.session_id not in self._forwarding:
            raise Refused(AttachRefusal.UNKNOWN_SESSION, bearer.session_id)
        self._forwarding.install(bearer, self._counter_table.counters_at(slot))

    def close(self, session_id: str) -> None:
        """Stop forwarding; the counters stay until ``free``. Idempotent."""
        self._forwarding.remove(session_id)
        slot = self._counter_table.find(session_id)
        if slot is not None:
            self._counter_table.close(slot)

    def free(self, session_id: str) -> None:
        """Give the slot back (and stop forwarding, if it still did). Idempotent."""
        self._forwarding.remove(session_id)
        self._counter_table.free(session_id)

    def counters(self, session_id: str) -> Counters | None:
        """The session's counters now; nothing when it has no slot."""
        slot = self._counter_table.find(session_id)
        return None if slot is None else self._counter_table.read(slot, self._clock.now())

    def label(self, session_id: str) -> SegmentLabel | None:
        """What the session is counted under; nothing when it has no slot."""
        slot = self._counter_table.find(session_id)
        return None if slot is None else self._counter_table.label(slot)

    def up_packets(self, session_id: str) -> int:
        """How many packets the session has sent in its present segment; 0 when it has no slot."""
        counters = self.counters(session_id)
        return 0 if counters is None else counters.current.volume.up_packets

    def all_counters(self, *, apart_from: Container[str] = ()) -> Iterator[Counters]:
        """Every slot in use; sessions may be opened and freed while this is gone through."""
        for session_id in self._counter_table.session_ids():
            counters = None if session_id in apart_from else self.counters(session_id)
            if counters is not None:
                yield counters

    def moved(self) -> Iterator[list[str]]:
        """Sessions that were counted for since this was last asked."""
        return self._counter_table.moved()

    def begin_segment(self, session_id: str, label: SegmentLabel, begun: datetime) -> None:
        """End the current segment here and begin the next; nothing happens without a slot."""
        slot = self._counter_table.find(session_id)
        if slot is not None:
            self._counter_table.begin_segment(slot, label, begun)

    def inject(self, session_id: str, packet: bytes) -> bool:
        """An IP packet from the device edge down to the device; counted when it was sent."""
        return self._forwarding.inject(session_id, packet)
