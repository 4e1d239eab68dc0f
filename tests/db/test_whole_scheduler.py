"""The whole scheduler in one process: every mode, end states as the stock scheduler's, clear failures."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.jobs.job import Job, JobState
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import TaskInstanceState
from sqlalchemy import select

from async_scheduler.errors import RoutineFailed
from async_scheduler.routines.upstream.schedule import ScheduleTaskInstances
from async_scheduler.settings import Mode, Settings
from tests.support.dags import create_run, layered_dag, scheduled_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import run_stock_until_idle, run_until_idle

if TYPE_CHECKING:
    from airflow.models.taskinstancekey import TaskInstanceKey

    from tests.support.postgres import Database, Server


def fail_one(key: TaskInstanceKey) -> TaskInstanceState:
    """The second task of the first layer fails in every second run, all else succeeds."""
    failing = key.task_id == "l0_t1" and int(key.run_id.rpartition("_")[2]) % 2
    return TaskInstanceState.FAILED if failing else TaskInstanceState.SUCCESS


class PartlyFailing(InstantExecutor):
    """Runs tasks by :func:`fail_one`."""

    script = staticmethod(fail_one)


def _write_workload() -> None:
    write_dags(*(layered_dag(f"dag_{number}", [3, 2, 3]) for number in range(3)))
    for dag in range(3):
        for run in range(4):
            create_run(f"dag_{dag}", run)


def _end_states() -> tuple[dict[Any, Any], dict[Any, Any]]:
    """Return the state of each run, and state and try number of each task instance."""
    ti = TaskInstance
    with create_session() as session:
        runs = session.execute(select(DagRun.dag_id, DagRun.run_id, DagRun.state))
        tis = session.execute(select(ti.dag_id, ti.run_id, ti.task_id, ti.state, ti.try_number))
        return {tuple(r[:2]): r[2] for r in runs}, {tuple(t[:3]): tuple(t[3:]) for t in tis}


@pytest.mark.parametrize("mode", ["concurrent", "sequential", "shared_session"])
def test_every_mode_ends_as_the_stock_scheduler_does(
    postgres: Server, airflow_db: Database, mode: Mode
) -> None:
    from tests.support.airflow_db import airflow_on

    _write_workload()
    executor = PartlyFailing()
    run_until_idle([executor], Settings(mode=mode, executor_poll_interval=0.02))
    ours = _end_states()
    with postgres.clone() as other, airflow_on(other):
        _write_workload()
        run_stock_until_idle([PartlyFailing()])
        stock = _end_states()
    assert ours == stock
    assert set(executor.runs.values()) == {1}
    assert executor.unqueued == []
    assert executor.ended


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_both_event_loops(airflow_db: Database, loop: Any) -> None:
    write_dags(layered_dag("dag", [2]))
    create_run("dag")
    run_until_idle([InstantExecutor()], Settings(event_loop=loop, executor_poll_interval=0.02))
    assert {state for state, _ in _end_states()[1].values()} == {TaskInstanceState.SUCCESS}


def test_due_dags_get_their_runs_created_started_and_finished(airflow_db: Database) -> None:
    dag = layered_dag("dag", [2, 1])
    dag_due = scheduled_dag("due")
    write_dags(dag, dag_due)
    run_until_idle([InstantExecutor()])
    runs, tis = _end_states()
    assert [key[0] for key in runs] == ["due"]
    assert {state for state, _ in tis.values()} == {TaskInstanceState.SUCCESS}


def test_error_in_a_routine_ends_the_scheduler_and_marks_the_job(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(self: Any) -> None:
        raise ValueError("planted")

    monkeypatch.setattr(ScheduleTaskInstances, "run_once", broken)
    executor = InstantExecutor()
    with pytest.raises(RoutineFailed, match="Routine 'schedule' failed: ValueError: planted"):
        run_until_idle([executor])
    with create_session() as session:
        assert session.scalars(select(Job.state)).one() == JobState.FAILED
    assert executor.ended, "executors are ended all the same"


def test_job_looks_like_any_schedulers(airflow_db: Database) -> None:
    runner = run_until_idle([InstantExecutor()])
    with create_session() as session:
        job = session.scalars(select(Job)).one()
        assert (job.job_type, job.state) == ("SchedulerJob", JobState.SUCCESS)
        assert job.end_date is not None
        assert job.id == runner.job.id
