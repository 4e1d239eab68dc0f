"""An executor whose tasks end when and as a story says, writing the rows that the execution API would."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow._shared.timezones import timezone
from airflow.executors.base_executor import BaseExecutor
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.models.taskreschedule import TaskReschedule
from airflow.models.trigger import Trigger, handle_event_submit
from airflow.models.xcom import XComModel
from airflow.triggers.base import TriggerEvent
from sqlalchemy import delete, select, tuple_, update

from tests.oracle.story import RETRY_DELAY

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from uuid import UUID

    from airflow.models.taskinstancekey import TaskInstanceKey
    from sqlalchemy.orm import Session

    from tests.oracle.story import Story

ENDS = ("success", "failed", "skipped", "retry", "reschedule", "defer", "killed", "lost", "stale")
"""How a try may end.

``success``, ``failed``, ``skipped``: written by the worker. ``retry``: it failed and may be repeated.
``reschedule``, ``defer``: the worker leaves, the task goes on later. ``killed``: the worker dies, the
executor reports a failure that the database does not know of. ``lost``: the same before it was started.
``stale``: while it runs, the executor reports the end of the try before it once more; then it succeeds.
"""


@dataclass(frozen=True, slots=True)
class Held:
    """A try that an executor was given and that has not ended."""

    key: TaskInstanceKey
    ti_id: UUID
    ordinal: int
    """How often the executor was given this task instance before."""

    @property
    def place(self) -> tuple[Any, ...]:
        """Where it stands among the others."""
        return self.key.run_id, self.key.task_id, self.key.map_index, self.ordinal


class HeldExecutor(BaseExecutor):  # type: ignore[misc]
    """Keeps what it is given until somebody takes it. ``full`` closes it: no slot is free.

    ``given`` counts by key what it was given, ``again`` how often a task left and is to be given once more
    for the same try.
    """

    def __init__(self, parallelism: int = 32) -> None:
        super().__init__(parallelism=parallelism)
        self.full = False
        self.held: list[Held] = []
        self.given: Counter[TaskInstanceKey] = Counter()
        self.again: Counter[TaskInstanceKey] = Counter()
        self._times: Counter[tuple[Any, ...]] = Counter()

    def start(self) -> None:
        """Nothing to start."""

    def end(self) -> None:
        """Nothing to wait for."""

    @property
    def slots_available(self) -> int:
        """No slots while it is full."""
        return 0 if self.full else int(super().slots_available)

    def _process_workloads(self, workload_items: Any) -> None:
        for workload in workload_items:
            key = workload.ti.key
            self.queued_tasks.pop(key, None)
            self.running.add(key)
            self.given[key] += 1
            self.held.append(Held(key, workload.ti.id, self._times[key.primary]))
            self._times[key.primary] += 1

    def report(self, key: TaskInstanceKey, state: str) -> None:
        """Let the next look into the event buffer find *state* for *key*."""
        self.change_state(key, state)


class Workers:
    """The workers behind a :class:`HeldExecutor`. Its methods run in a session of the caller's."""

    def __init__(self, story: Story, executor: HeldExecutor) -> None:
        self.story = story
        """The story as it is now: its dag may get another version."""
        self._executor = executor
        self.deferred: list[Held] = []
        self._reported: set[Held] = set()

    def in_order(self) -> list[Held]:
        """Return what has not ended, deferred tasks included, in an order that is the same everywhere."""
        return sorted([*self._executor.held, *self.deferred], key=lambda held: held.place)

    def start_all(self, session: Session) -> None:
        """Let workers start what they hold and may start."""
        ids = [held.ti_id for held in self._executor.held if self._end(held) != "lost"]
        if ids:
            self._start(session, ids)

    def _start(self, session: Session, ids: Sequence[UUID]) -> None:
        now = timezone.utcnow()
        startable = TaskInstance.id.in_(ids), TaskInstance.state.in_(("queued", "restarting"))
        resuming = TaskInstance.next_method.is_not(None)
        for condition, values in (
            ((resuming,), {}),
            ((~resuming,), {"start_date": now}),
        ):
            session.execute(
                update(TaskInstance)
                .where(*startable, *condition)
                .values(state="running", end_date=None, pid=1, last_heartbeat_at=now, **values)
                .execution_options(synchronize_session=False)
            )

    def end(self, session: Session, held: Held) -> Callable[[], object]:
        """Let one try end as the story has it; return what is to be done when *session* has committed."""
        if held in self.deferred:
            self._resume(session, held)
            return lambda: self.deferred.remove(held)
        end = self._end(held)
        if end == "stale" and held not in self._reported:
            return lambda: self._report_earlier(held)
        if end != "lost":
            self._start(session, [held.ti_id])
        written = end in ("killed", "lost") or self._write(session, held, end)
        return lambda: self._leave(held, end, written)

    def _leave(self, held: Held, end: str, written: bool) -> None:
        """The worker is gone: the executor says how it left, and may be given the same try again."""
        self._executor.held.remove(held)
        if written and end == "defer":
            self.deferred.append(held)
        if written and end in ("defer", "reschedule"):
            self._executor.again[held.key] += 1
        left_well = written and end in ("success", "skipped", "stale", "defer", "reschedule")
        self._executor.report(held.key, "success" if left_well else "failed")

    def _report_earlier(self, held: Held) -> None:
        self._reported.add(held)
        earlier = held.key.with_try_number(held.key.try_number - 1)
        self._executor.running.add(earlier)
        self._executor.report(earlier, "failed" if held.ordinal % 2 else "success")

    def _end(self, held: Held) -> str:
        ends = self.story.work(held.key.task_id).ends
        ordinal = held.ordinal
        if held.key.map_index > 0 and ordinal < len(ends):
            ordinal = (ordinal + held.key.map_index) % len(ends)
        return ends[min(ordinal, len(ends) - 1)]

    def _write(self, session: Session, held: Held, end: str) -> bool:
        """Write the end unless the task instance is no longer this worker's; return whether it was."""
        ti = session.scalar(
            select(TaskInstance).where(TaskInstance.id == held.ti_id).with_for_update(of=TaskInstance)
        )
        if ti is None or ti.state != "running":
            return False
        ti.end_date = timezone.utcnow()
        if end == "defer":
            _defer(session, ti)
        elif end == "reschedule":
            _reschedule(session, ti)
        elif end == "retry" and ti.try_number <= ti.max_tries:
            ti.next_method, ti.next_kwargs = None, None
            ti.prepare_db_for_next_try(session)
            ti.state = "up_for_retry"
        else:
            ti.next_method, ti.next_kwargs = None, None
            ti.state = {"retry": "failed", "stale": "success"}.get(end, end)
            if ti.state == "success":
                self._return(session, ti)
        session.flush()
        return True

    def _resume(self, session: Session, held: Held) -> None:
        ti = session.scalar(
            select(TaskInstance).where(TaskInstance.id == held.ti_id).with_for_update(of=TaskInstance)
        )
        if ti is not None and ti.state == "deferred":
            handle_event_submit(TriggerEvent(None), task_instance=ti, session=session)
            session.flush()

    def _return(self, session: Session, ti: TaskInstance) -> None:
        """Store what a successful try returned, and what a branch decided."""
        work = self.story.work(ti.task_id)
        of_ti = {"dag_id": ti.dag_id, "task_id": ti.task_id, "run_id": ti.run_id, "map_index": ti.map_index}
        for table in (XComModel, TaskMap):
            session.execute(delete(table).filter_by(**of_ti))
        run = ti.dag_run
        if work.returned and (ti.map_index < 0 or ti.map_index < work.returned):
            session.add(XComModel(dag_run_id=run.id, key="return_value", value="x", **of_ti))
        if ti.map_index < 0:
            session.add(TaskMap(ti.dag_id, ti.task_id, ti.run_id, -1, work.returned, None))
        if work.kind == "branch" and work.skips:
            names = [self.story.task_id(n) for n in work.skips if n < len(self.story.works)]
            session.add(XComModel(dag_run_id=run.id, key="skipmixin_key", value={"skipped": names}, **of_ti))
            _skip(session, ti, names)


