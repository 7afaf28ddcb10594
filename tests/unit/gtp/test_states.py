"""The tables of a peer's path and of its restart counter: every state meets every event."""

import pytest

from gtp.path import PATHS, PathEvent, PathState, Peers
from gtp.restart import PROOF_S, RESTARTS, RestartCounter, RestartEvent, RestartState
from tests.unit.gtp.test_peers import TIMERS


@pytest.mark.parametrize("state", PathState)
@pytest.mark.parametrize("event", PathEvent)
def test_a_path_goes_where_its_table_says(state: PathState, event: PathEvent) -> None:
    peers = Peers(timers=TIMERS)
    peers.watch("a", 0)
    path = dict(peers.items())["a"]
    path.path, path.suspect_since, path.asked_at = state, 0.0, 5.0
    if event is PathEvent.HEARD:
        peers.on_message("a", 6)
    elif event is PathEvent.UNANSWERED:
        peers.on_echo_timeout("a", 6)
    else:
        path.is_keep_queued = False
        peers._queue_keep("a", path)
        assert peers.due(700, lambda _: True).lost == (["a"] if state is PathState.SUSPECT else [])
    assert path.path is (PATHS[state].get(event) or (state, None))[0]
    refused = peers.counts[f"{event.value}_while_{state.value}"]
    assert refused == (event not in PATHS[state])


@pytest.mark.parametrize("state", RestartState)
@pytest.mark.parametrize("event", RestartEvent)
def test_a_restart_counter_goes_where_its_table_says(state: RestartState, event: RestartEvent) -> None:
    is_clearing = state is RestartState.CLEARING
    counter = RestartCounter(state=state, known=7, suspected=None if is_clearing else 8, proved_at=0.0)
    match event:
        case RestartEvent.SIGN:
            assert counter.sign(8) is (state is RestartState.AGREED)
        case RestartEvent.AGREES:
            counter.suspected = 8 if state is not RestartState.AGREED else None
            counter.answer(7 if is_clearing else 8, 100.0, 100.0)
        case RestartEvent.EARLY:
            counter.suspected = 8 if state is not RestartState.AGREED else None
            counter.answer(7 if is_clearing else 8, PROOF_S - 0.1, 100.0)
        case RestartEvent.OTHER:
            counter.answer(9, 100.0, 100.0)
        case RestartEvent.CONTRADICTS:
            counter.answer(7, 100.0, 100.0)
        case RestartEvent.UNANSWERED:
            counter.unanswered()
        case RestartEvent.CLEARED:
            counter.cleared()
    if event is RestartEvent.EARLY and state is not RestartState.PROVED_ONCE:
        event = RestartEvent.AGREES  # no proof is waited for
    if state is RestartState.AGREED and event is RestartEvent.AGREES:
        event = RestartEvent.OTHER  # nothing is in question: it is news
    if is_clearing and event is RestartEvent.CONTRADICTS:
        event = RestartEvent.AGREES  # the known one is the one that was proved
    assert counter.state is (RESTARTS[state].get(event) or (state, None))[0]
    refused = {} if event in RESTARTS[state] else {f"{event.value}_while_{state.value}": 1}
    assert counter.refused == refused


@pytest.mark.parametrize("state", RestartState)
@pytest.mark.parametrize("event", RestartEvent)
def test_a_restart_counter_refuses_what_its_table_does_not_have(
    state: RestartState, event: RestartEvent
) -> None:
    """Also those pairs to which no message leads."""
    counter = RestartCounter(state=state, known=7)
    following, action = RESTARTS[state].get(event) or (state, None)
    assert (counter._step(event), counter.state) == (action, following)
    assert counter.refused.total() == (event not in RESTARTS[state])
