"""Mapped tasks are expanded into the rows that Airflow makes."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskmap import TaskMap
from airflow.sdk import DAG, task
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import func, select, update

from async_scheduler.routines.redesigned.next_visits import LONGEST_REST
from async_scheduler.routines.redesigned.wide_maps import AHEAD
from tests.oracle.test_critical_section import clear
from tests.redesigned.test_stages import REDESIGNED, states
from tests.support.blocking import nothing_blocks
from tests.support.dags import EPOCH, create_run, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    from async_scheduler.settings import Algorithm
    from tests.support.postgres import Database

OWN = {"id", "updated_at", "scheduled_dttm", "context_carrier", "dag_version_id"}


def store(length: int | None) -> None:
    """Store a running run whose source returned *length* values, and a task mapped over them."""
    with DAG("dag", start_date=EPOCH, schedule=None) as dag:

        @task
        def source() -> list[int]:
            return []

        @task(retries=2, queue="q", pool_slots=2, executor_config={"key": "value"})  # type: ignore[untyped-decorator]
        def mapped(number: int) -> int:
            return number

        mapped.expand(number=source())
    write_dags(dag)
    run = create_run("dag", state=DagRunState.RUNNING)
    with create_session() as session:
        done = {"state": "success", "start_date": EPOCH, "end_date": EPOCH}
        session.execute(update(TaskInstance).where(TaskInstance.task_id == "source").values(done))
        if length is not None:
            session.add(TaskMap("dag", "source", run.run_id, -1, length, None))


async def settle(algorithm: Algorithm) -> int:
    """Let start, sweep and schedule pass until nothing changes; return how many runs were handed over."""
    settings = REDESIGNED if algorithm == "redesigned" else FAST
    async with assembled(InstantExecutor(), settings=settings) as assembly:
        handed_over = 0
        for _ in range(6):
            for name in ("sweep", "schedule"):
                if driver := assembly.supervisor.drivers.get(name):
                    with nothing_blocks():
                        outcome = await driver.routine.run_once()
                    handed_over += outcome.counts.get("handed_over", 0)
                    if outcome.due_in is not None and timedelta(seconds=outcome.due_in) <= LONGEST_REST:
                        await asyncio.sleep(outcome.due_in)
        return handed_over


def rows() -> list[dict[str, Any]]:
    """Return the task instances without what differs between two expansions."""
    table = TaskInstance.__table__
    with create_session() as session:
        found = session.execute(select(table).order_by(table.c.task_id, table.c.map_index)).mappings()
        return [{name: value for name, value in row.items() if name not in OWN} for row in found]


@pytest.mark.parametrize("length", [None, 0, 1, 3])
async def test_rows_equal_those_of_airflow(airflow_db: Database, length: int | None) -> None:
    store(length)
    await settle("upstream")
    expected = rows()
    clear()
    store(length)
    assert await settle("redesigned") == 0
    assert rows() == expected


async def test_a_wide_map_is_expanded_at_once_and_scheduled_in_portions(airflow_db: Database) -> None:
    wide = AHEAD + 1000
    store(wide)
    assert await settle("redesigned") == 0
    assert states() == {"success": 1, "scheduled": AHEAD, "None": 1000}
    with create_session() as session:
        in_order = (
            select(TaskInstance.map_index)
            .where(TaskInstance.task_id == "mapped")
            .order_by(TaskInstance.map_index)
        )
        assert list(session.scalars(in_order)) == list(range(wide))
        versions = select(func.count(TaskInstance.dag_version_id.distinct()))
        assert session.scalar(versions) == 1
        # Those of the lowest indexes, which the critical section takes first.
        ready = in_order.where(TaskInstance.state == "scheduled")
        assert list(session.scalars(ready)) == list(range(AHEAD))
        some = TaskInstance.map_index.between(0, 299)
        session.execute(update(TaskInstance).where(some).values(state="queued"))
    assert await settle("redesigned") == 0
    assert states() == {"success": 1, "queued": 300, "scheduled": AHEAD, "None": 700}


async def test_a_shrunken_map_is_left_to_airflow(airflow_db: Database) -> None:
    store(3)
    await settle("redesigned")
    with create_session() as session:
        session.execute(update(TaskMap).values(length=2))
        session.execute(
            update(TaskInstance).where(TaskInstance.task_id == "mapped").values(state=None, try_number=0)
        )
    assert await settle("redesigned") > 0
    assert states() == {"success": 1, "scheduled": 2, "removed": 1}
