"""Usage of a session.

Rules:

- Counters are cumulative within (session, epoch, segment) and never go down; a repeated, late or
  reordered report changes nothing. Reports are never added up.
- A byte is an inner IP octet that the user plane forwarded; no overhead.
- A segment never crosses a UTC day and never changes its label, so bytes are never relabelled and a
  day's usage needs only that day's rows.
- The usage of a segment is its highest report, in any order of reading. A report below one of an earlier
  slot of its segment contradicts it and lowers nothing, because counted octets were forwarded.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from msgspec import Struct

from core.domain.values import replace

SLOT_S = 300
"""The length of a slot: usage is stored per five minutes."""


class Volume(Struct, frozen=True):
    """Bytes and packets in both directions; up: sent by the device."""

    up_bytes: int = 0
    down_bytes: int = 0
    up_packets: int = 0
    down_packets: int = 0

    def __add__(self, other: "Volume") -> "Volume":
        """Field by field."""
        return Volume(
            self.up_bytes + other.up_bytes,
            self.down_bytes + other.down_bytes,
            self.up_packets + other.up_packets,
            self.down_packets + other.down_packets,
        )

    def __sub__(self, other: "Volume") -> "Volume":
        """Field by field; the caller ensures that no field becomes negative."""
        return Volume(
            self.up_bytes - other.up_bytes,
            self.down_bytes - other.down_bytes,
            self.up_packets - other.up_packets,
            self.down_packets - other.down_packets,
        )

    def highest(self, other: "Volume") -> "Volume":
        """The higher of each field."""
        up_bytes, down_bytes = self.up_bytes, self.down_bytes
        up_packets, down_packets = self.up_packets, self.down_packets
        return Volume(
            other.up_bytes if other.up_bytes > up_bytes else up_bytes,
            other.down_bytes if other.down_bytes > down_bytes else down_bytes,
            other.up_packets if other.up_packets > up_packets else up_packets,
            other.down_packets if other.down_packets > down_packets else down_packets,
        )

    @property
    def total_bytes(self) -> int:
        """Both directions."""
        return self.up_bytes + self.down_bytes

    @property
    def is_zero(self) -> bool:
        """Whether nothing was counted."""
        return not (self.up_bytes or self.down_bytes or self.up_packets or self.down_packets)


class SegmentLabel(Struct, frozen=True):
    """What decides the price of a segment's bytes."""

    speed_class: str
    plmn: str = ""


class UsageReport(Struct, frozen=True):
    """The state of one segment as its gateway last saw it: a value, not an increment.

    ``timestamp_us`` orders reports of one session (gateway time, strictly rising, kept over kill -9);
    the store keeps the row with the highest. ``day`` is yyyymmdd (UTC) and ``slot`` 0–287 within it.
    """

    imsi: str
    session_id: str
    operator_id: str
    epoch: int
    segment: int
    label: SegmentLabel
    day: int
    slot: int
    volume: Volume
    timestamp_us: int


@dataclass(frozen=True, slots=True)
class RollupProgress:
    """Progress of the rollup of usage to days (yyyymmdd, 0: none).

    Days up to ``folded`` are rolled up, those after ``begun`` completely: older usage was stored before
    rollup existed. A report of a day up to ``sealed`` is late: the node that stores it rolls it up. In the
    day after ``folded`` the operators before ``operator_id`` are done, and of that one the IMSIs up to
    ``imsi``.
    """

    begun: int
    sealed: int
    folded: int
    operator_id: str = ""
    imsi: str = ""
    version: int = 0

    def is_whole(self, day: int) -> bool:
        """Whether the rolled up rows of this day are complete."""
        return self.begun < day <= self.folded


def roll_up(rows: Iterable[UsageReport]) -> tuple[list[UsageReport], list[UsageReport]]:
    """The highest report of each segment, by day, session, epoch and segment; and the contradicting rows.
    Rolling up again, with some or all of the same rows, changes nothing.
    """
    highest: dict[tuple[str, int, str, int, int], UsageReport] = {}
    contradictions: list[UsageReport] = []
    for row in sorted(rows, key=lambda row: (row.slot, row.timestamp_us)):
        key = (row.imsi, row.day, row.session_id, row.epoch, row.segment)
        before = highest.get(key, row)
        volume = row.volume.highest(before.volume)
        if row.volume.up_bytes < volume.up_bytes or row.volume.down_bytes < volume.down_bytes:
            contradictions.append(row)
        stamp = max(row.timestamp_us, before.timestamp_us)
        is_itself = volume == row.volume and stamp == row.timestamp_us
        highest[key] = row if is_itself else replace(row, volume=volume, timestamp_us=stamp)
    return [highest[key] for key in sorted(highest)], contradictions


def day_of(at: datetime) -> int:
    """The UTC day as yyyymmdd."""
    return at.year * 10_000 + at.month * 100 + at.day


def day_after(day: int) -> int:
    """The UTC day that follows."""
    after = date(day // 10_000, day // 100 % 100, day % 100) + timedelta(days=1)
    return after.year * 10_000 + after.month * 100 + after.day


def slot_of(at: datetime) -> int:
    """The five-minute slot within the UTC day, 0–287."""
    return (at.hour * 3_600 + at.minute * 60 + at.second) // SLOT_S
