"""What a node asks of the holders of gateways, over their control channels."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from api.operator.control import ControlServices, make_control
from api.operator.customers import CustomerOperations
from api.ready import Readiness
from core.adapters.peers import HttpPeers, NoPeers
from core.adapters.store.wide import WideStore
from core.domain.gateway import GatewayLease
from core.domain.session import CloseReason
from core.domain.sim import Sim
from core.errors import Unavailable
from core.ports.peers import Peers
from core.services.cluster.control import ClusterControl
from tests.contract.stores import event_of, session_of, sim_of
from tests.support.api import make_world

SECRET = "the secret of all nodes"


@dataclass
class Asked:
    """A holder, here or behind a control channel, that writes down what it is asked."""

    calls: list[tuple[str, ...]] = field(default_factory=list)

    @property
    def sessions(self) -> "Asked":
        return self

    @property
    def reconciler(self) -> "Asked":
        return self

    async def end_sessions_of(self, *what: str | CloseReason) -> int:
        self.calls.append(("end", *map(str, what)))
        return 1

    async def refresh_sessions_of(self, *what: str) -> None:
        self.calls.append(("refresh", *what))

    async def group_changed(self, *what: str) -> None:
        self.calls.append(("group", *what))


@dataclass
class Cluster:
    """The gateways ``vg-here``, held here, ``vg-there`` behind a control channel, ``vg-free`` of nobody and
    ``vg-gone``, whose holder does not answer.
    """

    control: ClusterControl
    store: WideStore
    sim: Sim
    here: Asked
    there: Asked

    async def connect(self, gateway_id: str) -> None:
        session = session_of(self.sim, 1, gateway_id=gateway_id)
        await self.store.sessions.put(session, event_of(self.sim, 1))


async def there_is_none() -> list[str]:
    return []


async def no_bills() -> dict[str, object]:
    return {"closed_until": None, "tariffs": [], "late": []}


def services_of(there: Asked, reload: Callable[[], Awaitable[list[str]]] = there_is_none) -> ControlServices:
    world = make_world()
    return ControlServices(
        name="there",
        secret=SECRET,
        guesses=world.services.guesses,
        customers=CustomerOperations(world.services.operators, world.stock),
        gateways=dict,
        fences=dict,
        readiness=lambda role: Readiness("ready", {"store": "ok"}),
        places=dict,
        hand_over=there.refresh_sessions_of,
        end_sessions_of=there.end_sessions_of,
        refresh_sessions_of=there.refresh_sessions_of,
        group_changed=there.group_changed,
        operations=None,  # type: ignore[arg-type] # nobody looks at them here
        billing=no_bills,
        reload=reload,
        drain=lambda: None,
        serve_link=None,
    )


@asynccontextmanager
async def cluster(peers: Peers | None = None) -> AsyncIterator[Cluster]:
    here, there, world = Asked(), Asked(), make_world()
    clock, store = world.clock, world.store
    async with TestServer(make_control(services_of(there))) as server:
        http = HttpPeers(secret=SECRET)
        contacts = {"vg-there": str(server.make_url("")).rstrip("/"), "vg-gone": "http://127.0.0.1:1"}
        for gateway_id, contact in contacts.items():
            await store.leases.put(GatewayLease(gateway_id, "there", 1, clock.now(), contact))
        control = ClusterControl(
            store=store,
            peers=peers or http,
            held={"vg-here": here},
            gateway_ids=["vg-here", "vg-there", "vg-free"],
        )
        yield Cluster(control, store, await store.sims.put(sim_of(1)), here, there)
        await http.aclose()


async def test_a_sims_sessions_are_looked_at_wherever_they_are_held() -> None:
    async with cluster() as nodes:
        await nodes.control.refresh_sessions_of(nodes.sim.sim_id)
        assert nodes.there.calls == [], "it has none there"
        await nodes.connect("vg-there")
        await nodes.control.refresh_sessions_of(nodes.sim.sim_id)
        assert nodes.there.calls == [("refresh", "vg-there", nodes.sim.sim_id)]
        assert nodes.here.calls == 2 * [("refresh", nodes.sim.sim_id)]


async def test_whoever_takes_a_gateway_need_not_be_told_and_whoever_does_not_answer_is_an_error() -> None:
    async with cluster() as nodes:
        await nodes.connect("vg-free")
        await nodes.control.refresh_sessions_of(nodes.sim.sim_id)
    async with cluster() as nodes:
        await nodes.connect("vg-gone")
        with pytest.raises(Unavailable):
            await nodes.control.refresh_sessions_of(nodes.sim.sim_id)


async def test_every_gateway_hears_of_a_changed_group() -> None:
    async with cluster() as nodes:
        await nodes.control.group_changed("OP0000000001", "pumps")
        assert nodes.here.calls == [("group", "OP0000000001", "pumps")]
        assert nodes.there.calls == [("group", "vg-there", "OP0000000001", "pumps")]


async def test_a_gateway_that_cannot_be_told_of_a_group_keeps_no_other_from_hearing() -> None:
    async with cluster(NoPeers()) as nodes:
        with pytest.raises(Unavailable):
            await nodes.control.group_changed("OP0000000001", "pumps")
        assert nodes.here.calls == [("group", "OP0000000001", "pumps")]


async def test_what_the_channel_has_not_it_says_in_json_and_names_the_methods_that_it_has() -> None:
    async with cluster() as nodes, aiohttp.ClientSession() as http:
        lease = await nodes.store.leases.get("vg-there")
        assert lease is not None
        for method, path in (("POST", "/healthz"), ("TRACE", "/control/node")):
            async with http.request(method, f"{lease.contact}{path}") as answer:
                assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
                assert await answer.json() == {"error": "Method Not Allowed"}
        async with http.get(f"{lease.contact}/control/nothing") as answer:
            assert (answer.status, await answer.json()) == (404, {"error": "Not Found"})
