"""Examines running dag runs: which of their task instances may run, which runs have ended."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow._shared.timezones import timezone
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.sqlalchemy import CommitProhibitorGuard, prohibit_commit
from airflow.utils.state import State, TaskInstanceState
from sqlalchemy import event
from sqlalchemy.exc import DBAPIError

from async_scheduler.database.transaction import Sessions, transaction
from async_scheduler.driver.routine import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airflow.callbacks.callback_requests import DagCallbackRequest
    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import ORMExecuteState, Session


@dataclass(frozen=True, slots=True)
class Examined:
    """What one window held: runs, when the longest unexamined was looked at, changes.

    ``scheduled`` – task instances made SCHEDULED; ``flagged`` – given any other state, or created;
    ``ended`` – runs that ended.
    """

    runs: int
    oldest: datetime | None
    scheduled: int
    flagged: int
    ended: int

    @property
    def progressed(self) -> bool:
        """Whether anything was changed."""
        return self.scheduled > 0 or self.flagged > 0 or self.ended > 0


class Parts:
    """Cuts what Airflow selects into parts, each examined in a transaction of its own.

    Airflow selects in an order in which some runs come first again and again: those of backfills after all
    others, and those that it cannot examine before all others. So a part has none that another part of the
    same turn had, whatever became of it. A turn is over when all that is selected has been in a part. It is
    followed by another one if it has changed anything, as what was looked at first may be out of date.

    :param most: how many runs a part has at most.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._before: set[int] = set()
        self._part: set[int] = set()
        self._is_last = True
        self._progressed = False

    def choose(self, selected: Iterable[DagRun]) -> list[DagRun]:
        """Return the next part. If its transaction fails, it is chosen again."""
        left = [run for run in selected if run.id not in self._before]
        part = left[: self._most]
        self._part = {run.id for run in part}
        self._is_last = len(left) <= self._most
        return part

    def follow(self, *, progressed: bool) -> bool:
        """Note that the part has been examined; return whether another one has to be at once."""
        self._progressed |= progressed
        self._before |= self._part
        if not self._is_last:
            return True
        again, self._progressed = self._progressed, False
        self._before.clear()
        return again


class ScheduleTaskInstances:
    """Mirrors the middle of ``SchedulerJobRunner._do_scheduling``.

    Locks: ``dag_run`` NO KEY UPDATE SKIP LOCKED (a window of 20), then UPDATEs of their task instances and of
    ``dag.exceeds_max_non_backfill`` that wait, until one commit.

    :param most: how many runs one transaction examines at most, of those that Airflow selects; None for all.
        Only where no rows are locked.
    """

    name = "schedule"

    def __init__(self, scheduler: SchedulerJobRunner, sessions: Sessions, most: int | None = None) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._parts = Parts(most) if most else None
        self._asked_at = timezone.utcnow()
        self._examining_all = False

    async def run_once(self) -> Outcome:
        """Examine one window of runs; report runs examined and task instances changed.

        The window holds the runs that were not looked at for the longest time. After a wake-up windows
        follow each other until every run has been looked at since.
        """
        if not self._examining_all:
            self._asked_at = timezone.utcnow()
        async with transaction(self._sessions) as tx:
            seen = await tx.run(self._schedule, tx.sync_session)
        if self._parts is not None:
            self._examining_all = self._parts.follow(progressed=seen.progressed)
        else:
            full_window = seen.runs >= DagRun.DEFAULT_DAGRUNS_TO_EXAMINE
            self._examining_all = full_window and (seen.oldest is None or seen.oldest < self._asked_at)
        return Outcome(
            {
                "examined": seen.runs,
                "scheduled": seen.scheduled,
                "flagged": seen.flagged,
                "ended": seen.ended,
            },
            progressed=seen.progressed,
            # A state flagged in this pass is seen by the downstream tasks in the next one only.
            more=self._examining_all or seen.flagged > 0,
            wakes=("enqueue", "start", "create") if seen.ended else ("enqueue",),
        )

    def _schedule(self, session: Session) -> Examined:
        selected = DagRun.get_running_dag_runs_to_examine(session=session)
        runs = list(selected) if self._parts is None else self._parts.choose(selected)
        oldest = _oldest_decision(runs)
        self._scheduler._stamp_team_names(runs, session)
        changes = examine_and_send(self._scheduler, runs, session)
        ended = sum(run.state in State.finished_dr_states for run in runs)
        return Examined(len(runs), oldest, changes.scheduled, changes.flagged, ended)


class CommitLeftToTheCaller(CommitProhibitorGuard):  # type: ignore[misc]  # Airflow is untyped here
    """Where Airflow's code would commit, it only writes."""

    def commit(self) -> None:
        """Flush."""
        self.session.flush()


def examine_and_send(
    scheduler: SchedulerJobRunner, runs: Sequence[DagRun], session: Session
) -> ChangedTaskInstances:
    """Let ``_schedule_all_dag_runs`` examine *runs*, and write the dag callbacks of those that end.

    In the caller's transaction: a run's end and its callback are both there or neither is. Airflow commits
    the end first, so that whoever runs the callback finds it; what is lost in between is not sent any more.
    """
    changes = ChangedTaskInstances(session)
    with prohibit_commit(session), changes:
        # Logs what a run's own dag raises and goes on.
        callbacks = scheduler._schedule_all_dag_runs(CommitLeftToTheCaller(session), runs, session)
    for dag_run, callback in callbacks:
        if callback is not None:
            _send(scheduler, dag_run, callback, session)
    return changes


def _send(
    scheduler: SchedulerJobRunner, dag_run: DagRun, callback: DagCallbackRequest, session: Session
) -> None:
    try:
        dag = scheduler.scheduler_dag_bag.get_dag_for_run(dag_run=dag_run, session=session)
        if dag:
            scheduler._send_dag_callbacks_to_processor(dag, callback)
        else:
            scheduler.log.error("DAG '%s' not found in serialized_dag table", dag_run.dag_id)
    except DBAPIError:
        raise
    # The run would never end if it were rolled back for this.
    except Exception:
        scheduler.log.exception(
            "The callback of DAG run %s of %s is not sent", dag_run.run_id, dag_run.dag_id
        )


def _oldest_decision(runs: Iterable[Any]) -> datetime | None:
    """Return when the longest-unexamined of *runs* was looked at; None if never, or without runs."""
    decisions = [run.last_scheduling_decision for run in runs]
    return None if not decisions or None in decisions else min(decisions)


class ChangedTaskInstances:
    """Counts the task instances that are given a state while it is active."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.scheduled = 0
        self.flagged = 0

    def __enter__(self) -> None:
        event.listen(self._session, "do_orm_execute", self._on_execute)
        event.listen(self._session, "before_flush", self._on_flush)

    def __exit__(self, *_: object) -> None:
        event.remove(self._session, "do_orm_execute", self._on_execute)
        event.remove(self._session, "before_flush", self._on_flush)

    def _on_execute(self, state: ORMExecuteState) -> Any:
        mapper = state.bind_mapper
        if not state.is_update or mapper is None or mapper.class_ is not TaskInstance:
            return None
        result: Any = state.invoke_statement()
        statement: Any = state.statement
        if statement.compile().params.get("state") == TaskInstanceState.SCHEDULED:
            self.scheduled += max(0, result.rowcount)
        else:
            self.flagged += max(0, result.rowcount)
        return result

    def _on_flush(self, session: Session, _context: Any, _instances: Any) -> None:
        self.flagged += sum(isinstance(o, TaskInstance) for o in (*session.new, *session.dirty))
