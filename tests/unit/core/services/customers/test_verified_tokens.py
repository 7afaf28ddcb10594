"""A verified signature is remembered, and nothing else: what ends a token ends it at the next call."""

from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest

from core.adapters.secrets.tokens import JwtTokens
from core.domain.values import replace
from core.ports.secrets import TokenClaims
from core.services.customers.verified_tokens import (
    KEPT_S,
    OPERATOR_TOKENS_MAX,
    TOKENS_MAX,
    VerifiedTokens,
)
from tests.contract.stores import NOW, SetClock
from tests.support.api import KEY, PASSWORD, ApiWorld, Tenant, make_world, tenants

CLAIMS = TokenClaims(
    token_id="token-1",
    operator_id="OP0000000001",
    api_key_sha256="0" * 64,
    issued=NOW,
    expires=NOW + timedelta(hours=1),
)


class Counting:
    """Tokens that name their number and operator, and how often they were verified."""

    def __init__(self) -> None:
        self.verified: list[str] = []

    def sign(self, claims: TokenClaims) -> str:
        return f"{claims.operator_id} {claims.token_id}"

    def read(self, token: str) -> TokenClaims | None:
        self.verified.append(token)
        operator_id, _, token_id = token.partition(" ")
        return replace(CLAIMS, operator_id=operator_id, token_id=token_id) if token_id else None


@pytest.fixture
def clock() -> SetClock:
    return SetClock()


@pytest.fixture
def under() -> Counting:
    return Counting()


@pytest.fixture
def tokens(under: Counting, clock: SetClock) -> VerifiedTokens:
    return VerifiedTokens(tokens=under, clock=clock)


def test_a_token_is_verified_once_while_it_is_kept(
    tokens: VerifiedTokens, under: Counting, clock: SetClock
) -> None:
    first = tokens.read("a 1")
    clock.at += timedelta(seconds=KEPT_S - 1)
    assert (tokens.read("a 1"), len(under.verified)) == (first, 1)
    clock.at += timedelta(seconds=1)
    assert (tokens.read("a 1"), len(under.verified)) == (first, 2)
    assert len(tokens) == 1


def test_what_is_not_ours_is_refused_each_time_and_not_kept(tokens: VerifiedTokens, under: Counting) -> None:
    assert [tokens.read(token) for token in ("forged", "forged", "\udcff")] == [None] * 3
    assert (len(under.verified), len(tokens)) == (3, 0)


def test_an_octet_more_or_another_key_makes_another_token(clock: SetClock) -> None:
    tokens = VerifiedTokens(tokens=JwtTokens(key=KEY), clock=clock)
    token = tokens.sign(CLAIMS)
    assert tokens.read(token) == CLAIMS
    header, payload, signature = token.split(".")
    for forged in (f"{token}A", token[:-4], f"{header}.{payload}.", f"{header}.{payload}A.{signature}"):
        assert tokens.read(forged) is None
    assert VerifiedTokens(tokens=JwtTokens(key=b"o" * len(KEY)), clock=clock).read(token) is None


def test_an_operator_displaces_its_own_tokens_alone(tokens: VerifiedTokens, under: Counting) -> None:
    tokens.read("b 1")
    for number in range(OPERATOR_TOKENS_MAX + 5):
        tokens.read(f"a {number}")
    assert len(tokens) == OPERATOR_TOKENS_MAX + 1
    under.verified.clear()
    for token in ("b 1", f"a {OPERATOR_TOKENS_MAX}", "a 5", "a 4"):
        tokens.read(token)
    assert under.verified == ["a 4"]


def test_all_tokens_are_bounded_and_the_oldest_goes_first(
    tokens: VerifiedTokens, under: Counting, clock: SetClock
) -> None:
    for number in range(TOKENS_MAX + 1):
        tokens.read(f"OP{number} 1")
    assert len(tokens) == TOKENS_MAX
    under.verified.clear()
    tokens.read("OP1 1")
    tokens.read("OP0 1")
    assert under.verified == ["OP0 1"]
    clock.at += timedelta(seconds=KEPT_S)
    tokens.read("OP1 1")
    assert len(tokens) == 1, "what is over makes room"


def test_a_token_itself_is_not_kept(tokens: VerifiedTokens) -> None:
    tokens.read("a secret-token")
    assert "a secret-token" not in repr(tokens._verified)
    assert not any(isinstance(key, str) for key in tokens._verified)


# -- what ends a token that is remembered -------------------------------------------------------------------


async def sign_out(_: ApiWorld, tenant: Tenant) -> None:
    assert (await tenant.call("POST", "/auth/logout")).status == 204


async def change_the_password(_: ApiWorld, tenant: Tenant) -> None:
    body = {"currentPassword": PASSWORD, "newPassword": "Aa1-battery-staple"}
    assert (await tenant.call("POST", f"/operators/{tenant.operator_id}/password", body)).status == 200


async def change_the_password_elsewhere(world: ApiWorld, tenant: Tenant) -> None:
    accounts = world.store.accounts
    operator = await accounts.operator(tenant.operator_id)
    assert operator is not None
    await accounts.put_operator(replace(operator, generation=operator.generation + 1))


async def sign_out_elsewhere(world: ApiWorld, tenant: Tenant) -> None:
    claims = JwtTokens(key=KEY).read(tenant.headers["X-Soracom-Token"])
    assert claims is not None
    await world.store.accounts.revoke_token(claims.token_id, claims.expires)


async def close_the_account(world: ApiWorld, tenant: Tenant) -> None:
    await world.services.operators.close_whole(tenant.operator_id)


async def delete_its_auth_key(world: ApiWorld, tenant: Tenant) -> None:
    for key in await world.store.accounts.auth_keys_of(tenant.operator_id):
        await world.store.accounts.delete_auth_key(key)


async def let_it_expire(world: ApiWorld, _: Tenant) -> None:
    world.advance(timedelta(seconds=KEPT_S / 2))


async def forget_the_api_key(_: ApiWorld, tenant: Tenant) -> None:
    tenant.headers["X-Soracom-API-Key"] = "api-another"


@pytest.mark.parametrize(
    "end",
    [
        sign_out, sign_out_elsewhere, change_the_password, change_the_password_elsewhere, close_the_account,
        delete_its_auth_key, let_it_expire, forget_the_api_key,
    ],
)  # fmt: skip
async def test_a_remembered_token_ends_at_once(end: Callable[[ApiWorld, Tenant], Awaitable[None]]) -> None:
    world = make_world()
    tokens = world.services.identity._tokens
    assert isinstance(tokens, VerifiedTokens)
    async with tenants(world) as (one, other):
        key = (await one.call("POST", f"/operators/{one.operator_id}/auth_keys")).body
        body = {**key, "tokenTimeoutSeconds": int(KEPT_S / 2)}
        made = (await one.call("POST", "/auth", body)).body
        one.headers = {"X-Soracom-API-Key": made["apiKey"], "X-Soracom-Token": made["token"]}
        assert [(await each.call("GET", "/sims")).status for each in (one, other)] == [200, 200]
        await end(world, one)
        kept = len(tokens)
        assert [(await each.call("GET", "/sims")).status for each in (one, other)] == [401, 200]
        assert len(tokens) == kept, "its signature was still remembered"
