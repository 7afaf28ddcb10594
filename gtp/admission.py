"""Admission control: which session requests are accepted under overload.

Rules:

- Requests that change or end sessions are decided as long as there is any room; those for new sessions have a
  part of it, by priority, so that a storm of attaches never keeps a device from leaving.
- One party, and one APN among several, has a part of the room: its storm is not the others'. What it changes
  and ends counts too, and has a little more, so that the others may still attach.
- One SIM has a few requests under way, however many a peer sends for it.
- A refusal is sent at once, with a temporary cause, so that the device tries again later.
"""

from collections import defaultdict

from core.domain.reasons import AttachRefusal
from gtp.partners import Priority
from gtp.wire import CreateSessionParams

ROOM: dict[Priority, float] = {Priority.LOW: 0.5, Priority.NORMAL: 0.75, Priority.HIGH: 0.875}
"""How full it may be for a new session of this priority."""
PART_OF_ONE = 0.625
"""Of the room, for new sessions of one peer or one APN."""
PART_OF_ONE_IN_ALL = 0.6875
"""Of the room, for all requests of one peer: below what is there for new sessions of the others."""
OF_ONE_SIM_MAX = 4


class Admission:
    """The requests that are being decided, by whichever version they came: ``room`` at most."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._of_party: dict[str, int] = defaultdict(int)
        self._of_apn: dict[str, int] = defaultdict(int)
        self._of_sim: dict[str, int] = defaultdict(int)
        self._claims: dict[int, tuple[str, CreateSessionParams | None]] = {}
        """What each counts against."""

    def refusal(
        self,
        params: CreateSessionParams,
        party: str,
        priority: Priority,
        *,
        shares_apns: bool,
    ) -> AttachRefusal | None:
        """Why this one is not taken. ``shares_apns``: more than one APN is served."""
        room = self._room
        if params.is_low_priority:
            priority = Priority.LOW
        if self._of_sim.get(params.asked.imsi, 0) >= OF_ONE_SIM_MAX:
            return AttachRefusal.CONGESTED
        if len(self._claims) >= room * ROOM[priority] or self._of_party.get(party, 0) >= room * PART_OF_ONE:
            return AttachRefusal.CONGESTED
        if shares_apns and self._of_apn.get(params.asked.apn, 0) >= room * PART_OF_ONE:
            return AttachRefusal.APN_CONGESTED
        return None

    def has_room(self, party: str) -> bool:
        """Whether any request of this party is taken."""
        room = self._room
        return len(self._claims) < room and self._of_party.get(party, 0) < room * PART_OF_ONE_IN_ALL

    def begin(self, token: int, party: str, params: CreateSessionParams | None = None) -> None:
        """It is being decided; ``params``: of a request for a session."""
        self._claims[token] = (party, params)
        self._of_party[party] += 1
        if params is not None:
            self._of_apn[params.asked.apn] += 1
            self._of_sim[params.asked.imsi] += 1

    def end(self, token: int) -> None:
        """It is decided."""
        party, params = self._claims.pop(token)
        held = [(self._of_party, party)]
        if params is not None:
            held += (self._of_apn, params.asked.apn), (self._of_sim, params.asked.imsi)
        for counts, key in held:
            counts[key] -= 1
            if not counts[key]:
                del counts[key]
