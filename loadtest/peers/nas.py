"""A simulated NAS: authenticates, reports usage, ends sessions on Disconnect-Request.

Rules: pyrad encodes its packets, so the product's codec does not test itself. It repeats unanswered requests,
a Stop until it is answered. It counts its traffic itself, and acknowledged traffic separately.
"""

import asyncio
import math
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from io import StringIO
from ipaddress import IPv4Address
from typing import Any, Self

from pyrad.dictionary import Dictionary
from pyrad.packet import (
    AccessAccept,
    AccessReject,
    AccountingRequest,
    AcctPacket,
    AuthPacket,
    CoAPacket,
    DisconnectACK,
    DisconnectNAK,
    DisconnectRequest,
    Packet,
    PacketError,
)

from core.ports.clock import Entropy
from core.ports.network import Address, DatagramSocket, Network
from loadtest.peers.gtp import NotAnswered

DISCONNECT_PORT = 3_799
REPEAT_S, GIVE_UP_S = 1.0, 5.0
BOOT_S = 1.0
"""From a NAS's restart to its first session: Acct-Delay-Time has whole seconds."""
DICTIONARY = Dictionary(
    StringIO(
        "ATTRIBUTE User-Name 1 string\nATTRIBUTE NAS-IP-Address 4 ipaddr\nATTRIBUTE Service-Type 6 integer\n"
        "ATTRIBUTE Framed-IP-Address 8 ipaddr\nATTRIBUTE Reply-Message 18 string\nATTRIBUTE Class 25 octets\n"
        "ATTRIBUTE Called-Station-Id 30 string\nATTRIBUTE Acct-Status-Type 40 integer\n"
        "ATTRIBUTE Acct-Delay-Time 41 integer\nATTRIBUTE Acct-Input-Octets 42 integer\n"
        "ATTRIBUTE Acct-Output-Octets 43 integer\nATTRIBUTE Acct-Session-Id 44 string\n"
        "ATTRIBUTE Acct-Input-Packets 47 integer\nATTRIBUTE Acct-Output-Packets 48 integer\n"
        "ATTRIBUTE Acct-Input-Gigawords 52 integer\nATTRIBUTE Acct-Output-Gigawords 53 integer\n"
        "ATTRIBUTE Event-Timestamp 55 integer\nATTRIBUTE Message-Authenticator 80 octets\n"
        "ATTRIBUTE Acct-Interim-Interval 85 integer\n"
        "VENDOR 3GPP 10415\nBEGIN-VENDOR 3GPP\nATTRIBUTE 3GPP-IMSI 1 string\nEND-VENDOR 3GPP\n"
    )
)
START, STOP, INTERIM, ON = 1, 2, 3, 7


class AccessDenied(Exception):
    """Access-Reject, with its words."""


@dataclass(slots=True)
class NasSession:
    """A session as the NAS counts it: octets since its start, and what of them was acknowledged."""

    imsi: str
    acct_session_id: str
    class_: bytes
    ue_address: IPv4Address
    up_bytes: int = 0
    down_bytes: int = 0
    told_up: int = 0
    told_down: int = 0
    acknowledged_up: int = 0
    acknowledged_down: int = 0
    is_active: bool = False
    ended_by_network: bool = False
    stopped: asyncio.Event = field(default_factory=asyncio.Event)
    apn: str = "soracom.io"

    def carry(self, up_bytes: int, down_bytes: int) -> None:
        """The device's traffic."""
        self.up_bytes += up_bytes
        self.down_bytes += down_bytes


