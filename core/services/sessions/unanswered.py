"""Sessions that a kill may have left without their answer: written, and never told to their peer.

Rules: after a gateway was taken whose holder did not give it up, its youngest sessions have as long as a peer
waits for an answer to be used or changed; of the others the peer is asked whether it knows them. One that
does not ends. Nothing is written for it when a session is opened.
"""

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from core.domain.session import Session
from core.services.sessions.index import SessionIndex

ASKED_PER_S_MAX = 100


class UnansweredSessions:
    """Those of one virtual gateway; ``renewed`` is when the holder before was known to live last, ``None``:
    it gave the gateway up, or there was none.

    ``patience_s`` is how long a peer waits for an answer; ``ask`` has a session's peer asked.
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
        """Ask about them, once; to be begun before anybody is answered."""
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
