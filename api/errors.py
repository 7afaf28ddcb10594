"""Refusals of the API: one table from the domain's reasons to HTTP, and the flat ``{code, message}`` body.

Rules: what a client did wrong is never 5xx, because clients repeat those for minutes; a code once given out
keeps its meaning. ``SEM`` and ``AGW`` codes are the contract's, ``AIR`` codes our own.
"""

from dataclasses import dataclass

import msgspec
from aiohttp import web

from core.domain.reasons import RequestRefusal


@dataclass(frozen=True, slots=True)
class Fault:
    """An HTTP status and the contract's code."""

    status: int
    code: str


_R = RequestRefusal

FAULTS = {
    _R.NOT_AUTHENTICATED: Fault(401, "AIR0001"),
    _R.NOT_PERMITTED: Fault(403, "AIR0002"),
    _R.NOT_FOUND: Fault(404, "AIR0003"),
    _R.INVALID_FIELD: Fault(400, "AIR0004"),
    _R.BODY_TOO_LARGE: Fault(413, "AIR0005"),
    _R.ALREADY_REGISTERED: Fault(400, "AIR0007"),
    _R.ALREADY_EXISTS: Fault(400, "AIR0008"),
    _R.INVALID_TRANSITION: Fault(400, "AIR0009"),
    _R.TERMINATION_PROTECTED: Fault(400, "AIR0010"),
    _R.SIM_OFFLINE: Fault(400, "SEM0016"),
    _R.NOT_SUPPORTED: Fault(404, "AIR0011"),
    _R.TOO_MANY_REQUESTS: Fault(429, "AIR0012"),
    _R.LIMIT_REACHED: Fault(400, "AIR0013"),
}
"""Total over ``RequestRefusal``. AIR0006 is not used again: it disclosed which SIMs there are to register."""

UNREADABLE = Fault(400, "AIR0014")
"""aiohttp could not make a request of it."""
METHOD_NOT_ALLOWED = Fault(405, "AIR0020")
UNAVAILABLE = Fault(503, "AIR0015")
INTERNAL = Fault(500, "AGW0005")


def to_response(fault: Fault, message: str) -> web.Response:
    """The error's answer."""
    body = msgspec.json.encode({"code": fault.code, "message": message})
    return web.Response(status=fault.status, body=body, content_type="application/json")
