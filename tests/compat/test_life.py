"""A dag's whole life, driven through the private methods of Airflow's runner."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.jobs.job import Job
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select

from async_scheduler.compat import SyncFacadeRunner
from tests.support.dags import create_run, layered_dag, scheduled_dag, write_dags
from tests.support.executor import InstantExecutor

RUNNERS = [SchedulerJobRunner, SyncFacadeRunner]


def new_runner(kind: Any, executor: Any) -> Any:
    """Return a runner whose job is in the database."""
    with create_session() as session:
        job = Job(job_type="SchedulerJob")
        session.add(job)
    return kind(job=job, executors=[executor])


@pytest.mark.parametrize("kind", RUNNERS)
def test_rounds_bring_a_run_to_its_end(any_db: str, kind: Any) -> None:
    """As many rounds as it takes: creation, start, three layers, the end."""
    write_dags(layered_dag("layers", [1, 2, 1]), scheduled_dag("due"))
    create_run("layers")
    executor = InstantExecutor(parallelism=8)
    runner = new_runner(kind, executor)
    for _ in range(12):
        with create_session() as session:
            runner._do_scheduling(session)
        executor.heartbeat()
        with create_session() as session:
            runner._process_executor_events(executor=executor, session=session)
    with create_session() as session:
        states = session.execute(select(DagRun.dag_id, DagRun.state)).all()
        instances = session.scalars(select(TaskInstance)).all()
        assert sorted(map(tuple, states)) == [("due", "success"), ("layers", "success")]
        assert {(ti.state, ti.try_number) for ti in instances} == {("success", 1)}
    assert not executor.unqueued
