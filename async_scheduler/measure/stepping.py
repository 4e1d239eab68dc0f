"""Times the running of coroutines, step by step, and the event loop's busy share.

A step is one ``send`` into a coroutine: the time between two suspensions, in which nothing else on the loop
can run. Its time goes to the pass (:class:`~async_scheduler.measure.attribution.Activity`) that is current
in it, and is cut where that changes. It is time on the loop, so it includes what the kernel or the
interpreter lock took away. Steps nest where a task starts eagerly inside another's step.
"""

from __future__ import annotations

import asyncio
import selectors
import threading
from collections.abc import Callable, Coroutine, Generator
from contextvars import Context, ContextVar
from time import monotonic_ns
from typing import Any, Protocol, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")


class Charged(Protocol):
    """Something whose running time is summed up."""

    cpu_ns: int
    loop_ns: int
    stepped: bool


current: ContextVar[Any] = ContextVar("async_scheduler_activity", default=None)
"""The running pass; set by :mod:`async_scheduler.measure.attribution` only."""

enabled = False
"""Whether :func:`stepped` wraps. Set by the instrument."""


class _Step(threading.local):
    """The step this thread is in: how many deep, whose it is, since when."""

    depth = 0
    owner: Charged | None = None
    since = 0
    queued: int | None = None


_step = _Step()


def _charge(now: int) -> None:
    owner = _step.owner
    if owner is not None:
        owner.cpu_ns += now - _step.since
        owner.stepped = True
    _step.since = now


def cut(owner: Charged | None) -> None:
    """Charge the step so far to its owner; what follows goes to *owner*. Outside a timed step: nothing."""
    if _step.depth:
        _charge(monotonic_ns())
        _step.owner = owner


def settle() -> None:
    """Bring the running owner's sum up to date."""
    if _step.depth:
        _charge(monotonic_ns())


class Stepper(Coroutine[Any, Any, T]):
    """A coroutine that times every step of the one it wraps; otherwise the same."""

    __slots__ = ("__name__", "__qualname__", "_coroutine")

    def __init__(self, coroutine: Coroutine[Any, Any, T]) -> None:
        self._coroutine = coroutine
        self.__name__ = getattr(coroutine, "__name__", "coroutine")
        self.__qualname__ = getattr(coroutine, "__qualname__", "coroutine")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._coroutine, name)

    def __await__(self) -> Generator[Any, Any, T]:
        return _Steps(self)

    def send(self, value: Any) -> Any:
        return self._timed(self._coroutine.send, value)

    def throw(self, *details: Any) -> Any:
        return self._timed(self._coroutine.throw, *details)

    def close(self) -> None:
        self._coroutine.close()

    def _timed(self, step: Callable[..., Any], *values: Any) -> Any:
        outer = _step.owner
        owner = current.get()
        if _step.depth:
            _charge(monotonic_ns())
        else:
            _step.since = monotonic_ns()
            if _step.queued is not None and owner is not None:
                owner.loop_ns += _step.since - _step.queued
            _step.queued = None
        _step.depth += 1
        _step.owner = owner
        try:
            return step(*values)
        finally:
            _charge(monotonic_ns())
            _step.depth -= 1
            _step.owner = outer


class _Steps(Generator[Any, Any, T]):
    """What awaiting a :class:`Stepper` drives."""

    __slots__ = ("_stepper",)

    def __init__(self, stepper: Stepper[T]) -> None:
        self._stepper = stepper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stepper, name)

    def send(self, value: Any) -> Any:
        return self._stepper.send(value)

    def throw(self, *details: Any) -> Any:
        return self._stepper.throw(*details)

    def close(self) -> None:
        self._stepper.close()


def stepped(coroutine: Coroutine[Any, Any, T]) -> Coroutine[Any, Any, T]:
    """Return *coroutine* with its steps timed while stepping is on, itself otherwise.

    Tracing that is switched on later sees it from the next call: call it once per pass of a routine.
    """
    return Stepper(coroutine) if enabled and not isinstance(coroutine, Stepper) else coroutine


def task_factory(
    loop: asyncio.AbstractEventLoop,
    coroutine: Coroutine[Any, Any, T] | Generator[Any, None, T],
    *,
    context: Context | None = None,
    **options: Any,
) -> asyncio.Task[T]:
    """Create a task whose steps are timed; give it to ``loop.set_task_factory`` before the first task."""
    timed: Any = Stepper(coroutine) if isinstance(coroutine, Coroutine) else coroutine
    return asyncio.Task(timed, loop=loop, context=context, **options)


class TimedSelector(selectors.DefaultSelector):
    """A selector that knows how long the loop waited in it, and hence how long it was busy."""

    def __init__(self) -> None:
        super().__init__()
        self._busy = 0
        self._returned = monotonic_ns()

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._busy += monotonic_ns() - self._returned
        ready = super().select(timeout)
        self._returned = monotonic_ns()
        return ready

    def busy_ns(self) -> int:
        """Return how long the loop has run callbacks so far."""
        return self._busy + monotonic_ns() - self._returned


class _Queued:
    """A callback that knows since when it has been ready to run."""

    __slots__ = ("_at", "_callback")

    def __init__(self, callback: Callable[..., object]) -> None:
        self._callback = callback
        self._at = monotonic_ns()

    def __call__(self, *arguments: Any) -> object:
        _step.queued = self._at
        try:
            return self._callback(*arguments)
        finally:
            _step.queued = None


class TimedLoop(asyncio.SelectorEventLoop):
    """A stock loop that times its tasks, its selector, and how long what is ready waits for its turn."""

    def __init__(self) -> None:
        global selector
        selector = TimedSelector()
        super().__init__(selector)
        factory: Any = task_factory
        self.set_task_factory(factory)

    def call_soon(
        self,
        callback: Callable[[*Ts], object],
        *args: *Ts,
        context: Context | None = None,
    ) -> asyncio.Handle:
        queued: Any = _Queued(callback)
        return super().call_soon(queued, *args, context=context)


selector: TimedSelector | None = None
"""The selector of the instrumented loop, if it has one."""


def busy_ns() -> int | None:
    """Return how long the instrumented loop has been busy so far, None where that is not measured."""
    return selector.busy_ns() if selector is not None else None


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that is timed (``loop_factory`` of a runner).

    uvloop offers no such hooks, so runs instrumented to this depth use asyncio's own loop.
    """
    return TimedLoop()
