"""What the endpoint keeps of each version of GTP-C: sequence numbers, paths to peers, and what is counted.

Rule: a peer that speaks two versions has two paths, each with a restart counter of its own (TS 23.007 §18,
§20).
"""

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from core.domain.reasons import AttachRefusal
from core.domain.session import Access
from gtp.network_requests import NetworkRequest
from gtp.partners import Partner
from gtp.path import Peers
from gtp.transaction import Peer, RequestSender
from gtp.wire import Wire

Causes = Mapping[Access, Mapping[AttachRefusal, int]]
"""What refusals are answered with in the place of a version's own table."""
NO_CAUSES: Causes = {}


class Version:
    """One version on the interface. ``answers`` are to new requests: by partner, type of the response and
    cause (0: it does not begin with one); ``claims``: what became of sessions that another partner asked for,
    or that a peer may have lost; ``waiting``: how many requests are being decided.
    """

    def __init__(
        self, wire: Wire, *, requests: RequestSender[NetworkRequest], peers: Peers, causes: Causes
    ) -> None:
        self.wire = wire
        self.access = wire.access
        self.requests = requests
        self.peers = peers
        self.causes: Mapping[AttachRefusal, int] = {}
        self.dropped: Counter[str] = Counter()
        self.answers: Counter[tuple[str, int, int]] = Counter()
        self.claims: Counter[str] = Counter()
        self.waiting = 0
        self.reload(causes)

    def reload(self, causes: Causes) -> None:
        """Answer refusals by these causes from now on, where an operator says so."""
        self.causes = {**self.wire.causes.of_refusal, **causes.get(self.access, {})}

    @property
    def path_events(self) -> Mapping[str, int]:
        """What happened on the paths to peers, since the start."""
        return self.peers.counts

    def procedure_of(self, response_type: int) -> str:
        """The name of what a response answers: ``create_session``."""
        return self.wire.procedure_of(response_type)


class Sender(Struct, frozen=True):
    """Who sent a datagram, and by which version; ``party``: whose share of bounded tables it takes."""

    version: Version
    peer: Peer
    partner: Partner
    party: str
