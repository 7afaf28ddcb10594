"""How the session service reaches the protocol that holds a session, and the other way round."""

from typing import Protocol

from core.domain.flow import DedicatedBearer
from core.domain.session import CloseReason, Session


class AccessFrontEnd(Protocol):
    """A protocol front end (GTPv1, GTPv2, RADIUS) as the session service sees it."""

    async def adopt(self, session: Session) -> None:
        """Take over a session that was read back from the store after a restart."""
        ...

    def release(self, session: Session, reason: CloseReason) -> None:
        """Tell the peer that the session is over (Delete PDP Context, Disconnect). Does not wait."""
        ...

    def changed(self, session: Session) -> None:
        """Tell the peer what the session is granted now (Update PDP Context, Update Bearer). Does not
        wait.
        """
        ...

    async def add_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """Ask the peer for a dedicated bearer (Create Bearer); it comes back with the peer's ends.

        Raises ``Refused(NOT_SUPPORTED)`` when the peer does not make it, or cannot be asked for one.
        """
        ...

    async def change_bearer(self, session: Session, bearer: DedicatedBearer) -> DedicatedBearer:
        """Ask the peer to change a dedicated bearer into this (Update Bearer); raises as ``add_bearer``."""
        ...

    def remove_bearer(self, session: Session, ebi: int) -> None:
        """Tell the peer that a dedicated bearer is over (Delete Bearer). Does not wait."""
        ...

    def forget(self, session: Session) -> None:
        """Drop the context without telling the peer: it was replaced or the peer is gone."""
        ...


class SessionControl(Protocol):
    """Ends and changes sessions wherever they live."""

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        """End every session of a SIM; returns how many there were. The bearer is cut before it returns."""
        ...

    async def refresh_sessions_of(self, sim_id: str) -> None:
        """Let a SIM's sessions be what it and its group say now; they are when it returns. Raises
        ``Unavailable``.
        """
        ...

    async def group_changed(self, operator_id: str, group_id: str) -> None:
        """Let the sessions of a group's SIMs be what it says now, soon; raises ``Unavailable``."""
        ...
