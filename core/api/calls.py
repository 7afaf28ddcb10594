"""What a handler is given and what it gives back.

Rules:

- A call is authenticated before its handler sees it; ``operator_id`` is the caller's, never the path's.
- Bodies and query values are read through here alone, so that whatever is wrong with one is refused with
  the name of the field.
- Pages carry ``x-soracom-next-key``, and ``Link`` with an unquoted ``rel``, as clients parse them.
"""

from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from pydantic import BaseModel, TypeAdapter, ValidationError
from yarl import URL

from core.api.limits import PAGE_DEFAULT, PAGE_MAX, OperatorLimits
from core.api.ready import Readiness
from core.domain.reasons import RequestRefusal
from core.errors import Refused
from core.ports.billing import Billing
from core.ports.clock import Clock
from core.ports.secrets import TokenClaims
from core.services.exports import Exports
from core.services.groups import Groups
from core.services.identity import Identity
from core.services.sims import Sims
from core.services.stats import Stats

PARAMETER_CHARACTERS_MAX = 1_024
"""One value of the path or the query; no id, key or tag name is longer."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_9999_S = 253_370_764_800

Model = TypeVar("Model", bound=BaseModel)
Choice = TypeVar("Choice", bound=Enum)
Value = TypeVar("Value")


def _nobody_counts(_operation_id: str, _status: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServices:
    """What the API stands on. ``readiness`` is asked by ``/readyz``; ``on_answer`` counts answers."""

    identity: Identity
    sims: Sims
    groups: Groups
    stats: Stats
    billing: Billing
    exports: Exports
    clock: Clock
    sandbox: bool
    limits: OperatorLimits
    readiness: Callable[[str], Readiness]
    on_answer: Callable[[str, int], None] = _nobody_counts


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``claims`` is ``None`` for the few operations that need no token."""

    services: ApiServices
    request: web.Request
    claims: TokenClaims | None

    @property
    def operator_id(self) -> str:
        """Who asks."""
        assert self.claims is not None, "the route needs authentication"
        return self.claims.operator_id

    def path(self, name: str) -> str:
        """A value of the path, decoded."""
        return _bounded(name, self.request.match_info[name])

    async def body(self, model: type[Model]) -> Model:
        """The JSON body; raises ``Refused(INVALID_FIELD)`` naming the fields that are wrong."""
        raw = await self.request.read()
        try:
            return model.model_validate_json(raw or b"{}")
        except ValidationError as error:
            raise _refusal_of(error) from None

    async def body_list(self, adapter: TypeAdapter[list[Value]]) -> list[Value]:
        """The same for a body that is a list."""
        raw = await self.request.read()
        try:
            return adapter.validate_json(raw)
        except ValidationError as error:
            raise _refusal_of(error) from None

    def query(self, name: str) -> str:
        """A value of the query; empty when there is none."""
        return _bounded(name, self.request.query.get(name, ""))

    def query_list(self, name: str) -> list[str]:
        """All values: the parameter may be repeated, and each may hold several with commas between."""
        values = self.request.query.getall(name, [])
        return [part for value in values for part in _bounded(name, value).split(",") if part]

    def query_integer(self, name: str, default: int | None = None) -> int:
        """A whole number of 0 or more; required when there is no default."""
        text = self.query(name)
        if not text and default is not None:
            return default
        if not (text.isascii() and text.isdigit() and len(text) <= 18):
            raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: a whole number is required")
        return int(text)

    def query_choice(self, name: str, choices: type[Choice], default: Choice | None = None) -> Choice:
        """One of the contract's words; required when there is no default."""
        text = self.query(name)
        if not text and default is not None:
            return default
        try:
            return choices(text)
        except ValueError:
            known = ", ".join(str(choice.value) for choice in choices)
            raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: must be one of {known}") from None

    @property
    def limit(self) -> int:
        """``limit``: 1 and more; what is above the most is the most."""
        limit = self.query_integer("limit", PAGE_DEFAULT)
        if limit < 1:
            raise Refused(RequestRefusal.INVALID_FIELD, "limit: must be 1 or more")
        return min(limit, PAGE_MAX)

    @property
    def after(self) -> str:
        """``last_evaluated_key``."""
        return self.query("last_evaluated_key")

    def check_operator(self) -> None:
        """An ``{operator_id}`` in the path is the caller's own, or is not found."""
        if self.path("operator_id") != self.operator_id:
            raise Refused(RequestRefusal.NOT_FOUND, "No such operator found.")


Handler = Callable[[Call], Awaitable[web.StreamResponse]]


def _refusal_of(error: ValidationError) -> Refused:
    """The first thing that pydantic has against a body."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])[:PARAMETER_CHARACTERS_MAX]
    detail = f"{name}: {first['msg']}" if name else str(first["msg"])
    return Refused(RequestRefusal.INVALID_FIELD, detail.encode(errors="backslashreplace").decode())


def _bounded(name: str, value: str) -> str:
    """No longer than a name may be, and without what cannot be stored as text."""
    if len(value) > PARAMETER_CHARACTERS_MAX or "\0" in value or not _is_text(value):
        raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: not a value of this parameter")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def instant(name: str, seconds: float) -> datetime:
    """Seconds since 1970 as a moment, up to the year 9998."""
    if not 0 <= seconds < _YEAR_9999_S:
        raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: no moment that a calendar knows")
    return _EPOCH + timedelta(seconds=seconds)


def answer(value: Any, status: int = 200) -> web.Response:
    """A value as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def nothing() -> web.Response:
    """204."""
    return web.Response(status=204)


def page(call: Call, items: Iterable[Any], next_key: str) -> web.Response:
    """A list and, when there is more, the way to it."""
    response = answer(list(items))
    if next_key:
        more = URL(call.request.path).update_query(call.request.query)
        more = more.update_query(last_evaluated_key=next_key, limit=str(call.limit))
        response.headers["x-soracom-next-key"] = next_key
        response.headers["Link"] = f"<{more}>; rel=next"
    return response
