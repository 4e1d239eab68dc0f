"""An executor's event buffer, processed by the redesigned routine in the caller's transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.models.taskinstancekey import TaskInstanceKey

from async_scheduler.routines.redesigned.dirty import DirtyRuns
from async_scheduler.routines.redesigned.events import RunExecutorInSets

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner

    from async_scheduler.database.transaction import Sessions

Events = dict[Any, tuple[Any, Any]]


class BufferPort:
    """Stands for the port of an executor that the caller calls itself: it has its events and no thread."""

    def __init__(self, executor: Any) -> None:
        self.executor = executor
        self.events: Events = dict(executor.get_event_buffer())

    def id_of(self, key: Any) -> UUID | None:
        """Return None: who handed over what is not known here."""
        return None

    def run_of(self, key: Any) -> int | None:
        """Return None, as :meth:`id_of` does."""
        return None

    def settle(self, key: Any, event: tuple[Any, Any]) -> None:
        """Drop *event* as processed."""
        if self.events.get(key) == event:
            del self.events[key]


class BufferView:
    """What Airflow's code sees of the executor: all of it, with the events that were left for that code."""

    def __init__(self, executor: Any) -> None:
        self._executor = executor
        self._events: Events = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._executor, name)

    def __repr__(self) -> str:
        return repr(self._executor)

    def __str__(self) -> str:
        return str(self._executor)

    def deliver(self, events: Events) -> None:
        """Let :meth:`get_event_buffer` return *events*."""
        self._events = events

    def get_event_buffer(self, dag_ids: Sequence[str] | None = None) -> Events:
        """Return the events given; the caller removes those it has handled."""
        return self._events


async def process_events(scheduler: SchedulerJobRunner, sessions: Sessions, executor: Any) -> int:
    """Process what *executor* has in its buffer; return how many events were left, as Airflow does.

    Not counted are those of task instances that are gone. Events of rows that others have locked are put
    back into the buffer: Airflow loses them (#55004).
    """
    port, view = BufferPort(executor), BufferView(executor)
    routine = RunExecutorInSets(
        "executor",
        scheduler,
        sessions,
        sessions,
        port,  # type: ignore[arg-type]
        view,  # type: ignore[arg-type]
        poll_interval=0.0,
        timeout=0.0,
        dirty=DirtyRuns(),
        has_backlog=lambda: False,
    )
    await routine.process_events()
    put_back = {key: event for key, event in port.events.items() if isinstance(key, TaskInstanceKey)}
    if put_back:
        executor.event_buffer = put_back | executor.event_buffer
    return len(view.get_event_buffer())
