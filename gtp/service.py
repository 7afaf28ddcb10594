"""The GTPv1-C door: the shell around ``gtp.gateway``, where sockets, tasks and the session service are.

Rules: a datagram is handed to the machine at once and never waits; each decision runs in a task of its
own, in a number that the machine bounds; whatever a decision ends with, its event is answered.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv4Network

from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, Session
from core.errors import Refused, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.network import Address, DatagramSocket, Network
from core.services.sessions import ModifySession, OpenSession, PeerTunnel, Sessions
from gtp.gateway import (
    Accepted,
    DeleteRequested,
    Done,
    Event,
    GtpV1Gateway,
    Outcome,
    OutcomeTooLate,
    PeerRestarted,
    Rejected,
    SessionRequested,
    UpdateRequested,
)
from gtp.v1 import message
from gtp.v1.cause import Cause


class GtpV1Door:
    """Serves GTPv1-C on ``address``; implements ``AccessDoor``.

    ``recovery`` is the virtual gateway's restart counter; ``allowed_peers`` empty allows every peer.
    """

    def __init__(
        self,
        *,
        network: Network,
        address: Address,
        sessions: Sessions,
        clock: Clock,
        entropy: Entropy,
        recovery: int,
        dns: Sequence[str],
        allowed_peers: Sequence[IPv4Network],
    ) -> None:
        self._network = network
        self._address = address
        self._sessions = sessions
        self._clock = clock
        self._machine = GtpV1Gateway(
            address=IPv4Address(address[0]),
            recovery=recovery,
            dns=dns,
            allowed_peers=allowed_peers,
            first_sequence=int.from_bytes(entropy.random_bytes(2), "big"),
        )
        self._socket: DatagramSocket | None = None
        self._tasks: asyncio.TaskGroup | None = None
        self._timer_changed = asyncio.Event()

    @property
    def machine(self) -> GtpV1Gateway:
        """The protocol's state, to look at."""
        return self._machine

    async def start(self) -> None:
        """Open the socket; datagrams are taken in from now on and decided once ``run`` runs."""
        self._socket = await self._network.open_datagram(self._address, self._receive)

    async def run(self) -> None:
        """Decide events and keep the timers, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            self._pump()
            try:
                await self._keep_timers()
            finally:
                self._tasks = None

    async def aclose(self) -> None:
        """Take nothing in any more."""
        if self._socket is not None:
            self._socket.close()

    # -- AccessDoor -----------------------------------------------------------------------------------

    async def adopt(self, session: Session) -> None:
        """Take over a session that was read back."""
        self._machine.adopt(session)

    def release(self, session: Session, reason: CloseReason) -> None:
        """Ask the peer to delete the context; goes on in the background."""
        self._machine.release(session.session_id, self._clock.monotonic())
        self._pump()

    def forget(self, session: Session) -> None:
        """Drop the context without a word."""
        self._machine.forget(session.session_id)

    # -- the shell ------------------------------------------------------------------------------------

    def _receive(self, data: bytes, addr: Address) -> None:
        self._machine.receive_datagram(data, addr, self._clock.monotonic())
        self._pump()

    def _pump(self) -> None:
        """Send what is to be sent and start deciding what is to be decided."""
        if self._socket is not None:
            for data, peer in self._machine.datagrams_to_send():
                self._socket.send(data, peer)
        if self._tasks is not None:
            while (event := self._machine.next_event()) is not None:
                self._tasks.create_task(self._decide(event))
        self._timer_changed.set()

    async def _keep_timers(self) -> None:
        while True:
            self._timer_changed.clear()
            due = self._machine.get_timer()
            try:
                async with asyncio.timeout(None if due is None else max(0.0, due - self._clock.monotonic())):
                    await self._timer_changed.wait()
            except TimeoutError:
                self._machine.handle_timer(self._clock.monotonic())
                self._pump()

    async def _decide(self, event: Event) -> None:
        match event:
            case SessionRequested():
                await self._answer(event.token, self._open(event))
            case UpdateRequested():
                await self._answer(event.token, self._modify(event))
            case DeleteRequested():
                await self._answer(event.token, self._close(event))
            case PeerRestarted():
                for session_id in event.session_ids:
                    await self._end_unasked(session_id, CloseReason.PEER_LOST)
            case OutcomeTooLate():
                await self._end_unasked(event.session_id, CloseReason.LATE)

    async def _answer(self, token: int, deciding: Awaitable[Outcome]) -> None:
        try:
            outcome = await deciding
        except Refused as refusal:
            outcome = Rejected.by(
                refusal.reason if isinstance(refusal.reason, AttachRefusal) else AttachRefusal.NO_RESOURCES
            )
        except Unavailable:
            outcome = Rejected(Cause.NO_RESOURCES_AVAILABLE)
        self._machine.answer(token, outcome, self._clock.monotonic())
        self._pump()

    async def _open(self, event: SessionRequested) -> Outcome:
        request = event.request
        session = await self._sessions.open(
            OpenSession(
                access=Access.GTPV1,
                imsi=request.imsi,
                apn=request.apn,
                imei=request.imei,
                msisdn=request.msisdn,
                location=request.location,
                peer=PeerTunnel(
                    teid_control=request.teid_control,
                    teid_user=request.teid_data,
                    control_address=str(request.control_address),
                    user_address=str(request.user_address),
                    nsapi=request.nsapi,
                ),
                requested_address=request.end_user_address.ipv4,
            )
        )
        return Accepted(session)

    async def _modify(self, event: UpdateRequested) -> Outcome:
        request = event.request
        session = await self._sessions.modify(
            ModifySession(
                session_id=event.session_id,
                peer=self._peer_of(event.session_id, request),
                location=request.location if request.location.plmn else None,
            )
        )
        return Accepted(session)

    def _peer_of(self, session_id: str, request: message.UpdateRequest) -> PeerTunnel:
        session = self._sessions.open_sessions.get(session_id)
        if session is None or session.tunnel is None:
            raise Refused(AttachRefusal.UNKNOWN_SESSION, session_id)
        return PeerTunnel(
            teid_control=request.teid_control or session.tunnel.peer_teid_control,
            teid_user=request.teid_data,
            control_address=str(request.control_address),
            user_address=str(request.user_address),
            nsapi=session.tunnel.nsapi,
        )

    async def _close(self, event: DeleteRequested) -> Outcome:
        await self._end(event.session_id, CloseReason.DEVICE)
        return Done()

    async def _end(self, session_id: str, reason: CloseReason) -> None:
        """End a session that its peer gave up; one that is over already is fine."""
        try:
            await self._sessions.close(session_id, reason)
        except Refused:
            self._machine.forget(session_id)

    async def _end_unasked(self, session_id: str, reason: CloseReason) -> None:
        with suppress(Unavailable):  # the session service goes on trying until the end is durable
            await self._end(session_id, reason)
