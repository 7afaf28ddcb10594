"""Taking a gateway's sessions back at the beginning of a lease term.

Rules: a session that is read back is reinstalled and handed to its front end before any request is answered;
one whose address is another's now ends, and leaves that address alone. Sessions that the former holder had
under way, and those that arrive late, end too: no peer was answered.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection
from ipaddress import IPv4Address

from core.domain.session import CloseReason, QuarantinedResources, Session
from core.domain.session_life import LifeAction, LifeEvent
from core.errors import Unavailable
from core.ports.user_plane import bearer_of
from core.services.sessions.close import CLOSE_RETRY_S, SessionCloser
from core.services.sessions.common import Common

AT_ONCE = 1_000
"""So many sessions are read back before the lease may be renewed and others have their turn: some 30 ms."""
LATE_S = 60.0
"""A write of the holder before, under way when this lease term began, has arrived by then or never does."""


class SessionRecovery:
    """Reads the sessions of one gateway instance back."""

    def __init__(
        self,
        *,
        common: Common,
        closer: SessionCloser,
    ) -> None:
        self._common = common
        self._index = common.index
        self._closer = closer
        self._store = common.store
        self._gateway = common.gateway
        self._user_plane = common.user_plane
        self._usage = common.usage
        self._static_addresses = common.static_addresses
        self.unreadable: list[str] = []
        """Why sessions that are stored could not be read back."""

    async def recover(
        self,
        keep: Callable[[Collection[IPv4Address]], Awaitable[Collection[IPv4Address]]],
        *,
        is_resumed: bool = True,
    ) -> int:
        """Read this gateway's sessions back, reinstall them and hand them to their front ends; how many.

        ``keep`` gets the addresses in use, reserves them and returns those that cannot be kept.
        Unless ``is_resumed`` another node held them meanwhile: what was counted here before is reported once
        more, as it stood, and they are counted on from zero in this lease term's epoch.
        """
        if not is_resumed:
            await self._usage.report_orphans(())
        found = [
            self._common.interning.session(each) if isinstance(each, Session) else each
            async for each in self._store.sessions.of_gateway(self._gateway.gateway_id)
        ]
        lost = set(
            await keep(
                [
                    each.ue_address
                    for each in found
                    if isinstance(each, Session) and each.has_allocated_address
                ]
            )
        )
        for place, each in enumerate(found):
            if place % AT_ONCE == 0:
                await asyncio.sleep(0)
            if isinstance(each, QuarantinedResources):
                self._gateway.quarantine(each)
                self.unreadable += [each.unreadable] if each.unreadable else []
            elif each.has_allocated_address and (each.ue_address in lost or self._index.at(each.ue_address)):
                if self._common.step(each, LifeEvent.ADDRESS_LOST) is LifeAction.BEGIN_END:
                    self._closer.must_end_without_address(each)
            else:
                await self._take_back(each)
        await self._usage.report_orphans(self._index.by_id.keys())
        return len(self._index.by_id)

    async def end_late(self) -> None:
        """Once: end the sessions that the holder before had begun and that arrived after they were read back.

        No peer was answered; what they name was in quarantine, or in a block that is not allocated from yet.
        """
        await asyncio.sleep(LATE_S)
        while True:
            try:
                async for found in self._store.sessions.of_gateway(
                    self._gateway.gateway_id, known=self._index.by_id
                ):
                    if isinstance(found, Session):
                        await self._end_if_late(found)
                return
            except Unavailable:
                await asyncio.sleep(CLOSE_RETRY_S)

    async def _take_back(self, session: Session) -> None:
        if session.has_allocated_address:
            self._gateway.reclaim(session)
            self._static_addresses.resume(session)
        if session.tunnel is not None:
            label = self._common.interning.label(session)
            self._user_plane.install(bearer_of(session, epoch=self._gateway.epoch, label=label))
            self._usage.relabel(session.session_id, label)
        if self._common.step(session, LifeEvent.READ_BACK) is LifeAction.HOLD:
            self._index.add(session)
        if front_end := self._common.front_end_of(session):
            await front_end.adopt(session)

    async def _end_if_late(self, session: Session) -> None:
        async with self._common.locks.hold(session.sim_id):  # else it may just be opened or closed here
            stored = await self._store.sessions.of_sim(session.sim_id)
            is_stored = session.session_id in {each.session_id for each in stored}
            if is_stored and self._common.step(session, LifeEvent.READ_LATE) is LifeAction.BEGIN_END:
                self._common.handle_event(None)  # its Created event is relayed before its Deleted event
                self._end(session)

    def _end(self, session: Session) -> None:
        if not session.has_allocated_address:
            self._closer.must_end(session, CloseReason.LOST)
        elif self._gateway.reclaim(session) or self._gateway.is_static(session.ue_address):
            self._closer.must_end(session, CloseReason.LOST)
        else:
            self._closer.must_end_without_address(session)
