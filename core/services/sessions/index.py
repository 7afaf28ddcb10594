"""The sessions that are open here: found by id, by SIM and by device address, counted by access. No I/O."""

from collections import Counter
from ipaddress import IPv4Address

from core.domain.reasons import AttachRefusal
from core.domain.session import Access, Session
from core.errors import Refused


class SessionIndex:
    """The table. Of two sessions that name one address the later has it."""

    def __init__(self) -> None:
        self.by_id: dict[str, Session] = {}
        self._count: Counter[Access] = Counter(dict.fromkeys(Access, 0))
        self._of_sim: dict[str, tuple[str, ...]] = {}
        self._at: dict[int, str] = {}

    @property
    def count_by_access(self) -> dict[str, int]:
        """How many are open, by name of the access."""
        return {access.value: count for access, count in self._count.items()}

    @property
    def sim_ids(self) -> list[str]:
        """The SIMs that have a session."""
        return list(self._of_sim)

    def one(self, session_id: str) -> Session:
        """The session; raises ``Refused(UNKNOWN_SESSION)``."""
        try:
            return self.by_id[session_id]
        except KeyError:
            raise Refused(AttachRefusal.UNKNOWN_SESSION, session_id) from None

    def of_sim(self, sim_id: str) -> list[Session]:
        """A SIM's sessions, the oldest first."""
        session_ids = self._of_sim.get(sim_id)
        return [self.by_id[session_id] for session_id in sorted(session_ids)] if session_ids else []

    def at(self, address: IPv4Address) -> Session | None:
        """Who has an address that is allocated here."""
        return self.by_id.get(self._at.get(int(address), ""))

    def add(self, session: Session) -> None:
        """It is open."""
        self.by_id[session.session_id] = session
        self._of_sim[session.sim_id] = (*self._of_sim.get(session.sim_id, ()), session.session_id)
        if session.has_allocated_address:
            self._at[int(session.ue_address)] = session.session_id
        self._count[session.access] += 1

    def change(self, session: Session) -> None:
        """It is this from now on: SIM and address stay."""
        self._count[self.by_id[session.session_id].access] -= 1
        self.by_id[session.session_id] = session
        self._count[session.access] += 1

    def remove(self, session: Session) -> None:
        """It is open no more; what another has taken over meanwhile stays the other's."""
        del self.by_id[session.session_id]
        if self._at.get(number := int(session.ue_address)) == session.session_id:
            del self._at[number]
        self._count[session.access] -= 1
        of_sim = tuple(each for each in self._of_sim.pop(session.sim_id) if each != session.session_id)
        if of_sim:
            self._of_sim[session.sim_id] = of_sim
