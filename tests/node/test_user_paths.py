"""Echo Requests of GTP-U: who is asked, who is suspect, who came back."""

import asyncio
from contextlib import AsyncExitStack

import pytest

from airloom.app.operated import make_operations
from core.domain.session import CloseReason
from gtp.path import PathState
from gtp.userplane.paths import PEERS_MAX, UserPaths
from loadtest.peers.sgw import Sgw
from loadtest.simulation.plan import Plan
from loadtest.simulation.virtual import PERFECT, run_virtual
from loadtest.simulation.world import APN
from tests.node.test_gtp_front_end import Stage

PEER, OTHER = "10.0.0.1", "10.0.0.2"


def echo(sequence: int) -> bytes:
    return b"\x32\x01\0\x04\0\0\0\0" + sequence.to_bytes(2, "big") + b"\0\0"


def test_a_round_asks_whoever_has_sessions_until_it_answers() -> None:
    paths = UserPaths()
    assert list(paths.begin({PEER: 3, OTHER: 1}, 0.0)) == [(echo(1), (PEER, 2152)), (echo(1), (OTHER, 2152))]
    paths.handle(PEER, 1, 0.25)
    assert list(paths.again()) == [(echo(1), (OTHER, 2152))]
    paths.end()
    found = dict(paths.items())
    assert (found[PEER].path, found[PEER].rtt_s, found[PEER].sessions) == (PathState.UP, 0.25, 3)
    assert (found[OTHER].path, found[OTHER].rtt_s) == (PathState.SUSPECT, None)
    assert paths.counts == {"path_suspect": 1}
    assert [peer for _, (peer, _) in paths.begin({OTHER: 1}, 60.0)] == [OTHER], "the other has no sessions"
    paths.handle(OTHER, 2, 60.1)
    paths.end()
    assert {peer: path.path for peer, path in paths.items()} == {OTHER: PathState.UP}
    assert paths.counts == {"path_suspect": 1, "path_back": 1}


@pytest.mark.parametrize(("peer", "sequence"), [(PEER, 2), (PEER, 0), (OTHER, 1)])
def test_an_answer_to_nothing_is_nothing(peer: str, sequence: int) -> None:
    paths = UserPaths()
    paths.begin({PEER: 1}, 0.0)
    paths.handle(peer, sequence, 0.1)
    paths.end()
    paths.handle(PEER, 1, 9.0)
    assert [path.path for _, path in paths.items()] == [PathState.SUSPECT]


def test_peers_are_bounded() -> None:
    paths = UserPaths()
    assert len(list(paths.begin({str(number): 1 for number in range(PEERS_MAX + 9)}, 0.0))) == PEERS_MAX


@pytest.mark.parametrize("interval_s", [0.0, 60.0])
def test_a_silent_user_plane_is_shown_and_counted_and_its_sessions_stay(interval_s: float) -> None:
    async def main() -> None:
        stage = Stage(0, Plan(sims=2, network=PERFECT, user_echo_interval_s=interval_s))
        await stage.start_node()
        await stage._make_sims()
        async with AsyncExitStack() as stack:
            stage.stack = stack
            here, gone = await stage.peer(Sgw, "127.0.2.1"), await stage.peer(Sgw, "127.0.2.2")
            await here.attach(imsi=stage.sims[0].imsi, apn=APN)
            await gone.attach(imsi=stage.sims[1].imsi, apn=APN)
            operations = make_operations(stage.node, usage=stage.node._world.store.usage, clock=stage.clock)
            assert gone._user is not None
            gone._user.close()
            await asyncio.sleep(200)
            rows = [row for row in operations.peers() if row["access"] == "gtpu"]
            told = {row["address"]: (row["path"], row["sessions"]) for row in rows}
            asked = {"127.0.2.1": ("up", 1), "127.0.2.2": ("suspect", 1)}
            assert told == (asked if interval_s else {})
            assert stage.node.held["vg-1"].user_plane.paths.counts == (
                {"path_suspect": 1} if interval_s else {}
            )
            assert len(stage.sessions.open_sessions) == 2
            for state in stage.sims:
                await stage.sessions.end_sessions_of(state.sim.sim_id, CloseReason.CUSTOMER)
        await asyncio.sleep(120)
        await stage.finish()

    run_virtual(main)
