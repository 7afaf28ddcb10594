"""``/readyz``, the same on the customer API and on the control channel: what a load balancer asks.

Rule: it says what works and what does not, and no name of a gateway, node or peer: anybody may ask.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from aiohttp import web

from api.queries import unknown_parameter
from core.config.node import ROLES

READY = "ready"
_ROLE = "role"


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
    """A handler; ``?role=`` asks for one of the node's roles, else it is about all of them. What it cannot
    heed is answered 400: a load balancer with a slip in its path must not hear of something else.
    """

    async def handle(request: web.Request) -> web.StreamResponse:
        if wrong := _wrong_in(request):
            return web.json_response({"status": wrong, "parts": {}}, status=400)
        found = ask(request.query.get(_ROLE, ""))
        body = {"status": found.status, "parts": dict(found.parts)}
        return web.json_response(body, status=200 if found.is_ready else 503)

    return handle


def _wrong_in(request: web.Request) -> str:
    if unknown := unknown_parameter(request.query, (_ROLE,)):
        return unknown
    roles = request.query.getall(_ROLE, [])
    if len(roles) > 1:
        return f"{_ROLE}: given more than once"
    return "" if set(roles) <= set(ROLES) else f"{_ROLE}: must be one of {', '.join(ROLES)}"
