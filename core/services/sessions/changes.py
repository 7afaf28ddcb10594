"""State transitions of a session on modification, handover and repeated attach.

Rule: values in, values out; the caller makes it durable.
"""

from core.domain.flow import DedicatedBearer
from core.domain.requests import ModifySession, OpenSession, PeerTunnel
from core.domain.session import Access, Nas, PdnType, Qos, Session, Tunnel
from core.domain.speed import granted
from core.domain.usage import Volume
from core.domain.values import replace


def modified(session: Session, change: ModifySession) -> Session:
    """The session as its peer wants it."""
    tunnel = session.tunnel
    wanted = replace(
        session,
        access=change.access or session.access,
        tunnel=_moved(tunnel, change.peer) if tunnel and change.peer else tunnel,
        location=session.location.moved(change.location) if change.location else session.location,
        nas=_charged(session.nas, change.charged) if change.charged else session.nas,
        imei=change.imei or session.imei,
        dedicated=_rearranged(session, change),
        is_suspended=session.is_suspended if change.is_suspended is None else change.is_suspended,
    )
    return _asking(wanted, change.qos) if change.qos is not None else wanted


def handed_over(session: Session, request: OpenSession, pdn_type: PdnType) -> Session | None:
    """The session as it goes on from another peer (TS 29.274 §8.12, handover indication); ``None``: it is
    another connection.
    """
    tunnel, peer = session.tunnel, request.peer
    if tunnel is None or peer is None or not _is_same_connection(session, request, pdn_type):
        return None
    wanted = replace(
        session,
        access=request.access,
        tunnel=replace(_moved(tunnel, peer), nsapi=peer.nsapi),
        location=session.location.moved(request.location),
        dedicated=(),
        is_suspended=False,
    )
    return _asking(wanted, request.qos)


def is_replaced(session: Session, request: OpenSession, pdn_type: PdnType) -> bool:
    """The device attached again without a detach: by the same bearer (TS 29.060 §7.3.1), in version 2 also
    for the same connection by another (TS 29.274 §7.2.1).
    """
    if session.tunnel is None or request.peer is None:
        return session.access is request.access
    is_bearer = session.tunnel.nsapi == request.peer.nsapi
    return is_bearer or (request.access is Access.GTPV2 and _is_same_connection(session, request, pdn_type))


def _is_same_connection(session: Session, request: OpenSession, pdn_type: PdnType) -> bool:
    return session.apn.lower() == request.apn.lower() and session.pdn_type is pdn_type


def _asking(session: Session, asked: Qos) -> Session:
    """An AMBR that is not named stays."""
    up, down = asked.ambr_up_kbps or session.asked_up_kbps, asked.ambr_down_kbps or session.asked_down_kbps
    qos = granted(asked, session.speed_class, up_kbps=up, down_kbps=down)
    return replace(session, qos=qos, asked_up_kbps=up, asked_down_kbps=down)


def _charged(nas: Nas | None, charged: tuple[int, Volume]) -> Nas | None:
    day, before = charged
    return None if nas is None else replace(nas, day=day, before=before)


def _moved(tunnel: Tunnel, peer: PeerTunnel) -> Tunnel:
    return replace(
        tunnel,
        peer_teid_control=peer.teid_control,
        peer_teid_user=peer.teid_user,
        peer_control_address=peer.control_address,
        peer_user_address=peer.user_address,
        peer_restart_counter=peer.restart_counter,
    )


def _rearranged(session: Session, change: ModifySession) -> tuple[DedicatedBearer, ...]:
    """Dedicated bearers do not outlive a handover to the other version: it names none (TS 23.401 §D.3)."""
    if change.access not in (None, session.access):
        return ()
    return change.dedicated(session.dedicated) if change.dedicated else session.dedicated
