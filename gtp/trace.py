"""Which of a gateway's control datagrams are of one SIM, and which exchanges were refused.

Rules: a request is the SIM's when it names its IMSI, or is addressed by a TEID that one of its messages gave;
an answer is when its request was. What is learned is bounded, the oldest is forgotten for the newest.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from core.domain.session import Session
from core.ports.network import Address
from gtp.describe import Described, describe

LEARNED_MAX = 1_024

_Exchange = tuple[int, str, int, bool]
"""Version, peer address, sequence number, whether the peer asked."""
_End = tuple[str, int]
"""Peer address, empty for our own end, and control TEID."""


class SimTrace:
    """The signalling of ``imsi``, whose ``sessions`` were open when it began."""

    def __init__(self, imsi: str, sessions: Iterable[Session] = ()) -> None:
        self._imsi = imsi
        self._ends: OrderedDict[_End, None] = OrderedDict()
        self._exchanges: OrderedDict[_Exchange, int] = OrderedDict()
        for session in sessions:
            if (tunnel := session.tunnel) is not None:
                self._ends["", tunnel.local_teid_control] = None
                self._ends[tunnel.peer_control_address, tunnel.peer_teid_control] = None

    def look(self, data: bytes, peer: Address, *, is_incoming: bool) -> Described | None:
        """The message, if it is of this SIM."""
        message = describe(data)
        if message.sequence is None or not self._is_ours(message, peer[0], is_incoming=is_incoming):
            return None
        self._exchanges[message.version, peer[0], message.sequence, is_incoming] = message.message_type
        for teid in message.control_teids:
            self._ends[peer[0] if is_incoming else "", teid] = None
        while len(self._exchanges) > LEARNED_MAX:
            self._exchanges.popitem(last=False)
        while len(self._ends) > LEARNED_MAX:
            self._ends.popitem(last=False)
        return message

    def _is_ours(self, message: Described, peer: str, *, is_incoming: bool) -> bool:
        assert message.sequence is not None, "without one it is no request and no answer"
        asked = self._exchanges.get((message.version, peer, message.sequence, not is_incoming))
        if asked is not None and asked + 1 == message.message_type:
            return True
        if message.imsi:
            return message.imsi == self._imsi
        return bool(message.teid) and ("" if is_incoming else peer, message.teid or 0) in self._ends


Shown = TypeVar("Shown")


class Refusals(Generic[Shown]):
    """Passes on exchanges that are refused, by either side: a request waits until its answer is known."""

    def __init__(self) -> None:
        self._asked: OrderedDict[_Exchange, Shown] = OrderedDict()

    def __len__(self) -> int:
        """How many requests wait."""
        return len(self._asked)

    def look(self, message: Described, peer: Address, shown: Shown, *, is_incoming: bool) -> list[Shown]:
        """What is to be shown, now that ``shown`` of this message is known."""
        if message.sequence is None:
            return []
        if not message.cause:
            self._asked[message.version, peer[0], message.sequence, is_incoming] = shown
            while len(self._asked) > LEARNED_MAX:
                self._asked.popitem(last=False)
            return []
        request = self._asked.pop((message.version, peer[0], message.sequence, not is_incoming), None)
        if not message.is_refusal:
            return []
        return [shown] if request is None else [request, shown]


class Trace(Generic[Shown]):
    """Signalling of the SIM ``imsi`` (empty: of all), with the peers that ``is_peer`` holds for; with
    ``refused`` only exchanges that are refused. ``sessions`` are those that are open when it begins.
    """

    def __init__(
        self, *, imsi: str, sessions: Iterable[Session], is_peer: Callable[[str], bool], refused: bool
    ) -> None:
        own = [session for session in sessions if session.imsi == imsi] if imsi else []
        self._sim = SimTrace(imsi, own) if imsi else None
        self._is_peer = is_peer
        self._refusals: Refusals[Shown] | None = Refusals() if refused else None

    def look(
        self, data: bytes, peer: Address, *, is_incoming: bool, show: Callable[[Described], Shown]
    ) -> list[Shown]:
        """What is to be shown now: nothing, this datagram, or before it the request that it refuses."""
        if not self._is_peer(peer[0]):
            return []
        sim = self._sim
        message = describe(data) if sim is None else sim.look(data, peer, is_incoming=is_incoming)
        if message is None:
            return []
        shown = show(message)
        if self._refusals is None:
            return [shown]
        return self._refusals.look(message, peer, shown, is_incoming=is_incoming)
