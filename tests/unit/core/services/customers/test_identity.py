"""What ends a token, how often a secret may be wrong, and what closing an operator does."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Network, IPv6Network

import jwt
import pytest
from aiohttp.test_utils import make_mocked_request

from api import app as app_module
from api.sandbox import SANDBOX_OPERATORS_MAX, SANDBOX_SIMS_MAX
from api.sources import scheme_of, source_of
from core.adapters.secrets.passwords import WAITING_MAX
from core.domain.account import Operator
from core.domain.audit import AuditAction
from core.domain.reasons import RequestRefusal
from core.domain.sim import Sim, SimStatus
from core.domain.usage import day_of
from core.domain.values import replace
from core.errors import Refused
from core.services.customers.guesses import AUDITED, BOUNDS, BUCKETS_MAX, Guess, Guesses
from core.services.customers.identity import CLOCKS_APART_S, TOKEN_LIFETIME_MAX_S, Identity
from core.services.customers.operators import CLOSED_AT_ONCE_MAX
from tests.contract.stores import SetClock, sim_of
from tests.support.api import KEY, PASSWORD, ApiWorld, Tenant, make_world, tenants

WRONG = "a wrong horse"


@pytest.fixture(autouse=True)
def refusals_are_not_held(monkeypatch: pytest.MonkeyPatch) -> None:
    """How long a 429 is held is in tests/unit/api/test_limits.py."""
    monkeypatch.setattr(app_module, "HELD_S", 0.0)


async def status(tenant: Tenant, headers: dict[str, str] | None = None) -> int:
    return (await tenant.call("GET", "/sims", headers=headers)).status


async def sign_in(tenant: Tenant, **body: str) -> dict[str, str]:
    answer = await tenant.call("POST", "/auth", body)
    assert answer.status == 200, answer
    return {"X-Soracom-API-Key": answer.body["apiKey"], "X-Soracom-Token": answer.body["token"]}


# -- what a token was made of -----------------------------------------------------------------------------


async def test_a_token_ends_with_the_auth_key_that_it_was_made_by() -> None:
    async with tenants(make_world()) as (one, other):
        keys = f"/operators/{one.operator_id}/auth_keys"
        first, second = [(await one.call("POST", keys)).body for _ in range(2)]
        by_first, by_second = [await sign_in(one, **key) for key in (first, second)]
        assert [await status(one, each) for each in (by_first, by_second, one.headers)] == [200, 200, 200]
        await one.call("DELETE", f"{keys}/{first['authKeyId']}")
        assert [await status(one, each) for each in (by_first, by_second, one.headers)] == [401, 200, 200]
        made = await one.call("POST", keys, headers=by_first)
        assert made.status == 401, "a stolen token makes itself no new key"
        assert await status(other) == 200


async def test_a_new_password_ends_every_token() -> None:
    async with tenants(make_world()) as (one, other):
        key = (await one.call("POST", f"/operators/{one.operator_id}/auth_keys")).body
        by_key = await sign_in(one, **key)
        wanted = {"currentPassword": PASSWORD, "newPassword": "Aa1-battery-staple"}
        assert (await one.call("POST", f"/operators/{one.operator_id}/password", wanted)).status == 200
        assert [await status(one), await status(one, by_key)] == [401, 401]
        assert await status(one, await sign_in(one, **key)) == 200
        assert await status(other) == 200


@pytest.mark.parametrize(
    ("issued_s", "lives_s", "is_good"),
    [
        (0, TOKEN_LIFETIME_MAX_S, True),
        (0, TOKEN_LIFETIME_MAX_S + 1, False),
        (CLOCKS_APART_S - 1, TOKEN_LIFETIME_MAX_S, True),
        (CLOCKS_APART_S + 1, 60, False),
        (10 * 365 * 86_400, 60, False),
        (-10, 5, False),
        (0, 10**18, False),
    ],
)
async def test_whoever_has_the_signing_key_makes_no_long_token(
    issued_s: int, lives_s: int, is_good: bool
) -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        claims = jwt.decode(
            one.headers["X-Soracom-Token"], KEY, algorithms=["HS256"], options={"verify_exp": False}
        )
        at = int(world.clock.now().timestamp()) + issued_s
        forged = jwt.encode({**claims, "iat": at, "exp": at + lives_s}, KEY, algorithm="HS256")
        assert await status(one, {**one.headers, "X-Soracom-Token": forged}) == (200 if is_good else 401)


@pytest.mark.parametrize(
    "odd",
    [
        {"exp": 10**30}, {"exp": 1e308}, {"exp": None}, {"iat": -(10**30)}, {"generation": "x"},
        {"operator": []},
    ],
)  # fmt: skip
async def test_a_signed_token_of_an_odd_shape_is_refused(odd: dict[str, object]) -> None:
    async with tenants(make_world()) as (one, _):
        claims = jwt.decode(
            one.headers["X-Soracom-Token"], KEY, algorithms=["HS256"], options={"verify_exp": False}
        )
        forged = jwt.encode({**claims, **odd}, KEY, algorithm="HS256")
        assert await status(one, {**one.headers, "X-Soracom-Token": forged}) == 401


async def test_what_is_not_offered_is_not_accepted_and_ignored() -> None:
    async with tenants(make_world()) as (one, _):
        body = {"email": one.email, "password": PASSWORD}
        for name in ("mfaOTPCode", "userName"):
            refused = await one.call("POST", "/auth", {**body, name: "123456"})
            assert (refused.status, refused.body["code"]) == (400, "AIR0004")
            assert refused.body["message"].startswith(f"{name}: ")
            assert (await one.call("POST", "/auth", {**body, name: ""})).status == 200


# -- guesses ----------------------------------------------------------------------------------------------


@dataclass
class Stopped:
    clock: SetClock = field(default_factory=SetClock)
    told: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.guesses = Guesses(clock=self.clock, audit=self.tell)

    async def tell(self, subject: str, detail: str) -> None:
        self.told.append((subject, detail))

    async def guess(self, kind: Guess = Guess.PASSWORD, *, is_right: bool = False, **who: str) -> bool:
        """Whether it was looked at."""
        try:
            async with self.guesses.trying(kind, **who):
                if not is_right:
                    raise Refused(RequestRefusal.NOT_AUTHENTICATED)
        except Refused as refusal:
            return refusal.reason is not RequestRefusal.TOO_MANY_REQUESTS
        return True


async def test_wrong_tries_are_bounded_and_come_back() -> None:
    world = Stopped()
    bound = BOUNDS[Guess.PASSWORD]["both"]
    looked_at = [await world.guess(name="a@b.c", source="192.0.2.1") for _ in range(bound.tries + 5)]
    assert looked_at == [True] * bound.tries + [False] * 5
    assert world.told == [("a@b.c", "password: too many failed attempts for both; from 192.0.2.1")]
    assert world.guesses.stopped == {"password": 5}
    with pytest.raises(Refused) as caught:
        async with world.guesses.trying(Guess.PASSWORD, name="a@b.c", source="192.0.2.1"):
            pytest.fail("it was looked at")
    assert caught.value.retry_after_s == bound.again_s
    assert await world.guess(name="a@b.c", source="192.0.2.2", is_right=True), "the owner, elsewhere"
    world.clock.at += timedelta(seconds=bound.again_s)
    assert await world.guess(name="a@b.c", source="192.0.2.1")
    assert not await world.guess(name="a@b.c", source="192.0.2.1")


async def test_right_tries_cost_nothing_and_many_at_a_time_are_no_way_around() -> None:
    world = Stopped()
    for _ in range(500):
        assert await world.guess(name="a@b.c", source="192.0.2.1", is_right=True)
    begun = asyncio.Event()

    async def slow() -> bool:
        try:
            async with world.guesses.trying(Guess.PASSWORD, name="a@b.c", source="192.0.2.1"):
                await begun.wait()
                raise Refused(RequestRefusal.NOT_AUTHENTICATED)
        except Refused as refusal:
            return refusal.reason is not RequestRefusal.TOO_MANY_REQUESTS

    async with asyncio.TaskGroup() as tasks:
        tried = [tasks.create_task(slow()) for _ in range(50)]
        await asyncio.sleep(0)
        begun.set()
    assert sum(each.result() for each in tried) == BOUNDS[Guess.PASSWORD]["both"].tries


async def test_what_is_cheap_and_right_is_not_bounded_and_what_is_wrong_is_paid_for_later() -> None:
    world, begun = Stopped(), asyncio.Event()
    bound = BOUNDS[Guess.AUTH_KEY]["both"]

    async def try_it(*, is_right: bool) -> None:
        async with world.guesses.trying(Guess.AUTH_KEY, name="keyId-1", source="192.0.2.1"):
            await begun.wait()
            if not is_right:
                raise Refused(RequestRefusal.NOT_AUTHENTICATED)

    right = [asyncio.ensure_future(try_it(is_right=True)) for _ in range(10 * bound.tries)]
    wrong = [asyncio.ensure_future(try_it(is_right=False)) for _ in range(3 * bound.tries)]
    await asyncio.sleep(0)
    begun.set()
    outcomes = await asyncio.gather(*right, *wrong, return_exceptions=True)
    assert outcomes[: len(right)] == [None] * len(right)
    with pytest.raises(Refused) as caught:
        await try_it(is_right=True)
    assert caught.value.retry_after_s == (2 * bound.tries + 1) * bound.again_s
    assert len(world.told) == 1


async def test_one_source_tries_few_accounts_and_many_sources_one_account_slowly() -> None:
    world = Stopped()
    bounds = BOUNDS[Guess.PASSWORD]
    spread = [await world.guess(name=f"{n}@b.c", source="192.0.2.1") for n in range(100)]
    assert sum(spread) == bounds["source"].tries
    botnet = [await world.guess(name="a@b.c", source=f"10.0.{n // 256}.{n % 256}") for n in range(500)]
    assert sum(botnet) == bounds["name"].tries


async def test_buckets_and_entries_of_the_audit_are_bounded() -> None:
    world = Stopped()
    for number in range(BUCKETS_MAX // 2 + 10):
        await world.guess(Guess.AUTH_KEY, name=f"keyId-{number}", source=f"source-{number}")
    assert len(world.guesses._buckets) == BUCKETS_MAX
    again = BOUNDS[Guess.CONTROL_SECRET]["source"].tries
    for number in range(AUDITED.tries + 20):
        for _ in range(again):
            await world.guess(Guess.CONTROL_SECRET, source=f"10.0.0.{number}")
    assert len(world.told) == AUDITED.tries


async def test_wrong_passwords_are_answered_429_and_audited() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        body = {"email": one.email, "password": WRONG}
        tries = BOUNDS[Guess.PASSWORD]["both"].tries
        answers = [await one.call("POST", "/auth", body) for _ in range(tries + 1)]
        assert [each.status for each in answers] == [401] * tries + [429]
        assert int(answers[-1].headers["Retry-After"]) > 0
        right = await one.call("POST", "/auth", {"email": one.email, "password": PASSWORD})
        assert right.status == 429, "what comes then is not looked at"
        assert (await other.call("POST", "/auth", {"email": other.email, "password": PASSWORD})).status == 200
        unknown = [await one.call("POST", "/auth", {**body, "email": "no@b.c"}) for _ in range(tries + 1)]
        assert [each.status for each in unknown] == [401] * tries + [429], "as one that is there"
        actions = [
            entry.action for entry in (await world.store.audit.of_day(day_of(world.clock.now()))).items
        ]
        assert actions.count(AuditAction.GUESSED) == 2


async def test_the_current_password_is_not_guessed_by_a_stolen_token() -> None:
    async with tenants(make_world()) as (one, _):
        wanted = {"currentPassword": WRONG, "newPassword": "Aa1-battery-staple"}
        answers = [
            (await one.call("POST", f"/operators/{one.operator_id}/password", wanted)).status
            for _ in range(12)
        ]
        assert answers == [403] * 10 + [429] * 2


async def test_one_source_does_not_fill_the_queue_of_passwords() -> None:
    """All at once: the number in progress stays far below the limit of the queue, which all share."""
    async with tenants(make_world()) as (one, other):
        calls = [
            one.call("POST", "/auth", {"email": f"{number}@example.com", "password": WRONG})
            for number in range(2 * WAITING_MAX)
        ]
        statuses = [answer.status for answer in await asyncio.gather(*calls)]
        assert statuses.count(401) == BOUNDS[Guess.PASSWORD]["source"].tries < WAITING_MAX
        assert statuses.count(429) == len(calls) - statuses.count(401)
        assert await status(other) == 200


async def test_a_registration_secret_is_guessed_slowly_and_tells_nothing() -> None:
    async with tenants(make_world()) as (one, other):
        made = (await one.call("POST", "/sandbox/subscribers/create", {})).body
        owned = await other.new_sim()
        body = {"registrationSecret": "none"}
        told = [
            await one.call("POST", path, body)
            for path in (
                f"/subscribers/{made['imsi']}/register",
                "/subscribers/001019999999999/register",
                f"/sims/{made['serialNumber']}/register",
                "/sims/8981100000000000000/register",
                f"/sims/{owned['simId']}/register",
            )
        ]
        assert {(each.status, str(each.body)) for each in told} == {(told[0].status, str(told[0].body))}
        assert told[0].status == 404
        tries = BOUNDS[Guess.REGISTRATION_SECRET]["both"].tries
        path = f"/sims/{made['serialNumber']}/register"
        statuses = [(await one.call("POST", path, body)).status for _ in range(tries + 1)]
        assert statuses.count(429) == 2, "one of this SIM was above"
        right = {"registrationSecret": made["registrationSecret"]}
        assert (await one.call("POST", path, right)).status == 429
        assert (await other.call("POST", path, right)).status == 201, "one does not block others from a SIM"


@pytest.mark.parametrize(
    ("remote", "forwarded", "source"),
    [
        ("192.0.2.1", "", "192.0.2.1"),
        ("192.0.2.1", "203.0.113.9", "192.0.2.1"),
        ("10.0.0.1", "203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "198.51.100.1, 203.0.113.9", "203.0.113.9"),
        ("10.0.0.1", "203.0.113.9, 10.0.0.2", "203.0.113.9"),
        ("10.0.0.1", "nonsense", "10.0.0.1"),
        ("2001:db8:1:2:3::4", "", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::5", "", "2001:db8:1:2::/64"),
        ("fd00::1", "::ffff:203.0.113.9", "203.0.113.9"),
        ("", "203.0.113.9", ""),
    ],
)
def test_a_source_is_believed_from_a_proxy_alone(remote: str, forwarded: str, source: str) -> None:
    headers = {"X-Forwarded-For": forwarded} if forwarded else {}
    request = make_mocked_request("GET", "/", headers=headers).clone(remote=remote)
    assert source_of(request, (IPv4Network("10.0.0.0/8"), IPv6Network("fd00::/8"))) == source


@pytest.mark.parametrize(
    ("remote", "forwarded", "scheme"),
    [
        ("10.0.0.1", "https", "https"),
        ("10.0.0.1", "HTTP", "http"),
        ("10.0.0.1", "javascript", "http"),
        ("10.0.0.1", "", "http"),
        ("192.0.2.1", "https", "http"),
        ("", "https", "http"),
    ],
)
def test_a_scheme_is_believed_from_a_proxy_alone(remote: str, forwarded: str, scheme: str) -> None:
    request = make_mocked_request("GET", "/", headers={"X-Forwarded-Proto": forwarded}).clone(remote=remote)
    assert scheme_of(request, (IPv4Network("10.0.0.0/8"),)) == scheme


# -- operators --------------------------------------------------------------------------------------------


async def test_a_closed_operator_is_gone_but_its_usage_stays_somebodys() -> None:
    world = make_world()
    async with tenants(world) as (one, other):
        sim_ids = [(await one.new_sim())["simId"] for _ in range(3)]
        foreign = (await other.new_sim())["simId"]
        key = (await one.call("POST", f"/operators/{one.operator_id}/auth_keys")).body
        by_key = await sign_in(one, **key)
        for sim_id in sim_ids:
            sim = await world.store.sims.get(sim_id)
            assert sim is not None
            await world.connect(sim, int(sim_id[-3:]))
        operators = world.services.operators
        with pytest.raises(Refused, match="not terminated"):
            await operators.close(one.operator_id, terminate_sims=False)
        assert await status(one) == 200
        step = await operators.close(one.operator_id, terminate_sims=True)
        assert (step.terminated, step.next_key) == (3, "")
        assert [await status(one), await status(one, by_key)] == [401, 401]
        assert (await one.call("POST", "/auth", key)).status == 401
        assert (await one.call("POST", "/auth", {"email": one.email, "password": PASSWORD})).status == 401
        for sim_id in sim_ids:
            ended = await world.store.sims.get(sim_id)
            assert ended is not None
            assert (ended.status, ended.operator_id) == (SimStatus.TERMINATED, one.operator_id)
            assert await world.store.sessions.of_sim(sim_id) == []
        there = await world.store.accounts.operator(one.operator_id)
        assert there is not None
        assert there.closed is not None
        assert (await other.get(f"/sims/{foreign}"))["status"] == "ready"
        assert (await operators.close(one.operator_id, terminate_sims=False)).terminated == 0, "again"
        await one.sign_up(one.email)
        assert await status(one) == 200


async def test_a_group_that_is_not_there_is_no_wrong_guess() -> None:
    world = make_world()
    tries = BOUNDS[Guess.REGISTRATION_SECRET]["both"].tries
    async with tenants(world) as (one, _):
        made = (await one.call("POST", "/sandbox/subscribers/create", {})).body
        right = {"registrationSecret": made["registrationSecret"]}
        for path in (f"/sims/{made['serialNumber']}/register", f"/subscribers/{made['imsi']}/register"):
            for _ in range(tries + 1):
                refused = await one.call("POST", path, right | {"groupId": "no-such-group"})
                assert (refused.status, refused.body["message"]) == (404, "No such group found.")
        assert (await one.call("POST", path, right)).status == 201


async def test_no_step_of_closing_comes_before_the_operator_is_closed() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        await world.services.operators.close(one.operator_id, terminate_sims=True, after="1")
        assert await status(one) == 401
        with pytest.raises(Refused, match="No such operator"):
            await world.services.operators.close("OP9999999999", terminate_sims=True, after="1")


async def test_closing_goes_on_where_it_was_broken_off() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sims = [sim_of(number, operator_id=one.operator_id) for number in range(CLOSED_AT_ONCE_MAX + 5)]
        await world.store.sims.put_new([replace(sim, status=SimStatus.ACTIVE) for sim in sims])
        operators = world.services.operators
        first = await operators.close(one.operator_id, terminate_sims=True)
        assert (first.terminated, first.next_key) == (CLOSED_AT_ONCE_MAX, sims[CLOSED_AT_ONCE_MAX - 1].sim_id)
        await operators.close_whole(one.operator_id)
        page = await world.store.sims.of_operator(one.operator_id, limit=1_000)
        assert {sim.status for sim in page.items} == {SimStatus.TERMINATED}


async def test_an_operator_of_an_earlier_version_is_listed_once_it_signs_in() -> None:
    world = make_world()
    identity: Identity = world.services.identity
    made = await identity.create_operator("old@example.com", PASSWORD)
    await _as_an_earlier_version_wrote_it(world, made)
    assert (await world.services.operators.page(after="", limit=10)).items == ()
    await identity.sign_in_by_password("old@example.com", PASSWORD, lifetime_s=60)
    page = await world.services.operators.page(after="", limit=10)
    assert [each.operator_id for each in page.items] == [made.operator_id]


async def _as_an_earlier_version_wrote_it(world: ApiWorld, operator: Operator) -> None:
    from core.adapters.store.engine import Batch, Delete, Put  # noqa: PLC0415 - what no port does
    from core.adapters.store.rows import body_of  # noqa: PLC0415 - the same
    from core.adapters.store.tables import OPERATOR, OPERATOR_OPEN  # noqa: PLC0415 - the same

    old = Put((), (body_of(replace(operator, is_listed=False)),), operator.version)
    await world.store._engine.write(
        Batch(OPERATOR_OPEN, ("all",), (Delete((operator.operator_id,)),)),
        Batch(OPERATOR, (operator.operator_id,), (old,)),
    )


async def test_without_a_password_a_customer_signs_in_by_its_key_alone() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        made = await world.services.operators.create("keys@example.com")
        for password in ("", PASSWORD):
            body = {"email": "keys@example.com", "password": password}
            assert (await one.call("POST", "/auth", body)).status == 401
        key = {"authKeyId": made.key.auth_key_id, "authKey": made.secret}
        assert await status(one, await sign_in(one, **key)) == 200
        lost = await world.services.operators.add_auth_key(made.key.operator_id)
        assert (
            await status(one, await sign_in(one, authKeyId=lost.key.auth_key_id, authKey=lost.secret)) == 200
        )


async def test_a_sandbox_has_bounds() -> None:
    world = make_world()
    async with tenants(world) as (one, _):
        sims: list[Sim] = [sim_of(number, operator_id=one.operator_id) for number in range(SANDBOX_SIMS_MAX)]
        await world.store.sims.put_new(sims[1:])
        assert (await one.call("POST", "/sandbox/subscribers/create", {})).status == 200
        await world.store.sims.put_new(sims[:1])
        refused = await one.call("POST", "/sandbox/subscribers/create", {})
        assert (refused.status, refused.body["code"]) == (400, "AIR0013")
        now = datetime(2026, 1, 1, tzinfo=UTC)
        for number in range(SANDBOX_OPERATORS_MAX - 2):
            await world.store.accounts.put_operator(
                Operator(f"OP8{number:09d}", f"{number}@example.com", now, now)
            )
        body = {"email": "x@example.com", "password": PASSWORD, "authKeyId": "a", "authKey": "b"}
        refused = await one.call("POST", "/sandbox/init", body)
        assert (refused.status, refused.body["code"]) == (400, "AIR0013")
        await world.services.operators.close_whole("OP8000000001")
        assert (await one.call("POST", "/sandbox/init", body)).status == 201
