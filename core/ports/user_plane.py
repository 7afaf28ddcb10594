"""The user plane: what forwards and counts packets.

Rules:

- A session is installed, changed and taken out whole; calls are synchronous and take microseconds, so
  that nothing happens between a decision and its effect.
- Counters survive kill -9 of the process and are never lost by ``close``: only ``free`` gives the slot
  back, after the last report is durable.
- Forward, then count: a kill between the two errs in the customer's favour, by one packet at most.
- A packet is bytes; nothing here is called with an object per packet but ``PacketSink``.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from datetime import datetime
from ipaddress import IPv4Address, IPv6Network
from typing import Protocol

from msgspec import Struct

from core.domain.flow import DedicatedBearer
from core.domain.session import PdnType, Session
from core.domain.usage import SegmentLabel, Volume

PacketSink = Callable[[str, bytes], None]
"""``deliver(session_id, packet)``: an inner IP packet for the device edge."""


class Bearer(Struct, frozen=True, gc=False):
    """How one session's packets go: what comes with ``local_teid`` from ``peer_address`` and is sent by
    ``ue_address`` goes up; what is sent to ``ue_address`` goes down to ``peer_address`` with ``peer_teid``.

    ``ue_prefix`` is the device's /64, if it has IPv6; without ``has_ipv4`` nothing goes by ``ue_address``.
    A device may send ``up_kbps`` and is sent ``down_kbps`` (0: as much as there is). Sessions of the same
    ``closed_group``, if it is not empty, reach each other. What a filter of ``dedicated`` takes goes by that
    bearer's tunnel; nothing is sent down while the session ``is_suspended``. What is for the internet goes
    the way of ``apn``, where that has its own.
    ``epoch`` and ``label`` are used only where the session has no slot yet; a slot that exists is resumed.
    """

    session_id: str
    imsi: str
    operator_id: str
    ue_address: IPv4Address
    local_teid: int
    peer_teid: int
    peer_address: str
    epoch: int
    label: SegmentLabel
    has_ipv4: bool = True
    ue_prefix: IPv6Network | None = None
    up_kbps: int = 0
    down_kbps: int = 0
    closed_group: str = ""
    dedicated: tuple[DedicatedBearer, ...] = ()
    is_suspended: bool = False
    apn: str = ""


def bearer_of(session: Session, *, epoch: int, label: SegmentLabel) -> Bearer:
    """How the packets of a session with a tunnel go."""
    tunnel, qos = session.tunnel, session.qos
    assert tunnel is not None, "a bearer needs a tunnel"
    return Bearer(
        session_id=session.session_id,
        imsi=session.imsi,
        operator_id=session.operator_id,
        ue_address=session.ue_address,
        local_teid=tunnel.local_teid_user,
        peer_teid=tunnel.peer_teid_user,
        peer_address=tunnel.peer_user_address,
        epoch=epoch,
        label=label,
        has_ipv4=session.pdn_type is not PdnType.IPV6,
        ue_prefix=session.ue_prefix,
        up_kbps=qos.ambr_up_kbps,
        down_kbps=qos.ambr_down_kbps,
        closed_group=session.closed_group,
        dedicated=session.dedicated,
        is_suspended=session.is_suspended,
        apn=session.apn,
    )


class Segment(Struct, frozen=True):
    """One segment of a session: cumulative from its own zero; ``number`` rises by one."""

    number: int
    label: SegmentLabel
    begun: datetime
    volume: Volume


class Counters(Struct, frozen=True):
    """Everything counted for a session that is not yet known to be durable.

    ``previous`` is the segment before the current one, whose end is fixed; it is reported once more
    until its last value is durable (``begin_segment`` may be called only then).
    """

    session_id: str
    imsi: str
    operator_id: str
    epoch: int
    current: Segment
    previous: Segment | None
    timestamp_us: int
    is_open: bool


class UserPlane(Protocol):
    """Forwards packets of installed sessions and counts them."""

    def install(self, bearer: Bearer) -> None:
        """Begin (or resume, when the session has a slot) forwarding.

        Raises ``Refused(NO_RESOURCES)`` when there is no slot left.
        """
        ...

    def update(self, bearer: Bearer) -> None:
        """Change whatever a bearer says of an installed session at once; counters go on.

        A peer whose tunnel moves to another is told its end (TS 29.281 §7.3.2).
        """
        ...

    def close(self, session_id: str) -> None:
        """Stop forwarding at once; the counters stay until ``free``. Idempotent."""
        ...

    def free(self, session_id: str) -> None:
        """Give the slot back. Only after the final report is durable. Idempotent."""
        ...

    def counters(self, session_id: str) -> Counters | None:
        """The session's counters now, with a fresh ``timestamp_us``."""
        ...

    def label(self, session_id: str) -> SegmentLabel | None:
        """What the session's packets are counted under now; ``None``: it has no slot."""
        ...

    def all_counters(self, *, apart_from: Container[str] = ()) -> Iterable[Counters]:
        """Every slot in use, closed ones included; after a restart also those found in the file. Sessions
        ``apart_from`` are passed over.
        """
        ...

    def moved(self) -> Iterable[Sequence[str]]:
        """Sessions that were counted for since this was last asked (after a restart: ever), a part of all
        slots at a time, so that between two parts others may run.
        """
        ...

    def begin_segment(self, session_id: str, label: SegmentLabel, begun: datetime) -> None:
        """End the current segment here and begin the next; atomic under kill -9."""
        ...

    def inject(self, session_id: str, packet: bytes) -> bool:
        """Send an inner IP packet down to the device, counted; false when the session is not installed."""
        ...
