"""The customer API over the memory store, served in process, and a customer to speak to it."""

import io
import json
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from ipaddress import IPv4Network
from typing import Any

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from argon2 import PasswordHasher

from api.app import make_application
from api.calls import ApiServices
from api.limits import OperatorLimits
from api.ready import Readiness
from billing.service import BillingService
from core.adapters.clock import SystemEntropy
from core.adapters.object_store.files import MemoryObjectStore
from core.adapters.secrets.passwords import Argon2Passwords
from core.adapters.secrets.tokens import JwtTokens
from core.adapters.store.memory import Disk, MemoryEngine
from core.adapters.store.wide_column import WideColumnStore
from core.domain.billing import Tariff
from core.domain.session import CloseReason, SessionEvent, SessionEventKind
from core.domain.sim import Sim
from core.domain.values import replace
from core.errors import Unavailable
from core.services.customers.exports import Exports
from core.services.customers.groups import Groups
from core.services.customers.guesses import Guesses
from core.services.customers.identity import Identity
from core.services.customers.operators import Operators
from core.services.customers.sims import Sims
from core.services.customers.stock import Stock
from core.services.customers.verified_tokens import VerifiedTokens
from core.services.metering.stats import Stats
from core.services.running.audit import AuditTrail
from tests.contract.stores import SetClock, event_of, session_of

KEY = b"k" * 32
PASSWORD = "correct horse"
STATIC_POOL = IPv4Network("10.127.0.0/24")


@dataclass
class StoreControl:
    """Implements ``SessionControl`` over the store alone; remembers the status found at each call, and which
    SIMs and groups were to be looked at.
    """

    store: WideColumnStore
    clock: SetClock
    found: list[tuple[str, str]] = field(default_factory=list)
    refreshed: list[str] = field(default_factory=list)
    broken: bool = False

    async def end_sessions_of(self, sim_id: str, reason: CloseReason) -> int:
        sim = await self.store.sims.get(sim_id)
        assert sim is not None
        self.found.append((sim_id, sim.status.value))
        if self.broken:
            raise Unavailable("the gateway does not answer")
        sessions = await self.store.sessions.of_sim(sim_id)
        for session in sessions:
            deleted = event_of(sim, 900, at=self.clock.now(), kind=SessionEventKind.DELETED)
            await self.store.sessions.close(
                session, replace(deleted, cause=reason.value, session_id=session.session_id)
            )
        return len(sessions)

    async def refresh_sessions_of(self, sim_id: str) -> None:
        self._refresh(sim_id)

    async def group_changed(self, operator_id: str, group_id: str) -> None:
        self._refresh(group_id)

    def _refresh(self, what: str) -> None:
        self.refreshed.append(what)
        if self.broken:
            raise Unavailable("the gateway does not answer")


@dataclass
class ApiWorld:
    """Services and what they stand on."""

    clock: SetClock
    store: WideColumnStore
    control: StoreControl
    objects: MemoryObjectStore
    services: ApiServices
    stock: Stock
    answers: list[tuple[str, int]] = field(default_factory=list)

    async def connect(self, sim: Sim, number: int = 1) -> SessionEvent:
        """Open a session as a gateway would."""
        event = replace(event_of(sim, number, at=self.clock.now()), session_id=f"{number:032x}")
        await self.store.sessions.put(session_of(sim, number), event)
        return event

    def advance(self, by: timedelta) -> datetime:
        self.clock.at += by
        return self.clock.at


