"""A gateway instance as an operator sees it: GTP-C, GTP-U, RADIUS and sessions in one row."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial

from airloom.app.gateway_runtime import GatewayRuntime
from airloom.app.node import Node
from api.operator.operations import Operations, TraceQuery
from api.operator.rows import Row
from core.domain.session import Access, CloseReason, Session
from core.ports.clock import Clock
from core.ports.network import Address
from core.ports.store import Usage
from core.services.gateway.gateway_instance import GatewayInstance
from core.services.sessions.dedicated import DedicatedBearers
from core.services.sessions.search import Searched
from gtp.describe import Described
from gtp.service import GtpFrontEnd
from gtp.trace import Trace


def make_operations(node: Node, *, usage: Usage, clock: Clock) -> Operations:
    """What an operator does on the gateway instances that the node holds."""
    return Operations(
        name=node.name,
        held=lambda: {gateway_id: Operated(held, clock) for gateway_id, held in node.held.items()},
        is_draining=lambda: node.coordinator.is_draining,
        usage=usage,
        clock=clock,
    )


@dataclass(frozen=True, slots=True)
class Operated:
    """Implements ``OperatedGateway``."""

    runtime: GatewayRuntime
    clock: Clock

    @property
    def gateway(self) -> GatewayInstance:
        """See ``OperatedGateway``."""
        return self.runtime.gateway

    @property
    def signalling(self) -> GtpFrontEnd:
        """See ``OperatedGateway``."""
        return self.runtime.gtp

    @property
    def dedicated(self) -> DedicatedBearers:
        """See ``OperatedGateway``."""
        return self.runtime.dedicated

    @property
    def searched(self) -> Searched:
        """See ``OperatedGateway``."""
        held = self.runtime
        return Searched(held.sessions.open_sessions, held.gtp.endpoint.partners.name_of)

    def status(self) -> Row:
        """See ``OperatedGateway``."""
        held, endpoint = self.runtime, self.runtime.gtp.endpoint
        paths: Counter[str] = Counter()
        for access in endpoint.versions:
            paths.update(peer.path.path.value for peer in endpoint.peers(access) if peer.sessions)
        return {
            "id": held.gateway.gateway_id,
            "address": held.gateway.address,
            "user_address": str(held.own.addresses[-1]),
            "restart_counter": held.gateway.restart_counter,
            "sessions": dict(held.sessions.common.index.count_by_access),
            "addresses": held.gateway.allocated_of,
            "waiting": {access.value: version.waiting for access, version in endpoint.versions.items()},
            "put_off": {access.value: endpoint.put_off_of(access) for access in endpoint.versions},
            "paths": dict(paths),
            "attaches": {
                access.value: dict(counts) for access, counts in held.sessions.opener.attaches.items()
            },
            "dropped": {
                interface: dict(sorted(reasons.items())) for interface, reasons in self._dropped().items()
            },
        }

    def _dropped(self) -> Mapping[str, Mapping[str, float]]:
        held = self.runtime
        return {
            **{access.value: version.dropped for access, version in held.gtp.endpoint.versions.items()},
            Access.RADIUS.value: held.radius.dropped,
            "gtpu": {reason.value: count for reason, count in held.user_plane.drops.items() if count},
        }

    def peers(self) -> list[Row]:
        """See ``OperatedGateway``."""
        endpoint, now = self.runtime.gtp.endpoint, self.clock.monotonic()
        return [
            {
                "gateway": self.gateway.gateway_id,
                "access": access.value,
                "partner": peer.partner,
                "address": peer.address,
                "path": peer.path.path.value,
                "restart_counter": peer.path.restart.known,
                "restart_counter_heard": peer.path.restart.heard,
                "restart": peer.path.restart.state.value,
                "sessions": peer.sessions,
                "heard_s_ago": _ago(peer.path.heard_at, now),
                "echo_rtt_ms": _rtt_ms(peer.path.rtt_s),
            }
            for access in endpoint.versions
            for peer in sorted(endpoint.peers(access), key=lambda peer: (peer.partner, peer.address))
        ]

    def user_paths(self) -> list[Row]:
        """See ``OperatedGateway``."""
        held, now = self.runtime, self.clock.monotonic()
        return [
            {
                "gateway": self.gateway.gateway_id,
                "access": "gtpu",
                "partner": held.gtp.endpoint.partners.name_of(address),
                "address": address,
                "path": path.path.value,
                "restart_counter": None,
                "restart_counter_heard": None,
                "restart": None,
                "sessions": path.sessions,
                "heard_s_ago": _ago(path.heard_at, now),
                "echo_rtt_ms": _rtt_ms(path.rtt_s),
            }
            for address, path in sorted(held.user_plane.paths.items())
        ]

    def traced(
        self,
        query: TraceQuery,
        show: Callable[[Row], None],
        show_end: Callable[[Session, CloseReason], None],
    ) -> AbstractContextManager[None]:
        """See ``OperatedGateway``."""
        searched = self.searched
        trace: Trace[Row] = Trace(
            imsi=query.imsi,
            sessions=searched.sessions.values(),
            is_peer=lambda address: not query.partner or searched.is_partner(address, query.partner),
            refused=query.refused,
        )

        def tap(data: bytes, peer: Address, is_incoming: bool) -> None:
            row_of = partial(self._message_row, data, peer, is_incoming=is_incoming)
            for row in trace.look(data, peer, is_incoming=is_incoming, show=row_of):
                show(row)

        return self.runtime.gtp.tapped(tap, show_end)

    def _message_row(self, data: bytes, peer: Address, message: Described, *, is_incoming: bool) -> Row:
        gtp, elements = self.runtime.gtp, dict(message.elements)
        known = gtp.restart_counter_of(message.version, peer[0]) if is_incoming else None
        if known is not None and elements.get("recovery") not in (None, str(known), known):
            elements["restart_counter_known"] = str(known)
        return {
            "at": self.clock.now().isoformat(timespec="milliseconds"),
            "gateway": self.gateway.gateway_id,
            "direction": "in" if is_incoming else "out",
            "own": gtp.address,
            "peer": peer,
            "version": message.version,
            "message": message.message,
            "sequence": message.sequence,
            "teid": message.teid,
            "cause": message.cause,
            "elements": elements,
            "data": data.hex(),
        }


def _ago(at: float | None, now: float) -> float | None:
    return None if at is None else round(now - at, 1)


def _rtt_ms(rtt_s: float | None) -> float | None:
    return None if rtt_s is None else round(rtt_s * 1_000, 3)
