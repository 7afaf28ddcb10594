"""Work that mostly need not wait is begun at once, and becomes a task only if it must wait.

A task costs the event loop a turn and more CPU than many a decision. Python 3.12 offers this as
``asyncio.eager_task_factory``; until it is the oldest version that is served, this stands in.
"""

import asyncio
from collections.abc import Coroutine, Generator
from types import coroutine
from typing import Any


def begin(tasks: asyncio.TaskGroup, work: Coroutine[Any, Any, None]) -> None:
    """Run ``work`` until it ends or waits; what waits goes on as a task of the group.

    Until its first wait it runs outside of any task, where ``asyncio.timeout`` is not to be had. What it
    raises fails the group, as it would from a task.
    """
    try:
        awaited = work.send(None)
    except StopIteration:
        return
    except Exception as error:
        tasks.create_task(_fail(error))
    else:
        tasks.create_task(_rest(work, awaited))


@coroutine
def _rest(work: Coroutine[Any, Any, None], awaited: Any) -> Generator[Any, Any, None]:
    """Pass on what ``work`` waits for, and to ``work`` what comes of it."""
    try:
        while True:
            try:
                result = yield awaited
            except BaseException as error:  # a cancellation too is for the work to answer
                awaited = work.throw(error)
            else:
                awaited = work.send(result)
    except StopIteration:
        return


async def _fail(error: Exception) -> None:
    raise error
