"""Peers' requests for sessions, independent of the protocol: the protocol makes them, the use cases decide.

Rule: values only, in the domain's terms. Questions that only the protocol can answer about its peers or a
device's credentials (``HolderOf``, ``Proof``) are passed beside a request, not in it.
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
    """The peer's end of a GTP session, as named in its request."""

    teid_control: int
    teid_user: int
    control_address: str
    user_address: str
    nsapi: int
    restart_counter: int | None = None


class Grant(Struct, frozen=True):
    """A reservation from before the session (``AddressReservations``): its id, and an address that is
    already allocated, or one of the peer's own pool. ``apn`` is the reservation's, empty if it has expired.
    """

    session_id: str
    address: IPv4Address
    apn: str = ""
    is_allocated: bool = True


Proof = Callable[[str, bytes], bool]
"""Whether the device sent this user name and password; called if the SIM's group requires one."""


class Holder(Enum):
    """The holder of a session, as seen by the peer that requests one of the same SIM."""

    SAME = "same"  # the peer itself, or another address of its partner: replaced without a message
    YIELDING = "yielding"  # another, whose sessions this peer may take over: it is sent a delete request
    OTHER = "other"  # another: its session stays, and its address too


HolderOf = Callable[[Session], Holder]
"""Compares the requesting peer with the holder of a session: only the protocol knows its peers."""


def held_by_same(_: Session) -> Holder:
    """For a protocol that compares no peers."""
    return Holder.SAME


class OpenSession(Struct, frozen=True):
    """A peer requests a session. ``requested_address`` and ``requested_prefix`` are static ones that the
    device requested. With ``is_handover`` the SIM's session with this APN continues from its new peer.
    ``refusal``: the protocol refuses it for this reason, which goes into the SIM's history. ``must_prove``:
    only the device itself names the identity, so it is refused unless its group has a password to check.
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
"""Maps a session's dedicated bearers to the changed ones."""


class ModifySession(Struct, frozen=True):
    """A peer changes a session; ``None``, empty, or an AMBR of 0 in ``qos`` leaves a value unchanged.
    ``access``: the protocol that it uses now. ``charged``: the day (yyyymmdd) to which a NAS's counters are
    charged from now on, and the volume charged to earlier days.
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