class Nas:
    """One NAS on one address.

    Sessions begin once its Accounting-On is acknowledged. If it ``is_hasty`` they begin ``BOOT_S`` after it
    was first sent, and it has Acct-Delay-Time, without which a server cannot know which sessions began
    before it (RFC 2866 §5.2): packets get lost, and the first one received may be a repeat.
    """

    def __init__(
        self,
        *,
        network: Network,
        address: str,
        authentication: Address,
        accounting: Address,
        secret: bytes,
        entropy: Entropy,
        repeat_s: float = REPEAT_S,
        first_octets: int = 0,
        is_hasty: bool = False,
    ) -> None:
        self._network = network
        self._servers = {"auth": authentication, "acct": accounting}
        self._secret = secret
        self._entropy = entropy
        self._repeat_s = repeat_s
        self._tries = math.ceil(GIVE_UP_S / repeat_s)
        self._first_octets = first_octets
        self._is_hasty = is_hasty
        self._sockets: dict[str, DatagramSocket] = {}
        self._disconnect: DatagramSocket | None = None
        self._waiting: dict[tuple[str, int], tuple[Packet, asyncio.Future[Packet]]] = {}
        self._identifier = 0
        self._number = 0
        self._is_on = asyncio.Event()
        self._is_on.set()
        self._tasks: asyncio.TaskGroup | None = None
        self.address = address
        self.sessions: dict[str, NasSession] = {}
        self.disconnects = 0
        self.unasked: Counter[str] = Counter()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Self]:
        """Its sockets are open inside; what it still has to report is reported before it ends."""
        for kind in self._servers:
            self._sockets[kind] = await self._network.open_datagram((self.address, 0), self._on_answer)
        self._disconnect = await self._network.open_datagram(
            (self.address, DISCONNECT_PORT), self._on_disconnect
        )
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                yield self
        finally:
            self._tasks = None
            for bound in (*self._sockets.values(), self._disconnect):
                bound.close()

    async def attach(self, *, imsi: str, apn: str) -> NasSession:
        """Access-Request and Accounting-Start; raises ``AccessDenied`` or ``NotAnswered``."""
        session = await self.ask_for_access(imsi=imsi, apn=apn)
        await self.begin(session)
        return session

    async def ask_for_access(self, *, imsi: str, apn: str) -> NasSession:
        """Access-Request alone."""
        request: Any = AuthPacket(
            dict=DICTIONARY,
            secret=self._secret,
            id=self._next_identifier("auth"),
            authenticator=self._entropy.random_bytes(16),
        )
        request["User-Name"] = imsi
        request["3GPP-IMSI"] = imsi
        request["Called-Station-Id"] = apn
        request["NAS-IP-Address"] = self.address
        request.add_message_authenticator()
        answer: Any = await self._ask("auth", request, self._tries)
        if answer.code == AccessReject:
            raise AccessDenied(str(answer.get("Reply-Message", [""])[0]))
        assert answer.code == AccessAccept, f"code {answer.code}"
        self._number += 1
        return NasSession(
            imsi,
            f"{int(IPv4Address(self.address)):08x}{self._number:08x}",
            answer["Class"][0],
            IPv4Address(answer["Framed-IP-Address"][0]),
            self._first_octets,
            self._first_octets,
            apn=apn,
        )

    async def begin(self, session: NasSession) -> None:
        """Accounting-Start, after an Accounting-On that is under way.

        Raises ``NotAnswered``; the session then never began.
        """
        await self._is_on.wait()
        session.is_active = True
        self.sessions[session.acct_session_id] = session
        try:
            await self._account(START, session, self._tries)
        except NotAnswered:
            session.is_active = False
            self._stop_for_ever(session)
            raise

    async def report(self, session: NasSession) -> None:
        """Interim-Update; raises ``NotAnswered``."""
        await self._account(INTERIM, session, self._tries)

    async def detach(self, session: NasSession) -> None:
        """The device left: Accounting-Stop, until it is acknowledged."""
        self.lose(session)
        await session.stopped.wait()

    def lose(self, session: NasSession) -> None:
        """The same without waiting."""
        session.is_active = False
        self._stop_for_ever(session)

    async def restart(self) -> list[NasSession]:
        """Power was lost: what it held is gone, unreported; Accounting-On until acknowledged."""
        lost = list(self.sessions.values())
        for session in lost:
            session.is_active = False
            session.stopped.set()
        self.sessions.clear()
        self._is_on.clear()
        if self._is_hasty:
            asyncio.get_running_loop().call_later(BOOT_S, self._is_on.set)
            await self._say_on()
        else:
            await self._ask("acct", self._accounting(ON), None)
            self._is_on.set()
        return lost

    # -- inside ---------------------------------------------------------------------------------------

    async def _say_on(self) -> None:
        """With Acct-Delay-Time each repeat is a request of its own (RFC 2866 §5.2)."""
        loop = asyncio.get_running_loop()
        began, is_heard = loop.time(), False
        while not is_heard:
            request = self._accounting(ON)
            request["Acct-Delay-Time"] = int(loop.time() - began)
            with suppress(NotAnswered):
                await self._ask("acct", request, 1)
                is_heard = True

    def _stop_for_ever(self, session: NasSession) -> None:
        if self._tasks is not None and self.sessions.pop(session.acct_session_id, None) is not None:
            self._tasks.create_task(self._stop(session))

    async def _stop(self, session: NasSession) -> None:
        await self._account(STOP, session, None)
        session.stopped.set()

    async def _account(self, status: int, session: NasSession, tries: int | None) -> None:
        up, down = session.up_bytes, session.down_bytes
        request = self._accounting(status)
        request["User-Name"] = session.imsi
        request["3GPP-IMSI"] = session.imsi
        request["Acct-Session-Id"] = session.acct_session_id
        request["Framed-IP-Address"] = str(session.ue_address)
        request["Called-Station-Id"] = session.apn
        request["Class"] = session.class_
        if status != START:
            session.told_up, session.told_down = max(session.told_up, up), max(session.told_down, down)
            for name, octets in (("Input", up), ("Output", down)):
                request[f"Acct-{name}-Octets"] = octets & 0xFFFF_FFFF
                request[f"Acct-{name}-Gigawords"] = octets >> 32
        await self._ask("acct", request, tries)
        if status != START:
            session.acknowledged_up = max(session.acknowledged_up, up)
            session.acknowledged_down = max(session.acknowledged_down, down)

    def _accounting(self, status: int) -> Any:
        request: Any = AcctPacket(
            AccountingRequest, dict=DICTIONARY, secret=self._secret, id=self._next_identifier("acct")
        )
        request["Acct-Status-Type"] = status
        request["NAS-IP-Address"] = self.address
        return request

    async def _ask(self, kind: str, request: Any, tries: int | None) -> Packet:
        """Send until answered; ``tries`` None: without limit."""
        data = request.RequestPacket()
        answer: asyncio.Future[Packet] = asyncio.get_running_loop().create_future()
        key = (kind, request.id)
        self._waiting[key] = (request, answer)
        try:
            while tries is None or tries > 0:
                tries = tries and tries - 1
                self._sockets[kind].send(data, self._servers[kind])
                done, _ = await asyncio.wait((answer,), timeout=self._repeat_s)
                if done:
                    return answer.result()
            raise NotAnswered(f"RADIUS {kind}, code {request.code}")
        finally:
            del self._waiting[key]

    def _on_answer(self, data: bytes, source: Address) -> None:
        kind = "auth" if source == self._servers["auth"] else "acct"
        waiting = self._waiting.get((kind, data[1])) if len(data) >= 20 else None
        if waiting is None:
            self.unasked[kind] += 1
            return
        request, answer = waiting
        try:
            reply = Packet(packet=data, dict=DICTIONARY, secret=self._secret)
            is_good = request.VerifyReply(reply, data)
        except PacketError:
            is_good = False
        if not is_good:
            self.unasked["not authentic"] += 1
        elif not answer.done():
            answer.set_result(reply)

    def _on_disconnect(self, data: bytes, source: Address) -> None:
        try:
            request: Any = CoAPacket(packet=data, dict=DICTIONARY, secret=self._secret)
        except PacketError:
            return
        if request.code != DisconnectRequest or not request.VerifyCoARequest():
            self.unasked["disconnect"] += 1
            return
        self.disconnects += 1
        session = self.sessions.get(str(request["Acct-Session-Id"][0]))
        reply = request.CreateReply()
        reply.code = DisconnectACK if session is not None else DisconnectNAK
        if self._disconnect is not None:
            self._disconnect.send(reply.ReplyPacket(), source)
        if session is not None:
            session.is_active, session.ended_by_network = False, True
            self._stop_for_ever(session)

    def _next_identifier(self, kind: str) -> int:
        for _ in range(256):
            self._identifier = (self._identifier + 1) % 256
            if (kind, self._identifier) not in self._waiting:
                return self._identifier
        raise NotAnswered(f"256 requests ({kind}) wait for an answer")
