"""The rows that an operator is shown: sessions, their ends in a trace, and quarantined usage."""

from typing import Any

from core.domain.session import CloseReason, Session
from core.ports.store import Quarantined

Row = dict[str, Any]
SESSION_ENDED = "session ended"
"""In a trace, where a message would be named."""


def session_row(session: Session) -> Row:
    """An open session; one by RADIUS has no peer and no TEIDs."""
    tunnel = session.tunnel
    return {
        "session_id": session.session_id,
        "gateway": session.gateway_id,
        "imsi": session.imsi,
        "msisdn": session.msisdn,
        "sim_id": session.sim_id,
        "access": session.access.value,
        "apn": session.apn,
        "address": session.shown_address,
        "peer": tunnel.peer_control_address if tunnel else "",
        "teid_control": f"0x{tunnel.local_teid_control:08x}" if tunnel else "",
        "teid_user": f"0x{tunnel.local_teid_user:08x}" if tunnel else "",
        "plmn": session.location.plmn,
        "rat": session.location.rat,
        "opened": session.opened.isoformat(timespec="seconds"),
    }


def ended_row(session: Session, reason: CloseReason, *, at: str, gateway_id: str) -> Row:
    """A session's end, among the messages of a trace."""
    return {
        "at": at,
        "gateway": gateway_id,
        "message": SESSION_ENDED,
        "cause": reason.value,
        "elements": {
            "imsi": session.imsi,
            "session": session.session_id,
            "apn": session.apn,
            "address": session.shown_address,
            "access": session.access.value,
        },
    }


def quarantined_row(item: Quarantined) -> Row:
    """Usage that a NAS reported and no customer is billed for."""
    report, nas = item.report, item.nas
    return {
        "client": item.client,
        "why": item.why,
        "imsi": report.imsi,
        "user_name": nas.user_name if nas else "",
        "up_bytes": report.volume.up_bytes,
        "down_bytes": report.volume.down_bytes,
        "nas": str(nas.name) if nas else "",
        "acct_session_id": nas.acct_session_id if nas else "",
        "session_id": report.session_id,
        "at": item.at.isoformat(timespec="seconds") if item.at else "",
    }
