"""The gateway instances that this node holds, as one: their sessions, and what other nodes ask of them."""

from collections.abc import Mapping
from ipaddress import IPv4Address
from typing import Protocol

from core.domain.session import CloseReason, Session
from core.errors import Unavailable
from core.ports.user_plane import UserPlane
from core.services.cluster.reconciler import Reconciler
from core.services.sessions.service import Sessions


class HeldGateway(Protocol):
    """A gateway instance that is held here."""

    @property
    def sessions(self) -> Sessions:
        """Its open sessions."""
        ...

    @property
    def reconciler(self) -> Reconciler:
        """What compares them with the store."""
        ...

    @property
    def user_plane(self) -> UserPlane:
        """What forwards their packets."""
        ...


class HeldGateways:
    """``held`` are the gateway instances by id; it changes with each lease that is taken or lost."""

    def __init__(self, held: Mapping[str, HeldGateway]) -> None:
        self._held = held

    def session_of(self, session_id: str) -> Session | None:
        """An open session by its id."""
        for held in self._held.values():
            if (session := held.sessions.open_sessions.get(session_id)) is not None:
                return session
        return None

    def session_at(self, address: IPv4Address) -> Session | None:
        """The open session that has a device address."""
        for held in self._held.values():
            if (session := held.sessions.session_at(address)) is not None:
                return session
        return None

    def inject(self, session_id: str, packet: bytes) -> bool:
        """Send an IP packet down to a session's device; whether it was sent."""
        return any(held.user_plane.inject(session_id, packet) for held in self._held.values())

    async def end_sessions_of(self, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """End a SIM's sessions on one gateway; raises ``Unavailable`` when it is not held here."""
        return await self._one(gateway_id).sessions.end_sessions_of(sim_id, reason)

    async def refresh_sessions_of(self, gateway_id: str, sim_id: str) -> None:
        """Apply a SIM's present settings to its sessions on one gateway; raises as ``end_sessions_of``."""
        await self._one(gateway_id).sessions.refresh_sessions_of(sim_id)

    async def group_changed(self, gateway_id: str, operator_id: str, group_id: str) -> None:
        """Have the sessions of a group's SIMs on one gateway compared soon; raises as ``end_sessions_of``."""
        await self._one(gateway_id).reconciler.group_changed(operator_id, group_id)

    def _one(self, gateway_id: str) -> HeldGateway:
        if (held := self._held.get(gateway_id)) is None:
            raise Unavailable(f"{gateway_id} is not served by this node")
        return held
