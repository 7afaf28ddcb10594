"""GTP-C transactions over an unreliable network (TS 29.060 §7.6).

Rules:

- A request that was answered is answered again with the same bytes, never carried out twice; one that is
  still being carried out is dropped when it comes again.
- What we ask is repeated with the same bytes and sequence number, N3 times, T3 apart, and answered from the
  address and port that was asked. Nobody can foresee our sequence numbers.
- All tables are bounded, and no party fills them for the others (``core.domain.shares``): of answers the
  oldest is forgotten for the newest, what is being carried out is never forgotten for something else.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

from core.domain.shares import Kept, Places

T3_RESPONSE_S = 5.0
N3_REQUESTS = 4
RESPONSES_MAX = 65_536
SWEEP_S = 1.0
"""So often answers whose time is over are looked for; until then they only take their place."""
REQUESTS_MAX = 65_536
DRAWS_MAX = 16
"""Sequence numbers that are drawn for a request; where all are of open ones there is no room for it."""


@dataclass(frozen=True, slots=True)
class Timers:
    """The timers of TS 29.060 §7.6, TS 29.274 §7.6 and TS 23.007 §20, all in seconds.

    A request is repeated ``n3_requests`` times, ``t3_response_s`` apart. ``echo_interval_s`` lies between two
    Echo Requests to a peer with sessions, 0: none are sent; the sessions of one that does not answer are
    kept for ``path_keep_s``. Who is refused for an APN that is congested is asked to stay away from it for
    ``back_off_s``, 0: no time is named.
    """

    t3_response_s: float = T3_RESPONSE_S
    n3_requests: int = N3_REQUESTS
    echo_interval_s: float = 0.0
    path_keep_s: float = 14_400.0
    back_off_s: float = 0.0

    @property
    def patience_s(self) -> float:
        """How long a peer waits for an answer, repeats included; afterwards it has given up."""
        return self.t3_response_s * (self.n3_requests + 1)

    @property
    def kept_s(self) -> float:
        """How long an answer is kept for repeats."""
        return self.patience_s + self.t3_response_s

    @property
    def shed_after_s(self) -> float:
        """A request for a session that is not decided by then is refused, while its peer still waits."""
        return self.t3_response_s * (self.n3_requests - 1)


TIMERS = Timers()
"""As they are where nothing is configured."""
PATIENCE_S = TIMERS.patience_s

GTP_C_PORT = 2123
Peer = tuple[str, int]
RequestKey = tuple[str, int, int, int, int]
"""Peer address, peer port, GTP version, message type, sequence number."""


PartyOf = Callable[[str], str]
"""Whose an address is, of those that share the places of a table."""


def itself(address: str) -> str:
    """Each address is a party of its own."""
    return address


class Arrival(Enum):
    """What a request is to the cache."""

    NEW = "new"
    IN_PROGRESS = "in_progress"
    ANSWERED = "answered"
    NO_ROOM = "no_room"


class ResponseCache:
    """Requests of peers and what they were answered, kept for ``kept_s``."""

    def __init__(self, *, capacity: int = RESPONSES_MAX, kept_s: float = TIMERS.kept_s) -> None:
        self._capacity = capacity
        self._kept_s = kept_s
        self._in_progress: OrderedDict[RequestKey, float] = OrderedDict()
        self._answered: Kept[RequestKey, tuple[float, bytes]] = Kept(capacity)
        self._sweep_at = float("-inf")

    def __len__(self) -> int:
        """How many requests are remembered."""
        return len(self._in_progress) + len(self._answered)

    def arrive(self, key: RequestKey, now: float) -> tuple[Arrival, bytes]:
        """Account for a request; with ``ANSWERED`` comes the answer to repeat."""
        if now >= self._sweep_at:
            self._forget_old(now)
            self._sweep_at = now + SWEEP_S
        answered = self._answered.get(key)
        if answered is not None and answered[0] + self._kept_s > now:
            return Arrival.ANSWERED, answered[1]
        if key in self._in_progress:
            if self._in_progress[key] + self._kept_s > now:
                return Arrival.IN_PROGRESS, b""
            del self._in_progress[key]  # the new one is the youngest
        if len(self._in_progress) >= self._capacity:
            return Arrival.NO_ROOM, b""
        self._in_progress[key] = now
        return Arrival.NEW, b""

    def answer(self, key: RequestKey, party: str, response: bytes) -> None:
        """Keep the answer for repeats, in a place of this party's."""
        if (arrived := self._in_progress.pop(key, None)) is not None:
            self._answered.put(key, party, (arrived, response))

    def forget(self, key: RequestKey) -> None:
        """The request will not be answered: a repeat is carried out afresh."""
        self._in_progress.pop(key, None)

    def _forget_old(self, now: float) -> None:
        """The oldest stand first. One in progress past its time is gone too: its peer has given up."""
        while self._in_progress:
            key = next(iter(self._in_progress))
            if self._in_progress[key] + self._kept_s > now:
                break
            del self._in_progress[key]
        while (oldest := self._answered.oldest()) is not None and oldest[0] + self._kept_s <= now:
            self._answered.pop_oldest()