def make_world(*, sandbox: bool = True, calls_per_s: float = 0) -> ApiWorld:
    clock, entropy = SetClock(), SystemEntropy()
    store = WideColumnStore(engine=MemoryEngine(disk=Disk(), clock=clock), clock=clock)
    control = StoreControl(store, clock)
    objects = MemoryObjectStore()
    cheap = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
    answers: list[tuple[str, int]] = []
    audit = AuditTrail(audit=store.audit, clock=clock, entropy=entropy, actor="node-1")
    guesses = Guesses(clock=clock, audit=audit.guessed)
    identity = Identity(
        accounts=store.accounts,
        passwords=Argon2Passwords(hasher=cheap),
        tokens=VerifiedTokens(tokens=JwtTokens(key=KEY), clock=clock),
        guesses=guesses,
        clock=clock,
        entropy=entropy,
    )
    sims = Sims(store=store, control=control, clock=clock, entropy=entropy, static_pool=STATIC_POOL)
    services = ApiServices(
        identity=identity,
        sims=sims,
        operators=Operators(store=store, identity=identity, sims=sims, audit=audit),
        guesses=guesses,
        groups=Groups(store=store, control=control, clock=clock, entropy=entropy),
        stats=Stats(usage=store.usage, clock=clock),
        billing=BillingService(
            usage=store.usage,
            bills=store.bills,
            objects=objects,
            clock=clock,
            configured=Tariff(currency="USD", nano_per_byte=200, unit_bytes=1),
        ),
        exports=Exports(objects=objects, clock=clock, key=KEY),
        clock=clock,
        sandbox=sandbox,
        limits=OperatorLimits(clock=clock, calls_per_s=calls_per_s),
        readiness=lambda role: Readiness("ready", {}),
        on_answer=lambda operation_id, status: answers.append((operation_id, status)),
    )
    stock = Stock(store=store, clock=clock, audit=audit)
    return ApiWorld(clock, store, control, objects, services, stock, answers)


@dataclass(frozen=True)
class Answer:
    """Status, parsed body, headers."""

    status: int
    body: Any
    headers: Mapping[str, str]


@dataclass
class Tenant:
    """A customer's HTTP connection."""

    http: aiohttp.ClientSession
    endpoint: str
    headers: dict[str, str] = field(default_factory=dict)
    operator_id: str = ""
    email: str = ""

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        data: bytes | io.BytesIO | None = None,
        headers: Mapping[str, str] | None = None,
        **query: Any,
    ) -> Answer:
        async with self.http.request(
            method,
            f"{self.endpoint}/v1{path}",
            data=json.dumps(body).encode() if body is not None else data,
            headers={"Content-Type": "application/json", **(self.headers if headers is None else headers)},
            params=query,
        ) as response:
            raw = await response.read()
            parsed = json.loads(raw) if response.content_type == "application/json" else raw
            return Answer(response.status, parsed, response.headers)

    async def get(self, path: str, **query: Any) -> Any:
        answer = await self.call("GET", path, **query)
        assert answer.status == 200, answer
        return answer.body

    async def sign_in(self, password: str = PASSWORD) -> None:
        answer = await self.call("POST", "/auth", {"email": self.email, "password": password})
        assert answer.status == 200, answer
        self.headers = {
            "X-Soracom-API-Key": answer.body["apiKey"],
            "X-Soracom-Token": answer.body["token"],
        }

    async def sign_up(self, email: str) -> None:
        keys = {"authKeyId": "keyId-x", "authKey": "secret-x"}
        answer = await self.call("POST", "/sandbox/init", {"email": email, "password": PASSWORD, **keys})
        assert answer.status == 201, answer
        self.email, self.operator_id = email, answer.body["operatorId"]
        self.headers = {
            "X-Soracom-API-Key": answer.body["apiKey"],
            "X-Soracom-Token": answer.body["token"],
        }

    async def new_sim(self) -> dict[str, Any]:
        made = (await self.call("POST", "/sandbox/subscribers/create", {})).body
        secret = {"registrationSecret": made["registrationSecret"]}
        answer = await self.call("POST", f"/subscribers/{made['imsi']}/register", secret)
        assert answer.status == 201, answer
        sim: dict[str, Any] = await self.get(f"/sims/{answer.body['simId']}")
        return sim


@asynccontextmanager
async def served(application: web.Application) -> AsyncIterator[str]:
    """The endpoint of an application that listens."""
    server = TestServer(application)
    await server.start_server()
    try:
        yield str(server.make_url("")).rstrip("/")
    finally:
        await server.close()


@asynccontextmanager
async def tenants(world: ApiWorld) -> AsyncIterator[tuple[Tenant, Tenant]]:
    """Two customers, signed up."""
    async with served(make_application(world.services)) as endpoint, aiohttp.ClientSession() as http:
        one, other = Tenant(http, endpoint), Tenant(http, endpoint)
        await one.sign_up("one@example.com")
        await other.sign_up("other@example.com")
        yield one, other
