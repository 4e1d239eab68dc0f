"""Runs created in bulk are those that Airflow creates."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import delete, select, update

from tests.redesigned.test_stages import REDESIGNED
from tests.support.blocking import nothing_blocks
from tests.support.dags import EPOCH, create_run, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    from tests.support.postgres import Database

OWN_RUN = {"id", "queued_at", "created_at", "updated_at", "context_carrier", "creating_job_id"}
OWN_INSTANCE = {"id", "updated_at", "context_carrier"}


def scheduled_dag(dag_id: str, **options: Any) -> DAG:
    """Return a daily dag with all kinds of task options, and a map over a literal."""
    with DAG(
        dag_id, start_date=EPOCH, schedule=timedelta(days=1), catchup=True, max_active_runs=3, **options
    ) as dag:
        first = EmptyOperator(task_id="first", priority_weight=3, retries=2, queue="q", pool_slots=2)
        last = EmptyOperator(task_id="last", weight_rule="upstream", executor_config={"key": ["value"]})
        EmptyOperator(task_id="later", start_date=EPOCH + timedelta(days=1), weight_rule="absolute")
        EmptyOperator(task_id="earlier", end_date=EPOCH)

        @task
        def mapped(number: int) -> int:
            return number

        first >> mapped.expand(number=[1, 2, 3]) >> last
        mapped.override(task_id="over_result").expand(number=mapped.override(task_id="source")(1))
    return dag


def snapshot() -> tuple[list[dict[str, Any]], list[dict[str, Any]], list[dict[str, Any]]]:
    """Return runs, task instances and dags, without what differs from one creation to the next."""
    run, instance, dag = DagRun.__table__, TaskInstance.__table__, DagModel.__table__
    with create_session() as session:
        runs = session.execute(select(run).order_by(run.c.dag_id, run.c.run_id)).mappings()
        order = (instance.c.dag_id, instance.c.run_id, instance.c.task_id, instance.c.map_index)
        instances = session.execute(select(instance).order_by(*order)).mappings()
        dags = session.execute(select(dag).order_by(dag.c.dag_id)).mappings()
        return (
            [{key: value for key, value in row.items() if key not in OWN_RUN} for row in runs],
            [{key: value for key, value in row.items() if key not in OWN_INSTANCE} for row in instances],
            [
                {
                    key: value
                    for key, value in row.items()
                    if key.startswith("next_") or key == "exceeds_max_non_backfill"
                }
                for row in dags
            ],
        )


def undo() -> None:
    """Delete all runs and let the dags be due again from the start."""
    with create_session() as session:
        session.execute(delete(TaskInstance))
        session.execute(delete(DagRun))


async def create_until_done(algorithm: Any) -> int:
    """Let the create stage pass until it creates nothing; return how many runs it created."""
    settings = REDESIGNED if algorithm == "redesigned" else FAST
    created = 0
    async with assembled(InstantExecutor(), settings=settings) as assembly:
        routine = assembly.supervisor.drivers["create"].routine
        while True:
            with nothing_blocks():
                outcome = await routine.run_once()
            created += outcome.counts.get("created", 0)
            if not outcome.more:
                return created


@pytest.mark.parametrize(
    "options", [{}, {"is_paused_upon_creation": False, "disable_bundle_versioning": True}]
)
async def test_rows_equal_those_of_airflow(airflow_db: Database, options: dict[str, Any]) -> None:
    dags = [scheduled_dag("one", **options), scheduled_dag("two", **options)]
    write_dags(*dags)
    due = snapshot()[2]
    assert await create_until_done("upstream") == 6
    expected = snapshot()
    undo()
    with create_session() as session:
        for dag, values in zip(("one", "two"), due, strict=True):
            session.execute(update(DagModel.__table__).where(DagModel.dag_id == dag).values(values))
    assert await create_until_done("redesigned") == 6
    created = snapshot()
    assert created[0] == expected[0]
    assert created[1] == expected[1]
    assert created[2] == expected[2]


async def test_task_instances_carry_a_child_of_their_runs_trace(airflow_db: Database) -> None:
    write_dags(scheduled_dag("one"))
    await create_until_done("redesigned")
    with create_session() as session:
        for instance in session.scalars(select(TaskInstance)):
            assert (
                instance.context_carrier["traceparent"].split("-")[1]
                == (instance.dag_run.context_carrier["traceparent"].split("-")[1])
            )


async def test_a_timetable_that_stands_still_does_not_stop_the_loop(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run that is due exists, and the timetable names it again and again; Airflow asks once a pass."""
    write_dags(scheduled_dag("moves"), scheduled_dag("stands"))
    create_run("stands", state=DagRunState.SUCCESS)
    calculate, asked = DagModel.calculate_dagrun_date_fields, 0

    def stand_still(model: DagModel, **arguments: Any) -> None:
        nonlocal asked
        asked += model.dag_id == "stands"
        if model.dag_id == "moves":
            calculate(model, **arguments)
        elif asked > 100:
            raise RuntimeError("without end")

    monkeypatch.setattr(DagModel, "calculate_dagrun_date_fields", stand_still)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        outcome = await assembly.supervisor.drivers["create"].routine.run_once()
    assert outcome.counts["created"] == 3
    assert asked == 1
