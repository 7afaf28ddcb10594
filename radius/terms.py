"""What a client may speak of, and whose session it may replace.

Rule: a client speaks for its own SIMs and sessions; one NAS of it is not another.
"""

from collections.abc import Callable, Mapping, Sequence

from core.domain.reasons import AttachRefusal
from core.domain.requests import Holder, HolderOf
from core.domain.session import Nas, Session
from core.errors import Refused
from radius.mapping import AccountingReport
from radius.networks import NasNetwork


def apn_of(
    client: NasNetwork, named: Sequence[str], is_served: Callable[[str], bool], promised: str = ""
) -> str:
    """The access point that a request means: the first named that is served, what was ``promised``, the
    client's own. Else what was named, which is unknown.
    """
    for each in named:
        if is_served(each):
            return each
    return promised or client.terms.default_apn or (named[0] if named else "")


def foreign(client: NasNetwork, imsi: str, apn: str) -> AttachRefusal | None:
    """Why a client may not speak of this SIM at this access point."""
    terms = client.terms
    if terms.imsi_prefixes and not imsi.startswith(terms.imsi_prefixes):
        return AttachRefusal.FOREIGN_SIM
    if terms.apns and apn not in terms.apns:
        return AttachRefusal.UNKNOWN_APN
    return None


def holder_of(client: NasNetwork, nas: Nas, clients: Mapping[str, NasNetwork]) -> HolderOf:
    """Who holds a session, as ``nas`` of ``client`` sees it; ``clients`` by network."""

    def look(session: Session) -> Holder:
        theirs = session.nas
        if theirs is None:
            return Holder.OTHER
        if theirs.network == nas.network and theirs.name.is_same(nas.name):
            return Holder.SAME
        owner = clients.get(theirs.network)
        is_allowed = owner is not None and owner.known_as in client.terms.may_take_over
        return Holder.YIELDING if is_allowed else Holder.OTHER

    return look


def demand_own(session: Session, client: NasNetwork, report: AccountingReport) -> None:
    """Raises ``Refused(UNKNOWN_SESSION)`` unless it is this NAS's to speak of."""
    nas = session.nas
    is_its_own = nas is not None and nas.network == client.name and nas.name.is_same(report.nas)
    if not is_its_own or report.imsi not in ("", session.imsi):
        raise Refused(AttachRefusal.UNKNOWN_SESSION, f"{session.session_id} is another's")
