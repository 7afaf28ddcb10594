"""Log lines about NASes: one for each fault, with a rate limit for each kind and client.

Rule: after ``LINES_A_MINUTE`` of one kind and client the rest of the minute's are counted, and the next line
has their number. Text from packets is escaped, so that it stays one line.
"""

import logging
from collections import OrderedDict
from dataclasses import dataclass

LINES_A_MINUTE = 10
MINUTE_S = 60.0
KEYS_MAX = 4_096
"""Kinds of clients that are counted; beyond it the oldest begins anew."""
CHARACTERS_MAX = 500

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class _Written:
    since: float
    lines: int = 0
    left_out: int = 0


class Notices:
    """The lines of one RADIUS service; ``now`` is any clock that only rises."""

    def __init__(self) -> None:
        self._written: OrderedDict[tuple[str, str], _Written] = OrderedDict()

    def __len__(self) -> int:
        """How many kinds are counted."""
        return len(self._written)

    def write(self, kind: str, client: str, text: str, now: float) -> None:
        """One line, unless there were enough of its kind."""
        key = (kind, client)
        written = self._written.get(key)
        if written is None:
            if len(self._written) >= KEYS_MAX:
                self._written.popitem(last=False)
            written = self._written[key] = _Written(now)
        if now - written.since >= MINUTE_S:
            written.since, written.lines = now, 0
        if written.lines >= LINES_A_MINUTE:
            written.left_out += 1
            return
        more = f" ({written.left_out} more of this kind were not logged)" if written.left_out else ""
        written.lines, written.left_out = written.lines + 1, 0
        line = ascii(text[:CHARACTERS_MAX])[1:-1]
        _log.warning("RADIUS client %s: %s: %s%s", client or "unknown", kind, line, more)
