"""Calls between the session service and the protocol front end that holds a session."""

from typing import Protocol

from core.domain.flow import DedicatedBearer
from core.domain.session import CloseReason, Session


class AccessFrontEnd(Protocol):
    """A protocol front end (GTPv1, GTPv2, RADIUS) as the session service sees it."""

    async def adopt(self, session: Session) -> None:
        """Take over a session that was read back from the store after a restart."""
        ...

    def release(self, session: Session, reason: CloseReason) -> None:
        """Ask the peer to end the session (Delete PDP Context, Delete Bearer, Disconnect). Does not wait."""
        ...

    def changed(self, session: Session) -> None:
        """Send the peer the QoS that the session is granted now (Update PDP Context, Update Bearer). Does
        not wait.
        """
        ...

    async def add_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """Request a dedicated bearer from the peer (Create Bearer); returns it with the peer's ends.

        Raises ``Refused(NOT_SUPPORTED)`` when the peer refuses, or the protocol has no such request.
        """
        ...

    async def change_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """Request a changed dedicated bearer from the peer (Update Bearer); raises as ``add_bearer``."""
        ...

    def remove_bearer(self, session: Session, ebi: int) -> None:
        """Ask the peer to end a dedicated bearer (Delete Bearer). Does not wait."""
        ...

    def forget(self, session: Session) -> None:
        """Drop the context without a request to the peer: it was replaced, or the peer is gone."""
        ...


class SessionControl(Protocol):
    """Ends and changes sessions on whichever node holds them."""

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        """End every session of a SIM; returns their number. Their bearers are removed before it returns."""
        ...

    async def refresh_sessions_of(self, sim_id: str) -> None:
        """Apply the present policy of a SIM and its group to its sessions, before it returns. Raises
        ``Unavailable``.
        """
        ...

    async def group_changed(self, operator_id: str, group_id: str) -> None:
        """Apply a group's present policy to its SIMs' sessions, soon after; raises ``Unavailable``."""
        ...
