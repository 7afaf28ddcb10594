"""Sessions that were stored before a kill, and whose answer may never have been sent.

Rules: when a gateway is taken over whose holder did not release it, its youngest sessions may be used or
changed for as long as a peer waits for an answer. After that the peer is asked about each that was not, and a
session that the peer does not know ends. Nothing is written for this when a session is opened.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from core.domain.session import Session
from core.services.sessions.index import SessionIndex

ASKED_PER_S_MAX = 100


class UnansweredSessions:
    """Those of one gateway instance; ``renewed`` is when the previous holder last renewed its lease,
    ``None``: it released the gateway, or there was none.

    ``patience_s`` is how long a peer waits for an answer; ``ask(session_id)`` asks the session's peer.
    """

    def __init__(
        self,
        *,
        index: SessionIndex,
        renewed: datetime | None,
        patience_s: float,
        is_used: Callable[[str], bool],
        ask: Callable[[str], None],
    ) -> None:
        self._index = index
        self._renewed = renewed
        self._patience_s = patience_s
        self._is_used = is_used
        self._ask = ask

    def found(self) -> list[Session]:
        """The sessions whose answer may never have been sent."""
        if self._renewed is None:
            return []
        since = self._renewed - timedelta(seconds=self._patience_s)
        sessions = self._index.by_id.values()
        return [each for each in sessions if each.tunnel is not None and each.opened >= since]

    async def run(self) -> None:
        """Ask about them, once; must be started before any peer is answered."""
        found = self.found()
        await asyncio.sleep(self._patience_s)
        asked = 0
        for session in found:
            is_as_it_was = self._index.by_id.get(session.session_id) is session
            if is_as_it_was and not self._is_used(session.session_id):
                self._ask(session.session_id)
                asked += 1
                if asked % ASKED_PER_S_MAX == 0:
                    await asyncio.sleep(1)
