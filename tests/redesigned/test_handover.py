"""Runs with features that are not decided here end as Airflow's own code ends them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.callback import Callback
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, task, task_group
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select, update

from tests.redesigned.test_stages import REDESIGNED, run_states, states, take_turns
from tests.support.dags import EPOCH, create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from tests.support.postgres import Database


def _callback(_context: Any) -> None:
    return None


async def run_turns(turns: int = 8) -> dict[str, int]:
    """Let a scheduler's stages take turns; return what they counted."""
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        return await take_turns(assembly, turns)


async def test_a_dag_with_callbacks_is_closed_by_airflow_which_sends_them(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2, 1], on_success_callback=_callback))
    create_run("dag")
    counted = await run_turns()
    assert run_states() == ["success"]
    assert counted["schedule handed_over"] == 0
    with create_session() as session:
        assert len(session.scalars(select(Callback)).all()) == 1


async def test_a_run_that_timed_out_is_failed_by_airflow(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1, 1], dagrun_timeout=timedelta(seconds=1)))
    run = create_run("dag", state=DagRunState.RUNNING)
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.id == run.id).values(start_date=EPOCH))
    counted = await run_turns(2)
    assert run_states() == ["failed"]
    assert states() == {"skipped": 2}
    assert counted["schedule handed_over"] == 1


async def test_mapped_task_groups_are_expanded_by_airflow(airflow_db: Database) -> None:
    with DAG("dag", start_date=EPOCH, schedule=None) as dag:

        @task
        def inner(number: int) -> int:
            return number

        @task_group  # type: ignore[untyped-decorator]
        def group(number: int) -> None:
            inner(number)

        group.expand(number=[1, 2]) >> EmptyOperator(task_id="after")
    write_dags(dag)
    create_run("dag")
    counted = await run_turns()
    assert run_states() == ["success"]
    assert states() == {"success": 3}
    assert counted["schedule handed_over"] > 0


@pytest.mark.parametrize("in_dag", [True, False])
async def test_an_instance_of_a_task_that_left_the_dag_is_removed(airflow_db: Database, in_dag: bool) -> None:
    write_dags(layered_dag("dag", [1, 1]))
    run = create_run("dag", state=DagRunState.RUNNING)
    if not in_dag:
        with create_session() as session:
            session.execute(
                update(TaskInstance)
                .where(TaskInstance.run_id == run.run_id, TaskInstance.task_id == "l1_t0")
                .values(task_id="gone")
            )
    await run_turns()
    assert run_states() == ["success"]
    assert states() == ({"success": 2} if in_dag else {"success": 1, "removed": 1})


async def test_a_new_dag_version_is_checked_by_airflow_once(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "0")
    write_dags(layered_dag("dag", [1, 1]))
    create_run("dag", state=DagRunState.RUNNING)
    write_dags(layered_dag("dag", [1, 2]))
    counted = await run_turns()
    assert run_states() == ["success"]
    assert states() == {"success": 3}
    assert counted["schedule handed_over"] >= 1
