"""A bounded pool of daemon threads for backends that block.

The standard executor is not used because the interpreter waits for its threads at exit: one hung backend
would keep a finished process alive for ever. The caller's context variables are not carried over: among
them is the transaction of the routine that asks, which belongs to the event loop's thread alone.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")

_Job = tuple[Future[Any], Callable[[], Any]]


class DaemonThreads:
    """Runs blocking calls in at most *size* threads, started when needed and kept until :meth:`close`."""

    def __init__(self, size: int, name: str) -> None:
        self.size = size
        self._name = name
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unfinished = 0

    @property
    def threads(self) -> int:
        """How many threads have been started; never more than ``size``."""
        return self._threads

    async def run(self, call: Callable[[], T]) -> T:
        """Return what *call* returns.

        A cancelled wait takes a call that has not begun out of the queue. One that has begun runs on in its
        thread, which takes the next call when it is done.
        """
        future: Future[T] = Future()
        with self._lock:
            self._unfinished += 1
            if self._unfinished > self._threads < self.size:
                self._start_thread()
            self._jobs.put((future, call))
        return await asyncio.wrap_future(future)

    def close(self) -> None:
        """Let every thread end after the calls queued so far; waits for none."""
        with self._lock:
            ending, self._threads, self._unfinished = self._threads, 0, 0
            jobs, self._jobs = self._jobs, SimpleQueue()
            for _ in range(ending):
                jobs.put(None)

    def _start_thread(self) -> None:
        self._threads += 1
        threading.Thread(
            target=self._work, args=(self._jobs,), name=f"{self._name}-{self._threads}", daemon=True
        ).start()

    def _work(self, jobs: SimpleQueue[_Job | None]) -> None:
        while (job := jobs.get()) is not None:
            future, call = job
            settle = _run(call) if future.set_running_or_notify_cancel() else None
            with self._lock:
                # Before the caller learns of it: its next call must find this thread free.
                if jobs is self._jobs:
                    self._unfinished -= 1
            if settle is not None:
                settle(future)
            del job, future, call, settle  # an idle thread must not hold on to a result


def _run(call: Callable[[], Any]) -> Callable[[Future[Any]], None]:
    """Run *call* and return what settles a future with its outcome."""
    try:
        result = call()
    except BaseException as error:
        # The name `error` ends with this block.
        raised = error
        return lambda future: future.set_exception(raised)
    return lambda future: future.set_result(result)
