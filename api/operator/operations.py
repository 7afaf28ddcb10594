"""What an operator looks at and does on the gateway instances that this node holds.

Rules: reading never stops the node: a table that may have a row for each session is gone through in pieces;
without a trace no datagram is decoded for one.
"""

import asyncio
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Protocol

from api.operator.bearers import AddBearer, ChangeBearer, RemoveBearer, packet_filters, row
from api.operator.rows import Row, ended_row, quarantined_row, session_row
from core.domain.reasons import AttachRefusal
from core.domain.session import CloseReason, Session
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.ports.store import Usage
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.sessions.dedicated import DedicatedBearers
from core.services.sessions.search import Searched, SessionQuery, page_of

TRACES_MAX = 16
TRACED_MAX = 1_000
"""Messages of one trace that wait for its reader; beyond it they are counted and left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceQuery:
    """The signalling that an operator asks for: of the SIM, of the partner (a name, or a peer's address), and
    of exchanges that were refused, as far as each is named.
    """

    imsi: str = ""
    partner: str = ""
    refused: bool = False


class Signalling(Protocol):
    """The GTP front end of a gateway instance, as far as an operator acts on it."""

    async def end_all(
        self, session_ids: Sequence[str], reason: CloseReason, *, tell_peer: bool = False
    ) -> None:
        """End sessions, a bounded number at once."""
        ...

    def forget_peer(self, peer: str) -> None:
        """Drop the path to a peer's address, or to those of a partner."""
        ...

    def on_own_restart(self, counter: int) -> None:
        """Send this restart counter from now on."""
        ...


class OperatedGateway(Protocol):
    """A gateway instance that this node holds."""

    @property
    def gateway(self) -> GatewayInstance:
        """Its lease term, addresses and restart counter."""
        ...

    @property
    def signalling(self) -> Signalling:
        """Its GTP front end."""
        ...

    @property
    def dedicated(self) -> DedicatedBearers:
        """The dedicated bearers of its sessions."""
        ...

    @property
    def searched(self) -> Searched:
        """Its open sessions and partners."""
        ...

    def status(self) -> Row:
        """What it holds, waits for and dropped, counted since the lease term began."""
        ...

    def peers(self) -> list[Row]:
        """Each GTP-C peer with its path."""
        ...

    def user_paths(self) -> list[Row]:
        """Each GTP-U peer with its path."""
        ...

    def traced(
        self,
        query: TraceQuery,
        show: Callable[[Row], None],
        show_end: Callable[[Session, CloseReason], None],
    ) -> AbstractContextManager[None]:
        """``show`` the messages asked for and ``show_end`` each session's end, as long as this lasts."""
        ...


class Operations:
    """``held`` are the gateway instances by id, as of the moment of the call."""

    def __init__(
        self,
        *,
        name: str,
        held: Callable[[], Mapping[str, OperatedGateway]],
        is_draining: Callable[[], bool],
        usage: Usage,
        clock: Clock,
    ) -> None:
        self._name = name
        self._held = held
        self._is_draining = is_draining
        self._usage = usage
        self._clock = clock
        self._traces = 0

    def status(self) -> Row:
        """The node, and each gateway with what it holds, waits for and dropped."""
        held = self._in_order()
        return {
            "node": self._name,
            "ready": bool(held) and not self._is_draining(),
            "gateways": [each.status() for each in held],
        }

    def peers(self) -> list[Row]:
        """Each peer with its path, those of GTP-C first."""
        held = self._in_order()
        return [row for each in held for row in each.peers()] + [
            row for each in held for row in each.user_paths()
        ]

    async def sessions(self, query: SessionQuery) -> Row:
        """A page of open sessions, ordered by id."""
        page, following = await page_of([each.searched for each in self._held().values()], query)
        return {"sessions": [session_row(session) for session in page], "next": following}

    async def quarantined(self, day: int) -> list[Row]:
        """Usage reported to any node on a UTC day (yyyymmdd) that no customer is billed for; raises
        ``Unavailable``.
        """
        return [quarantined_row(item) for item in await self._usage.quarantined(day)]

    @contextmanager
    def trace(self, query: TraceQuery) -> Iterator["asyncio.Queue[Row]"]:
        """Signalling as it comes and goes, and ends of sessions; raises ``Unavailable`` for one trace too
        many.
        """
        if self._traces >= TRACES_MAX:
            raise Unavailable(f"{TRACES_MAX} traces are already running")
        rows = _Rows()
        self._traces += 1
        try:
            with ExitStack() as traces:
                for gateway in self._held().values():
                    show_end = partial(self._show_end, gateway, query, rows)
                    traces.enter_context(gateway.traced(query, rows.put, show_end))
                yield rows.queue
        finally:
            self._traces -= 1

    def _show_end(
        self,
        gateway: OperatedGateway,
        query: TraceQuery,
        rows: "_Rows",
        session: Session,
        reason: CloseReason,
    ) -> None:
        is_sims = query.imsi in ("", session.imsi)
        is_partners = not query.partner or gateway.searched.is_of(session, query.partner)
        if is_sims and is_partners and not query.refused:
            at = self._clock.now().isoformat(timespec="milliseconds")
            rows.put(ended_row(session, reason, at=at, gateway_id=gateway.gateway.gateway_id))

    async def raise_restart_counter(self, gateway_id: str) -> int:
        """Have every GTP peer give up its sessions on a gateway, and end them; raises ``Unavailable``."""
        held = self._held().get(gateway_id)
        if held is None:
            raise Unavailable(f"{gateway_id} is not served by this node")
        counter = await held.gateway.raise_restart_counter()
        held.signalling.on_own_restart(counter)
        sessions = held.searched.sessions.items()
        ending = [session_id for session_id, session in sessions if session.tunnel is not None]
        await held.signalling.end_all(ending, CloseReason.LOST)
        return counter

    async def drop_peer(self, peer: str, *, tell_peer: bool) -> int:
        """End the sessions of a peer's address, or of a partner; how many there were."""
        reason, ended = CloseReason.REACTIVATE if tell_peer else CloseReason.PEER_LOST, 0
        for held in list(self._held().values()):
            searched = held.searched
            theirs = [each.session_id async for each in searched.each() if searched.is_of(each, peer)]
            await held.signalling.end_all(theirs, reason, tell_peer=tell_peer)
            held.signalling.forget_peer(peer)
            ended += len(theirs)
        return ended

    def bearers(self, session_id: str) -> list[Row]:
        """The dedicated bearers of a session; raises ``Refused(UNKNOWN_SESSION)``."""
        _, session = self._holding(session_id)
        return [row(session_id, each) for each in session.dedicated]

    async def add_bearer(self, wanted: AddBearer) -> Row:
        """Make a dedicated bearer; raises ``ValueError``, ``Refused``, ``Unavailable``."""
        held, session = self._holding(wanted.session_id)
        filters = packet_filters(wanted.filters, session.dedicated)
        made = await held.dedicated.add(session.session_id, qci=wanted.qci, arp=wanted.arp, filters=filters)
        return row(session.session_id, made)

    async def change_bearer(self, wanted: ChangeBearer) -> Row:
        """Change a dedicated bearer; raises as ``add_bearer``."""
        held, session = self._holding(wanted.session_id)
        others = [each for each in session.dedicated if each.ebi != wanted.ebi]
        changed = await held.dedicated.change(
            session.session_id,
            wanted.ebi,
            qci=wanted.qci,
            arp=next((wanted.arp_of(each.arp) for each in session.dedicated if each.ebi == wanted.ebi), None),
            filters=None if wanted.filters is None else packet_filters(wanted.filters, others),
        )
        return row(session.session_id, changed)

    async def remove_bearer(self, wanted: RemoveBearer) -> None:
        """End a dedicated bearer; raises as ``add_bearer``."""
        held, session = self._holding(wanted.session_id)
        await held.dedicated.remove(session.session_id, wanted.ebi)

    def _in_order(self) -> list[OperatedGateway]:
        return [held for _, held in sorted(self._held().items())]

    def _holding(self, session_id: str) -> tuple[OperatedGateway, Session]:
        for held in self._held().values():
            if (session := held.searched.sessions.get(session_id)) is not None:
                return held, session
        raise Refused(
            AttachRefusal.UNKNOWN_SESSION,
            f"session_id: {session_id[:64]} is not open on this node; see airloom gateway sessions",
        )


class _Rows:
    """The rows of a trace that wait for its reader; each says how many were left out before it."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Row] = asyncio.Queue(TRACED_MAX)
        self._left_out = 0

    def put(self, row: Row) -> None:
        """Append it, if there is room."""
        if self.queue.full():
            self._left_out += 1
            return
        self.queue.put_nowait({**row, "left_out_before": self._left_out})
        self._left_out = 0
