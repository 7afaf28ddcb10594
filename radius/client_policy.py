"""Rights of a RADIUS client: which SIMs and APNs it may use, and whose sessions it may replace.

Rule: a client uses its own SIMs and sessions only, and each of its NASes only its own sessions.
"""

from collections.abc import Callable, Mapping, Sequence

from core.domain.reasons import AttachRefusal
from core.domain.requests import Holder, HolderOf
from core.domain.session import Nas, Session
from core.errors import Refused
from radius.mapping import AccountingReport
from radius.networks import NasNetwork


def apn_of(
    client: NasNetwork, named: Sequence[str], is_served: Callable[[str], bool], reserved: str = ""
) -> str:
    """The access point of a request: the first named that is served, the ``reserved`` one, or the client's
    default. Otherwise the first named, which is unknown.
    """
    for each in named:
        if is_served(each):
            return each
    return reserved or client.policy.default_apn or (named[0] if named else "")


def foreign(client: NasNetwork, imsi: str, apn: str) -> AttachRefusal | None:
    """Why a client may not use this SIM at this access point; ``None``: it may."""
    policy = client.policy
    if policy.imsi_prefixes and not imsi.startswith(policy.imsi_prefixes):
        return AttachRefusal.FOREIGN_SIM
    if policy.apns and apn not in policy.apns:
        return AttachRefusal.UNKNOWN_APN
    return None


def holder_of(client: NasNetwork, nas: Nas, clients: Mapping[str, NasNetwork]) -> HolderOf:
    """How ``nas`` of ``client`` stands to the holder of a session; ``clients`` by network."""

    def look(session: Session) -> Holder:
        theirs = session.nas
        if theirs is None:
            return Holder.OTHER
        if theirs.network == nas.network and theirs.name.is_same(nas.name):
            return Holder.SAME
        owner = clients.get(theirs.network)
        is_allowed = owner is not None and owner.known_as in client.policy.may_take_over
        return Holder.YIELDING if is_allowed else Holder.OTHER

    return look


def demand_own(session: Session, client: NasNetwork, report: AccountingReport) -> None:
    """Raises ``Refused(UNKNOWN_SESSION)`` unless the session is this NAS's."""
    nas = session.nas
    is_its_own = nas is not None and nas.network == client.name and nas.name.is_same(report.nas)
    if not is_its_own or report.imsi not in ("", session.imsi):
        raise Refused(AttachRefusal.UNKNOWN_SESSION, f"{session.session_id} belongs to another client or NAS")
