"""Work that mostly need not wait is begun at once, and becomes a task only if it must wait.

A task costs the event loop a turn and more CPU than many a decision. Python 3.12 offers this as
``asyncio.eager_task_factory``; until it is the oldest version that is served, this stands in.
"""

import asyncio
from collections.abc import Coroutine, Generator
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
        tasks.create_task(_Rest(work, awaited))


class _Rest(Coroutine[Any, Any, None]):
    """What is left of a work that waits: the first step waits for what the work waits for already.

    A task that is cancelled before its first step throws into a coroutine of its own before that runs, and
    the work would never hear of it; here it reaches the work.
    """

    __slots__ = ("_awaited", "_is_passed_on", "_work")

    def __init__(self, work: Coroutine[Any, Any, None], awaited: Any) -> None:
        self._work = work
        self._awaited = awaited
        self._is_passed_on = False

    def __await__(self) -> Generator[Any, Any, None]:
        raise NotImplementedError("only a task runs it")

    def send(self, value: Any) -> Any:
        if self._is_passed_on:
            return self._work.send(value)
        self._is_passed_on = True
        return self._awaited

    def throw(self, *error: Any) -> Any:
        self._is_passed_on = True
        return self._work.throw(*error)

    def close(self) -> None:
        self._work.close()


async def _fail(error: Exception) -> None:
    raise error
