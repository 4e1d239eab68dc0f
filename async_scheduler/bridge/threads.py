"""A thread that belongs to one purpose: blocking calls run there, one at a time, in order."""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

from async_scheduler.measure import attribution

P = ParamSpec("P")
T = TypeVar("T")

WHERE_CALLS = 4
"""So many calls say where a thread is."""

Job = tuple[Future[Any], Callable[[], Any]]


class PurposeThread:
    """Runs blocking calls of one purpose, for example one executor, in the order they were made.

    A daemon thread, unlike those of ``ThreadPoolExecutor``: a call that never returns must not keep the
    process from ending.
    """

    def __init__(
        self,
        name: str,
        begin: Callable[[], object] | None = None,
        interrupt: Callable[[], None] = lambda: None,
    ) -> None:
        """Make a thread, which starts with the first call; *begin* is called on it before all others.

        :param interrupt: called when another call is there, so that one that only waits can make way.
        """
        self.name = name
        self._begin = begin
        self._interrupt = interrupt
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._starting = threading.Lock()

    def submit(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Queue a call and return its future; for callers on other threads."""
        future = self._queue(function, *args, **kwargs)
        self._interrupt()
        return future

    def submit_waiting(self, function: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Queue a call that only waits, and makes way when it is interrupted."""
        self._queue(function, *args, **kwargs)

    def _queue(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        with self._starting:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name=self.name, daemon=True)
                self._thread.start()
        future: Future[T] = Future()
        self._jobs.put((future, attribution.carried(lambda: function(*args, **kwargs))))
        return future

    @property
    def is_wanted(self) -> bool:
        """Whether another call is there, or the thread is to end."""
        return not self._jobs.empty()

    async def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call and return its result without blocking the loop.

        A cancelled caller stops waiting; a call that has begun runs to its end, and the next one of this
        thread waits for it.
        """
        with attribution.waiting(f"thread {self.name}"):
            return await asyncio.wrap_future(self.submit(function, *args, **kwargs))

    async def drain(self) -> None:
        """Wait until the calls made so far have ended."""
        if self._thread is not None:
            await self.call(lambda: None)

    def where(self) -> str:
        """Return where in its code the thread is, innermost call first, for people who wonder."""
        ident = None if self._thread is None else self._thread.ident
        frame = None if ident is None else sys._current_frames().get(ident)
        calls = reversed(traceback.extract_stack(frame)[-WHERE_CALLS:]) if frame else ()
        return " < ".join(f"{call.name} ({Path(call.filename).name}:{call.lineno})" for call in calls)

    def close(self) -> None:
        """Let the thread end after the calls it has; do not wait for one that hangs."""
        self._jobs.put(None)
        self._interrupt()

    def _work(self) -> None:
        while job := self._jobs.get():
            future, function = job
            if future.set_running_or_notify_cancel():
                _settle(future, partial(self._begun, function))

    def _begun(self, function: Callable[[], T]) -> T:
        """Run *function*, before the first one what the thread begins with: its error reaches a caller."""
        if self._begin is not None:
            self._begin()
            self._begin = None
        return function()


def _settle(future: Future[T], function: Callable[[], T]) -> None:
    """Give *future* what *function* returns or raises."""
    try:
        result = with_own_session(function)
    # Whatever it is, it belongs to the caller, who gets it from the future.
    except BaseException as error:
        future.set_exception(error)
    else:
        future.set_result(result)


def with_own_session(function: Callable[[], T]) -> T:
    """Return what *function* returns, and give back the thread's scoped session."""
    from airflow import settings

    try:
        return function()
    finally:
        if settings.Session is not None:
            settings.Session.remove()
