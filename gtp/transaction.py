"""GTP-C transactions over an unreliable network (TS 29.060 §7.6).

Rules: a request that was answered is answered again with the same bytes, never carried out twice; one
that is still being carried out is dropped when it comes again; what we ask is repeated with the same
bytes and sequence number, N3 times, T3 apart, and answered by whom was asked, or by who speaks for it. Both
tables are bounded.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar

T3_RESPONSE_S = 5.0
N3_REQUESTS = 4
PATIENCE_S = T3_RESPONSE_S * (N3_REQUESTS + 1)
"""How long a peer waits for an answer, repeats included; afterwards it has given up."""
KEPT_S = PATIENCE_S + T3_RESPONSE_S
"""How long an answer is kept for repeats."""
RESPONSES_MAX = 65_536
REQUESTS_MAX = 65_536

Peer = tuple[str, int]
RequestKey = tuple[str, int, int, int]
"""Peer address, peer port, message type, sequence number."""


class Arrival(Enum):
    """What a request is to the cache."""

    NEW = "new"
    IN_PROGRESS = "in_progress"
    ANSWERED = "answered"
    NO_ROOM = "no_room"


class ResponseCache:
    """Requests of peers and what they were answered."""

    def __init__(self, *, capacity: int = RESPONSES_MAX) -> None:
        self._capacity = capacity
        self._entries: OrderedDict[RequestKey, tuple[float, bytes | None]] = OrderedDict()

    def __len__(self) -> int:
        """How many requests are remembered."""
        return len(self._entries)

    def arrive(self, key: RequestKey, now: float) -> tuple[Arrival, bytes]:
        """Account for a request; with ``ANSWERED`` comes the answer to repeat."""
        self._forget_old(now)
        entry = self._entries.get(key)
        if entry is not None:
            response = entry[1]
            return (Arrival.IN_PROGRESS, b"") if response is None else (Arrival.ANSWERED, response)
        if len(self._entries) >= self._capacity:
            return Arrival.NO_ROOM, b""
        self._entries[key] = (now, None)
        return Arrival.NEW, b""

    def answer(self, key: RequestKey, response: bytes) -> None:
        """Keep the answer for repeats."""
        if key in self._entries:
            self._entries[key] = (self._entries[key][0], response)

    def forget(self, key: RequestKey) -> None:
        """The request will not be answered: a repeat is carried out afresh."""
        self._entries.pop(key, None)

    def _forget_old(self, now: float) -> None:
        """The oldest stand first. One in progress past its time is gone too: its peer has given up."""
        while self._entries:
            key = next(iter(self._entries))
            if self._entries[key][0] + KEPT_S > now:
                return
            del self._entries[key]


Subject = TypeVar("Subject")


@dataclass(slots=True)
class _Request(Generic[Subject]):
    data: bytes
    peer: Peer
    subject: Subject
    due: float
    sent: int


class RequestSender(Generic[Subject]):
    """Our own requests: numbered, repeated, matched with their answers.

    A request that a peer's command set off has the command's number, which is that peer's and above ours.
    """

    def __init__(self, *, first_sequence: int = 0, bits: int = 16, capacity: int = REQUESTS_MAX) -> None:
        self._mask = (1 << bits) - 1
        self._next = first_sequence & self._mask
        self._capacity = capacity
        self._open: dict[tuple[str, int], _Request[Subject]] = {}

    def next_sequence(self) -> int:
        """The next sequence number, of ``bits`` bits."""
        self._next = (self._next + 1) & self._mask
        return self._next

    def begin(self, sequence: int, data: bytes, peer: Peer, subject: Subject, now: float) -> bool:
        """Remember a request that is being sent; false when there is no room for it."""
        if len(self._open) >= self._capacity:
            return False
        self._open[self._key(peer[0], sequence)] = _Request(data, peer, subject, now + T3_RESPONSE_S, 1)
        return True

    def answered(
        self, peer: str, sequence: int, message_type: int, speaks_for: Callable[[str, str], bool]
    ) -> Subject | None:
        """The subject of the request that this answers; ``None`` for an orphan (§7.6: drop it).

        ``speaks_for(peer, asked)``: whether this peer may answer what that one was asked.
        """
        key = self._key(peer, sequence)
        request = self._open.get(key)
        if request is None or message_type != request.data[1] + 1 or not speaks_for(peer, request.peer[0]):
            return None
        del self._open[key]
        return request.subject

    def _key(self, peer: str, sequence: int) -> tuple[str, int]:
        return ("" if sequence <= self._mask else peer, sequence)

    def timer(self) -> float | None:
        """When ``expire`` has something to do."""
        return min((request.due for request in self._open.values()), default=None)

    def expire(self, now: float) -> tuple[list[tuple[bytes, Peer]], list[Subject]]:
        """What to send again, and the subjects that were given up."""
        again: list[tuple[bytes, Peer]] = []
        given_up: list[Subject] = []
        for key, request in list(self._open.items()):
            if request.due > now:
                continue
            if request.sent > N3_REQUESTS:
                del self._open[key]
                given_up.append(request.subject)
                continue
            request.sent += 1
            request.due = now + T3_RESPONSE_S
            again.append((request.data, request.peer))
        return again, given_up
