"""The table of a session's life: every state meets every event, and what is done leads where it says."""

from typing import Any

import pytest

from core.adapters.store.sessions import WideSessions
from core.domain.requests import ModifySession
from core.domain.session import CloseReason, Session
from core.domain.session_life import LIFE, LifeAction, LifeEvent, LifeState
from core.errors import Refused, Unavailable
from core.services.sessions.service import Sessions
from tests.contract.stores import session_of, sim_of
from tests.node.test_radius_door import Stage, played
from tests.node.test_session_terms import attach, sessions_of


async def away(*_: Any, **__: Any) -> None:
    raise Unavailable("the store is away")


async def in_state(stage: Stage, state: LifeState, store: pytest.MonkeyPatch) -> Session:
    """A session that came there as sessions do; while it is ending the store takes no end."""
    if state is LifeState.ABSENT:
        return session_of(sim_of(9))
    session = await attach(stage)
    if state is LifeState.ENDING:
        store.setattr(WideSessions, "close", away)
        with pytest.raises(Unavailable):
            await sessions_of(stage).close(session.session_id, CloseReason.DEVICE)
    assert sessions_of(stage).state_of(session.session_id) is state
    return session


@pytest.mark.parametrize("state", LifeState)
def test_every_state_meets_every_event(state: LifeState) -> None:
    @played
    async def script(stage: Stage) -> None:
        with pytest.MonkeyPatch.context() as store:
            session = await in_state(stage, state, store)
            sessions = sessions_of(stage)
            for event in LifeEvent:
                _, action = LIFE[state].get(event, (state, None))
                assert sessions.common.step(session, event) is action
                is_refused = event not in LIFE[state]
                assert sessions.common.refused_events[f"{event}_while_{state}"] == is_refused
                assert sessions.state_of(session.session_id) is state, "the action moves it"

    script()  # type: ignore[call-arg]  # the stage is the decorator's


def test_the_table_is_whole() -> None:
    assert set(LIFE) == set(LifeState)
    for row in LIFE.values():
        for following, action in row.values():
            holds = action in (LifeAction.HOLD, LifeAction.REPLACE)
            assert not holds or following is LifeState.OPEN
            ends = action in (LifeAction.CUT, LifeAction.BEGIN_END)
            assert not ends or following is LifeState.ENDING


@played
async def test_a_session_from_its_opening_to_its_end(stage: Stage) -> None:
    with pytest.MonkeyPatch.context() as store:
        session = await in_state(stage, LifeState.ENDING, store)
        sessions = sessions_of(stage)
        for verb in (
            sessions.close(session.session_id, CloseReason.DEVICE),
            sessions.modify(ModifySession(session.session_id)),
        ):
            with pytest.raises(Refused):
                await verb
    await sessions.finish(session.session_id)
    assert sessions.state_of(session.session_id) is LifeState.ABSENT
    await sessions.finish(session.session_id)
    assert sessions.common.refused_events == {}, "who asks for the state first is not refused by the table"


@played
async def test_a_session_that_was_changed_and_read_back_is_open(stage: Stage) -> None:
    session = await attach(stage)
    await sessions_of(stage).modify(ModifySession(session.session_id, is_suspended=True))
    assert sessions_of(stage).state_of(session.session_id) is LifeState.OPEN
    await stage.restart_node()
    assert sessions_of(stage).state_of(session.session_id) is LifeState.OPEN
    assert sessions_of(stage).common.refused_events == {}


@played
async def test_an_opening_without_an_answer_is_ending(stage: Stage) -> None:
    put, opening = WideSessions.put, list[Session]()

    async def put_in_doubt(self: WideSessions, session: Session, *event: Any) -> Session:
        await put(self, session, *event)
        opening.append(session)
        raise Unavailable("carried out, answer lost", ambiguous=True)

    with pytest.MonkeyPatch.context() as doubt:
        doubt.setattr(WideSessions, "put", put_in_doubt)
        with pytest.raises(Unavailable):
            await attach(stage)
    assert sessions_of(stage).state_of(opening[0].session_id) is LifeState.ENDING


@played
async def test_a_late_row_of_an_open_session_is_nothing_new(stage: Stage) -> None:
    with pytest.MonkeyPatch.context() as store:
        ended = list[str]()
        session = await in_state(stage, LifeState.OPEN, store)
        sessions: Sessions = sessions_of(stage)
        sessions.common.heed_close = lambda each, _: ended.append(each.session_id)
        await sessions.recovery._end_if_late(session)
        assert (sessions.state_of(session.session_id), ended) == (LifeState.OPEN, [])
