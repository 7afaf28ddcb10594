"""Which open sessions an operator asks for: filters, and pages ordered by id.

Rule: looking never stops the node: however many sessions there are, they are gone through in pieces.
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import nsmallest
from ipaddress import IPv4Address, IPv6Address

from core.domain.session import PdnType, Session

LOOKED_AT = 5_000
"""Sessions that are looked at in one go."""
PAGE_DEFAULT = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionQuery:
    """Which open sessions an operator asks for; empty: all. ``address``: of the device; ``teid``: ours or the
    peer's; ``after``: the last id of the page before.
    """

    imsi: str = ""
    msisdn: str = ""
    address: IPv4Address | IPv6Address | None = None
    teid: int | None = None
    apn: str = ""
    access: str = ""
    peer: str = ""
    after: str = ""
    limit: int = PAGE_DEFAULT


@dataclass(frozen=True, slots=True)
class Searched:
    """One gateway: its open sessions by id, and the name of the partner that an address is of."""

    sessions: Mapping[str, Session]
    partner_of: Callable[[str], str]

    async def each(self) -> AsyncIterator[Session]:
        """The open sessions; meanwhile others may come and go."""
        for number, session_id in enumerate(list(self.sessions)):
            if number % LOOKED_AT == LOOKED_AT - 1:
                await asyncio.sleep(0)
            session = self.sessions.get(session_id)
            if session is not None:
                yield session

    def is_partner(self, address: str, peer: str) -> bool:
        """Whether ``peer``, an address or a partner's name, has this address."""
        return peer in (address, self.partner_of(address))

    def is_of(self, session: Session, peer: str) -> bool:
        """Whether the session's tunnel ends at ``peer``, an address or a partner's name."""
        return session.tunnel is not None and self.is_partner(session.tunnel.peer_control_address, peer)

    def is_wanted(self, session: Session, query: SessionQuery) -> bool:
        """Whether it is one of those that are asked for, and not of a page before."""
        return (
            query.imsi in ("", session.imsi)
            and query.msisdn in ("", session.msisdn)
            and (query.address is None or _has_address(session, query.address))
            and (query.teid is None or query.teid in _teids(session))
            and query.apn in ("", session.apn)
            and query.access in ("", session.access.value)
            and session.session_id > query.after
            and (not query.peer or self.is_of(session, query.peer))
        )


async def page_of(gateways: Iterable[Searched], query: SessionQuery) -> tuple[list[Session], str | None]:
    """A page of those that are asked for; what ``after`` must be for the next, ``None`` at the end."""
    found: list[Session] = []
    for gateway in gateways:
        async for session in gateway.each():
            if gateway.is_wanted(session, query):
                found.append(session)
            if len(found) > LOOKED_AT:
                found = _first(found, query.limit + 1)
    page = _first(found, query.limit)
    return page, page[-1].session_id if len(found) > len(page) else None


def _first(sessions: list[Session], limit: int) -> list[Session]:
    return nsmallest(limit, sessions, key=lambda session: session.session_id)


def _has_address(session: Session, address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv6Address):
        return session.ue_prefix is not None and address in session.ue_prefix
    return session.pdn_type is not PdnType.IPV6 and session.ue_address == address


def _teids(session: Session) -> tuple[int, ...]:
    """Ours and its peer's."""
    if (tunnel := session.tunnel) is None:
        return ()
    theirs = (tunnel.peer_teid_control, tunnel.peer_teid_user)
    return (*session.teids, *theirs, *(bearer.peer_teid_user for bearer in session.dedicated))
