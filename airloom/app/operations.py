"""What an operator looks at and does on the gateways that this node holds.

Rules: reading never stops the node: whatever may be as long as the gateway has sessions is gone through in
pieces; nothing is traced, and nothing is paid for it, while nobody asks.
"""

import asyncio
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

from airloom.app.gateway_runtime import GatewayRuntime
from airloom.app.node import Node
from api.operator.bearers import AddBearer, ChangeBearer, RemoveBearer, packet_filters, row
from api.operator.control import SESSION_ENDED, Row, TraceQuery
from core.domain.reasons import AttachRefusal
from core.domain.session import Access, CloseReason, Session
from core.errors import Refused, Unavailable
from core.ports.clock import Clock
from core.ports.network import Address
from core.ports.store import Quarantined
from core.services.sessions.search import Searched, SessionQuery, page_of
from gtp.describe import Described, describe
from gtp.service import EndTap, Tap
from gtp.trace import Refusals, SimTrace

TRACES_MAX = 16
TRACED_MAX = 1_000
"""Messages of a trace that wait for whoever reads it; then they are counted and left out."""


class Operations:
    """Implements ``GatewayOperations``."""

    def __init__(self, *, node: Node, clock: Clock) -> None:
        self._node = node
        self._clock = clock
        self._traces = 0

    def status(self) -> Row:
        """See ``GatewayOperations``; drops and answers are counted since the gateway was taken."""
        return {
            "node": self._node.name,
            "ready": bool(self._node.held) and not self._node.coordinator.is_draining,
            "gateways": [_status(held) for _, held in sorted(self._node.held.items())],
        }

    def peers(self) -> list[Row]:
        """See ``GatewayOperations``."""
        now = self._clock.monotonic()
        return [
            {
                "gateway": gateway_id,
                "access": access.value,
                "partner": peer.partner,
                "address": peer.address,
                "path": peer.path.path.value,
                "restart_counter": peer.path.restart.known,
                "restart_counter_heard": peer.path.restart.heard,
                "restart": peer.path.restart.state.value,
                "sessions": peer.sessions,
                "heard_s_ago": _ago(peer.path.heard_at, now),
                "echo_rtt_ms": None if peer.path.rtt_s is None else round(peer.path.rtt_s * 1_000, 3),
            }
            for gateway_id, held in sorted(self._node.held.items())
            for access in held.gtp.endpoint.versions
            for peer in sorted(held.gtp.endpoint.peers(access), key=lambda peer: (peer.partner, peer.address))
        ] + [
            {
                "gateway": gateway_id,
                "access": "gtpu",
                "partner": held.gtp.endpoint.partners.name_of(address),
                "address": address,
                "path": path.path.value,
                "restart_counter": None,
                "restart_counter_heard": None,
                "restart": None,
                "sessions": path.sessions,
                "heard_s_ago": _ago(path.heard_at, now),
                "echo_rtt_ms": None if path.rtt_s is None else round(path.rtt_s * 1_000, 3),
            }
            for gateway_id, held in sorted(self._node.held.items())
            for address, path in sorted(held.user_plane.paths.items())
        ]

    async def sessions(self, query: SessionQuery) -> Row:
        """See ``GatewayOperations``."""
        page, following = await page_of([_searched(held) for held in self._node.held.values()], query)
        return {"sessions": [_row(session) for session in page], "next": following}

    async def quarantined(self, day: int) -> list[Row]:
        """See ``GatewayOperations``."""
        return [_quarantined_row(item) for item in await self._node.quarantined(day)]

    @contextmanager
    def trace(self, query: TraceQuery) -> Iterator["asyncio.Queue[Row]"]:
        """See ``GatewayOperations``."""
        if self._traces >= TRACES_MAX:
            raise Unavailable(f"{TRACES_MAX} traces are already running")
        messages = _Rows()
        self._traces += 1
        try:
            with ExitStack() as taps:
                for held in self._node.held.values():
                    tap, end_tap = self._tap(held, query, messages), self._end_tap(held, query, messages)
                    taps.enter_context(held.gtp.tapped(tap, end_tap))
                yield messages.queue
        finally:
            self._traces -= 1

    def _tap(self, held: GatewayRuntime, query: TraceQuery, rows: "_Rows") -> Tap:
        sessions = held.sessions.open_sessions.values()
        own = [session for session in sessions if session.imsi == query.imsi] if query.imsi else []
        trace = SimTrace(query.imsi, own) if query.imsi else None
        refusals: Refusals[Row] | None = Refusals() if query.refused else None
        searched = _searched(held)

        def show(data: bytes, peer: Address, is_incoming: bool) -> None:
            if query.partner and not searched.is_partner(peer[0], query.partner):
                return
            message = trace.look(data, peer, is_incoming=is_incoming) if trace else describe(data)
            if message is None:
                return
            row = self._row_of(held, message, peer, data, is_incoming=is_incoming)
            found = [row] if refusals is None else refusals.look(message, peer, row, is_incoming=is_incoming)
            for each in found:
                rows.put(each)

        return show

    def _row_of(
        self, held: GatewayRuntime, message: Described, peer: Address, data: bytes, *, is_incoming: bool
    ) -> Row:
        elements = dict(message.elements)
        known = held.gtp.restart_counter_of(message.version, peer[0]) if is_incoming else None
        if known is not None and elements.get("recovery") not in (None, str(known), known):
            elements["restart_counter_known"] = str(known)
        return {
            "at": self._clock.now().isoformat(timespec="milliseconds"),
            "gateway": held.gateway.gateway_id,
            "direction": "in" if is_incoming else "out",
            "own": held.gtp.address,
            "peer": peer,
            "version": message.version,
            "message": message.message,
            "sequence": message.sequence,
            "teid": message.teid,
            "cause": message.cause,
            "elements": elements,
            "data": data.hex(),
        }

    def _end_tap(self, held: GatewayRuntime, query: TraceQuery, rows: "_Rows") -> EndTap:
        searched = _searched(held)

        def show(session: Session, reason: CloseReason) -> None:
            is_sims = query.imsi in ("", session.imsi)
            if query.refused or not is_sims or (query.partner and not searched.is_of(session, query.partner)):
                return
            rows.put(
                {
                    "at": self._clock.now().isoformat(timespec="milliseconds"),
                    "gateway": held.gateway.gateway_id,
                    "message": SESSION_ENDED,
                    "cause": reason.value,
                    "elements": {
                        "imsi": session.imsi,
                        "session": session.session_id,
                        "apn": session.apn,
                        "address": session.shown_address,
                        "access": session.access.value,
                    },
                }
            )

        return show

    async def raise_restart_counter(self, gateway_id: str) -> int:
        """See ``GatewayOperations``."""
        held = self._node.held.get(gateway_id)
        if held is None:
            raise Unavailable(f"{gateway_id} is not served by this node")
        return await held.raise_restart_counter()

    async def drop_peer(self, peer: str, *, tell_peer: bool) -> int:
        """See ``GatewayOperations``."""
        reason, ended = CloseReason.REACTIVATE if tell_peer else CloseReason.PEER_LOST, 0
        for held in list(self._node.held.values()):
            searched = _searched(held)
            theirs = [each.session_id async for each in searched.each() if searched.is_of(each, peer)]
            await held.gtp.end_all(theirs, reason, tell_peer=tell_peer)
            held.gtp.forget_peer(peer)
            ended += len(theirs)
        return ended

    def bearers(self, session_id: str) -> list[Row]:
        """See ``GatewayOperations``."""
        _, session = self._holding(session_id)
        return [row(session_id, each) for each in session.dedicated]

    async def add_bearer(self, wanted: AddBearer) -> Row:
        """See ``GatewayOperations``."""
        held, session = self._holding(wanted.session_id)
        filters = packet_filters(wanted.filters, session.dedicated)
        made = await held.dedicated.add(session.session_id, qci=wanted.qci, arp=wanted.arp, filters=filters)
        return row(session.session_id, made)

    async def change_bearer(self, wanted: ChangeBearer) -> Row:
        """See ``GatewayOperations``."""
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
        """See ``GatewayOperations``."""
        held, session = self._holding(wanted.session_id)
        await held.dedicated.remove(session.session_id, wanted.ebi)

    def _holding(self, session_id: str) -> tuple[GatewayRuntime, Session]:
        for held in self._node.held.values():
            if (session := held.sessions.open_sessions.get(session_id)) is not None:
                return held, session
        raise Refused(
            AttachRefusal.UNKNOWN_SESSION,
            f"session_id: {session_id[:64]} is not open on this node; see airloom gateway sessions",
        )


