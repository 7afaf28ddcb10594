"""What a load test measures: how often, how long, how it went on, and whether that was good enough.

Rules: memory does not grow with the load: latencies go into buckets that are 2 % wide, and seconds into a
series of bounded length. A latency counts from when its step was due, not from when there was time for it,
so that a server which stalls is not flattered by a generator that waits for it.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, field

BUCKET_GROWTH = 1.02
SMALLEST_S = 1e-6
SECONDS_MAX = 86_400
"""Of a series; a longer run's last second holds the rest."""
PERCENTILES = (50, 90, 95, 99)


class Histogram:
    """Latencies in seconds; percentiles within 2 %."""

    def __init__(self) -> None:
        self._buckets: dict[int, int] = {}
        self.count = 0
        self.total_s = 0.0
        self.min_s = math.inf
        self.max_s = 0.0

    def add(self, latency_s: float) -> None:
        """One more."""
        index = math.ceil(math.log(max(latency_s, SMALLEST_S) / SMALLEST_S, BUCKET_GROWTH))
        self._buckets[index] = self._buckets.get(index, 0) + 1
        self.count += 1
        self.total_s += latency_s
        self.min_s, self.max_s = min(self.min_s, latency_s), max(self.max_s, latency_s)

    def percentile(self, percent: float) -> float:
        """The latency that so many percent do not exceed; 0 when there is none."""
        wanted, seen = math.ceil(self.count * percent / 100), 0
        for index in sorted(self._buckets):
            seen += self._buckets[index]
            if seen >= wanted:
                return min(SMALLEST_S * BUCKET_GROWTH**index, self.max_s)
        return 0.0

    @property
    def mean_s(self) -> float:
        """The average."""
        return self.total_s / self.count if self.count else 0.0


@dataclass(slots=True)
class Second:
    """What happened in one second of the run."""

    done: int = 0
    errors: int = 0
    latencies: Histogram = field(default_factory=Histogram)


class Step:
    """One kind of step: an attach, a message by one protocol."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.latencies = Histogram()
        self.errors = 0
        self.seconds: dict[int, Second] = {}
        self.asked_s = 0.0
        """The time over which its rate is computed. Attaches are requested before devices send."""

    def done(self, at_s: float, latency_s: float) -> None:
        """It went well, so many seconds into the run, after so long."""
        self.latencies.add(latency_s)
        second = self._second(at_s)
        second.done += 1
        second.latencies.add(latency_s)

    def failed(self, at_s: float) -> None:
        """It did not go well."""
        self.errors += 1
        self._second(at_s).errors += 1

    @property
    def tried(self) -> int:
        """How often in all."""
        return self.latencies.count + self.errors

    def value(self, what: str) -> float:
        """A figure by its name: ``p99`` and the like, ``avg``, ``max`` in seconds; ``count``; ``rate``: done
        per second of ``asked_s``; ``errors`` as a share of all. Raises ``ValueError``.
        """
        if match := re.fullmatch(r"p(\d+(?:\.\d+)?)", what):
            return self.latencies.percentile(float(match[1]))
        figures = {
            "avg": self.latencies.mean_s,
            "max": self.latencies.max_s,
            "count": float(self.latencies.count),
            "rate": self.latencies.count / self.asked_s if self.asked_s else 0.0,
            "errors": self.errors / self.tried if self.tried else 0.0,
        }
        if what not in figures:
            raise ValueError(f"{what}: not a figure; there are p50, p99.9, {', '.join(figures)}")
        return figures[what]

    def _second(self, at_s: float) -> Second:
        return self.seconds.setdefault(min(int(at_s), SECONDS_MAX), Second())


_THRESHOLD = re.compile(r"([a-z0-9.]+)\.(\w+(?:\.\d+)?)\s*(<=|>=|<|>)\s*(\d+(?:\.\d+)?)\s*(us|ms|s|%)?")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0, "%": 0.01, None: 1.0}


@dataclass(frozen=True, slots=True)
class Threshold:
    """What must hold: ``message.mqtt.p99 < 50ms``, ``attach.errors <= 1%``, ``message.udp.rate > 100``."""

    text: str
    step: str
    figure: str
    is_upper: bool
    is_inclusive: bool
    bound: float

    @classmethod
    def of(cls, text: str) -> "Threshold":
        """Read one; raises ``ValueError`` that says what is wrong."""
        match = _THRESHOLD.fullmatch(text.strip())
        if match is None:
            raise ValueError(f"{text!r}: not a threshold; write STEP.FIGURE < NUMBER, as in attach.p99<50ms")
        step, figure, sign, number, unit = match.groups()
        Step("").value(figure)
        bound = float(number) * _UNITS[unit]
        return cls(text.strip(), step, figure, sign[0] == "<", sign.endswith("="), bound)

    def holds(self, steps: Iterable[Step]) -> bool:
        """Whether it does, for every step of that name or under it; false when there is none."""
        named = [step for step in steps if step.name == self.step or step.name.startswith(f"{self.step}.")]
        values = [step.value(self.figure) for step in named if step.tried]
        return bool(values) and all(self._allows(value) for value in values)

    def _allows(self, value: float) -> bool:
        if value == self.bound:
            return self.is_inclusive
        return (value < self.bound) is self.is_upper
