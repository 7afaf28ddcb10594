"""Requests of peers while they are decided, as either version's machine keeps them."""

from msgspec import Struct

from gtp.events import Event
from gtp.transaction import Peer, RequestKey


class Asked(Struct, frozen=True):
    """A request as its version's machine decoded it: what to hand out, and what its answer needs.

    ``wire`` is the version's own message; ``context`` the one it speaks of, if any.
    """

    event: Event
    peer_teid: int
    recovery: int | None
    wire: object


class Pending(Struct, frozen=True):
    """A request that is being decided."""

    key: RequestKey
    peer: Peer
    sequence: int
    received: float
    asked: Asked

    @property
    def message_type(self) -> int:
        """Of the request."""
        return self.key[2]
