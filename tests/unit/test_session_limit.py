"""A SIM has as many sessions as there are bearer identities, before a whole node in virtual time."""

import pytest

from core.domain.reasons import AttachRefusal
from core.domain.session import Access
from core.errors import Refused
from core.services.session_requests import OpenSession, PeerTunnel
from core.services.sessions import SESSIONS_OF_ONE_SIM_MAX
from loadtest.world import APN
from tests.unit.test_radius_door import Stage, played


@played
async def test_a_sim_has_eleven_sessions_and_may_replace_each(stage: Stage) -> None:
    sessions = stage.node.held["vg-1"].sessions

    async def attach(nsapi: int) -> None:
        peer = PeerTunnel(1, 2, "127.0.1.1", "127.0.1.1", nsapi)
        await sessions.open(OpenSession(Access.GTPV1, stage.imsi, APN, peer=peer))

    for nsapi in range(5, 5 + SESSIONS_OF_ONE_SIM_MAX):
        await attach(nsapi)
    with pytest.raises(Refused) as caught:
        await attach(0)  # sgsnemu's
    assert caught.value.reason is AttachRefusal.TOO_MANY_SESSIONS
    await attach(5)
    assert len(sessions.open_sessions) == SESSIONS_OF_ONE_SIM_MAX
