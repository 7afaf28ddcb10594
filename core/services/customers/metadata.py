"""What a device may read of its own SIM, if its group lets it (``SoracomAir.metadata.enabled``)."""

from collections.abc import Sequence
from dataclasses import dataclass

from core.domain.group_settings import AIR
from core.domain.session import Session
from core.domain.sim import Sim
from core.ports.store import Store


@dataclass(frozen=True, slots=True)
class SimMetadata:
    """``sessions``: those that the SIM has open; ``userdata``: its group's."""

    sim: Sim
    sessions: Sequence[Session]
    userdata: str | None


class DeviceMetadata:
    """Reads it from the store."""

    def __init__(self, *, store: Store) -> None:
        self._store = store

    async def of(self, session: Session) -> SimMetadata | None:
        """Of the session's SIM; ``None`` where its group does not allow it, or the SIM has another operator
        since. Raises ``Unavailable``.
        """
        sim = await self._store.sims.get(session.sim_id)
        if sim is None or not sim.group_id or sim.operator_id != session.operator_id:
            return None
        group = await self._store.groups.get(sim.operator_id, sim.group_id)
        air = group.configuration.get(AIR, {}) if group is not None else {}
        allowed = air.get("metadata")
        if not isinstance(allowed, dict) or allowed.get("enabled") is not True:
            return None
        userdata = air.get("userdata")
        return SimMetadata(
            sim=sim,
            sessions=await self._store.sessions.of_sim(sim.sim_id),
            userdata=userdata if isinstance(userdata, str) else None,
        )
