"""From Access-Request to answer: whether a SIM may have access, and what its session will have.

Rules:

- Access-Accept reserves a session, Accounting-Start opens it (``radius.accounting``).
- A device gets access by an identity that can be checked: 3GPP-IMSI from a network that knows the SIM, or a
  password that the SIM's group demands.
- The reason for each Access-Reject is in the log, and in the history of the SIM.
"""

from collections.abc import Callable

from core.domain.reasons import AttachRefusal
from core.domain.requests import Grant, OpenSession
from core.domain.session import Access
from core.errors import Refused
from core.services.sessions.authoriser import Permission
from core.services.sessions.reservations import AddressReservations
from core.services.sessions.service import Sessions
from radius.client_policy import apn_of, foreign
from radius.events import AccessRequested, Denied, Granted, Outcome


class Authentication:
    """Decides Access-Requests. ``note`` as in ``Accounting``."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        reservations: AddressReservations,
        interim_interval_s: int,
        note: Callable[[str, str, str], None],
    ) -> None:
        self._sessions = sessions
        self._reservations = reservations
        self._interim_interval_s = interim_interval_s
        self._note = note

    async def answer(self, event: AccessRequested) -> tuple[Outcome, str]:
        """The decision, and its name in ``airloom_radius_answers_total``; raises ``Unavailable``."""
        apn = apn_of(event.client, event.request.apns, self._sessions.is_served)
        try:
            permission = await self._sessions.permit(_wanted(event, apn), proof=event.request.knows)
            reserved = self._reserve(event, permission)
        except Refused as refusal:
            return self._turned_away(event, apn, refusal)
        address = reserved.address if reserved.is_allocated else None
        return Granted(address, reserved.session_id.encode(), self._interim_interval_s), "accepted"

    def _reserve(self, event: AccessRequested, permission: Permission) -> Grant:
        """The id and address of the session; with ``own_addresses`` the NAS chooses the address."""
        asked, client = event.request, event.client
        apn, asker = permission.apn, (client.name, asked.nas)
        if client.policy.own_addresses:
            return self._reservations.expect(asked.imsi, asker, apn=apn.name)
        return self._reservations.reserve(
            asked.imsi,
            asker,
            apn=apn.name,
            static_address=permission.policy.sim.static_address,
            pool=apn.ue_pool,
        )

    def _turned_away(self, event: AccessRequested, apn: str, refusal: Refused) -> tuple[Outcome, str]:
        asked, client = event.request, event.client
        who = f"IMSI {asked.imsi}" if asked.imsi else f"user {asked.user_name!r}"
        self._note("access rejected", client.known_as, f"{who} at {asked.nas}, APN {apn!r}: {refusal}")
        reason = refusal.reason
        reason = reason if isinstance(reason, AttachRefusal) else AttachRefusal.NO_RESOURCES
        return Denied(reason), reason.value


def _wanted(event: AccessRequested, apn: str) -> OpenSession:
    asked, client = event.request, event.client
    return OpenSession(
        access=Access.RADIUS,
        imsi=asked.imsi,
        apn=apn,
        imei=asked.imei,
        msisdn=asked.msisdn,
        location=asked.location,
        refusal=asked.refusal or foreign(client, asked.imsi, apn),
        must_prove=asked.must_prove and client.policy.check_passwords,
    )
