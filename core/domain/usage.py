"""What a session used.

Rules:

- Counters are cumulative within (session, epoch, segment) and never go down; a repeated, late or
  reordered report changes nothing. Nobody adds reports up.
- A byte is an inner IP octet that the user plane forwarded; no overhead.
- A segment never crosses a UTC day and never changes its label, so bytes are never relabelled and a
  day's usage needs that day's rows alone.
"""

from dataclasses import dataclass
from datetime import datetime

SLOT_S = 300
"""Usage is kept in slots of five minutes."""


@dataclass(frozen=True, slots=True)
class Volume:
    """Bytes and packets in both directions; up is what the device sent."""

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
        """Field by field; the caller sees to it that nothing becomes negative."""
        return Volume(
            self.up_bytes - other.up_bytes,
            self.down_bytes - other.down_bytes,
            self.up_packets - other.up_packets,
            self.down_packets - other.down_packets,
        )

    @property
    def total_bytes(self) -> int:
        """Both directions."""
        return self.up_bytes + self.down_bytes

    @property
    def is_zero(self) -> bool:
        """Whether nothing was counted."""
        return not (self.up_bytes or self.down_bytes or self.up_packets or self.down_packets)


@dataclass(frozen=True, slots=True)
class SegmentLabel:
    """What a segment's bytes are charged as."""

    speed_class: str
    plmn: str = ""


@dataclass(frozen=True, slots=True)
class UsageReport:
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


def day_of(at: datetime) -> int:
    """The UTC day as yyyymmdd."""
    return at.year * 10_000 + at.month * 100 + at.day


def slot_of(at: datetime) -> int:
    """The five-minute slot within the UTC day, 0–287."""
    return (at.hour * 3_600 + at.minute * 60 + at.second) // SLOT_S
