"""GTP-C on one address and GTP-U, with numbers, on another, before a whole node in virtual time."""

import asyncio
import re
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest

import loadtest.simulation.plan
from core.config import Config, GatewayConfig
from core.domain.values import replace
from core.errors import Unavailable
from core.ports.network import Address
from loadtest.peers.gtp import GtpPeer, PdpContext
from loadtest.peers.sgsn import Sgsn
from loadtest.peers.sgw import Sgw
from loadtest.proofs.kill import udp_packet
from loadtest.proofs.kill_nodes import QUERY
from loadtest.simulation.plan import Plan
from loadtest.simulation.world import APN, GATEWAY
from mqtt_bridge.edge.dns import DNS_PORT
from tests.node.test_gtp_front_end import FILTERS, Script, Stage, played

USER = "127.0.0.9"
NAME_SERVER = IPv4Address("100.127.0.53")


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[[Script], None]:
    """Runs a script on a stage whose gateway has an address of its own for GTP-U."""
    plain = loadtest.simulation.plan.config_of

    def config(name: str, plan: Plan) -> Config:
        given = plain(name, plan).gateway.model_dump() | {
            "user_address": USER,
            "user_sequence_numbers": True,
            "instances": (),
        }
        gateway = GatewayConfig.model_validate(given)
        return plain(name, plan).model_copy(update={"gateway": gateway})

    def run(script: Script) -> None:
        played(script)()  # type: ignore[call-arg]  # the stage is the decorator's

    monkeypatch.setattr(loadtest.simulation.plan, "config_of", config)
    return run


async def asks_the_name_server(peer: GtpPeer[Any], context: PdpContext) -> int:
    """How many answers came down; the peer accepts only packets from the gateway's user plane address."""
    came: list[bytes] = []
    context.on_down = came.append
    for _ in range(20):  # of which some are lost
        peer.send_up(context, udp_packet(context.ue_address, NAME_SERVER, DNS_PORT, QUERY))
    await asyncio.sleep(1)
    return len(came)


@pytest.mark.parametrize("kind", [Sgsn, Sgw])
def test_peers_are_told_where_tunnels_end_and_packets_go_there(
    kind: type[GtpPeer[Any]], play: Callable[[Script], None]
) -> None:
    async def script(stage: Stage) -> None:
        peer = await stage.peer(kind, "127.0.2.8")
        context = await peer.attach(imsi=stage.imsi, apn=APN)
        assert context.gateway_user == USER
        stage.owner_of[context.ue_address] = stage.imsi
        assert await asks_the_name_server(peer, context)
        await stage.crash()
        await stage.start_node()
        assert await asks_the_name_server(peer, context), "and so after a kill"
        moved = await (await stage.peer(kind, "127.0.2.9")).take_over(context)
        assert moved.gateway_user == USER

    play(script)


def test_what_a_gateway_sends_is_numbered_where_it_is_configured(play: Callable[[Script], None]) -> None:
    async def script(stage: Stage) -> None:
        sent = list[bytes]()

        def tap(data: bytes, source: Address, to: Address) -> None:
            stage._tap(data, source, to)
            if source == (USER, 2152):
                sent.append(data)

        stage.network.tap = tap
        sgsn = await stage.peer(Sgsn, "127.0.2.8")
        context = await sgsn.attach(imsi=stage.imsi, apn=APN)
        stage.owner_of[context.ue_address] = stage.imsi
        assert await asks_the_name_server(sgsn, context)
        assert [int.from_bytes(data[8:10], "big") for data in sent] == list(range(len(sent)))
        assert {data[:2] for data in sent} == {b"\x32\xff"}
        assert stage.of_session[stage.only.session_id, "down"] == sum(len(data) - 12 for data in sent)

    play(script)


def test_a_dedicated_bearer_ends_where_the_default_one_does(play: Callable[[Script], None]) -> None:
    async def script(stage: Stage) -> None:
        sgw = await stage.peer(Sgw, "127.0.2.8")
        context = await sgw.attach(imsi=stage.imsi, apn=APN)
        await stage.dedicated.add(stage.only.session_id, qci=7, arp=0x34, filters=FILTERS)
        assert len(context.bearers) == 1, "the peer refuses any other address"

    play(script)