class _Rows:
    """What a trace shows, as far as it is read; what is left out is told with the next."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[Row] = asyncio.Queue(TRACED_MAX)
        self._left_out = 0

    def put(self, row: Row) -> None:
        """Show it, if there is room."""
        if self.queue.full():
            self._left_out += 1
            return
        self.queue.put_nowait({**row, "left_out_before": self._left_out})
        self._left_out = 0


def _searched(held: GatewayRuntime) -> Searched:
    return Searched(held.sessions.open_sessions, held.gtp.endpoint.partners.name_of)


def _status(held: GatewayRuntime) -> Row:
    paths: Counter[str] = Counter()
    endpoint = held.gtp.endpoint
    for access in endpoint.versions:
        paths.update(peer.path.path.value for peer in endpoint.peers(access) if peer.sessions)
    dropped: dict[str, Mapping[str, float]] = {
        access.value: version.dropped for access, version in endpoint.versions.items()
    }
    dropped |= {
        Access.RADIUS.value: held.radius.dropped,
        "gtpu": {reason.value: count for reason, count in held.user_plane.drops.items() if count},
    }
    return {
        "id": held.gateway.gateway_id,
        "address": held.gateway.address,
        "user_address": str(held.own.addresses[-1]),
        "restart_counter": held.gateway.restart_counter,
        "sessions": held.sessions.common.index.count_by_access,
        "addresses": held.gateway.allocated_of,
        "waiting": {access.value: version.waiting for access, version in endpoint.versions.items()},
        "put_off": {access.value: endpoint.put_off_of(access) for access in endpoint.versions},
        "paths": dict(paths),
        "attaches": {access.value: dict(counts) for access, counts in held.sessions.opener.attaches.items()},
        "dropped": {interface: dict(sorted(reasons.items())) for interface, reasons in dropped.items()},
    }


def _row(session: Session) -> Row:
    tunnel = session.tunnel
    return {
        "session_id": session.session_id,
        "gateway": session.gateway_id,
        "imsi": session.imsi,
        "msisdn": session.msisdn,
        "sim_id": session.sim_id,
        "access": session.access.value,
        "apn": session.apn,
        "address": session.shown_address,
        "peer": tunnel.peer_control_address if tunnel else "",
        "teid_control": f"0x{tunnel.local_teid_control:08x}" if tunnel else "",
        "teid_user": f"0x{tunnel.local_teid_user:08x}" if tunnel else "",
        "plmn": session.location.plmn,
        "rat": session.location.rat,
        "opened": session.opened.isoformat(timespec="seconds"),
    }


def _quarantined_row(item: Quarantined) -> Row:
    report, nas = item.report, item.nas
    return {
        "client": item.client,
        "why": item.why,
        "imsi": report.imsi,
        "user_name": nas.user_name if nas else "",
        "up_bytes": report.volume.up_bytes,
        "down_bytes": report.volume.down_bytes,
        "nas": str(nas.name) if nas else "",
        "acct_session_id": nas.acct_session_id if nas else "",
        "session_id": report.session_id,
        "at": item.at.isoformat(timespec="seconds") if item.at else "",
    }


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else round(now - at, 1)
