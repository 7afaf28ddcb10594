"""What a SIM and its group permit its sessions, and how fast they are.

Rules: the policy depends only on SIM and group, so that applying it again changes nothing. The keys of a
group are SORACOM's: a group's SIMs reach each other when its ``SoracomAir.gatePrivacySeparatorEnabled`` is
false.
"""

from msgspec import Struct

from core.domain.account import Group
from core.domain.group_settings import is_off
from core.domain.session import Session
from core.domain.sim import TRANSITIONS, Sim, SimEvent
from core.domain.speed import faster, granted
from core.domain.values import replace

DEVICE_DIGITS = 14
"""The digits of an IMEI that identify the device; a check digit or software version follows (TS 23.003
§6.2)."""


class SubscriberPolicy(Struct, frozen=True):
    """A SIM and its group; ``None``: no group."""

    sim: Sim
    group: Group | None = None

    @property
    def may_connect(self) -> bool:
        """Whether the SIM's status permits sessions."""
        return SimEvent.ATTACH in TRANSITIONS[self.sim.status]

    def is_locked_out(self, imei: str) -> bool:
        """Whether the SIM is locked to another device than this one."""
        lock = self.sim.imei_lock
        return bool(lock) and lock[:DEVICE_DIGITS] != imei[:DEVICE_DIGITS]

    @property
    def password(self) -> tuple[str, bytes] | None:
        """The user name and password that devices must send.

        ``SoracomAir.authenticationRequired`` with ``username`` and ``password`` (the contract's), or
        ``SoracomAir.authentication`` with both in it.
        """
        if self.group is None:
            return None
        if self._air("authenticationRequired") is True:
            return str(self._air("username") or ""), str(self._air("password") or "").encode()
        demanded = self._air("authentication")
        if not isinstance(demanded, dict) or is_off(demanded):
            return None
        return str(demanded.get("username", "")), str(demanded.get("password", "")).encode()

    @property
    def reaches_group(self) -> bool:
        """Whether the SIM and the others of its group reach each other."""
        return self.group is not None and self._air("gatePrivacySeparatorEnabled") is False

    def applied_to(self, session: Session) -> Session:
        """The session with this policy applied.

        A session behind a NAS keeps its speed class, because the NAS carries its traffic and its counters
        continue; ``fastest_class`` records a faster one.
        """
        group_id = self.group.group_id if self.group else ""
        speed_class, qos, nas = session.speed_class, session.qos, session.nas
        if session.tunnel is not None:
            speed_class = self.sim.speed_class
            qos = granted(qos, speed_class, up_kbps=session.asked_up_kbps, down_kbps=session.asked_down_kbps)
        if nas is not None:
            before = nas.fastest_class or speed_class
            fastest = faster(before, self.sim.speed_class)
            nas = nas if fastest == before else replace(nas, fastest_class=fastest)
        return replace(
            session,
            group_id=group_id,
            reaches_group=self.reaches_group,
            speed_class=speed_class,
            qos=qos,
            nas=nas,
        )

    def _air(self, key: str) -> object:
        return self.group.configuration.get("SoracomAir", {}).get(key) if self.group else None
