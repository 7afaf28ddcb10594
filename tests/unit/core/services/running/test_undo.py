"""What is taken back of steps that did not all succeed."""

import asyncio
from functools import partial

from core.services.running.undo import Undo


def steps() -> tuple[Undo, list[str]]:
    undo, done = Undo(), list[str]()

    async def from_store(name: str) -> None:
        await asyncio.sleep(0)
        done.append(name)

    undo.push(partial(done.append, "address"))
    undo.push_stored(partial(from_store, "row"))
    undo.push(partial(done.append, "teid"))
    return undo, done


def test_the_last_step_is_taken_back_first_and_each_once() -> None:
    undo, done = steps()
    undo.take_back()
    assert done == ["teid", "address"], "the store is not touched"
    asyncio.run(undo.take_back_stored())
    undo.take_back()
    asyncio.run(undo.take_back_stored())
    assert done == ["teid", "address", "row"]


def test_what_is_kept_is_not_taken_back() -> None:
    undo, done = steps()
    undo.keep()
    undo.take_back()
    asyncio.run(undo.take_back_stored())
    assert done == []
