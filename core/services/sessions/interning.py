"""Interning of values that many sessions share.

Rule: values are immutable and equal to what they stand for.
"""

from functools import lru_cache
from sys import intern
from typing import Any, TypeVar

from core.domain.session import Session
from core.domain.usage import SegmentLabel
from core.domain.values import replace

T = TypeVar("T")

COMMON_MAX = 4_096
"""Places, qualities and name servers that sessions have in common; beyond it they are learned afresh."""


@lru_cache(COMMON_MAX)
def _label_of(speed_class: str, plmn: str) -> SegmentLabel:
    return SegmentLabel(speed_class, plmn)


class Interning:
    """Of equal values the first that was seen."""

    def __init__(self) -> None:
        self._values: dict[object, Any] = {}

    def same(self, value: T) -> T:
        """The value, or one that equals it."""
        same: T | None = self._values.get(value)
        if same is None:
            if len(self._values) >= COMMON_MAX:
                self._values.clear()
            self._values[value] = same = value
        return same

    def label(self, session: Session) -> SegmentLabel:
        """What its packets are counted under."""
        return _label_of(session.speed_class, session.location.plmn)

    def session(self, session: Session) -> Session:
        """The same session of shared parts."""
        tunnel = session.tunnel
        if tunnel is not None:
            user = tunnel.local_teid_user  # what was made here charges by it: one number, not two
            tunnel = replace(
                tunnel,
                peer_control_address=intern(tunnel.peer_control_address),
                peer_user_address=intern(tunnel.peer_user_address),
                charging_id=user if tunnel.charging_id == user else tunnel.charging_id,
            )
        return replace(
            session,
            operator_id=intern(session.operator_id),
            apn=intern(session.apn),
            gateway_id=intern(session.gateway_id),
            speed_class=intern(session.speed_class),
            location=self.same(session.location),
            dns=self.same(session.dns),
            qos=self.same(session.qos),
            tunnel=tunnel,
        )
