"""From stored usage rows to usage records: what an IMSI used on a UTC day.

Rules: rows hold cumulative values, so a day is the sum over (session, epoch, segment) of the highest; the
order of the rows, duplicates and late ones change nothing. A segment whose value went down from one slot
to the next contradicts itself: its highest value counts, because octets that were once counted were
forwarded, and the contradiction is reported.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from core.domain.usage import SegmentLabel, UsageReport, Volume


@dataclass(frozen=True, slots=True, order=True)
class UsageRecord:
    """What one IMSI used on one UTC day (yyyymmdd) under one speed class."""

    imsi: str
    day: int
    speed_class: str
    up_bytes: int
    down_bytes: int
    packets: int


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A row that is lower than an earlier slot of the same segment."""

    report: UsageReport
    why: str


def fold_day(rows: Iterable[UsageReport]) -> tuple[list[UsageRecord], list[Contradiction]]:
    """Fold the rows of one IMSI and day (of one operator)."""
    highest: dict[tuple[str, int, int], tuple[UsageReport, Volume]] = {}
    contradictions: list[Contradiction] = []
    for row in sorted(rows, key=lambda row: (row.slot, row.timestamp_us)):
        key = (row.session_id, row.epoch, row.segment)
        _, before = highest.get(key, (row, Volume()))
        if _is_lower(row.volume, before):
            contradictions.append(
                Contradiction(row, f"below the {before.total_bytes} octets of an earlier slot")
            )
        highest[key] = (row, _maximum(row.volume, before))
    by_class: dict[tuple[str, int, SegmentLabel], Volume] = {}
    for row, volume in highest.values():
        label = SegmentLabel(row.label.speed_class)
        group = (row.imsi, row.day, label)
        by_class[group] = by_class.get(group, Volume()) + volume
    records = [
        UsageRecord(
            imsi,
            day,
            label.speed_class,
            volume.up_bytes,
            volume.down_bytes,
            volume.up_packets + volume.down_packets,
        )
        for (imsi, day, label), volume in by_class.items()
        if not volume.is_zero
    ]
    return sorted(records), contradictions


def _is_lower(volume: Volume, before: Volume) -> bool:
    return volume.up_bytes < before.up_bytes or volume.down_bytes < before.down_bytes


def _maximum(one: Volume, other: Volume) -> Volume:
    return Volume(
        max(one.up_bytes, other.up_bytes),
        max(one.down_bytes, other.down_bytes),
        max(one.up_packets, other.up_packets),
        max(one.down_packets, other.down_packets),
    )
