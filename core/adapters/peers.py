"""The other nodes, over the control channel of each (``api.operator.control``).

Rules: a node is dead only on two signs of its host: the kernel closed a connection that the node itself never
closes, and nothing listens where it did. Silence proves nothing: a node that is cut off may be alive.
"""

import asyncio
from contextlib import suppress
from typing import Any

import aiohttp

from core.domain.session import CloseReason
from core.errors import ConfigurationError, Unavailable

WATCHED_MAX = 1_000
ANSWER_S = 2.0
END_S = 10.0
"""What a peer may take to end a SIM's sessions: it waits for its store."""


class NoPeers:
    """Implements ``Peers`` for a node without a control channel."""

    def watch(self, contact: str) -> None:
        """Does nothing: there are no other nodes."""

    async def watches(self, contact: str) -> bool:
        """Always false."""
        return False

    async def is_dead(self, contact: str) -> bool:
        """Always false."""
        return False

    async def name_at(self, contact: str) -> str:
        """Always empty."""
        return ""

    async def hand_over(self, contact: str, gateway_id: str) -> None:
        """Raises ``Unavailable``."""
        raise Unavailable("control.secret is not set: no other node can be asked")

    async def end_sessions_of(self, contact: str, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """Raises ``Unavailable``."""
        raise Unavailable("control.secret is not set: no other node can be asked")

    async def refresh_sessions_of(self, contact: str, gateway_id: str, sim_id: str) -> None:
        """Raises ``Unavailable``."""
        raise Unavailable("control.secret is not set: no other node can be asked")

    async def group_changed(self, contact: str, gateway_id: str, operator_id: str, group_id: str) -> None:
        """Raises ``Unavailable``."""
        raise Unavailable("control.secret is not set: no other node can be asked")


class HttpPeers:
    """Implements ``Peers``. ``secret`` is what all nodes share; make it within a running loop."""

    def __init__(self, *, secret: str) -> None:
        self._http = aiohttp.ClientSession(headers={"Authorization": f"Bearer {secret}"})
        self._watching: dict[str, asyncio.Task[None]] = {}
        self._standing: dict[str, asyncio.Event] = {}
        self._closed_on: set[str] = set()

    def watch(self, contact: str) -> None:
        """Keep a connection to this node from now on."""
        if contact and contact not in self._watching and len(self._watching) < WATCHED_MAX:
            task = asyncio.create_task(self._watch(contact))
            self._watching[contact] = task
            self._standing[contact] = asyncio.Event()
            task.add_done_callback(lambda _: self._ended(contact))

    async def watches(self, contact: str) -> bool:
        """Until it has said its first word, or the connection could not be had."""
        if (standing := self._standing.get(contact)) is not None:
            with suppress(TimeoutError):
                async with asyncio.timeout(ANSWER_S):
                    await standing.wait()
        return contact in self._standing and self._standing[contact].is_set()

    def _ended(self, contact: str) -> None:
        del self._watching[contact]
        self._standing.pop(contact).set()

    async def is_dead(self, contact: str) -> bool:
        """Whether its host closed the watched connection and refuses another."""
        return contact in self._closed_on and await _is_refused(contact)

    async def name_at(self, contact: str) -> str:
        """The name of the node that answers there."""
        try:
            return str((await self._ask("GET", f"{contact}/control/node", {}, ANSWER_S))["name"])
        except Unavailable:
            return ""

    async def hand_over(self, contact: str, gateway_id: str) -> None:
        """Ask for a gateway instance that the other holds."""
        await self._ask("POST", f"{contact}/control/hand-over", {"gateway_id": gateway_id}, END_S)

    async def end_sessions_of(self, contact: str, gateway_id: str, sim_id: str, reason: CloseReason) -> int:
        """Have a SIM's sessions on a gateway ended there."""
        wanted = {"gateway_id": gateway_id, "sim_id": sim_id, "reason": reason.value}
        return int((await self._ask("POST", f"{contact}/control/end-sessions", wanted, END_S))["ended"])

    async def refresh_sessions_of(self, contact: str, gateway_id: str, sim_id: str) -> None:
        """Have them be what the SIM and its group say now."""
        wanted = {"gateway_id": gateway_id, "sim_id": sim_id}
        await self._ask("POST", f"{contact}/control/refresh-sessions", wanted, END_S)

    async def group_changed(self, contact: str, gateway_id: str, operator_id: str, group_id: str) -> None:
        """Have those of a group's SIMs be what it says now, soon."""
        wanted = {"gateway_id": gateway_id, "operator_id": operator_id, "group_id": group_id}
        await self._ask("POST", f"{contact}/control/group-changed", wanted, END_S)

    async def aclose(self) -> None:
        """Stop watching all nodes."""
        for task in list(self._watching.values()):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self._http.close()

    async def _ask(self, method: str, url: str, body: dict[str, str], within_s: float) -> dict[str, Any]:
        if not url.startswith("http"):
            raise Unavailable("the node that holds it has no control channel")
        timeout = aiohttp.ClientTimeout(total=within_s)
        try:
            async with self._http.request(method, url, json=body, timeout=timeout) as answer:
                if answer.status == 401:
                    raise ConfigurationError(f"{url}: control.secret differs between the nodes")
                if answer.status != 200:
                    raise Unavailable(f"{url}: {answer.status} {(await answer.text())[:200]}")
                reply: dict[str, Any] = await answer.json()
                return reply
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unavailable(f"{url}: {error!r}") from error

    async def _watch(self, contact: str) -> None:
        """One connection, for as long as it stands; its end is a sign unless the node had said good-bye."""
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=ANSWER_S)
        last = b""
        try:
            async with self._http.get(f"{contact}/control/watch", timeout=timeout) as answer:
                if answer.status != 200:
                    return
                self._closed_on.discard(contact)
                async for line in answer.content:
                    last = line
                    self._standing[contact].set()
        except (aiohttp.ClientError, TimeoutError, OSError):
            pass
        if last and not last.startswith(b"bye"):
            self._closed_on.add(contact)


async def _is_refused(contact: str) -> bool:
    host, _, port = contact.removeprefix("http://").rpartition(":")
    try:
        async with asyncio.timeout(ANSWER_S):
            _, writer = await asyncio.open_connection(host, int(port))
    except ConnectionRefusedError:
        return True
    except (OSError, TimeoutError):
        return False
    writer.close()
    return False
