"""UDP entry points: one datagram is one message, and its answer a status as text.

Rules: the answer to a message that the stream accepted is ``200``; a message that can never be accepted is
refused at once with its reason; everything else (overload, a stream that is away) is silence, so that a
device which waits for its answer sends again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

from core.domain.reasons import AttachRefusal, RequestRefusal

FUNNEL_ADDRESS = IPv4Address("100.127.65.43")
UDP_PORT = 23_080
"""The port of Funnel and of the unified endpoint alike."""
SOURCE_PROTOCOL = "udp"
ACCEPTED = b"200"

STATUS_OF_REFUSAL: Mapping[AttachRefusal | RequestRefusal, bytes] = {
    RequestRefusal.INVALID_FIELD: b"400",
    RequestRefusal.BODY_TOO_LARGE: b"413",
}
"""What is worth an answer; a refusal that is not here passes with time and gets silence."""


@dataclass(frozen=True, slots=True)
class UdpEntryPoint:
    """Where devices send datagrams to."""

    address: IPv4Address
    port: int

    @property
    def url(self) -> str:
        """Its name in the record."""
        return f"udp://{self.address}:{self.port}"


FUNNEL = UdpEntryPoint(FUNNEL_ADDRESS, UDP_PORT)
"""SORACOM's address for it, and what ``edge.message_address`` is unless configured."""
