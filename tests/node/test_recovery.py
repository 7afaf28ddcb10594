"""A gateway that takes its sessions up again, before a whole node in virtual time."""

import asyncio
from ipaddress import IPv4Address

import pytest

import core.services.sessions.recovery
from core.adapters.store.rows import body_of, entity_of
from core.domain.session import Access, CloseReason, Session
from core.services.sessions.recovery import SessionRecovery
from tests.contract.stores import session_of, sim_of
from tests.node.test_radius_door import Stage, played
from tests.node.test_session_terms import attach, sessions_of


def test_the_lease_may_be_renewed_while_many_sessions_are_read_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(core.services.sessions.recovery, "AT_ONCE", 2)
    turns, seen = [0], list[int]()
    take_back = SessionRecovery._take_back

    async def watched(self: SessionRecovery, session: Session) -> None:
        seen.append(turns[0])
        await take_back(self, session)

    @played
    async def script(stage: Stage) -> None:
        opened = [await attach(stage, nsapi=nsapi, access=Access.GTPV1) for nsapi in range(5, 15)]

        async def others() -> None:
            while True:
                turns[0] += 1
                await asyncio.sleep(0)

        with monkeypatch.context() as patch:
            patch.setattr(SessionRecovery, "_take_back", watched)
            waiting = asyncio.create_task(others())
            await stage.restart_node()
            waiting.cancel()
        assert {each.session_id: each for each in opened} == sessions_of(stage).open_sessions
        assert len(set(seen)) == len(opened) / 2, "others had a turn after every second session"
        await stage.node.held["vg-1"].sessions.end_sessions_of(opened[0].sim_id, CloseReason.CUSTOMER)

    script()  # type: ignore[call-arg]  # the stage is the decorator's


@pytest.mark.parametrize("text", ["10.128.0.300", "10.128.0", "010.128.0.2", "10.128.0.2 ", "", "::1"])
def test_what_is_no_address_is_not_read_as_one(text: str) -> None:
    body = body_of(session_of(sim_of(1)))
    assert entity_of(body.encode(), Session).ue_address == IPv4Address("10.128.0.2")
    with pytest.raises(ValueError, match="address"):
        entity_of(body.replace("10.128.0.2", text).encode(), Session)
