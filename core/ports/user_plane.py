"""The user plane: it forwards and counts packets.

Rules:

- A session is installed, changed and removed as a whole. Calls are synchronous and take microseconds, so
  that nothing happens between a decision and its effect.
- Counters survive kill -9 of the process and ``close``: only ``free`` releases the slot, after the last
  report is durable.
- Forward, then count: a kill between the two errs in the customer's favour, by one packet at most.
- A packet is bytes; only ``PacketSink`` is called per packet.
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
    """How one session's packets are forwarded. Uplink: packets from ``peer_address`` with ``local_teid``
    whose source is ``ue_address``. Downlink: packets to ``ue_address`` go to ``peer_address`` with
    ``peer_teid``.

    ``ue_prefix`` is the device's /64, if it has IPv6; without ``has_ipv4`` ``ue_address`` is not forwarded.
    ``up_kbps`` and ``down_kbps`` limit the speed (0: no limit). Sessions of the same non-empty
    ``closed_group`` reach each other. Packets that match a filter of ``dedicated`` use that bearer's tunnel.
    No downlink packets while the session ``is_suspended``. Packets for the internet leave by the device of
    ``apn``, if it has its own. ``epoch`` and ``label`` apply only if the session has no slot yet; an existing
    slot is resumed.
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
    """The bearer of a session that has a tunnel."""
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
    """One segment of a session: cumulative from zero; ``number`` rises by one per segment."""

    number: int
    label: SegmentLabel
    begun: datetime
    volume: Volume


class Counters(Struct, frozen=True):
    """A session's counts that are not yet known to be durable.

    ``previous`` is the segment before the current one, already ended; it is reported until its last value is
    durable (``begin_segment`` may be called only then).
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
        """Start forwarding, with the session's slot if it has one.

        Raises ``Refused(NO_RESOURCES)`` when no slot is free.
        """
        ...

    def update(self, bearer: Bearer) -> None:
        """Replace the bearer of an installed session at once; its counters continue.

        A peer that loses the tunnel to another is sent an End Marker (TS 29.281 §7.3.2).
        """
        ...

    def close(self, session_id: str) -> None:
        """Stop forwarding at once; the counters stay until ``free``. Idempotent."""
        ...

    def free(self, session_id: str) -> None:
        """Release the slot; only after the last report is durable. Idempotent."""
        ...

    def counters(self, session_id: str) -> Counters | None:
        """The session's counters now, with a fresh ``timestamp_us``."""
        ...

    def label(self, session_id: str) -> SegmentLabel | None:
        """The label that the session's packets are counted under now; ``None``: it has no slot."""
        ...

    def all_counters(self, *, apart_from: Container[str] = ()) -> Iterable[Counters]:
        """The counts of every slot in use, those of ended sessions included; after a restart also those found
        in the file. Sessions in ``apart_from`` are omitted.
        """
        ...

    def moved(self) -> Iterable[Sequence[str]]:
        """Sessions with traffic since the last call (after a restart: with any traffic), a part of the slots
        at a time, so that other tasks run in between.
        """
        ...

    def begin_segment(self, session_id: str, label: SegmentLabel, begun: datetime) -> None:
        """End the current segment and begin the next; atomic under kill -9."""
        ...

    def inject(self, session_id: str, packet: bytes) -> bool:
        """Send an inner IP packet down to the device, counted; false when the session is not installed."""
        ...
