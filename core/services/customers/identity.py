"""Operators, their keys and their tokens.

Rules:

- Of a secret only a digest is kept: argon2id for passwords, which people choose; SHA-256 for auth keys and
  API keys, which are 128 random bits and more, so that a program may authenticate at each call.
- A token is good with the API key that it was given out with, until it expires, is logged out, its customer's
  account is closed or has another password, or the auth key that it was made by is gone.
- Wrong passwords, auth keys and secrets are bounded (``core.services.customers.guesses``).
- A failed sign-in does not say why.
"""

import hashlib
import hmac
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta

from core.domain.account import AuthKey, Operator
from core.domain.ids import time_ordered_id
from core.domain.reasons import RequestRefusal
from core.domain.values import replace
from core.errors import Refused, StaleVersion, Unavailable
from core.ports.clock import Clock, Entropy
from core.ports.secrets import Passwords, TokenClaims, Tokens
from core.ports.store import Accounts
from core.services.customers.guesses import Guess, Guesses

TOKEN_LIFETIME_DEFAULT_S = 86_400
TOKEN_LIFETIME_MAX_S = 172_800
CLOCKS_APART_S = 300
"""How far ahead the clock of the node may be that made a token."""
AUTH_KEYS_MAX = 100
"""Auth keys of one operator."""
PASSWORD_CHARACTERS = range(8, 257)
EMAIL_CHARACTERS_MAX = 254
DRAWS_MAX = 16
"""How often an operator id is drawn again because it is taken."""
_EMAIL = re.compile(r"[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """API key and token, which a client sends with each call."""

    operator_id: str
    api_key: str = field(repr=False)
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class NewAuthKey:
    """A new auth key; its secret is not stored and not shown again."""

    key: AuthKey
    secret: str = field(repr=False)


class Identity:
    """Signs operators up and in."""

    def __init__(
        self,
        *,
        accounts: Accounts,
        passwords: Passwords,
        tokens: Tokens,
        guesses: Guesses,
        clock: Clock,
        entropy: Entropy,
    ) -> None:
        self._accounts = accounts
        self._passwords = passwords
        self._tokens = tokens
        self._guesses = guesses
        self._clock = clock
        self._entropy = entropy

    # -- operators ------------------------------------------------------------------------------------

    async def create_operator(self, email: str, password: str = "") -> Operator:
        """A new operator and its root user, who signs in by auth key alone as long as there is no password.

        Raises ``Refused(INVALID_FIELD, ALREADY_EXISTS)``.
        """
        email = email.lower()
        _check_email(email)
        password_hash = await self._hash(password) if password else ""
        now = self._clock.now()
        for _ in range(DRAWS_MAX):
            if await self._accounts.operator_id_of_email(email) is not None:
                break
            number = int.from_bytes(self._entropy.random_bytes(16), "big") % 10**10
            operator = Operator(f"OP{number:010d}", email, now, now, password_hash)
            try:
                return await self._accounts.put_operator(operator)
            except StaleVersion:
                continue
        raise Refused(RequestRefusal.ALREADY_EXISTS, "The e-mail address is in use.")

    async def operator(self, operator_id: str) -> Operator:
        """By id; one that is closed is none."""
        operator = await self._accounts.operator(operator_id)
        if operator is None or operator.closed is not None:
            raise Refused(RequestRefusal.NOT_FOUND, "No such operator found.")
        return operator

    async def set_password(self, operator_id: str, current: str, wanted: str, *, source: str = "") -> None:
        """Another root password, by showing the present one; every token given out before ends."""
        operator = await self.operator(operator_id)
        _check_password(wanted)
        async with self._guesses.trying(Guess.PASSWORD, name=operator.email, source=source):
            if not await self._passwords.verify(operator.password_hash, current):
                raise Refused(RequestRefusal.NOT_PERMITTED, "The current password is wrong.")
        changed = replace(
            operator,
            password_hash=await self._passwords.hash(wanted),
            generation=operator.generation + 1,
            modified=self._clock.now(),
        )
        try:
            await self._accounts.put_operator(changed)
        except StaleVersion as error:
            raise Unavailable("concurrent update of the operator; try again") from error

    async def close_operator(self, operator_id: str) -> None:
        """End its credentials and free its e-mail address; repeating it finishes what a crash left."""
        operator = await self._accounts.operator(operator_id)
        if operator is None:
            raise Refused(RequestRefusal.NOT_FOUND, "No such operator found.")
        closed = operator.closed or self._clock.now()
        try:
            await self._accounts.put_operator(replace(operator, closed=closed, password_hash=""))
        except StaleVersion as error:
            raise Unavailable("concurrent update of the operator; try again") from error
        for key in await self._accounts.auth_keys_of(operator_id):
            await self._accounts.delete_auth_key(key)

    async def _hash(self, password: str) -> str:
        _check_password(password)
        return await self._passwords.hash(password)

    # -- auth keys ------------------------------------------------------------------------------------

    async def generate_auth_key(self, operator_id: str) -> NewAuthKey:
        """A new key pair for programs; raises ``Refused(LIMIT_REACHED)``."""
        await self.operator(operator_id)
        if len(await self._accounts.auth_keys_of(operator_id)) >= AUTH_KEYS_MAX:
            raise Refused(RequestRefusal.LIMIT_REACHED, f"more than {AUTH_KEYS_MAX} auth keys")
        secret = f"secret-{self._entropy.random_bytes(32).hex()}"
        key = AuthKey(
            auth_key_id=f"keyId-{self._entropy.random_bytes(16).hex()}",
            operator_id=operator_id,
            secret_sha256=_digest(secret),
            created=self._clock.now(),
        )
        await self._accounts.put_auth_key(key)
        return NewAuthKey(key, secret)

    async def auth_keys(self, operator_id: str) -> Sequence[AuthKey]:
        """All of the operator's, by id."""
        return await self._accounts.auth_keys_of(operator_id)

    async def delete_auth_key(self, operator_id: str, auth_key_id: str) -> None:
        """Remove one of the operator's."""
        key = await self._accounts.auth_key(auth_key_id)
        if key is None or key.operator_id != operator_id:
            raise Refused(RequestRefusal.NOT_FOUND, "No such auth key found.")
        await self._accounts.delete_auth_key(key)

    # -- signing in and out ---------------------------------------------------------------------------

    async def sign_in_by_password(
        self, email: str, password: str, *, lifetime_s: int, source: str = ""
    ) -> Credentials:
        """The root user by e-mail address; takes as long when there is no such address."""
        async with self._guesses.trying(Guess.PASSWORD, name=email.lower(), source=source):
            operator_id = await self._accounts.operator_id_of_email(email.lower())
            operator = await self._accounts.operator(operator_id) if operator_id else None
            if operator is None or not operator.password_hash:
                await self._passwords.hash(password)
                raise _not_authenticated()
            if not await self._passwords.verify(operator.password_hash, password):
                raise _not_authenticated()
        await self._list(operator)
        return self.issue(operator, lifetime_s)

    async def sign_in_by_auth_key(
        self, auth_key_id: str, secret: str, *, lifetime_s: int, source: str = ""
    ) -> Credentials:
        """A program by its key pair: two reads and one digest."""
        async with self._guesses.trying(Guess.AUTH_KEY, name=auth_key_id, source=source):
            key = await self._accounts.auth_key(auth_key_id)
            expected = key.secret_sha256 if key else "0" * 64
            if not hmac.compare_digest(_digest(secret), expected) or key is None:
                raise _not_authenticated()
            operator = await self._accounts.operator(key.operator_id)
            if operator is None or operator.closed is not None:
                raise _not_authenticated()
        await self._list(operator)
        return self.issue(operator, lifetime_s, auth_key_id=auth_key_id)

    async def authenticate(self, api_key: str, token: str) -> TokenClaims:
        """Who makes this request; raises ``Refused(NOT_AUTHENTICATED)``."""
        claims = self._tokens.read(token)
        if claims is None or not hmac.compare_digest(_digest(api_key), claims.api_key_sha256):
            raise _not_authenticated()
        if not self._is_of_its_time(claims) or await self._accounts.is_revoked(claims.token_id):
            raise _not_authenticated()
        operator = await self._accounts.operator(claims.operator_id)
        if operator is None or operator.closed is not None or operator.generation != claims.generation:
            raise _not_authenticated()
        if claims.auth_key_id and await self._accounts.auth_key(claims.auth_key_id) is None:
            raise _not_authenticated()
        return claims

    def _is_of_its_time(self, claims: TokenClaims) -> bool:
        """Not over, not of the future, not too long: a leaked signing key makes no long-lived token."""
        now, longest = self._clock.now(), timedelta(seconds=TOKEN_LIFETIME_MAX_S)
        ahead = timedelta(seconds=CLOCKS_APART_S)
        return claims.issued <= now + ahead and now < claims.expires <= claims.issued + longest

    async def _list(self, operator: Operator) -> None:
        """What an earlier version wrote is not among those that are listed yet."""
        if not operator.is_listed:
            with suppress(StaleVersion):
                await self._accounts.put_operator(operator)

    async def sign_out(self, claims: TokenClaims) -> None:
        """Refuse this token from now on."""
        await self._accounts.revoke_token(claims.token_id, claims.expires)

    def issue(self, operator: Operator, lifetime_s: int, *, auth_key_id: str = "") -> Credentials:
        """Credentials of an operator that is known by other means; raises ``Refused(INVALID_FIELD)``."""
        if not 0 < lifetime_s <= TOKEN_LIFETIME_MAX_S:
            raise Refused(RequestRefusal.INVALID_FIELD, f"tokenTimeoutSeconds: 1 to {TOKEN_LIFETIME_MAX_S}")
        now = self._clock.now()
        api_key = f"api-{self._entropy.random_bytes(24).hex()}"
        claims = TokenClaims(
            token_id=time_ordered_id(now, self._entropy.random_bytes(10)),
            operator_id=operator.operator_id,
            api_key_sha256=_digest(api_key),
            issued=now,
            expires=now + timedelta(seconds=lifetime_s),
            generation=operator.generation,
            auth_key_id=auth_key_id,
        )
        return Credentials(operator.operator_id, api_key, self._tokens.sign(claims))


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="surrogateescape")).hexdigest()


def _not_authenticated() -> Refused:
    return Refused(RequestRefusal.NOT_AUTHENTICATED, "Authentication failed.")


def _check_email(email: str) -> None:
    if len(email) > EMAIL_CHARACTERS_MAX or not _EMAIL.fullmatch(email):
        raise Refused(RequestRefusal.INVALID_FIELD, "email: not an e-mail address")


def _check_password(password: str) -> None:
    if len(password) not in PASSWORD_CHARACTERS:
        bounds = f"{PASSWORD_CHARACTERS.start} to {PASSWORD_CHARACTERS.stop - 1}"
        raise Refused(RequestRefusal.INVALID_FIELD, f"password: {bounds} characters")
