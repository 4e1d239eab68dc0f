"""Rows that raise when they are looked at: their run is left to Airflow's code, the others go on."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from airflow.models.callback import CallbackFetchMethod, ExecutorCallback
from airflow.models.taskinstance import TaskInstance
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.bash import BashOperator
from airflow.providers.standard.operators.latest_only import LatestOnlyOperator
from airflow.sdk import DAG
from airflow.sdk.definitions.callback import SyncCallback
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select, update

from tests.redesigned.test_stages import REDESIGNED
from tests.support.dags import EPOCH, create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from tests.support.postgres import Database


def _notify() -> None:
    """What a missed deadline calls."""


def _states(dag_id: str) -> list[str | None]:
    with create_session() as session:
        query = select(TaskInstance.state).where(TaskInstance.dag_id == dag_id).order_by(TaskInstance.task_id)
        return list(session.scalars(query))


async def _visit_all(runs: list[int]) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert assembly.redesigned is not None
        assembly.redesigned.dirty.mark(runs)
        await assembly.redesigned.schedule.run_once()  # reads the dags
        await assembly.redesigned.schedule.run_once()


async def test_a_retry_beyond_the_end_of_time_concerns_its_own_run_only(
    airflow_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with DAG("never", schedule=None, start_date=EPOCH) as never:
        BashOperator(task_id="task", bash_command="false", retries=1, retry_delay=timedelta(days=3_650_000))
    write_dags(never, layered_dag("good", [1]))
    runs = [create_run(name, state=DagRunState.RUNNING).id for name in ("never", "good")]
    with create_session() as session:
        session.execute(
            update(TaskInstance)
            .where(TaskInstance.dag_id == "never")
            .values(state="up_for_retry", try_number=1, end_date=datetime.now(UTC))
        )
    await _visit_all(runs)
    assert (_states("never"), _states("good")) == (["up_for_retry"], ["scheduled"])
    assert "Cannot decide DAG run" in caplog.text


async def test_a_skip_decision_that_cannot_be_read_concerns_its_own_run_only(
    airflow_db: Database, caplog: pytest.LogCaptureFixture
) -> None:
    with DAG("odd", schedule=None, start_date=EPOCH) as odd:
        first = LatestOnlyOperator(task_id="a_first")
        first >> BashOperator(task_id="b_second", bash_command="true")
    write_dags(odd, layered_dag("good", [1]))
    run, other = (create_run(name, state=DagRunState.RUNNING) for name in ("odd", "good"))
    unknown = {"__classname__": "nobody.knows.This", "__version__": 1, "__data__": 1}
    with create_session() as session:
        session.execute(update(TaskInstance).where(TaskInstance.task_id == "a_first").values(state="success"))
        session.add(
            XComModel(
                dag_run_id=run.id,
                task_id="a_first",
                run_id=run.run_id,
                dag_id="odd",
                key="skipmixin_key",
                value=json.dumps(unknown),
                map_index=-1,
            )
        )
    await _visit_all([run.id, other.id])
    assert (_states("odd"), _states("good")) == (["success", None], ["scheduled"])
    assert "Cannot decide DAG run" in caplog.text


@pytest.mark.filterwarnings("ignore:fully NULL primary key:sqlalchemy.exc.SAWarning")
async def test_a_callback_without_the_number_of_its_run_is_passed_over(airflow_db: Database) -> None:
    callback = ExecutorCallback(SyncCallback(_notify), CallbackFetchMethod.IMPORT_PATH)
    callback.state = "pending"
    callback.data = {**callback.data, "dag_run_id": None, "deadline_id": "x", "dag_id": "dag"}
    executor = InstantExecutor()
    executor.supports_callbacks = True
    with create_session() as session:
        session.add(callback)
    async with assembled(executor, settings=REDESIGNED) as assembly:
        await assembly.supervisor.drivers["executor_callbacks"].routine.run_once()
    with create_session() as session:
        assert session.scalars(select(ExecutorCallback.state)).all() == ["pending"]
