"""Whether peers can be reached by GTP-U (TS 29.281 §7.2): Echo Requests in rounds, and who answers none.

Rules: in a round each peer with sessions is asked, again as often as requests are repeated, until it
answers; one that did not is suspect until it answers in a later round. No session ends for it: GTP-C and
Error Indications end sessions. Pure.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from gtp.path import PathState
from gtp.userplane.messages import GTP_U_PORT, echo_request

PEERS_MAX = 4_096
"""Asked in a round; of more some are not."""
Address = tuple[str, int]


@dataclass(slots=True)
class UserPath:
    """One peer's address; times are monotonic."""

    sessions: int
    path: PathState = PathState.UP
    asked_at: float | None = None
    heard_at: float | None = None
    rtt_s: float | None = None


class UserPaths:
    """The peers of one gateway's tunnels, by address."""

    def __init__(self) -> None:
        self._paths: dict[str, UserPath] = {}
        self._sequence = 0
        self.counts: Counter[str] = Counter()
        """Paths that failed and that came back."""

    def items(self) -> Iterator[tuple[str, UserPath]]:
        """Everybody who was asked in the last round."""
        return iter(self._paths.items())

    def begin(self, sessions: Mapping[str, int], now: float) -> Iterable[tuple[bytes, Address]]:
        """A round: what to send to each peer with ``sessions``, a count by address; others are forgotten."""
        known, self._paths = self._paths, {}
        for peer, count in sessions.items():
            if len(self._paths) >= PEERS_MAX:
                break
            path = self._paths[peer] = known.get(peer) or UserPath(count)
            path.sessions, path.asked_at = count, now
        self._sequence = (self._sequence + 1) & 0xFFFF
        return self.again()

    def again(self) -> Iterable[tuple[bytes, Address]]:
        """What to send to each peer that has not answered yet."""
        data = echo_request(self._sequence)
        return [(data, (peer, GTP_U_PORT)) for peer, path in self._paths.items() if path.asked_at is not None]

    def handle(self, peer: str, sequence: int, now: float) -> None:
        """An Echo Response; one that answers nothing is nothing."""
        path = self._paths.get(peer)
        if path is None or path.asked_at is None or sequence != self._sequence:
            return
        path.heard_at, path.rtt_s, path.asked_at = now, now - path.asked_at, None
        if path.path is not PathState.UP:
            path.path = PathState.UP
            self.counts["path_back"] += 1

    def end(self) -> None:
        """The round is over: who has not answered is suspect."""
        for path in self._paths.values():
            if path.asked_at is not None and path.path is PathState.UP:
                path.path = PathState.SUSPECT
                self.counts["path_suspect"] += 1
            path.asked_at = None
