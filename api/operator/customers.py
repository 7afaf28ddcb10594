"""Customers and their SIMs, managed by the installation's operator over the control channel.

Rules: no customer's token opens these; what a body may hold is bounded, and a batch of SIMs is larger than
any other; an auth key is shown once, in the response that created it.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

import msgspec
from aiohttp import web

from api.queries import demand_known
from core.domain.account import Operator
from core.domain.stock import StockRow
from core.services.customers.identity import NewAuthKey
from core.services.customers.operators import Operators
from core.services.customers.stock import ROWS_MAX, Outcome, Stock

IMPORT_BYTES_MAX = 1_048_576
"""Of one batch of SIMs."""
PAGE_MAX = 1_000
Body = TypeVar("Body")
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class CreateOperator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Without a password its root user signs in by auth key alone."""

    email: str
    password: str = ""

    def __repr__(self) -> str:
        """Without the password."""
        return f"CreateOperator(email={self.email!r})"


class CloseOperator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A step of it; ``after`` is where the last step came to."""

    operator_id: str
    terminate_sims: bool = False
    after: str = ""


class AddAuthKey(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One more key."""

    operator_id: str


class ImportSims(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A batch."""

    rows: list[StockRow]


@dataclass(frozen=True, slots=True)
class CustomerOperations:
    """What the routes stand on."""

    operators: Operators
    stock: Stock

    def routes(self) -> list[tuple[str, str, Handler]]:
        """Method, path and handler of each."""
        return [
            ("GET", "/control/operators", self._list),
            ("POST", "/control/operators", self._create),
            ("POST", "/control/operators/add-auth-key", self._add_auth_key),
            ("POST", "/control/operators/close", self._close),
            ("POST", "/control/sims/import", self._import),
        ]

    async def _list(self, request: web.Request) -> web.Response:
        demand_known(request.query, "limit", "after")
        limit = page_limit(request.query.get("limit", str(PAGE_MAX)))
        page = await self.operators.page(after=request.query.get("after", ""), limit=limit)
        return web.json_response({"operators": [_row(each) for each in page.items], "next": page.next_key})

    async def _create(self, request: web.Request) -> web.Response:
        body = _body(await request.read(), CreateOperator)
        made = await self.operators.create(body.email, body.password)
        return web.json_response({"email": body.email.lower(), **_key(made)})

    async def _add_auth_key(self, request: web.Request) -> web.Response:
        body = _body(await request.read(), AddAuthKey)
        return web.json_response(_key(await self.operators.add_auth_key(body.operator_id)))

    async def _close(self, request: web.Request) -> web.Response:
        body = _body(await request.read(), CloseOperator)
        step = await self.operators.close(
            body.operator_id, terminate_sims=body.terminate_sims, after=body.after
        )
        return web.json_response({"terminated": step.terminated, "next": step.next_key})

    async def _import(self, request: web.Request) -> web.Response:
        body = _body(await request.clone(client_max_size=IMPORT_BYTES_MAX).read(), ImportSims)
        if len(body.rows) > ROWS_MAX:
            raise ValueError(f"rows: at most {ROWS_MAX}")
        outcomes = await self.stock.bring_in(body.rows)
        counts = dict.fromkeys((outcome.value for outcome in Outcome), 0)
        for each in outcomes:
            counts[each.outcome.value] += 1
        refusals = [{"row": number, "why": each.why} for number, each in enumerate(outcomes) if each.why]
        return web.json_response({**counts, "refusals": refusals})


def page_limit(text: str) -> int:
    """How many items one answer shall have; raises ``ValueError``."""
    if not (
        text.isascii() and text.isdigit() and len(text) <= len(str(PAGE_MAX)) and 1 <= int(text) <= PAGE_MAX
    ):
        raise ValueError(f"limit: must be from 1 to {PAGE_MAX}")
    return int(text)


def _body(raw: bytes, model: type[Body]) -> Body:
    """A body; raises ``ValueError``."""
    try:
        return msgspec.json.decode(raw, type=model)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None


def _row(operator: Operator) -> dict[str, object]:
    return {
        "operator_id": operator.operator_id,
        "email": operator.email,
        "created": operator.created.isoformat(timespec="seconds"),
        "has_password": bool(operator.password_hash),
    }


def _key(made: NewAuthKey) -> dict[str, object]:
    return {
        "operator_id": made.key.operator_id,
        "auth_key_id": made.key.auth_key_id,
        "auth_key": made.secret,
    }