Subject = TypeVar("Subject")


@dataclass(slots=True)
class _Request(Generic[Subject]):
    data: bytes
    peer: Peer
    party: str
    subject: Subject
    due: float
    sent: int


class RequestSender(Generic[Subject]):
    """Our own requests by one version: numbered, repeated, matched with their answers. ``random_bytes`` is a
    CSPRNG; ``places`` may be shared with other versions.

    A request that a peer's command set off has the command's number, which is that peer's and above ours.
    """

    def __init__(
        self,
        *,
        random_bytes: Callable[[int], bytes],
        bits: int = 16,
        places: Places | None = None,
        timers: Timers = TIMERS,
        party_of: PartyOf = itself,
    ) -> None:
        self._timers = timers
        self._random_bytes = random_bytes
        self._mask = (1 << bits) - 1
        self._party_of = party_of
        self._places = Places(REQUESTS_MAX) if places is None else places
        self._open: OrderedDict[tuple[str, int], _Request[Subject]] = OrderedDict()
        """Whoever is due first stands first, for all wait equally long."""

    def draw(self, address: str) -> int | None:
        """A sequence number of ``bits`` bits for a request to this address, unlike those of open ones.

        ``None``: there is no room.
        """
        if not self._places.is_free(self._party_of(address)):
            return None
        for _ in range(DRAWS_MAX):
            sequence = int.from_bytes(self._random_bytes(3), "big") & self._mask
            if (address, sequence) not in self._open:
                return sequence
        return None

    def begin(self, sequence: int, data: bytes, peer: Peer, subject: Subject, now: float) -> bool:
        """Remember a request that is being sent; false when there is no room for it."""
        key, party = (peer[0], sequence), self._party_of(peer[0])
        if key in self._open:
            self._end(key)
        if not self._places.take(party):
            return False
        self._open[key] = _Request(data, peer, party, subject, now + self._timers.t3_response_s, 1)
        return True

    def answered(self, peer: Peer, sequence: int, message_type: int) -> Subject | None:
        """The subject of the request that this answers; ``None`` for an orphan (§7.6: drop it)."""
        key = (peer[0], sequence)
        request = self._open.get(key)
        if request is None or message_type != request.data[1] + 1 or peer != request.peer:
            return None
        self._end(key)
        return request.subject

    def _end(self, key: tuple[str, int]) -> None:
        self._places.give_back(self._open.pop(key).party)

    def timer(self) -> float | None:
        """When ``expire`` has something to do."""
        return next(iter(self._open.values())).due if self._open else None

    def expire(self, now: float) -> tuple[list[tuple[bytes, Peer]], list[Subject]]:
        """What to send again, and the subjects that were given up."""
        again: list[tuple[bytes, Peer]] = []
        given_up: list[Subject] = []
        while self._open:
            key, request = next(iter(self._open.items()))
            if request.due > now:
                break
            if request.sent > self._timers.n3_requests:
                self._end(key)
                given_up.append(request.subject)
                continue
            request.sent += 1
            request.due = now + self._timers.t3_response_s
            self._open.move_to_end(key)
            again.append((request.data, request.peer))
        return again, given_up
