"""Runs a coroutine to its end for a caller that is not one."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

from sqlalchemy.util.concurrency import await_only, in_greenlet

T = TypeVar("T")


class CannotWait(RuntimeError):
    """A nested call would have to wait for something that only the event loop it blocks could bring."""


def drive(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* and return its result.

    The outermost call runs an event loop of its own. Inside a running loop, which cannot run a second time,
    the coroutine is awaited where SQLAlchemy's greenlets allow it (below ``AsyncSession.run_sync``), and
    stepped by hand elsewhere: over a blocking session nothing in it has to wait.

    :raises CannotWait: when a stepped coroutine has to wait all the same.
    """
    if in_greenlet():
        return await_only(coroutine)
    return step(coroutine) if _is_loop_running() else _run(coroutine)


def _is_loop_running() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _run(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run a loop of the call's own.

    Not ``asyncio.run``: its way with Ctrl-C cancels the task at its next wait, and here it never waits.
    """
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        _cancel_rest(loop)
        loop.close()


def _cancel_rest(loop: asyncio.AbstractEventLoop) -> None:
    """End what a signal handler that exits has left of the turns, and of their task group."""
    while left := asyncio.all_tasks(loop):
        for task in left:
            task.cancel()
        # The exit goes on as it is: that the task group reports it once more says nothing new.
        with suppress(SystemExit, KeyboardInterrupt):
            loop.run_until_complete(asyncio.wait(left))


def step(coroutine: Coroutine[Any, Any, T]) -> T:
    """Run *coroutine* without a loop; it may give way (``sleep(0)``) but not wait.

    :raises CannotWait: when it waits for something.
    """
    try:
        while (awaited := coroutine.send(None)) is None:
            pass
    except StopIteration as end:
        return end.value  # type: ignore[no-any-return]
    coroutine.close()
    raise CannotWait(f"A nested call cannot wait for {awaited!r}")
