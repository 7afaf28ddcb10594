"""From Access-Request to answer: who may have access, and what its session will have.

Rules:

- Access-Accept promises, Accounting-Start opens (``radius.accounting``).
- A device is let in by what can be checked: the word of a network that knows its SIM, or a password that its
  group demands.
- Whoever is turned away finds the reason in the log, and its customer in the SIM's history.
"""

from collections.abc import Callable

from core.domain.reasons import AttachRefusal
from core.domain.requests import Grant, OpenSession
from core.domain.session import Access
from core.domain.sim import Sim
from core.errors import Refused
from core.services.sessions.admissions import Admissions
from core.services.sessions.service import Sessions
from radius.events import AccessRequested, Denied, Granted, Outcome
from radius.terms import apn_of, foreign


class Authentication:
    """Decides Access-Requests. ``note`` as in ``Accounting``."""

    def __init__(
        self,
        *,
        sessions: Sessions,
        admissions: Admissions,
        interim_interval_s: int,
        note: Callable[[str, str, str], None],
    ) -> None:
        self._sessions = sessions
        self._admissions = admissions
        self._interim_interval_s = interim_interval_s
        self._note = note

    async def answer(self, event: AccessRequested) -> tuple[Outcome, str]:
        """What to answer, and what became of it in a word; raises ``Unavailable``."""
        apn = apn_of(event.client, event.request.apns, self._sessions.is_served)
        try:
            sim = await self._sessions.permit(_wanted(event, apn), proof=event.request.knows)
            promised = self._promise(event, apn, sim)
        except Refused as refusal:
            return self._turned_away(event, apn, refusal)
        address = promised.address if promised.is_lent else None
        return Granted(address, promised.session_id.encode(), self._interim_interval_s), "accepted"

    def _promise(self, event: AccessRequested, apn: str, sim: Sim) -> Grant:
        """What the session will have; its NAS may give it an address of its own."""
        asked, client = event.request, event.client
        asker = (client.name, asked.nas)
        if client.terms.own_addresses:
            return self._admissions.expect(asked.imsi, asker, apn=apn)
        pool = self._sessions.pool_of(apn)
        return self._admissions.promise(
            asked.imsi, asker, apn=apn, static_address=sim.static_address, pool=pool
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
        must_prove=asked.must_prove and client.terms.check_passwords,
    )
