"""Says which routine the running code belongs to, in every task, greenlet and driver hook below it.

A :class:`~contextvars.ContextVar` carries it: child tasks inherit it, and it is right where
``asyncio.current_task()`` is not (an ``AsyncSession`` closes in a task of its own).
"""

from __future__ import annotations

import asyncio
import itertools
import os
import weakref
from contextlib import contextmanager
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, TypeVar

from async_scheduler.errors import AsyncSchedulerError
from async_scheduler.measure import stepping
from async_scheduler.measure.events import Iteration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextvars import ContextVar

T = TypeVar("T")

FIRST_NUMBER = (os.getpid() << 28) + 1
"""Where a process begins to count, so that numbers of several processes' traces do not meet."""

_numbers = itertools.count(FIRST_NUMBER)
_current: ContextVar[Activity | None] = stepping.current

sink: Callable[[Iteration], None] | None = None
"""Where finished iterations go; None while nothing is traced."""


class DeadlockVictim(AsyncSchedulerError):
    """The watchdog cancelled this pass to break a cycle of waits. Its work was rolled back: retry it."""

    def __init__(self, routine: str) -> None:
        super().__init__(f"The pass of {routine} was cancelled to break a deadlock across layers")
        self.routine = routine


class Activity:
    """One pass of a routine while it runs: whose it is, and its sums so far (nanoseconds)."""

    __slots__ = (
        "busy_start",
        "claimed",
        "commit_ns",
        "connect_ns",
        "cpu_ns",
        "in_call_cpu_ns",
        "iteration",
        "lock_ns",
        "loop_ns",
        "nested_ns",
        "number",
        "other_ns",
        "parent",
        "pool_ns",
        "routine",
        "skipped",
        "start",
        "statement_ns",
        "statements",
        "stepped",
        "task",
        "transactions",
        "victim",
        "wanted",
    )

    def __init__(self, routine: str, iteration: int, parent: Activity | None) -> None:
        self.number = next(_numbers)
        self.routine = routine
        self.iteration = iteration
        self.parent = parent
        self.start = monotonic_ns()
        self.busy_start = stepping.busy_ns()
        self.task = _task()
        self.stepped = False
        self.victim = False
        self.cpu_ns = self.in_call_cpu_ns = self.loop_ns = self.nested_ns = 0
        self.pool_ns = self.connect_ns = self.statement_ns = self.commit_ns = self.lock_ns = 0
        self.transactions = self.statements = self.wanted = self.claimed = 0
        self.skipped: int | None = None
        self.other_ns: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<Activity {self.routine} #{self.iteration}>"

    def measured_ns(self) -> int:
        """Return how much of the pass's time is accounted for so far."""
        waits = self.pool_ns + self.connect_ns + self.statement_ns + self.commit_ns + self.lock_ns
        return waits + self.cpu_ns + self.loop_ns + sum(self.other_ns.values())

    def finished(self, error: BaseException | None) -> Iteration:
        """Return the record of this pass, ended now."""
        busy = stepping.busy_ns()
        return Iteration(
            routine=self.routine,
            iteration=self.iteration,
            activity=self.number,
            start=self.start,
            end=monotonic_ns(),
            parent=self.parent.number if self.parent else None,
            nested_ns=self.nested_ns,
            cpu_ns=self.cpu_ns if self.stepped else None,
            in_call_cpu_ns=self.in_call_cpu_ns,
            loop_ns=self.loop_ns if self.stepped and stepping.selector is not None else None,
            busy_ns=None if busy is None or self.busy_start is None else busy - self.busy_start,
            pool_ns=self.pool_ns,
            connect_ns=self.connect_ns,
            statement_ns=self.statement_ns,
            commit_ns=self.commit_ns,
            lock_ns=self.lock_ns,
            other_ns=self.other_ns,
            transactions=self.transactions,
            statements=self.statements,
            wanted=self.wanted,
            claimed=self.claimed,
            skipped=self.skipped,
            error=type(error).__name__ if error else None,
        )


def current() -> Activity | None:
    """Return the pass the running code belongs to, None outside of any."""
    return _current.get()


@contextmanager
def routine(name: str, *, iteration: int = 0) -> Iterator[Activity]:
    """Attribute everything in the block, and in the tasks it starts, to a pass of the routine *name*.

    Passes nest: an inner one's time is not counted again in the outer one's shares.

    :raises DeadlockVictim: in place of the cancellation by which the watchdog broke a cycle.
    """
    parent = _current.get()
    activity = Activity(name, iteration, parent)
    token = _current.set(activity)
    stepping.cut(activity)
    error: BaseException | None = None
    try:
        yield activity
    except asyncio.CancelledError as cancelled:
        error = cancelled
        if activity.victim and _uncancelled():
            raise DeadlockVictim(name) from cancelled
        raise
    except BaseException as failure:
        error = failure
        raise
    finally:
        stepping.cut(parent)
        _current.reset(token)
        _close(activity, error)


def _close(activity: Activity, error: BaseException | None) -> None:
    if activity.parent is not None:
        activity.parent.nested_ns += monotonic_ns() - activity.start
    if sink is not None:
        sink(activity.finished(error))


def _task() -> weakref.ref[asyncio.Task[Any]] | None:
    try:
        task = asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None
    return weakref.ref(task) if task is not None else None


def _uncancelled() -> bool:
    """Take the watchdog's cancellation back; False when somebody else has asked for one too."""
    task = asyncio.current_task()
    return task is None or task.uncancel() == 0


@contextmanager
def waiting(name: str) -> Iterator[None]:
    """Name an await that is neither the database, the pool nor a lock (an executor's answer, a back-off).

    What is measured inside it, in a thread for example, is counted there and not again here.
    """
    activity = _current.get()
    start = monotonic_ns()
    before = activity.measured_ns() if activity else 0
    try:
        yield
    finally:
        if activity is not None:
            stepping.cut(activity)
            spent = monotonic_ns() - start - (activity.measured_ns() - before)
            activity.other_ns[name] = activity.other_ns.get(name, 0) + max(0, spent)


def carried(function: Callable[[], T]) -> Callable[[], T]:
    """Return *function* so that it counts for the pass of now, wherever it is called (in a thread)."""
    activity = _current.get()
    if activity is None:
        return function

    def run() -> T:
        token = _current.set(activity)
        try:
            return function()
        finally:
            _current.reset(token)

    return run


def count_rows(*, wanted: int = 0, claimed: int = 0, skipped: int | None = None) -> None:
    """Add to the running pass's rows: asked for, claimed, and passed over because another held them.

    Only for what the statements themselves do not show (their limits and row counts are counted anyway).
    """
    activity = _current.get()
    if activity is None:
        return
    activity.wanted += wanted
    activity.claimed += claimed
    if skipped is not None:
        activity.skipped = (activity.skipped or 0) + skipped
