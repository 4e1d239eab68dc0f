"""Airflow's own examination of runs as a routine: how many in one transaction."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import func, select

from async_scheduler.routines.upstream.schedule import ScheduleTaskInstances
from async_scheduler.settings import Settings
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from tests.support.postgres import Database

NAIVE = Settings(algorithm="upstream", event_loop="asyncio")
RUNS = 5


@pytest.mark.parametrize(("window", "most"), [(2, 2), (None, RUNS), (1000, RUNS)])
async def test_a_window_smaller_than_airflows_reaches_every_run(
    airflow_db: Database, window: int | None, most: int
) -> None:
    write_dags(layered_dag("dag", [1]))
    for number in range(RUNS):
        create_run("dag", number, state=DagRunState.RUNNING)
    async with assembled(InstantExecutor(), settings=NAIVE) as assembly:
        schedule = ScheduleTaskInstances(assembly._scheduler, assembly._sessions, window)
        examined, more = [], True
        while more:
            outcome = await schedule.run_once()
            examined.append(outcome.counts["examined"])
            more = outcome.more
    assert max(examined) == most
    assert len(examined) <= RUNS
    with create_session() as session:
        unseen = select(func.count()).where(DagRun.last_scheduling_decision.is_(None))
        assert session.scalar(unseen) == 0
