"""What a peer asks of sessions, whatever protocol it speaks: made by the protocol, decided by the use cases.

Rule: values only; the words are the domain's, no protocol's. What only the protocol can tell of its peers and
of what a device showed (``HolderOf``, ``Proof``) goes beside a request, not inside.
"""

from collections.abc import Callable
from enum import Enum
from ipaddress import IPv4Address, IPv6Network

from msgspec import Struct

from core.domain.flow import DedicatedBearer
from core.domain.reasons import AttachRefusal
from core.domain.session import NOWHERE, Access, Location, Nas, PdnType, Qos, Session
from core.domain.usage import Volume


class PeerTunnel(Struct, frozen=True):
    """The peer's end of a GTP session, as its request named it."""

    teid_control: int
    teid_user: int
    control_address: str
    user_address: str
    nsapi: int
    restart_counter: int | None = None


class Grant(Struct, frozen=True):
    """What was promised before the session begins (``Admissions``): its id, and an address already lent, or
    one of the peer's own pool. ``apn`` is that of the promise, empty when it was forgotten.
    """

    session_id: str
    address: IPv4Address
    apn: str = ""
    is_lent: bool = True


Proof = Callable[[str, bytes], bool]
"""Whether the device showed this user name and this password; asked when the SIM's group demands one."""


class Holder(Enum):
    """Who holds a session, as seen by the peer that asks for one of the same SIM."""

    SAME = "same"  # the peer itself, or another address of its partner: replaced without a message
    YIELDING = "yielding"  # another, whose sessions this peer may take over: it is sent a delete request
    OTHER = "other"  # another: its session stays, and its address too


HolderOf = Callable[[Session], Holder]
"""Compares who asks with who holds a session of the SIM: only the protocol knows its peers."""


def held_by_same(_: Session) -> Holder:
    """Of a protocol that compares nothing."""
    return Holder.SAME


class OpenSession(Struct, frozen=True):
    """A peer asks for a session. ``requested_address`` and ``requested_prefix`` are static ones that the
    device asked for. With ``is_handover`` a session of the SIM under this APN goes on, from its new peer.
    ``refusal`` is what the protocol must refuse it for, and the SIM's history tells; ``must_prove``: the
    identity is the device's own word, and without a group's password to check it by it is refused.
    """

    access: Access
    imsi: str
    apn: str
    imei: str = ""
    msisdn: str = ""
    location: Location = NOWHERE
    peer: PeerTunnel | None = None
    requested_address: IPv4Address | None = None
    nas: Nas | None = None
    grant: Grant | None = None
    pdn_type: PdnType = PdnType.IPV4
    qos: Qos = Qos()
    requested_prefix: IPv6Network | None = None
    is_handover: bool = False
    refusal: AttachRefusal | None = None
    must_prove: bool = False


Rearrange = Callable[[tuple[DedicatedBearer, ...]], tuple[DedicatedBearer, ...]]
"""What becomes of a session's dedicated bearers."""


class ModifySession(Struct, frozen=True):
    """A peer changes a session; ``None`` or empty leaves as it is, and so does an AMBR of 0 in ``qos``.
    ``access``: the protocol by which it speaks now. ``charged``: the day, as yyyymmdd, to which what a NAS
    counts is charged from now on, and what was charged to those before.
    """

    session_id: str
    access: Access | None = None
    peer: PeerTunnel | None = None
    location: Location | None = None
    charged: tuple[int, Volume] | None = None
    qos: Qos | None = None
    imei: str = ""
    dedicated: Rearrange | None = None
    is_suspended: bool | None = None
