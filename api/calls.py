"""A call as its handler sees it, and the answers that a handler makes.

Rules:

- A call is authenticated before its handler sees it; ``operator_id`` is the caller's, never the path's.
- Bodies and query values are read here only, so that an invalid one is refused with the name of the field.
- Pages carry ``x-soracom-next-key``, and ``Link`` with an unquoted ``rel``, as clients parse them; a page
  that is the only one has neither.
"""

from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import Enum
from ipaddress import IPv4Network, IPv6Network
from typing import Any, TypeVar

import msgspec
from aiohttp import hdrs, web
from pydantic import BaseModel, TypeAdapter, ValidationError
from yarl import URL

from api.limits import PAGE_DEFAULT, PAGE_MAX, OperatorLimits
from api.queries import unknown_parameter
from api.ready import Readiness
from api.sources import scheme_of, source_of
from core.domain.reasons import RequestRefusal
from core.errors import Refused
from core.ports.billing import Billing
from core.ports.clock import Clock
from core.ports.secrets import TokenClaims
from core.services.customers.exports import Exports
from core.services.customers.groups import Groups
from core.services.customers.guesses import Guesses
from core.services.customers.identity import Identity
from core.services.customers.operators import Operators
from core.services.customers.sims import Sims
from core.services.metering.stats import Stats
from core.validation import problem_of

PARAMETER_CHARACTERS_MAX = 1_024
"""One value of the path or the query; no id, key or tag name is longer."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_YEAR_9999_S = 253_370_764_800

Model = TypeVar("Model", bound=BaseModel)
Choice = TypeVar("Choice", bound=Enum)
Value = TypeVar("Value")


def _not_counted(_operation_id: str, _status: int) -> None:
    """Answers are not counted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiServices:
    """The use cases that the API calls. ``readiness`` answers ``/readyz``; ``on_answer`` counts answers."""

    identity: Identity
    sims: Sims
    groups: Groups
    stats: Stats
    billing: Billing
    exports: Exports
    operators: Operators
    guesses: Guesses
    clock: Clock
    sandbox: bool
    limits: OperatorLimits
    readiness: Callable[[str], Readiness]
    on_answer: Callable[[str, int], None] = _not_counted
    proxies: tuple[IPv4Network | IPv6Network, ...] = ()
    """Those whose X-Forwarded-For is believed."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request. ``claims`` is ``None`` for the few operations that need no token."""

    services: ApiServices
    request: web.Request
    claims: TokenClaims | None

    @property
    def operator_id(self) -> str:
        """The caller's."""
        assert self.claims is not None, "authentication is required"
        return self.claims.operator_id

    @property
    def source(self) -> str:
        """The address by which failed attempts are counted."""
        return source_of(self.request, self.services.proxies)

    @property
    def origin(self) -> str:
        """Scheme and host that the client called, as ``https://api.example.com``."""
        return f"{scheme_of(self.request, self.services.proxies)}://{self.request.host}"

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

    def check_query(self, known: Collection[str]) -> None:
        """Refuse what the operation does not know."""
        if unknown := unknown_parameter(self.request.query, known):
            raise Refused(RequestRefusal.INVALID_FIELD, unknown)

    async def allowed_methods(self) -> set[str]:
        """Methods that another route has for this path."""
        found: set[str] = set()
        for resource in self.request.app.router.resources():
            found |= (await resource.resolve(self.request))[1]
        return found - {hdrs.METH_ANY}

    def query(self, name: str) -> str:
        """A value of the query; empty when there is none."""
        values = self.request.query.getall(name, [""])
        if len(values) > 1:
            raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: given more than once")
        return _bounded(name, values[0])

    def query_list(self, name: str) -> list[str]:
        """All values: the parameter may be repeated, and each may hold several with commas between."""
        values = self.request.query.getall(name, [])
        return [part for value in values for part in _bounded(name, value).split(",") if part]

    def query_integer(self, name: str, default: int | None = None) -> int:
        """A whole number; required when there is no default."""
        if name not in self.request.query and default is not None:
            return default
        text = self.query(name)
        digits = text.removeprefix("-")
        if not (digits.isascii() and digits.isdigit() and len(digits) <= 18):
            raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: must be a whole number")
        return int(text)

    def query_choice(self, name: str, choices: type[Choice], default: Choice | None = None) -> Choice:
        """One of the contract's words; required when there is no default."""
        if name not in self.request.query and default is not None:
            return default
        text = self.query(name)
        try:
            return choices(text)
        except ValueError:
            known = ", ".join(str(choice.value) for choice in choices)
            raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: must be one of {known}") from None

    @property
    def limit(self) -> int:
        """``limit``, from 1; a page may be shorter than what was asked for, and has at most 1,000 items."""
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
    """The first thing that is wrong with a body."""
    first = error.errors(include_url=False, include_input=False)[0]
    name = ".".join(str(part) for part in first["loc"])[:PARAMETER_CHARACTERS_MAX] or "body"
    detail = f"{name}: {problem_of(first)}"
    return Refused(RequestRefusal.INVALID_FIELD, detail.encode(errors="backslashreplace").decode())


def _bounded(name: str, value: str) -> str:
    """No longer than a name may be, and without what cannot be stored as text."""
    if len(value) > PARAMETER_CHARACTERS_MAX or "\0" in value or not _is_text(value):
        raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: invalid value (too long, or not valid text)")
    return value


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def instant(name: str, seconds: float) -> datetime:
    """Seconds since 1970 as a moment, up to the year 9998; there is nothing before 1970."""
    if seconds >= _YEAR_9999_S:
        raise Refused(RequestRefusal.INVALID_FIELD, f"{name}: timestamp out of range")
    return _EPOCH + timedelta(seconds=max(seconds, 0))


def answer(value: Any, status: int = 200) -> web.Response:
    """A value as JSON."""
    return web.Response(status=status, body=msgspec.json.encode(value), content_type="application/json")


def nothing() -> web.Response:
    """204."""
    return web.Response(status=204)


def page(call: Call, items: Iterable[Any], next_key: str) -> web.Response:
    """A list and the ways on from it: to what follows, and from any page but the first back to the first."""
    response = answer(list(items))
    links = []
    if call.after:
        links.append(_link(call, "", "prev"))
    if next_key:
        links.append(_link(call, next_key, "next"))
        response.headers["x-soracom-next-key"] = next_key
    if links:
        response.headers["Link"] = ", ".join(links)
    return response


def _link(call: Call, key: str, rel: str) -> str:
    """Clients split the header at its commas and semicolons, and take the key from the query."""
    url = URL(call.request.path).update_query(call.request.query)
    target = str(url.update_query(last_evaluated_key=key, limit=str(call.limit)))
    return f"<{target.replace(',', '%2C').replace(';', '%3B')}>; rel={rel}"
