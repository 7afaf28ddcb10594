"""``/readyz``, the same on the customer API and on the control channel: what a load balancer asks.

Rule: it says what works and what does not, and no name of a gateway, node or peer: anybody may ask.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

READY = "ready"


@dataclass(frozen=True, slots=True)
class Readiness:
    """``status`` is ``ready`` or why not; ``parts`` is what it was concluded from."""

    status: str
    parts: Mapping[str, str]

    @property
    def is_ready(self) -> bool:
        """Whether new work may be sent here."""
        return self.status == READY


def readyz(ask: Callable[[str], Readiness]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    """A handler; ``?role=`` asks for one of the node's roles, else it is about all of them."""

    async def handle(request: web.Request) -> web.StreamResponse:
        found = ask(request.query.get("role", ""))
        body = {"status": found.status, "parts": dict(found.parts)}
        return web.json_response(body, status=200 if found.is_ready else 503)

    return handle
