"""How the nodes of one installation speak to each other.

Rules: a node is reached at the ``contact`` that its lease tells; only an answer of a node or its host counts:
a node that does not answer may be alive.
"""

from typing import Protocol

from core.domain.session import CloseReason


class Peers(Protocol):
    """The other nodes. A ``contact`` is a node's control channel; empty: it has none."""

    def watch(self, contact: str) -> None:
        """Keep a connection to this node from now on, so that its death is seen. Idempotent."""
        ...

    async def watches(self, contact: str) -> bool:
        """Whether that connection stands; one that is being made is waited for, some seconds at most."""
        ...

    async def is_dead(self, contact: str) -> bool:
        """Whether that process surely ended: its host closed the watched connection and refuses another."""
        ...

    async def name_at(self, contact: str) -> str:
        """The name of the node that answers there; empty when none does."""
        ...

    async def hand_over(self, contact: str, gateway_id: str) -> None:
        """Ask for a gateway instance that the other holds; raises ``Unavailable`` when it does not answer."""
        ...

    async def end_sessions_of(self, contact: str, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """Have a SIM's sessions on a gateway ended there; raises ``Unavailable``."""
        ...

    async def refresh_sessions_of(self, contact: str, gateway_id: str, sim_id: str) -> None:
        """Have them be what the SIM and its group say now; raises ``Unavailable``."""
        ...

    async def group_changed(self, contact: str, gateway_id: str, operator_id: str, group_id: str) -> None:
        """Have those of a group's SIMs be what it says now, soon; raises ``Unavailable``."""
        ...
