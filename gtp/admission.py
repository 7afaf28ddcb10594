"""Which requests for sessions are taken when more come than can be decided.

Rules:

- Requests that change or end sessions are decided as long as there is any room; those for new sessions have a
  part of it, by priority, so that a storm of attaches never keeps a device from leaving.
- One peer, and one APN among several, has a part of the room: its storm is not the others'. What it changes
  and ends counts too, and has a little more, so that the others may still attach.
- One SIM has a few requests under way, however many a peer sends for it.
- Who is refused is told so at once by a temporary cause, and tries again later.
"""

from core.domain.reasons import AttachRefusal
from gtp.events import SessionWish
from gtp.partners import Priority

ROOM: dict[Priority, float] = {Priority.LOW: 0.5, Priority.NORMAL: 0.75, Priority.HIGH: 0.875}
"""How full it may be for a new session of this priority."""
PART_OF_ONE = 0.625
"""Of the room, for new sessions of one peer or one APN."""
PART_OF_ONE_IN_ALL = 0.6875
"""Of the room, for all requests of one peer: below what is there for new sessions of the others."""
OF_ONE_SIM_MAX = 4


class Admission:
    """The requests that are being decided."""

    def __init__(self) -> None:
        self._of_peer: dict[str, int] = {}
        self._of_apn: dict[str, int] = {}
        self._of_sim: dict[str, int] = {}
        self._claims: dict[int, tuple[str, SessionWish | None]] = {}
        """What each counts against."""

    def refusal(
        self,
        wish: SessionWish,
        peer: str,
        priority: Priority,
        *,
        room: int,
        shares_apns: bool,
    ) -> AttachRefusal | None:
        """Why this one is not taken where ``room`` requests are decided at most.

        ``shares_apns``: more than one APN is served.
        """
        if wish.is_low_priority:
            priority = Priority.LOW
        if self._of_sim.get(wish.imsi, 0) >= OF_ONE_SIM_MAX:
            return AttachRefusal.CONGESTED
        if len(self._claims) >= room * ROOM[priority] or self._of_peer.get(peer, 0) >= room * PART_OF_ONE:
            return AttachRefusal.CONGESTED
        if shares_apns and self._of_apn.get(wish.apn, 0) >= room * PART_OF_ONE:
            return AttachRefusal.APN_CONGESTED
        return None

    def has_room(self, peer: str, *, room: int) -> bool:
        """Whether any request of this peer is taken."""
        return len(self._claims) < room and self._of_peer.get(peer, 0) < room * PART_OF_ONE_IN_ALL

    def begin(self, token: int, peer: str, wish: SessionWish | None = None) -> None:
        """It is being decided; ``wish``: of a request for a session."""
        self._claims[token] = (peer, wish)
        _more(self._of_peer, peer)
        if wish is not None:
            _more(self._of_apn, wish.apn)
            _more(self._of_sim, wish.imsi)

    def end(self, token: int) -> None:
        """It is decided."""
        peer, wish = self._claims.pop(token)
        _less(self._of_peer, peer)
        if wish is not None:
            _less(self._of_apn, wish.apn)
            _less(self._of_sim, wish.imsi)


def _more(counts: dict[str, int], key: str) -> None:
    counts[key] = counts.get(key, 0) + 1


def _less(counts: dict[str, int], key: str) -> None:
    if (left := counts[key] - 1) > 0:
        counts[key] = left
    else:
        del counts[key]
