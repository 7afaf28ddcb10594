"""Dedicated bearers of open sessions: asked of the peer, then durable, then in force.

Rules: the peer names the bearer, so it is asked first; what it made and cannot be stored is taken back from
it, but what may have been stored stands. A session's filters are asked in one order, so no two have the same
precedence. Only bearers without guaranteed rates are made: rates are kept for sessions, not for bearers.
"""

from collections.abc import Sequence
from contextlib import suppress
from ipaddress import ip_network

from core.domain.flow import DedicatedBearer, PacketFilter, Ports
from core.domain.reasons import AttachRefusal
from core.domain.requests import ModifySession
from core.domain.session import Session
from core.domain.values import replace
from core.errors import Refused, Unavailable
from core.ports.sessions import AccessFrontEnd
from core.services.sessions.common import Common
from core.services.sessions.modify import SessionModifier

BEARERS_MAX = 10
"""Of a session, beside its default one: EPS bearer identities are 5 to 15 (TS 24.007 §11.2.3.1.5)."""
FILTERS_MAX = 15
"""Of a bearer (TS 24.008 §10.5.6.12)."""
GUARANTEED_QCIS = frozenset({1, 2, 3, 4, 65, 66, 67, 71, 72, 73, 74, 75, 76, 82, 83, 84, 85})
"""QCIs with a guaranteed bit rate (TS 23.203 table 6.1.7)."""


class DedicatedBearers:
    """Makes and ends the dedicated bearers of one gateway instance's sessions."""

    def __init__(self, *, common: Common, modifier: SessionModifier) -> None:
        self._common = common
        self._index = common.index
        self._modifier = modifier
        self._gateway = common.gateway

    async def add(
        self, session_id: str, *, qci: int, arp: int, filters: Sequence[PacketFilter]
    ) -> DedicatedBearer:
        """A bearer for what these filters take; returns when it is durable and in force.

        Raises ``Refused``: ``UNKNOWN_SESSION``; ``NOT_SUPPORTED`` for filters, QCI or a peer that allow none;
        ``NO_RESOURCES`` when the session has as many as it may. ``Unavailable``: if it is ambiguous the
        bearer stands all the same.
        """
        session = self._index.one(session_id)
        _demand_possible(session.dedicated, qci, filters)
        (teid,) = self._gateway.allocate_teids(1)
        wanted = DedicatedBearer(
            ebi=0,
            qci=qci,
            arp=arp,
            filters=tuple(filters),
            local_teid_user=teid,
            peer_teid_user=0,
            peer_user_address="",
            charging_id=teid,
        )
        try:
            made = await self._front_end_of(session).add_bearer(session, wanted)
        except BaseException:
            self._gateway.release_teids((teid,))
            raise
        await self._keep(session, made)
        return made

    async def change(
        self,
        session_id: str,
        ebi: int,
        *,
        qci: int | None = None,
        arp: int | None = None,
        filters: Sequence[PacketFilter] | None = None,
    ) -> DedicatedBearer:
        """Another QoS or other filters for a bearer, what is ``None`` stays; returns when it is durable and
        in force.

        Raises as ``add``, and ``Refused(UNKNOWN_SESSION)`` when there is no such bearer; the peer is asked to
        have it as it was when the change cannot be stored.
        """
        session = self._index.one(session_id)
        before = _bearer_of(session, ebi)
        wanted = replace(
            before,
            qci=before.qci if qci is None else qci,
            arp=before.arp if arp is None else arp,
            filters=before.filters if filters is None else tuple(filters),
        )
        others = [each for each in session.dedicated if each.ebi != ebi]
        _demand_possible(others, wanted.qci, wanted.filters)
        front_end = self._front_end_of(session)
        await front_end.change_bearer(session, wanted)

        def changed(bearers: tuple[DedicatedBearer, ...]) -> tuple[DedicatedBearer, ...]:
            now = _bearer_of(self._index.one(session_id), ebi)
            _demand_possible([each for each in bearers if each.ebi != ebi], wanted.qci, wanted.filters)
            there = replace(now, qci=wanted.qci, arp=wanted.arp, filters=wanted.filters)
            return tuple(there if each.ebi == ebi else each for each in bearers)

        try:
            stored = await self._modifier.modify(ModifySession(session_id=session_id, dedicated=changed))
        except (Refused, Unavailable):
            with suppress(Refused, Unavailable):
                await front_end.change_bearer(session, before)
            raise
        return _bearer_of(stored, ebi)

    async def remove(self, session_id: str, ebi: int) -> None:
        """End a bearer: its end is durable before the peer gets the request.

        Raises ``Refused(UNKNOWN_SESSION)`` when there is no such bearer, ``Unavailable``.
        """
        _bearer_of(self._index.one(session_id), ebi)
        left = await self._modifier.modify(
            ModifySession(
                session_id=session_id,
                dedicated=lambda bearers: tuple(each for each in bearers if each.ebi != ebi),
            )
        )
        if (front_end := self._common.front_end_of(left)) is not None:
            front_end.remove_bearer(left, ebi)

    def _front_end_of(self, session: Session) -> AccessFrontEnd:
        front_end = self._common.front_end_of(session)
        if front_end is None:
            raise Refused(AttachRefusal.NOT_SUPPORTED, session.access.value)
        return front_end

    async def _keep(self, session: Session, made: DedicatedBearer) -> None:
        def joined(bearers: tuple[DedicatedBearer, ...]) -> tuple[DedicatedBearer, ...]:
            """One that the peer named as it named another replaces it: there the other is over."""
            if _peer_of(self._index.one(session.session_id)) != _peer_of(session):
                raise Refused(
                    AttachRefusal.NOT_SUPPORTED, "the session moved while the bearer was being created"
                )
            others = tuple(each for each in bearers if each.ebi != made.ebi)
            _demand_possible(others, made.qci, made.filters)
            return (*others, made)

        try:
            await self._modifier.modify(ModifySession(session_id=session.session_id, dedicated=joined))
        except (Refused, Unavailable) as error:
            if not (isinstance(error, Unavailable) and error.ambiguous):
                if (front_end := self._common.front_end_of(session)) is not None:
                    front_end.remove_bearer(session, made.ebi)
                self._gateway.release_teids((made.local_teid_user,))
            raise