def _reschedule(session: Session, ti: TaskInstance) -> None:
    now = timezone.utcnow()
    session.add(TaskReschedule(ti.id, now, now, now + RETRY_DELAY))
    ti.next_method, ti.next_kwargs = None, None
    ti.state = "up_for_reschedule"


def _defer(session: Session, ti: TaskInstance) -> None:
    trigger = Trigger(classpath="story", kwargs={})
    session.add(trigger)
    session.flush()
    ti.state, ti.trigger_id, ti.next_method, ti.next_kwargs = "deferred", trigger.id, "execute", {}
    ti.end_date = None


def _skip(session: Session, ti: TaskInstance, task_ids: Sequence[str]) -> None:
    """``ti_skip_downstream`` of the execution API."""
    now = timezone.utcnow()
    skippable = TaskInstance.state.is_(None) | TaskInstance.state.not_in(("running", "success", "failed"))
    session.execute(
        update(TaskInstance)
        .where(
            TaskInstance.dag_id == ti.dag_id,
            TaskInstance.run_id == ti.run_id,
            tuple_(TaskInstance.task_id, TaskInstance.map_index).in_([(name, -1) for name in task_ids]),
            skippable,
        )
        .values(state="skipped", start_date=now, end_date=now)
        .execution_options(synchronize_session=False)
    )
