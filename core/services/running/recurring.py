"""Recurring errors, logged without filling the log.

Rule: the first lines that differ for a topic are said at once; what was said before, or is one of too many,
is said again after 1, 2, 4 … 60 s, with how often anything was left out.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from core.ports.clock import Clock

AGAIN_S, AGAIN_S_MAX = 1.0, 60.0
LINES_MAX = 4
"""Of a topic so many are said at once: an error that names a node or a time differs at each try."""
TOPICS_MAX = 256
"""Beyond it the topic that was heard of longest ago is forgotten."""


@dataclass(slots=True)
class _Said:
    lines: frozenset[str]
    again_s: float
    due: float
    left_out: int = 0


class Recurring:
    """``say`` is called with each line that is due."""

    def __init__(self, *, say: Callable[[str], None], clock: Clock) -> None:
        self._say = say
        self._clock = clock
        self._said: OrderedDict[str, _Said] = OrderedDict()

    def tell(self, topic: str, line: str) -> None:
        """It happened, perhaps again."""
        now = self._clock.monotonic()
        before = self._said.pop(topic, None)
        if before is None:
            self._said[topic] = _Said(frozenset({line}), AGAIN_S, now + AGAIN_S)
            self._say(line)
        elif line not in before.lines and len(before.lines) < LINES_MAX:
            before.lines |= {line}
            self._said[topic] = before
            self._say(line)
        elif now < before.due:
            before.left_out += 1
            self._said[topic] = before
        else:
            again_s = min(2 * before.again_s, AGAIN_S_MAX)
            self._said[topic] = _Said(before.lines, again_s, now + again_s)
            more = f" ({before.left_out} more times since)" if before.left_out else ""
            self._say(f"{line}{more}")
        if len(self._said) > TOPICS_MAX:
            self._said.popitem(last=False)

    def over(self, topic: str) -> None:
        """It is mended: if it comes again it is news."""
        self._said.pop(topic, None)
