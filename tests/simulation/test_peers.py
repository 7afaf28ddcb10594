"""Peers that restart, fall silent and come back, before a whole node in virtual time."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from core.domain.session import Access, CloseReason
from core.ports.network import Address
from gtp.path import PathState
from gtp.transaction import PATIENCE_S
from gtp.v1.cause import Cause
from loadtest.peers.gtp import GtpPeer, NotAnswered, PdpContext, Refusal
from loadtest.simulation.plan import SLOTS, Plan
from loadtest.simulation.virtual import PERFECT, NetworkFaults, run_virtual
from loadtest.simulation.world import APN, PEERS, World

KEEP_S = 600.0
SGSN, SGW = "127.0.1.1", "127.0.2.1"
Either = GtpPeer[Any]
"""Of either version."""
each_version = pytest.mark.parametrize("address", [SGSN, SGW], ids=["v1", "v2"])


class Stage(World):
    """A node, its SIMs, and peers as a test asks for them."""

    def open_imsis(self) -> list[str]:
        return sorted(session.imsi for session in self.open_sessions())

    def imsi(self, number: int) -> str:
        return self.sims[number].imsi

    async def path_of(self, address: str) -> PathState:
        access = Access.GTPV1 if address == SGSN else Access.GTPV2
        peers = (await self.holding()).gtp.endpoint.peers(access)
        return next(peer.path.path for peer in peers if peer.address == address)

    async def go_home(self) -> None:
        held = await self.holding()
        for state in self.sims:
            await held.sessions.end_sessions_of(state.sim.sim_id, CloseReason.CUSTOMER)
        await asyncio.sleep(120)
        assert held.gateway.allocated == {"addresses": 0, "teids": 0}
        assert len(held.gtp.endpoint._contexts) == 0


def play(
    script: Callable[[Stage, Either], Awaitable[None]],
    address: str,
    *,
    sims: int = 3,
    seed: int = 0,
    network: NetworkFaults = PERFECT,
    echo_interval_s: float = 60.0,
) -> None:
    async def main() -> None:
        plan = Plan(
            sims=sims,
            network=network,
            quarantine_s=0.0,
            path_keep_s=KEEP_S,
            echo_interval_s=echo_interval_s,
        )
        stage = Stage(seed, plan)
        await stage.start_node()
        await stage._make_sims()
        stage.network.faults = network
        peer = stage._peer(PEERS[address], address)
        async with peer.running():
            await script(stage, peer)
        await stage.go_home()
        await stage.finish()

    run_virtual(main)


@each_version
def test_a_silent_peers_sessions_are_kept_then_end_and_nothing_leaks(address: str) -> None:
    async def script(stage: Stage, peer: Either) -> None:
        for number in range(3):
            await peer.attach(imsi=stage.imsi(number), apn=APN)
        assert peer._control is not None
        peer._control.close()
        await asyncio.sleep(KEEP_S)
        assert await stage.path_of(address) is PathState.SUSPECT
        assert len(stage.open_imsis()) == 3
        await asyncio.sleep(150)
        assert await stage.path_of(address) is PathState.DOWN
        assert stage.open_imsis() == []

    play(script, address)


@each_version
def test_a_peer_that_comes_back_in_time_has_its_sessions(address: str) -> None:
    async def script(stage: Stage, peer: Either) -> None:
        context = await peer.attach(imsi=stage.imsi(0), apn=APN)
        assert peer._control is not None
        peer._control.close()
        await asyncio.sleep(KEEP_S - 60)
        assert await stage.path_of(address) is PathState.SUSPECT
        peer._control = await stage.network.open_datagram((address, 2123), peer._receive)
        await asyncio.sleep(90)
        assert await stage.path_of(address) is PathState.UP
        await asyncio.sleep(2 * KEEP_S)
        assert stage.open_imsis() == [stage.imsi(0)]
        await peer.detach(context)

    play(script, address)


@each_version
@pytest.mark.parametrize("echo_interval_s", [0.0, 60.0])
def test_a_kill_amid_clearing_a_restarted_peer_leaves_nothing_of_it(
    address: str, echo_interval_s: float
) -> None:
    """The peer sent its new counter before the kill, and does not send it again by itself."""

    async def script(stage: Stage, peer: Either) -> None:
        for number in range(3):
            await peer.attach(imsi=stage.imsi(number), apn=APN)
        peer.restart()
        stage.store_rates.before = 1.0
        await peer.echo()
        await asyncio.sleep(5)
        await stage.crash()
        stage.store_rates.before = 0.0
        await stage.start_node()
        assert len(stage.open_imsis()) == 3, "no end is durable yet"
        await asyncio.sleep(20)
        assert stage.open_imsis() == []

    play(script, address, echo_interval_s=echo_interval_s)


@each_version
@pytest.mark.parametrize("seed", range(10))
def test_a_restarted_peer_has_what_it_asked_for_since_and_nothing_older(address: str, seed: int) -> None:
    """With loss, duplication and reorder; half of what it asks for then carries the new counter first."""

    async def attach(peer: Either, imsi: str) -> PdpContext:
        while True:
            try:
                return await peer.attach(imsi=imsi, apn=APN)
            except NotAnswered:
                continue

    async def script(stage: Stage, peer: Either) -> None:
        for number in range(4):
            await attach(peer, stage.imsi(number))
        peer.restart_counter += 1
        peer.contexts.clear()
        fresh = [await attach(peer, stage.imsi(number)) for number in (3, 4, 5)]
        await asyncio.sleep(200)
        assert stage.open_imsis() == [stage.imsi(number) for number in (3, 4, 5)]
        assert all(context.is_active and not context.ended_by_gateway for context in fresh)

    faults = NetworkFaults(loss=0.15, duplication=0.1, delay_s_max=0.3)
    play(script, address, sims=6, seed=seed, network=faults)


@each_version
def test_a_peer_that_restarted_while_the_gateway_was_away_loses_its_older_sessions(address: str) -> None:
    async def script(stage: Stage, peer: Either) -> None:
        for number in range(2):
            await peer.attach(imsi=stage.imsi(number), apn=APN)
        await stage.crash()
        peer.restart_counter += 1
        peer.contexts.clear()
        await stage.start_node()
        assert len(stage.open_imsis()) == 2
        await asyncio.sleep(130)
        assert stage.open_imsis() == [], "the next Echo shows it"

    play(script, address)


class Mute:
    """A socket of a node that is killed before anything it sends is on the wire."""

    def __init__(self, socket: Any) -> None:
        self.close = socket.close

    def send(self, data: bytes, to: Address) -> bool:
        """Nothing."""
        return True


@each_version
def test_what_a_kill_left_without_its_answer_ends_and_what_was_answered_stays(address: str) -> None:
    """A storm: sessions were written, their answers never sent; when the node is back their peer gave up."""

    async def script(stage: Stage, peer: Either) -> None:
        before = [await peer.attach(imsi=stage.imsi(number), apn=APN) for number in range(3)]
        await asyncio.sleep(100)
        answered = [await peer.attach(imsi=stage.imsi(number), apn=APN) for number in range(3, 6)]
        held = await stage.holding()
        held.gtp._socket = Mute(held.gtp._socket)  # type: ignore[assignment]  # sends nothing
        attaching = [peer.attach(imsi=stage.imsi(number), apn=APN) for number in range(6, 12)]
        answers = asyncio.gather(*attaching, return_exceptions=True)
        await asyncio.sleep(2)
        await stage.crash()
        assert all(isinstance(each, NotAnswered) for each in await answers)
        await stage.start_node()
        assert len(stage.open_imsis()) == 12
        await asyncio.sleep(2 * PATIENCE_S)
        assert stage.open_imsis() == sorted(each.imsi for each in before + answered)
        assert all(each.is_active and not each.ended_by_gateway for each in before + answered)
        held = await stage.holding()
        claims = held.gtp.endpoint.versions[Access.GTPV1 if address == SGSN else Access.GTPV2].claims
        assert (claims["asked"], claims["unknown_to_peer"]) == (9, 6), "those of before were not asked about"

    play(script, address, sims=12)


def test_full_is_a_cause_and_whoever_leaves_makes_room() -> None:
    async def script(stage: Stage, peer: Either) -> None:
        contexts = [await peer.attach(imsi=stage.imsi(number), apn=APN) for number in range(SLOTS)]
        for _ in range(3):
            with pytest.raises(Refusal) as refusal:
                await peer.attach(imsi=stage.imsi(SLOTS), apn=APN)
            assert refusal.value.cause == Cause.NO_RESOURCES_AVAILABLE
        await peer.detach(contexts[7])
        await peer.attach(imsi=stage.imsi(SLOTS), apn=APN)
        assert len(stage.open_imsis()) == SLOTS

    play(script, SGSN, sims=SLOTS + 1)
