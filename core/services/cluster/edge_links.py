"""The device edge on another node than the gateway: inner packets over links, and whose they are.

Rules:

- A gateway picks an edge node for each session and stays with it as long as their link stands.
- A gateway announces a session in whole before its first packet, under a number that is good on that link
  alone. Whose packet it is, the edge believes the gateway, as it does on one node.
- When a link breaks its sessions stay for ``LOST_S``: the node that takes the gateway over
  announces them again, under the same ids, so that a device's connections outlive its gateway. Then they
  are over here.
- A packet that cannot go on is dropped and counted, as IP does.
"""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from ipaddress import IPv4Address
from zlib import crc32

from core.domain.session import Session
from core.errors import Unavailable
from core.ports.clock import Clock
from core.ports.links import Link, Links
from core.ports.user_plane import PacketSink
from core.services.running.faults import Faults

RETRY_S = 0.5
LOST_S = 20.0
"""Longer than a take-over from a holder that fell silent (``core.services.cluster.lease_seeking``), shorter
than the rest of an address before it is allocated again."""
SESSIONS_MAX = 1_000_000
"""Announced by gateways and not yet over."""
PACKET_BYTES_MAX = 65_000

_HEAD = struct.Struct("!BI")
_OPEN, _PACKET, _END = 1, 2, 3


class LinkCount(Enum):
    """What becomes of packets between gateway and edge."""

    SENT = "sent"
    NO_EDGE_NODE = "no_edge_node"
    NO_SESSION = "no_session"
    NOT_TAKEN = "not_taken"
    TOO_MANY_SESSIONS = "too_many_sessions"
    MALFORMED = "malformed"
    INJECTED = "injected"
    NOT_INJECTED = "not_injected"


@dataclass(slots=True, eq=False)
class _End:
    """A link and the sessions that go by it, by number."""

    contact: str
    link: Link
    sessions: dict[int, str] = field(default_factory=dict)
    announced: int = 0
    """The number of the last one."""


