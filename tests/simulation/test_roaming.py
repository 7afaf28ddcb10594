"""Peers that restart, fall out of reach and come back, while devices move between them and between GTPv1 and
GTPv2, and attach again without a detach; with loss, repeats and reorder. A share of `./run prove roaming`.
"""

from typing import Any

import pytest

from core.app.held import HeldGateway
from gtp.contexts import Contexts
from loadtest.checks import simulate
from loadtest.world import ROAMING
from tests.simulation.test_world import SEEDS, holding


@pytest.mark.parametrize("seed", range(SEEDS // 2))
def test_no_session_leaks_none_is_double_and_no_octet_is_off(seed: int) -> None:
    world = simulate(seed, ROAMING)
    assert world.findings == []


def test_peers_restart_and_sessions_move_between_versions() -> None:
    worlds = [simulate(seed, ROAMING) for seed in range(4)]
    wanted = ROAMING.peer_restarts + 2 * ROAMING.peer_replacements
    assert all(world.restarts == wanted for world in worlds)
    assert sum(world.handovers for world in worlds) > 4


class ForgetfulGateway(HeldGateway):
    """Ends nothing when a peer restarts."""

    def make_door(self) -> Any:
        door = super().make_door()
        for machine in door.machines.values():
            machine._contexts.__class__ = _Forgetful
        return door


class _Forgetful(Contexts):
    def of_peer(self, *_: object) -> Any:
        return iter(())


def test_a_gateway_that_ends_nothing_when_a_peer_restarts_is_found_out() -> None:
    node = holding(ForgetfulGateway)
    assert any(simulate(seed, ROAMING, node_type=node).findings for seed in range(6))
