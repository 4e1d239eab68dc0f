"""Who waits for what inside this process, right now: named locks and pool slots."""

from __future__ import annotations

import asyncio
import weakref
from dataclasses import dataclass, field
from time import monotonic_ns
from typing import TYPE_CHECKING, Any, Literal, Protocol

import greenlet

from async_scheduler.measure import attribution
from async_scheduler.measure.events import LockObject, Outcome, Party

if TYPE_CHECKING:
    from collections.abc import Callable

Layer = Literal["asyncio_lock", "pool"]


def running_task() -> asyncio.Task[Any] | None:
    """Return the task of the running code, None outside a loop."""
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


@dataclass(slots=True, eq=False)
class Holder:
    """A task that holds something: its pass, and since when."""

    task: weakref.ref[asyncio.Task[Any]] | None
    activity: attribution.Activity | None
    since: int
    pid: int | None = None
    transaction: int | None = None
    lock_since: int | None = None
    statement: str | None = None

    @classmethod
    def here(cls) -> Holder:
        """Return a holder for the running code."""
        task = running_task()
        return cls(weakref.ref(task) if task else None, attribution.current(), monotonic_ns())

    def party(self) -> Party:
        """Return who this is, as of now."""
        return Party(
            routine=self.activity.routine if self.activity else None,
            iteration=self.activity.iteration if self.activity else None,
            pid=self.pid,
            transaction=self.transaction,
            statement=self.statement,
            hold_ns=monotonic_ns() - self.since,
        )


@dataclass(slots=True, eq=False)
class Wait:
    """A wait in progress. ``holders()`` says who holds the thing now; any of them may hand it on."""

    layer: Layer
    object: LockObject
    holders: Callable[[], list[Holder]]
    waiter: Holder
    start: int = field(default_factory=monotonic_ns)
    greenlet: greenlet.greenlet | None = None
    first_holders: list[Holder] = field(default_factory=list)

    @classmethod
    def here(cls, layer: Layer, what: LockObject, holders: Callable[[], list[Holder]]) -> Wait:
        """Return a wait of the running code that begins now."""
        wait = cls(layer, what, holders, Holder.here(), greenlet=greenlet.getcurrent())
        wait.first_holders = holders()
        return wait


class Observer(Protocol):
    """Is told of every wait inside the process."""

    def began(self, wait: Wait) -> None:
        """The wait has begun."""

    def ended(self, wait: Wait, outcome: Outcome) -> None:
        """The wait is over."""


observer: Observer | None = None
"""Set by the instrument while tracing is on."""
