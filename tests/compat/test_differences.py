"""Where a test that was written for Airflow's runner sees a difference, as docs/compat.md says."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import select

from tests.compat.rows import RUNNERS, chain, new_runner
from tests.support.dags import EPOCH, create_run, write_dags

pytestmark = pytest.mark.usefixtures("any_db")


def on_each(call: Any) -> list[Any]:
    """Return what *call* sees on Airflow's runner and on the facade; each time it is taken back."""
    seen = []
    for kind in RUNNERS:
        runner = new_runner(kind)
        with create_session() as session:
            seen.append(call(runner, session))
            session.rollback()
    return seen


def test_a_visit_goes_to_its_fix_point() -> None:
    """Empty tasks succeed level by level and the run ends, in one call instead of one for each level."""
    with DAG("empty", start_date=EPOCH, schedule=None) as dag:
        EmptyOperator(task_id="a") >> EmptyOperator(task_id="b")
    write_dags(dag)
    create_run("empty", state=DagRunState.RUNNING)

    def call(runner: Any, session: Any) -> Any:
        run = session.scalars(select(DagRun)).one()
        runner._schedule_dag_run(run, session)
        session.flush()
        states = session.scalars(select(TaskInstance.state).order_by(TaskInstance.task_id)).all()
        return run.state, list(states)

    assert on_each(call) == [("running", ["success", None]), ("success", ["success", "success"])]


def test_one_dags_queue_does_not_fill_the_window() -> None:
    """More queued runs than the window holds, of a dag that may run one: the other dag starts as well."""
    write_dags(chain("crowd", "a", max_active_runs=1), chain("other", "a"))
    for number in range(DagRun.DEFAULT_DAGRUNS_TO_EXAMINE + 1):
        create_run("crowd", number)
    create_run("other", 99)

    def call(runner: Any, session: Any) -> Any:
        runner._start_queued_dagruns(session)
        session.flush()
        return sorted(session.scalars(select(DagRun.dag_id).where(DagRun.state == DagRunState.RUNNING)))

    assert on_each(call) == [["crowd"], ["crowd", "other"]]


def test_a_section_goes_on_after_a_batch_that_did_not_fit() -> None:
    """Two are wanted; of the best two one does not fit its pool, and the third takes its place."""
    write_dags(chain("dag", "first", "second", "third"))
    create_run("dag", state=DagRunState.RUNNING)
    with create_session() as session:
        session.add(Pool(pool="small", slots=1, include_deferred=False))
        for ti in session.scalars(select(TaskInstance)):
            ti.state = TaskInstanceState.SCHEDULED
            ti.priority_weight = {"first": 9, "second": 5, "third": 1}[ti.task_id]
            if ti.task_id == "first":
                ti.pool, ti.pool_slots = "small", 2

    def call(runner: Any, session: Any) -> Any:
        chosen = runner._executable_task_instances_to_queued(max_tis=2, session=session)
        return [ti.task_id for ti in chosen]

    assert on_each(call) == [["second"], ["second", "third"]]