def test_each_plane_speaks_at_its_own_address_alone(play: Callable[[Script], None]) -> None:
    async def script(stage: Stage) -> None:
        came: list[tuple[bytes, Address]] = []
        plain, control = bytes.fromhex("30ff000000001234"), bytes.fromhex("320100040000000000010000")
        sockets = [
            await stage.network.open_datagram(("127.0.2.8", port), lambda data, at: came.append((data, at)))
            for port in (2123, 2152)
        ]
        for _ in range(9):  # of which some are lost
            for address in (GATEWAY, USER):
                sockets[0].send(control, (address, 2123))
                sockets[1].send(plain, (address, 2152))
        await asyncio.sleep(1)
        assert {at for _, at in came} == {(GATEWAY, 2123), (USER, 2152)}
        indications = {data for data, at in came if at[1] == 2152}
        assert {data[1] for data in indications} == {26}
        assert all(IPv4Address(USER).packed in data for data in indications), "and is the address it names"
        for socket in sockets:
            socket.close()

    play(script)


class Mover:
    """Records the addresses that are here, and fails on demand."""

    def __init__(self) -> None:
        self.here: list[str] = []
        self.is_away = False

    def may_attach(self, address: IPv4Address) -> bool:
        return str(address) != "192.0.2.1"

    async def attach(self, address: IPv4Address, *, lasting_s: float) -> None:
        if self.is_away:
            raise Unavailable("EC2 does not answer")
        if str(address) not in self.here:
            self.here.append(str(address))

    async def detach(self, address: IPv4Address) -> None:
        if str(address) not in self.here:
            raise Unavailable("it is not here")
        self.here.remove(str(address))

    async def aclose(self) -> None:
        return None


def test_both_addresses_come_with_the_gateway_and_go_with_it(
    play: Callable[[Script], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    floating_ip, plain = Mover(), Stage._adapters
    monkeypatch.setattr(Stage, "_adapters", lambda *args: replace(plain(*args), floating_ip=floating_ip))

    async def script(stage: Stage) -> None:
        assert floating_ip.here == [GATEWAY, USER]
        await stage.node.drain()
        assert floating_ip.here == []
        await stage.crash()
        await stage.start_node()

    play(script)


def test_an_address_that_cannot_be_brought_again_is_told_while_it_lasts(
    play: Callable[[Script], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    floating_ip, plain = Mover(), Stage._adapters
    monkeypatch.setattr(Stage, "_adapters", lambda *args: replace(plain(*args), floating_ip=floating_ip))

    async def script(stage: Stage) -> None:
        floating_ip.is_away = True
        await asyncio.sleep(30)
        assert stage.node.faults.standing == {"gateway-address vg-1": "transient: EC2 does not answer"}
        floating_ip.is_away = False
        await asyncio.sleep(5)
        assert not stage.node.faults.standing

    play(script)


def config(**gateway: Any) -> GatewayConfig:
    return Config.model_validate({"gateway": gateway}).gateway


def test_no_device_reaches_either_address() -> None:
    assert [str(each) for each in config(user_address="127.0.0.9").forbidden] == [
        "127.0.0.1/32",
        "127.0.0.9/32",
    ]


@pytest.mark.parametrize(
    ("gateway", "told"),
    [
        ({"user_address": "127.0.0.1"}, "instances vg-1: address and user_address must be unique and differ"),
        (
            {
                "instances": [
                    {"id": "a", "address": "127.0.0.1", "user_address": "127.0.0.3"},
                    {"id": "b", "address": "127.0.0.2", "user_address": "127.0.0.3"},
                ]
            },
            "instances a: address and user_address must be unique and differ",
        ),
        (
            {"user_address": "127.0.0.3", "protocols": ["radius"]},
            "instances vg-1: user_address is used by the protocol gtp only; remove it",
        ),
        ({"user_address": "10.128.0.1"}, "address of vg-1 10.128.0.1/32 overlaps ue_pool 10.128.0.0/9"),
    ],
)
def test_addresses_that_do_not_fit_are_named(gateway: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=re.escape(told)):
        config(**gateway)
