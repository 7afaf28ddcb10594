"""The terms of a SIM's sessions: what the SIM and its group say that they may do, and how fast.

Rules: nothing here is a session's own; whoever reads SIM and group again and applies what they say changes
nothing where they say the same. Keys of a group are the contract's: a group's SIMs reach each other when its
``SoracomAir.gatePrivacySeparatorEnabled`` is false.
"""

from msgspec import Struct

from core.domain.account import Group
from core.domain.group_settings import is_off
from core.domain.session import Session
from core.domain.sim import TRANSITIONS, Sim, SimEvent
from core.domain.speed import faster, granted
from core.domain.values import replace

DEVICE_DIGITS = 14
"""Of an IMEI those that name the device: a check digit or a software version follows (TS 23.003 §6.2)."""


class SubscriberPolicy(Struct, frozen=True):
    """A SIM, and the group that it is in; ``None``: in none."""

    sim: Sim
    group: Group | None = None

    @property
    def may_connect(self) -> bool:
        """Whether the SIM's status lets it have a session."""
        return SimEvent.ATTACH in TRANSITIONS[self.sim.status]

    def is_locked_out(self, imei: str) -> bool:
        """Whether the SIM is locked to another device than this one."""
        lock = self.sim.imei_lock
        return bool(lock) and lock[:DEVICE_DIGITS] != imei[:DEVICE_DIGITS]

    @property
    def password(self) -> tuple[str, bytes] | None:
        """The user name and password that devices must show.

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
        """Whether the SIM reaches those of its group and they it."""
        return self._air("gatePrivacySeparatorEnabled") is False

    def applied_to(self, session: Session) -> Session:
        """The session as it is to be.

        The speed class of a session that a NAS counts stays: it carries the traffic, and its counters go on.
        How fast it may have become is remembered.
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
