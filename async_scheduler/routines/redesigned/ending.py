"""What else happens when a run ends: listeners, log lines, metrics, the span, the pause after failures."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.utils.state import DagRunState
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm.attributes import set_committed_value

from async_scheduler.database.transaction import effects_at_once
from async_scheduler.decide.verdict import Verdict
from async_scheduler.routines.redesigned.writing import write_ends
from async_scheduler.store.instances import first_start_dates
from async_scheduler.store.unlocked import end_unless_changed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session

    from async_scheduler.database.fence import Fence
    from async_scheduler.database.transaction import Transaction
    from async_scheduler.routines.redesigned.visiting import Visited

log = logging.getLogger("airflow.models.dagrun.DagRun")
"""Airflow's own logger for these lines, some of which tools parse."""

FINISHED_LINE = (
    "DagRun Finished: dag_id=%s, logical_date=%s, run_id=%s, "
    "run_start_date=%s, run_end_date=%s, run_duration=%s, "
    "state=%s, run_type=%s, "
    "data_interval_start=%s, data_interval_end=%s,"
)


async def end_runs(
    tx: Transaction, ended: Sequence[Visited], now: datetime, scheduler: SchedulerJobRunner
) -> None:
    """End the runs of *ended* and do what ``DagRun.update_state`` does then.

    For dags without callbacks and deadlines. Listeners are called after the commit.

    :raises LostRace: when one is no longer running.
    """
    if not ended:
        return
    await write_ends(tx.session, ended, now)
    by_id = {one.run.id: one for one in ended}
    starts = await first_start_dates(tx.session, [one.run.id for one in ended if _is_delay_measured(one)])
    written = {"populate_existing": True}  # past the objects that the session may hold
    found = await tx.session.scalars(select(DagRun).where(DagRun.id.in_(by_id)), execution_options=written)
    dag_runs = found.all()
    await tx.run(scheduler._stamp_team_names, dag_runs, tx.sync_session)
    announced = [(by_id[dag_run.id], dag_run, starts.get(dag_run.id)) for dag_run in dag_runs]
    await tx.run(_announce_all, announced, tx.sync_session)


def ends_by_itself(one: Visited) -> bool:
    """Whether the run is over, and nothing else has to be written with its end."""
    verdict, plan = one.outcome.verdict, one.compiled.plan
    if verdict is None or plan.closes_upstream:
        return False
    changes = one.outcome.scheduled or one.outcome.emptied or one.outcome.flagged or one.outcome.expanded
    pauses = verdict is Verdict.FAILED and plan.max_consecutive_failed_runs > 0
    return not changes and not pauses


async def end_unlocked(
    tx: Transaction, over: Sequence[Visited], versions: Mapping[int, str], fence: Fence, now: datetime
) -> list[Visited]:
    """End those of the runs *over* that are as they were read, and do what :func:`end_runs` does then.

    For runs that :func:`ends_by_itself` holds for, on a connection that commits by itself. Listeners are
    called at once.

    :param versions: of the row of each run.
    :raises SchedulerFenced: when others have declared this scheduler dead; nothing has ended then.
    """
    by_id = {one.run.id: one for one in over}
    verdicts = [(run, versions[run], _state_of(one)) for run, one in by_id.items()]
    with fence.looking() as look:
        ended = await end_unless_changed(tx.session, verdicts, fence.job, now)
        look.state = ended.job_state
    announced = [(by_id[dag_run.id], dag_run, started) for dag_run, started in ended.runs]
    with effects_at_once(tx.sync_session):
        await tx.run(_announce_all, announced, tx.sync_session)
    tx.sync_session.expunge_all()  # kept, it would keep them too
    return [one for one, _, _ in announced]


def _state_of(one: Visited) -> str:
    assert one.outcome.verdict is not None
    return one.outcome.verdict.run_state


def _is_delay_measured(one: Visited) -> bool:
    return one.run.run_type == "scheduled" and one.run.clear_number == 0


def _announce_all(ended: Sequence[tuple[Visited, DagRun, datetime | None]], session: Session) -> None:
    for one, dag_run, first_start in ended:
        try:
            _announce(dag_run, one, first_start, session)
        except DBAPIError:
            raise
        # As in _schedule_all_dag_runs: what one run's end raises is logged, the others go on.
        except Exception:
            log.exception("Error scheduling DAG run %s of %s", one.run.run_id, one.run.dag_id)


def _announce(dag_run: Any, one: Visited, first_start: datetime | None, session: Any) -> None:
    verdict = one.outcome.verdict
    assert verdict is not None
    dag_run.dag = one.compiled.dag
    # The row is written already. Airflow logs its verdict while the object still says running.
    set_committed_value(dag_run, "_state", DagRunState.RUNNING)
    _log_verdict(dag_run, verdict)
    set_committed_value(dag_run, "_state", DagRunState(verdict.run_state))
    dag_run.notify_dagrun_state_changed(msg=verdict.value)
    if verdict is Verdict.FAILED and one.compiled.plan.max_consecutive_failed_runs > 0:
        dag_run._check_last_n_dagruns_failed(
            one.run.dag_id, one.compiled.plan.max_consecutive_failed_runs, session
        )
    _log_finished(dag_run)
    dag_run._emit_dagrun_span(state=dag_run.state)
    measured = [] if first_start is None else [SimpleNamespace(start_date=first_start)]
    dag_run._emit_true_scheduling_delay_stats_for_finished_state(measured)
    dag_run._emit_duration_stats_for_finished_state()


def _log_verdict(dag_run: Any, verdict: Verdict) -> None:
    if verdict is Verdict.DEADLOCKED:
        log.error("Task deadlock (no runnable tasks); marking run %s failed", dag_run)
    else:
        log.info("Marking run %s %s", dag_run, "successful" if verdict is Verdict.SUCCESS else "failed")


def _log_finished(dag_run: Any) -> None:
    if not log.isEnabledFor(logging.INFO):
        return
    start, end = dag_run.start_date, dag_run.end_date
    log.info(
        FINISHED_LINE,
        dag_run.dag_id,
        dag_run.logical_date,
        dag_run.run_id,
        start,
        end,
        (end - start).total_seconds() if start and end else None,
        dag_run._state,
        dag_run.run_type,
        dag_run.data_interval_start,
        dag_run.data_interval_end,
    )
