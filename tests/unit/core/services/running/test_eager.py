"""Work that is begun before it is a task ends as a task would."""

import asyncio
from collections.abc import Coroutine

import pytest

from core.services.running.eager import begin


async def test_what_need_not_wait_is_done_at_once() -> None:
    done: list[str] = []

    async def work() -> None:
        done.append("done")

    async with asyncio.TaskGroup() as tasks:
        begin(tasks, work())
        assert done == ["done"]


async def test_what_waits_gets_what_it_waited_for() -> None:
    answer: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    got: list[str] = []

    async def work() -> None:
        got.append(await answer)
        await asyncio.sleep(0)
        got.append("after a turn")

    async with asyncio.TaskGroup() as tasks:
        begin(tasks, work())
        await asyncio.sleep(0)
        answer.set_result("answered")
    assert got == ["answered", "after a turn"]


@pytest.mark.parametrize("turns", [0, 1, 2])
async def test_a_cancelled_group_has_the_work_take_its_steps_back(turns: int) -> None:
    """Also when it is cancelled in the turn of the loop in which the work began."""
    steps: list[str] = []

    async def work() -> None:
        steps.append("taken")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await asyncio.sleep(0)
            steps.append("taken back")
            raise

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as tasks:
            begin(tasks, work())
            for _ in range(turns):
                await asyncio.sleep(0)
            raise ValueError
    assert steps == ["taken", "taken back"]


async def test_what_it_raises_fails_the_group() -> None:
    async def work(turns: int) -> None:
        for _ in range(turns):
            await asyncio.sleep(0)
        raise ValueError(turns)

    for turns in range(3):
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as tasks:
                begin(tasks, work(turns))
        assert [str(error) for error in raised.value.exceptions] == [str(turns)]


async def test_what_waits_becomes_a_task_of_a_coroutine() -> None:
    """Since Python 3.12 asyncio takes no generator for one."""
    waiting = asyncio.Event()

    async def work() -> None:
        await waiting.wait()

    async with asyncio.TaskGroup() as tasks:
        before = asyncio.all_tasks()
        begin(tasks, work())
        (task,) = asyncio.all_tasks() - before
        assert isinstance(task.get_coro(), Coroutine)
        waiting.set()
