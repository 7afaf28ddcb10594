"""Gateway and edge on two nodes: packets go over the link, and a session outlives its gateway."""

import asyncio
import gc
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from ipaddress import IPv4Address

import pytest
from aiohttp import ClientSession, web

from core.adapters.links import EDGE_PATH, WebSocketLinks, serve_link
from core.adapters.store.rows import body_of, entity_of
from core.domain.session import Access, Session
from core.errors import Unavailable
from core.ports.links import Link
from core.services.cluster import edge_links
from core.services.cluster.edge_links import LOST_S, EdgeLinks, LinkCount, RemoteSessions
from core.services.running.faults import Faults
from loadtest.serving import free_tcp_port
from loadtest.simulation.virtual import VirtualClock, run_virtual

AT = datetime(2026, 11, 30, tzinfo=UTC)
SECRET = "the secret of all nodes"


@pytest.fixture(scope="module", autouse=True)
def own_sockets_alone_count() -> Iterator[None]:
    """A socket that an earlier test of the process left open is collected before these tests begin; one that
    they leave open is found at their end.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        gc.collect()
    yield
    gc.collect()


def session(name: str, address: str) -> Session:
    return Session(
        session_id=name,
        sim_id=f"sim of {name}",
        imsi="001010000000001",
        operator_id="OP0000000001",
        access=Access.GTPV2,
        apn="soracom.io",
        ue_address=IPv4Address(address),
        gateway_id="vg-1",
        opened=AT,
        speed_class="s1.standard",
    )


class Wire:
    """A link in memory; ``other`` is its far end."""

    def __init__(self) -> None:
        self.other: Wire = self
        self.arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self.is_full = False

    def send(self, message: bytes) -> bool:
        if self.is_full:
            return False
        self.other.arrived.put_nowait(message)
        return True

    async def messages(self) -> AsyncIterator[bytes]:
        while (message := await self.arrived.get()) is not None:
            yield message

    def cut(self) -> None:
        for end in (self, self.other):
            end.arrived.put_nowait(None)


class Edge:
    """An edge node: the packets that it got, and the ended sessions."""

    def __init__(self, clock: VirtualClock) -> None:
        self.packets: list[tuple[str, bytes]] = []
        self.ended: list[str] = []
        self.sessions = RemoteSessions(
            clock=clock,
            decode=partial(entity_of, entity=Session),
            on_packet=lambda session_id, packet: self.packets.append((session_id, packet)),
            on_end=self.ended.append,
        )


class Cables:
    """Implements ``Links`` between gateways and edges in one process."""

    def __init__(self, tasks: asyncio.TaskGroup, edges: dict[str, Edge]) -> None:
        self._tasks, self._edges = tasks, edges
        self.wires: dict[str, Wire] = {}
        self.down: set[str] = set()

    @asynccontextmanager
    async def connect(self, contact: str) -> AsyncIterator[Link]:
        if contact in self.down:
            raise Unavailable("down")
        near, far = Wire(), Wire()
        near.other, far.other = far, near
        self.wires[contact] = near
        self._tasks.create_task(self._edges[contact].sessions.serve(far))
        yield near


class Gateway:
    """A gateway node: its sessions and what it sent down."""

    def __init__(self, cables: Cables, *sessions: Session) -> None:
        self.cables = cables
        self.down: list[tuple[str, bytes]] = []
        held = {each.session_id: each for each in sessions}
        self.links = EdgeLinks(
            contacts=("http://one:1", "http://two:1"),
            links=cables,
            session_of=held.get,
            inject=self.inject,
            encode=lambda each: body_of(each).encode(),
            faults=Faults(clock=VirtualClock(AT)),
        )

    def inject(self, session_id: str, packet: bytes) -> bool:
        self.down.append((session_id, packet))
        return True


def play(script: Callable[[Gateway, Gateway, dict[str, Edge]], Awaitable[None]]) -> None:
    """Two gateways that know the same session (a take-over), and two edges."""

    async def whole() -> None:
        clock = VirtualClock(AT)
        edges = {"http://one:1": Edge(clock), "http://two:1": Edge(clock)}
        async with asyncio.TaskGroup() as tasks:
            known = [session(f"s-{n}", f"10.128.0.{n + 10}") for n in range(20)]
            gateways = Gateway(Cables(tasks, edges), *known), Gateway(Cables(tasks, edges), *known)
            running = [tasks.create_task(gateway.links.run()) for gateway in gateways]
            running += [tasks.create_task(edge.sessions.run()) for edge in edges.values()]
            await asyncio.sleep(1)
            await script(*gateways, edges)
            for each in running:
                each.cancel()
            for gateway in gateways:
                for wire in gateway.cables.wires.values():
                    wire.cut()

    run_virtual(whole)


def edge_of(edges: dict[str, Edge], session_id: str) -> tuple[str, Edge]:
    """The edge node that was given a session."""
    ((contact, edge),) = [
        (contact, edge) for contact, edge in edges.items() if edge.sessions.session_of(session_id)
    ]
    return contact, edge


def test_packets_go_up_and_down_and_a_session_is_told_once_to_one_edge() -> None:
    async def script(gateway: Gateway, _: Gateway, edges: dict[str, Edge]) -> None:
        for n in range(20):
            gateway.links.deliver(f"s-{n}", b"first")
            gateway.links.deliver(f"s-{n}", b"second")
        await asyncio.sleep(1)
        assert {len(edge.packets) for edge in edges.values()} != {0, 40}  # both are used
        for n in range(20):
            edge = edge_of(edges, f"s-{n}")[1]
            assert [packet for name, packet in edge.packets if name == f"s-{n}"] == [b"first", b"second"]
            at = edge.sessions.session_at(IPv4Address(f"10.128.0.{n + 10}"))
            assert at == session(f"s-{n}", f"10.128.0.{n + 10}")
            assert edge.sessions.inject(f"s-{n}", b"reply")
        await asyncio.sleep(1)
        assert sorted(gateway.down) == sorted((f"s-{n}", b"reply") for n in range(20))

    play(script)


def test_sessions_that_were_told_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edge_links, "SESSIONS_MAX", 3)

    async def script(gateway: Gateway, _: Gateway, edges: dict[str, Edge]) -> None:
        for n in range(20):
            gateway.links.deliver(f"s-{n}", b"up")
        await asyncio.sleep(1)
        assert [edge.sessions.open for edge in edges.values()] == [3, 3]
        refused = sum(edge.sessions.counts[LinkCount.TOO_MANY_SESSIONS] for edge in edges.values())
        assert refused == 20 - 6

    play(script)


def test_the_end_of_a_session_is_told() -> None:
    async def script(gateway: Gateway, _: Gateway, edges: dict[str, Edge]) -> None:
        gateway.links.deliver("s-1", b"up")
        await asyncio.sleep(1)
        edge = edge_of(edges, "s-1")[1]
        gateway.links.end_session("s-1")
        await asyncio.sleep(1)
        assert edge.ended == ["s-1"]
        assert edge.sessions.session_of("s-1") is None
        assert edge.sessions.session_at(IPv4Address("10.128.0.11")) is None
        assert not edge.sessions.inject("s-1", b"reply")

    play(script)


def test_a_session_outlives_its_gateway_when_another_one_takes_it_over() -> None:
    async def script(gateway: Gateway, other: Gateway, edges: dict[str, Edge]) -> None:
        gateway.links.deliver("s-1", b"up")
        await asyncio.sleep(1)
        contact, edge = edge_of(edges, "s-1")
        gateway.cables.wires[contact].cut()
        await asyncio.sleep(LOST_S / 2)
        assert not edge.sessions.inject("s-1", b"reply")
        other.links.deliver("s-1", b"goes on")
        await asyncio.sleep(2 * LOST_S)
        assert edge.ended == []
        assert edge.packets == [("s-1", b"up"), ("s-1", b"goes on")]
        assert edge.sessions.inject("s-1", b"reply")
        await asyncio.sleep(1)
        assert other.down == [("s-1", b"reply")]

    play(script)


def test_a_session_whose_gateway_is_gone_for_good_is_over() -> None:
    async def script(gateway: Gateway, _: Gateway, edges: dict[str, Edge]) -> None:
        gateway.links.deliver("s-1", b"up")
        await asyncio.sleep(1)
        contact, edge = edge_of(edges, "s-1")
        gateway.cables.down.add(contact)
        gateway.cables.wires[contact].cut()
        await asyncio.sleep(LOST_S + 2)
        assert edge.ended == ["s-1"]
        gateway.links.deliver("s-1", b"elsewhere")
        await asyncio.sleep(1)
        assert edge_of(edges, "s-1")[0] != contact

    play(script)


def test_an_address_that_is_allocated_anew_is_no_longer_the_old_sessions() -> None:
    async def script(gateway: Gateway, _: Gateway, edges: dict[str, Edge]) -> None:
        edge = Edge(VirtualClock(AT))
        near, far = Wire(), Wire()
        near.other, far.other = far, near
        serving = asyncio.create_task(edge.sessions.serve(far))
        for number, name in enumerate(("old", "new"), 1):
            near.send(bytes((1,)) + number.to_bytes(4, "big") + body_of(session(name, "10.128.0.9")).encode())
        await asyncio.sleep(1)
        assert edge.ended == ["old"]
        holder = edge.sessions.session_at(IPv4Address("10.128.0.9"))
        assert holder is not None
        assert holder.session_id == "new"
        near.cut()
        await serving

    play(script)


@pytest.mark.parametrize(
    "message",
    [b"", b"\x02\x00\x00", b"\x01\x00\x00\x00\x01{", b"\x01\x00\x00\x00\x01[]", b"\x09\x00\x00\x00\x01x"],
)
def test_what_cannot_be_read_is_counted(message: bytes) -> None:
    async def script(gateway: Gateway, _: Gateway, edges: dict[str, Edge]) -> None:
        edge = edges["http://one:1"]
        gateway.cables.wires["http://one:1"].send(message)
        edge.sessions.inject("s-1", b"")
        await asyncio.sleep(1)
        assert sum(edge.sessions.counts.values()) == 1
        assert edge.sessions.open == 0

    play(script)


def test_without_an_edge_or_with_a_full_link_packets_are_dropped_and_counted() -> None:
    async def script(gateway: Gateway, _: Gateway, edges: dict[str, Edge]) -> None:
        for wire in gateway.cables.wires.values():
            wire.is_full = True
        gateway.links.deliver("s-1", b"up")
        assert gateway.links.counts[LinkCount.NOT_TAKEN] == 1
        gateway.cables.down |= edges.keys()
        for wire in gateway.cables.wires.values():
            wire.cut()
        await asyncio.sleep(2)
        gateway.links.deliver("s-1", b"up")
        gateway.links.deliver("nobody's", b"up")
        assert gateway.links.counts[LinkCount.NO_EDGE_NODE] == 1
        assert gateway.links.counts[LinkCount.NO_SESSION] == 1
        assert gateway.links.up == 0

    play(script)


# -- over WebSockets --------------------------------------------------------------------------------------


@asynccontextmanager
async def listening(serve: Callable[[Link], Awaitable[None]]) -> AsyncIterator[str]:
    async def handle(request: web.Request) -> web.StreamResponse:
        return await serve_link(request, serve)

    application = web.Application()
    application.router.add_get(EDGE_PATH, handle)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    port = free_tcp_port("127.0.0.1", 0)
    await web.TCPSite(runner, "127.0.0.1", port).start()
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        await runner.cleanup()


async def test_messages_keep_their_bounds_and_their_order() -> None:
    async def echo(link: Link) -> None:
        async for message in link.messages():
            assert link.send(message)

    sent = [bytes((n % 256,)) * (n * 37 % 1_500) for n in range(2_000)]
    async with listening(echo) as contact, WebSocketLinks(secret=SECRET).connect(contact) as link:
        for message in sent:
            assert link.send(message)
        came = []
        async for message in link.messages():
            came.append(message)
            if len(came) == len(sent):
                break
    assert came == sent


async def test_what_waits_is_bounded() -> None:
    async def deaf(link: Link) -> None:
        await asyncio.sleep(10)

    async with listening(deaf) as contact, WebSocketLinks(secret=SECRET).connect(contact) as link:
        taken = 0
        while link.send(bytes(60_000)):
            taken += 1
        assert taken == 69  # 4 MiB


async def test_a_frame_that_is_cut_short_ends_the_link() -> None:
    came: list[bytes] = []

    async def listen(link: Link) -> None:
        came.extend([message async for message in link.messages()])

    async with listening(listen) as contact, ClientSession() as http:
        socket = await http.ws_connect(contact + EDGE_PATH)
        await socket.send_bytes(b"\x00\x02ok\x00\x09short")
        assert (await socket.receive()).type is not None
    assert came == [b"ok"]


async def test_a_node_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(Unavailable):
        async with WebSocketLinks(secret=SECRET).connect("http://127.0.0.1:1"):
            pass
