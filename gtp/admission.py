"""Which requests for sessions are taken when more come than can be decided.

Rules:

- Requests that change or end sessions are decided as long as there is any room; those for new sessions have a
  part of it, by priority, so that a storm of attaches never keeps a device from leaving.
- One peer, and one APN among several, has a part of the room: its storm is not the others'.
- One SIM has a few requests under way, however many a peer sends for it.
- Who is refused is told so at once by a temporary cause, and tries again later.
"""

from core.domain.reasons import AttachRefusal
from gtp.events import SessionWish
from gtp.partners import Priority

ROOM: dict[Priority, float] = {Priority.LOW: 0.5, Priority.NORMAL: 0.75, Priority.HIGH: 0.875}
"""How full it may be for a new session of this priority."""
PART_OF_ONE = 0.625
"""Of the room, for one peer or one APN."""
OF_ONE_SIM_MAX = 4


class Admission:
    """The requests for sessions that are being decided."""

    def __init__(self) -> None:
        self._of_peer: dict[str, int] = {}
        self._of_apn: dict[str, int] = {}
        self._of_sim: dict[str, int] = {}
        self._claims: dict[int, tuple[str, str, str]] = {}
        """What each counts against: peer, APN, IMSI."""

    def refusal(
        self,
        wish: SessionWish,
        peer: str,
        priority: Priority,
        *,
        waiting: int,
        room: int,
        shares_apns: bool,
    ) -> AttachRefusal | None:
        """Why this one is not taken, while ``waiting`` of ``room`` requests are being decided.

        ``shares_apns``: more than one APN is served.
        """
        if wish.is_low_priority:
            priority = Priority.LOW
        if self._of_sim.get(wish.imsi, 0) >= OF_ONE_SIM_MAX:
            return AttachRefusal.CONGESTED
        if waiting >= room * ROOM[priority] or self._of_peer.get(peer, 0) >= room * PART_OF_ONE:
            return AttachRefusal.CONGESTED
        if shares_apns and self._of_apn.get(wish.apn, 0) >= room * PART_OF_ONE:
            return AttachRefusal.APN_CONGESTED
        return None

    def begin(self, token: int, wish: SessionWish, peer: str) -> None:
        """It is being decided."""
        apn, imsi = wish.apn, wish.imsi
        self._claims[token] = (peer, apn, imsi)
        self._of_peer[peer] = self._of_peer.get(peer, 0) + 1
        self._of_apn[apn] = self._of_apn.get(apn, 0) + 1
        self._of_sim[imsi] = self._of_sim.get(imsi, 0) + 1

    def end(self, token: int) -> None:
        """It is decided; nothing happens for what was no request for a session."""
        if (claim := self._claims.pop(token, None)) is not None:
            peer, apn, imsi = claim
            _less(self._of_peer, peer)
            _less(self._of_apn, apn)
            _less(self._of_sim, imsi)


def _less(counts: dict[str, int], key: str) -> None:
    if (left := counts[key] - 1) > 0:
        counts[key] = left
    else:
        del counts[key]
