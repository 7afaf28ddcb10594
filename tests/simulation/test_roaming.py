"""Peers that restart, fall out of reach and come back, while devices move between them and between GTPv1 and
GTPv2, and attach again without a detach; with loss, repeats and reorder. A share of `./run prove roaming`.
"""

from typing import Any

import pytest

from airloom.app.gateway_runtime import GatewayRuntime
from core.domain.session import Session
from core.domain.values import replace
from gtp.contexts import Contexts
from gtp.events import PeerRestarted
from gtp.requests import Pending, Requests
from gtp.restart import is_newer
from loadtest.simulation.checks import simulate
from loadtest.simulation.plan import ROAMING, Plan
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


def is_found_out(held_type: type[GatewayRuntime], finding: str) -> bool:
    """By this finding: others need not be of the planted bug."""
    node = holding(held_type)
    worlds = (simulate(seed, ROAMING, node_type=node) for seed in range(30))
    return any(finding in each for world in worlds for each in world.findings)


class ForgetfulGateway(GatewayRuntime):
    """Ends nothing when a peer restarts."""

    def make_gtp_front_end(self) -> Any:
        front_end = super().make_gtp_front_end()
        front_end.endpoint._contexts.__class__ = _Forgetful
        return front_end


class _Forgetful(Contexts):
    def of_peer(self, *_: object) -> Any:
        return iter(())


class HastyGateway(GatewayRuntime):
    """Ends at once what a peer asks for under an older restart counter than any that it had."""

    def make_gtp_front_end(self) -> Any:
        front_end = super().make_gtp_front_end()
        front_end.endpoint._requests.__class__ = _hasty()
        return front_end


def _hasty() -> type[Requests]:
    newest: dict[str, int] = {}

    def _hold(self: Any, pending: Pending, session: Session, now: float) -> bool:
        was_held = Requests._hold(self, pending, session, now)
        assert session.tunnel is not None
        peer, counter = session.tunnel.peer_control_address, session.tunnel.peer_restart_counter
        assert counter is not None, "simulated peers say theirs"
        if is_newer(newest.setdefault(peer, counter), counter):
            self._events.append(PeerRestarted(peer, newest[peer], (session.session_id,)))
        else:
            newest[peer] = counter
        return was_held

    return type("Hasty", (Requests,), {"_hold": _hold})


def test_a_gateway_that_ends_what_an_older_counter_asked_for_is_found_out() -> None:
    assert is_found_out(HastyGateway, "was accepted and is dead")


class CredulousGateway(GatewayRuntime):
    """Planted: no session is verified: one requested before a restart and received after it stays."""

    def make_gtp_front_end(self) -> Any:
        front_end = super().make_gtp_front_end()
        front_end.ask_about = lambda _: None  # type: ignore[assignment, method-assign]  # planted
        return front_end


def test_a_gateway_that_asks_nobody_is_found_out() -> None:
    assert is_found_out(CredulousGateway, "outlived its peer's restart")


def test_a_gateway_that_ends_nothing_when_a_peer_restarts_is_found_out() -> None:
    assert is_found_out(ForgetfulGateway, "outlived its peer's restart")


class UnstoredGateway(GatewayRuntime):
    """Planted: sessions are accepted and never stored, which shows when no node holds them any more."""

    def make_sessions(self) -> Any:
        async def put(session: Session, _: object) -> Session:
            return replace(session, version=session.version + 1)

        self._world.store.sessions.put = put  # type: ignore[method-assign, assignment]  # planted
        return super().make_sessions()


def test_a_gateway_that_stores_no_session_is_found_out_while_it_serves() -> None:
    world = simulate(0, Plan(crashes=0, outages=0), node_type=holding(UnstoredGateway))
    assert any("was accepted and is dead" in each for each in world.findings)
