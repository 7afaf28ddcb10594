"""Static addresses: an address of a SIM's own, which one session of the whole installation has at a time.

Rules:

- A session names itself in the address's row before it is written, under a condition, and takes its name out
  after its end is durable: so the row of an open session names it, whatever dies in between.
- Whoever finds another session named has it ended first. One that is not there was never written, or is over;
  until no write of it can come any more the address is refused. Only its own lease term knows at once.
- An address that another SIM had is in quarantine before it is given out. No SIM gets another address
  instead.
"""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta
from ipaddress import IPv4Address, IPv4Network

from core.domain.gateway import AddressHolder
from core.domain.reasons import AttachRefusal
from core.domain.requests import Holder, HolderOf, held_by_same
from core.domain.session import CloseReason, Session
from core.domain.values import replace
from core.errors import Refused, StaleVersion, Unavailable
from core.ports.clock import Clock
from core.ports.store import SETTLE_S, Store
from core.services.gateway.gateway_instance import GatewayInstance

CLAIM_TRIES_MAX = 8
END_S = 5.0
"""How long the end of another gateway's session is waited for: two that wait for each other must part."""

EndAt = Callable[[str, str, CloseReason], Awaitable[int]]
"""``(gateway_id, sim_id, reason)``: end the SIM's sessions there, wherever the gateway is held."""


class StaticAddresses:
    """The static addresses of one gateway instance's sessions; those of every gateway are of one network.

    ``route`` and ``unroute`` are called with each address that comes or goes, and its access point.
    """

    def __init__(
        self,
        *,
        store: Store,
        gateway: GatewayInstance,
        clock: Clock,
        end_at: EndAt,
        route: Callable[[IPv4Network, str], None],
        unroute: Callable[[IPv4Network, str], None],
    ) -> None:
        self._store = store
        self._gateway = gateway
        self._clock = clock
        self._end_at = end_at
        self._route = route
        self._unroute = unroute
        self._claimed: set[str] = set()
        self._routed: dict[IPv4Address, str] = {}

    def demand_own(self, bound: IPv4Address | None, granted: IPv4Address | None) -> None:
        """Raises ``Refused`` unless the SIM's address is one that is given out here, and the one it was
        granted, if it was granted one.
        """
        static = self._gateway.is_static
        if bound is not None and not static(bound):
            raise _unavailable(f"{bound} is not in the pool of static addresses")
        if granted is not None and granted != bound and (bound is not None or static(granted)):
            raise _unavailable(f"{granted} is not the SIM's address")

    async def claim(self, session: Session, holder_of: HolderOf = held_by_same) -> None:
        """Name a session, not yet written, in its address's row. Raises ``Refused``, also when another peer
        holds the session that has the address; ``Unavailable``.
        """
        self._claimed.add(session.session_id)
        for _ in range(CLAIM_TRIES_MAX):
            self._gateway.demand_held()
            held = await self._store.holders.get(session.ue_address)
            if held is not None and not await self._is_free(held, session, holder_of):
                continue
            wanted = AddressHolder(
                address=session.ue_address,
                session_id=session.session_id,
                sim_id=session.sim_id,
                gateway_id=self._gateway.gateway_id,
                fence=self._gateway.epoch,
                since=self._clock.now(),
                version=held.version if held else 0,
            )
            try:
                await self._store.holders.put(wanted)
            except StaleVersion:
                continue
            self.resume(session)
            return
        raise _unavailable(f"{session.ue_address}: concurrent updates; try again")

    def resume(self, session: Session) -> None:
        """The session, if it has a static address, is this gateway's now."""
        if self._gateway.is_static(session.ue_address):
            self._routed[session.ue_address] = session.session_id
            self._route(IPv4Network(session.ue_address), session.apn)

    async def release(self, session: Session) -> None:
        """The session is durably over, or was never written; nothing happens to one without such an address.

        Raises ``Unavailable``.
        """
        if not self._gateway.is_static(session.ue_address):
            return
        while (held := await self._store.holders.get(session.ue_address)) is not None:
            if held.session_id != session.session_id or held.rests_until is not None:
                break
            with suppress(StaleVersion):
                await self._store.holders.put(replace(held, rests_until=self._gateway.quarantined_until()))
        self._forget(session)

    async def abandon(self, session: Session) -> None:
        """The session was not written: its claim stays stored, and any later claim in this lease term may
        replace it.
        """
        self._forget(session)
        with suppress(Unavailable):
            await self.release(session)

    def _forget(self, session: Session) -> None:
        self._claimed.discard(session.session_id)
        if self._routed.get(session.ue_address) == session.session_id:
            del self._routed[session.ue_address]
            self._unroute(IPv4Network(session.ue_address), session.apn)

    async def _is_free(self, held: AddressHolder, session: Session, holder_of: HolderOf) -> bool:
        """Whether the row may be taken over as it is; false when it is to be read again."""
        if held.session_id == session.session_id:
            return True  # the answer of an earlier try was lost
        now = self._clock.now()
        if held.rests_until is not None:
            if held.sim_id != session.sim_id and now < held.rests_until:
                raise _unavailable(f"{held.address} is in quarantine")
            return True
        is_ours = (held.gateway_id, held.fence) == (self._gateway.gateway_id, self._gateway.epoch)
        if is_ours and held.session_id not in self._claimed:
            return True
        stored = {each.session_id: each for each in await self._store.sessions.of_sim(held.sim_id)}
        if held.session_id not in stored:
            if is_ours or now < held.since + timedelta(seconds=SETTLE_S):
                raise _unavailable(
                    f"{held.address} is being claimed or released by another session; try again"
                )
            return True
        demand_yielding(stored[held.session_id], holder_of)
        try:
            async with asyncio.timeout(END_S):
                await self._end_at(held.gateway_id, held.sim_id, CloseReason.REPLACED)
        except TimeoutError:
            raise Unavailable(f"{held.gateway_id} did not end the session that has {held.address}") from None
        return False


def demand_yielding(session: Session, holder_of: HolderOf) -> None:
    """Raises ``Refused`` when another peer holds the session that has a static address."""
    if holder_of(session) is Holder.OTHER:
        raise _unavailable(f"{session.ue_address} is in a session of another peer")


def _unavailable(detail: str) -> Refused:
    return Refused(AttachRefusal.STATIC_ADDRESS_UNAVAILABLE, detail)