class EdgeLinks:
    """The gateway's side. ``contacts``: the edge nodes; ``encode``: a session as bytes for the other side."""

    def __init__(
        self,
        *,
        contacts: Sequence[str],
        links: Links,
        session_of: Callable[[str], Session | None],
        inject: Callable[[str, bytes], bool],
        encode: Callable[[Session], bytes],
        faults: Faults,
    ) -> None:
        self._faults = faults
        self._contacts = contacts
        self._links = links
        self._session_of = session_of
        self._inject = inject
        self._encode = encode
        self._up: dict[str, _End] = {}
        self._places: dict[str, tuple[_End, int]] = {}
        self.counts: Counter[LinkCount] = Counter()

    @property
    def up(self) -> int:
        """How many edge nodes can be reached."""
        return len(self._up)

    async def run(self) -> None:
        """Keep a link to each edge node, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            for contact in self._contacts:
                tasks.create_task(self._faults.supervise("edge-link", partial(self._keep, contact), contact))

    def deliver(self, session_id: str, packet: bytes) -> None:
        """An inner packet from a device to a platform address (``PacketSink``)."""
        place = self._places.get(session_id) or self._place(session_id)
        if place is None:
            return
        end, number = place
        is_taken = len(packet) <= PACKET_BYTES_MAX and end.link.send(_HEAD.pack(_PACKET, number) + packet)
        self.counts[LinkCount.SENT if is_taken else LinkCount.NOT_TAKEN] += 1

    def end_session(self, session_id: str) -> None:
        """Its bearer is cut."""
        place = self._places.pop(session_id, None)
        if place is not None:
            end, number = place
            del end.sessions[number]
            end.link.send(_HEAD.pack(_END, number))

    def _place(self, session_id: str) -> tuple[_End, int] | None:
        session = self._session_of(session_id)
        if session is None:
            self.counts[LinkCount.NO_SESSION] += 1
            return None
        if not self._up:
            self.counts[LinkCount.NO_EDGE_NODE] += 1
            return None
        end = max(self._up.values(), key=lambda each: crc32(f"{session_id} {each.contact}".encode()))
        end.announced += 1
        if not end.link.send(_HEAD.pack(_OPEN, end.announced) + self._encode(session)):
            self.counts[LinkCount.NOT_TAKEN] += 1
            return None
        end.sessions[end.announced] = session_id
        self._places[session_id] = end, end.announced
        return end, end.announced

    async def _keep(self, contact: str) -> None:
        while True:
            try:
                async with self._links.connect(contact) as link:
                    end = self._up[contact] = _End(contact, link)
                    try:
                        async for message in link.messages():
                            self._receive(end, message)
                    finally:
                        del self._up[contact]
                        for session_id in end.sessions.values():
                            del self._places[session_id]
            except Unavailable:
                pass
            await asyncio.sleep(RETRY_S)

    def _receive(self, end: _End, message: bytes) -> None:
        if len(message) < _HEAD.size:
            self.counts[LinkCount.MALFORMED] += 1
            return
        kind, number = _HEAD.unpack_from(message)
        session_id = end.sessions.get(number)
        if kind != _PACKET:
            self.counts[LinkCount.MALFORMED] += 1
        elif session_id is None:
            self.counts[LinkCount.NO_SESSION] += 1
        else:
            is_sent = self._inject(session_id, message[_HEAD.size :])
            self.counts[LinkCount.INJECTED if is_sent else LinkCount.NOT_INJECTED] += 1


@dataclass(slots=True, eq=False)
class _RemoteSession:
    """A session that a gateway announced. ``lost``: since when its link is broken."""

    session: Session
    end: _End
    number: int
    lost: float | None = None


class RemoteSessions:
    """The edge's side: sessions of gateways on other nodes. ``decode`` raises ``ValueError``.

    ``on_packet`` takes what their devices send, ``on_end`` gets the id of one that is over.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        decode: Callable[[bytes], Session],
        on_packet: PacketSink,
        on_end: Callable[[str], None],
    ) -> None:
        self._clock = clock
        self._decode = decode
        self._on_packet = on_packet
        self._on_end = on_end
        self._sessions: dict[str, _RemoteSession] = {}
        self._at: dict[IPv4Address, str] = {}
        self.counts: Counter[LinkCount] = Counter()

    @property
    def open(self) -> int:
        """How many sessions were announced and are not over."""
        return len(self._sessions)

    def session_of(self, session_id: str) -> Session | None:
        """By id."""
        remote = self._sessions.get(session_id)
        return remote.session if remote is not None else None

    def session_at(self, address: IPv4Address) -> Session | None:
        """The session that holds a device address."""
        return self.session_of(self._at.get(address, ""))

    def inject(self, session_id: str, packet: bytes) -> bool:
        """An IP packet down to the device, by way of its gateway; whether it was sent there."""
        remote = self._sessions.get(session_id)
        if remote is None or remote.lost is not None or len(packet) > PACKET_BYTES_MAX:
            return False
        return remote.end.link.send(_HEAD.pack(_PACKET, remote.number) + packet)

    async def serve(self, link: Link) -> None:
        """One gateway's link, until it breaks."""
        end = _End("", link)
        try:
            async for message in link.messages():
                self._receive(end, message)
        finally:
            lost = self._clock.monotonic()
            for session_id in end.sessions.values():
                self._sessions[session_id].lost = lost

    async def run(self) -> None:
        """End sessions that no gateway announced again, until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            now = self._clock.monotonic()
            for session_id, remote in list(self._sessions.items()):
                if remote.lost is not None and now - remote.lost > LOST_S:
                    self._end(session_id)

    def _receive(self, end: _End, message: bytes) -> None:
        if len(message) < _HEAD.size:
            self.counts[LinkCount.MALFORMED] += 1
            return
        kind, number = _HEAD.unpack_from(message)
        body = message[_HEAD.size :]
        if kind == _OPEN:
            self._open(end, number, body)
        elif (session_id := end.sessions.get(number)) is None:
            self.counts[LinkCount.NO_SESSION] += 1
        elif kind == _PACKET:
            self._on_packet(session_id, body)
        elif kind == _END:
            self._end(session_id)
        else:
            self.counts[LinkCount.MALFORMED] += 1

    def _open(self, end: _End, number: int, body: bytes) -> None:
        try:
            session = self._decode(body)
        except ValueError:
            self.counts[LinkCount.MALFORMED] += 1
            return
        if number in end.sessions:
            self.counts[LinkCount.MALFORMED] += 1
            return
        before = self._sessions.get(session.session_id)
        if before is None and len(self._sessions) >= SESSIONS_MAX:
            self.counts[LinkCount.TOO_MANY_SESSIONS] += 1
            return
        if before is not None:
            before.end.sessions.pop(before.number, None)
        holder = self._at.get(session.ue_address)
        if holder is not None and holder != session.session_id:
            self._end(holder)  # its address is allocated again: it was over before we were notified
        self._sessions[session.session_id] = _RemoteSession(session, end, number)
        self._at[session.ue_address] = session.session_id
        end.sessions[number] = session.session_id

    def _end(self, session_id: str) -> None:
        remote = self._sessions.pop(session_id)
        remote.end.sessions.pop(remote.number, None)
        if self._at.get(remote.session.ue_address) == session_id:
            del self._at[remote.session.ue_address]
        self._on_end(session_id)
