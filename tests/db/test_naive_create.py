"""Airflow's own creation as a routine: when it looks again."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING

from airflow.models.dag import DagModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.utils.session import create_session
from sqlalchemy import select

from async_scheduler.settings import Settings
from tests.support.dags import EPOCH, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from tests.support.postgres import Database

NAIVE = Settings(algorithm="upstream", event_loop="asyncio", executor_poll_interval=0.4)


async def test_dags_whose_rows_somebody_holds_are_looked_at_again_soon(airflow_db: Database) -> None:
    with DAG(
        "dag",
        start_date=EPOCH,
        end_date=EPOCH + timedelta(days=1),
        schedule=timedelta(days=1),
        catchup=True,
    ) as dag:
        EmptyOperator(task_id="task")
    write_dags(dag)
    async with assembled(InstantExecutor(), settings=NAIVE) as assembly:
        create = assembly.supervisor.drivers["create"].routine
        first = await create.run_once()
        assert (first.counts, first.more) == ({"created": 1}, True)
        with create_session(scoped=False) as processor:
            processor.execute(select(DagModel.dag_id).with_for_update())
            waits = [(await create.run_once()).due_in for _ in range(4)]
            assert waits == [0.4, 0.8, None, None]
        second = await create.run_once()
        assert (second.counts, second.more) == ({"created": 1}, True)
        nothing_due = await create.run_once()
        assert (nothing_due.progressed, nothing_due.more, nothing_due.due_in) == (False, False, None)
