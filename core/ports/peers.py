"""Calls between the nodes of one installation.

Rules: a node is reached at the ``contact`` in its lease. Only an answer from a node or its host is evidence:
a node that does not answer may be alive.
"""

from typing import Protocol

from core.domain.session import CloseReason


class Peers(Protocol):
    """The other nodes. A ``contact`` is a node's control channel; empty: it has none."""

    def watch(self, contact: str) -> None:
        """Keep a connection to this node from now on, to detect its death. Idempotent."""
        ...

    async def watches(self, contact: str) -> bool:
        """Whether that connection is open; waits some seconds at most for one that is being opened."""
        ...

    async def is_dead(self, contact: str) -> bool:
        """Whether that process has surely ended: its host closed the watched connection and refuses a new
        one.
        """
        ...

    async def name_at(self, contact: str) -> str:
        """The name of the node that answers there; empty when none does."""
        ...

    async def hand_over(self, contact: str, gateway_id: str) -> None:
        """Ask for a gateway instance that the other holds; raises ``Unavailable`` when it does not answer."""
        ...

    async def end_sessions_of(self, contact: str, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """End a SIM's sessions on a gateway instance there; raises ``Unavailable``."""
        ...

    async def refresh_sessions_of(self, contact: str, gateway_id: str, sim_id: str) -> None:
        """Apply the SIM's and its group's present policy to them; raises ``Unavailable``."""
        ...

    async def group_changed(self, contact: str, gateway_id: str, operator_id: str, group_id: str) -> None:
        """Apply a group's present policy to its SIMs' sessions, soon after; raises ``Unavailable``."""
        ...