def _bearer_of(session: Session, ebi: int) -> DedicatedBearer:
    for bearer in session.dedicated:
        if bearer.ebi == ebi:
            return bearer
    raise Refused(AttachRefusal.UNKNOWN_SESSION, f"{session.session_id} has no bearer {ebi}")


def _peer_of(session: Session) -> tuple[str, int] | None:
    tunnel = session.tunnel
    return (tunnel.peer_control_address, tunnel.peer_teid_control) if tunnel else None


def _demand_possible(bearers: Sequence[DedicatedBearer], qci: int, filters: Sequence[PacketFilter]) -> None:
    """Raises ``Refused`` when they cannot be made beside these bearers."""
    if len(bearers) >= BEARERS_MAX:
        raise Refused(AttachRefusal.NO_RESOURCES, f"at most {BEARERS_MAX} dedicated bearers per session")
    if not 1 <= qci <= 254 or qci in GUARANTEED_QCIS:
        raise Refused(AttachRefusal.NOT_SUPPORTED, f"QCI {qci} is a GBR QCI; GBR bearers are not supported")
    taken = {each.precedence for bearer in bearers for each in bearer.filters}
    precedences, identifiers = {each.precedence for each in filters}, {each.identifier for each in filters}
    if both := precedences & taken:
        raise Refused(AttachRefusal.NOT_SUPPORTED, f"precedence {min(both)} is used by another bearer")
    are_apart = len(precedences) == len(identifiers) == len(filters)
    if not 0 < len(filters) <= FILTERS_MAX or not are_apart or not all(map(_is_possible, filters)):
        raise Refused(
            AttachRefusal.NOT_SUPPORTED, "invalid filters: duplicate precedence, or not encodable as a TFT"
        )


def _is_possible(each: PacketFilter) -> bool:
    if not (each.is_uplink or each.is_downlink) or not 0 <= each.identifier <= 15:
        return False
    if not 0 <= each.precedence <= 255 or not 0 <= (each.protocol or 0) <= 255:
        return False
    try:
        if each.remote:
            ip_network(each.remote)
    except ValueError:
        return False
    parts = (each.remote, each.protocol is not None, each.local_ports, each.remote_ports)
    return any(parts) and _are_ports(each.local_ports) and _are_ports(each.remote_ports)


def _are_ports(ports: Ports | None) -> bool:
    return ports is None or 0 <= ports[0] <= ports[1] <= 65_535
