"""Operators, auth keys and logged-out tokens.

Rules: an e-mail address belongs to one operator that is not closed; the row by which something is listed is
written before it and removed after it, and what disagrees with such a row is not listed.
"""

from collections.abc import Sequence
from datetime import datetime

from core.adapters.store.engine import (
    SCAN_ROWS_MAX,
    Batch,
    Condition,
    Delete,
    Engine,
    Put,
    Row,
    microseconds,
)
from core.adapters.store.rows import BodyReader, HotReader, Names, body_of, collect_page, get_row
from core.adapters.store.tables import (
    AUTH_KEY,
    AUTH_KEY_BY_OPERATOR,
    OPERATOR,
    OPERATOR_BY_EMAIL,
    OPERATOR_OPEN,
    REVOKED_TOKEN,
)
from core.domain.account import AuthKey, Operator
from core.domain.values import replace
from core.ports.clock import Clock
from core.ports.store import Page

_ALL = ("all",)
"""The one partition of those that are open."""


class WideAccounts:
    """Implements ``Accounts``."""

    def __init__(self, *, engine: Engine, clock: Clock) -> None:
        self._engine = engine
        self._clock = clock
        self._operators = HotReader(engine, OPERATOR, BodyReader(OPERATOR, Operator).read)
        self._auth_keys = HotReader(engine, AUTH_KEY, BodyReader(AUTH_KEY, AuthKey).read)
        self._emails = Names(engine, OPERATOR_BY_EMAIL, self._has_email)

    async def operator(self, operator_id: str) -> Operator | None:
        """By id."""
        return await self._operators.get((operator_id,))

    async def operator_id_of_email(self, email: str) -> str | None:
        """The operator of a root user's address; case does not matter."""
        return await self._emails.owner(email.lower())

    async def put_operator(self, operator: Operator) -> Operator:
        """Bind the address, write the operator, free an address it had before or has no more."""
        old = await self.operator(operator.operator_id)
        stored = replace(operator, version=operator.version + 1, is_listed=operator.closed is None)
        email = stored.email.lower()
        put = Put((), (body_of(stored),), stored.version)
        batch = Batch(OPERATOR, (stored.operator_id,), (put,), Condition((), operator.version))
        if stored.closed is not None:
            await self._engine.write(batch)
            await self._engine.write(Batch(OPERATOR_OPEN, _ALL, (Delete((stored.operator_id,)),)))
            await self._emails.unbind(email, stored.operator_id)
            return stored
        binding = await self._emails.bind(email, stored.operator_id, microseconds(self._clock.now()))
        listed = Batch(OPERATOR_OPEN, _ALL, (Put((stored.operator_id,), ()),))
        await self._engine.write(*([binding] if binding else []), listed, batch)
        if old is not None and old.email.lower() != email:
            await self._emails.unbind(old.email.lower(), stored.operator_id)
        return stored

    async def open_operators(self, *, after: str = "", limit: int = 100) -> Page[Operator]:
        """In order of id."""

        async def scan(after: str, limit: int) -> Sequence[Row]:
            return await self._engine.scan(OPERATOR_OPEN, _ALL, above=(after,) if after else (), limit=limit)

        async def resolve(rows: Sequence[Row]) -> Sequence[Operator | None]:
            read = await self._operators.get_many([(row.clustering, ()) for row in rows])
            return [each if each is not None and each.closed is None else None for each in read]

        return await collect_page(scan, resolve, after=after, limit=limit)

    async def auth_key(self, auth_key_id: str) -> AuthKey | None:
        """By id."""
        return await self._auth_keys.get((auth_key_id,))

    async def auth_keys_of(self, operator_id: str) -> Sequence[AuthKey]:
        """All keys of an operator, by id."""
        keys: list[AuthKey] = []
        after = ""
        while True:
            above = (after,) if after else ()
            rows = await self._engine.scan(AUTH_KEY_BY_OPERATOR, (operator_id,), above=above)
            ids = [str(row.clustering[0]) for row in rows]
            read = await self._auth_keys.get_many([((key_id,), ()) for key_id in ids])
            keys += [key for key in read if key is not None and key.operator_id == operator_id]
            if len(rows) < SCAN_ROWS_MAX:
                return keys
            after = ids[-1]

    async def put_auth_key(self, key: AuthKey) -> None:
        """Index row, then key."""
        index = Put((key.auth_key_id,), ())
        await self._engine.write(
            Batch(AUTH_KEY_BY_OPERATOR, (key.operator_id,), (index,)),
            Batch(AUTH_KEY, (key.auth_key_id,), (Put((), (body_of(key),)),)),
        )

    async def delete_auth_key(self, key: AuthKey) -> None:
        """Key, then index row."""
        index = Delete((key.auth_key_id,))
        await self._engine.write(
            Batch(AUTH_KEY, (key.auth_key_id,), (Delete(()),)),
            Batch(AUTH_KEY_BY_OPERATOR, (key.operator_id,), (index,)),
        )

    async def revoke_token(self, token_id: str, expires: datetime) -> None:
        """A row that lives as long as the token would have."""
        put = Put((), (), expires_us=microseconds(expires))
        await self._engine.write(Batch(REVOKED_TOKEN, (token_id,), (put,)))

    async def is_revoked(self, token_id: str) -> bool:
        """Whether the row is there."""
        return await get_row(self._engine, REVOKED_TOKEN, (token_id,)) is not None

    async def _has_email(self, operator_id: str, email: str) -> bool:
        operator = await self.operator(operator_id)
        return operator is not None and operator.closed is None and operator.email.lower() == email
