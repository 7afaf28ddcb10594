"""From stored usage to usage records: what an IMSI used on a UTC day.

Rules: reports hold cumulative values, one for each segment here, its highest (``core.domain.usage.fold``); a
day is their sum. The order of the reports changes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from core.domain.usage import UsageReport, Volume


@dataclass(frozen=True, slots=True, order=True)
class UsageRecord:
    """What one IMSI used on one UTC day (yyyymmdd) under one speed class."""

    imsi: str
    day: int
    speed_class: str
    up_bytes: int
    down_bytes: int
    packets: int


def records_of(segments: Iterable[UsageReport]) -> list[UsageRecord]:
    """The records of some segments of one operator, in order; without those that are zero."""
    used: dict[tuple[str, int, str], Volume] = {}
    for segment in segments:
        key = (segment.imsi, segment.day, segment.label.speed_class)
        used[key] = used.get(key, Volume()) + segment.volume
    return [
        UsageRecord(*key, volume.up_bytes, volume.down_bytes, volume.up_packets + volume.down_packets)
        for key, volume in sorted(used.items(), key=lambda item: item[0])
        if not volume.is_zero
    ]
