"""Each routine once against a real database, with nothing blocking the event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import pytest

from async_scheduler.routines.timers import TIMERS
from tests.support.blocking import nothing_blocks
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from tests.support.postgres import Database

ROUTINES = (
    "create",
    "start",
    "schedule",
    "enqueue",
    "executor:InstantExecutor",
    "deadlines",
    "executor_callbacks",
    "connection_tests",
    "heartbeat",
    *(timer.name for timer in TIMERS),
)


class LocalInstantExecutor(InstantExecutor):
    """Counts as local, so that the timer for stale bundles runs too."""

    is_local = True


async def test_the_list_of_routines_is_complete(airflow_db: Database) -> None:
    with patch("airflow.jobs.scheduler_job_runner.SchedulerJobRunner._is_metrics_enabled", return_value=True):
        async with assembled(LocalInstantExecutor()) as assembly:
            names = {name.replace("Local", "") for name in assembly.supervisor.drivers}
    assert names == set(ROUTINES)


@pytest.mark.parametrize("name", ROUTINES)
async def test_routine_passes_without_blocking_the_loop(airflow_db: Database, name: str) -> None:
    write_dags(layered_dag("dag", [2, 2]))
    create_run("dag")
    name = name.replace("InstantExecutor", "LocalInstantExecutor")
    with patch("airflow.jobs.scheduler_job_runner.SchedulerJobRunner._is_metrics_enabled", return_value=True):
        async with assembled(LocalInstantExecutor()) as assembly:
            with nothing_blocks():
                await assembly.supervisor.drivers[name].routine.run_once()


async def test_stages_in_turn_take_a_run_to_its_end_without_blocking(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2, 2]))
    create_run("dag")
    executor = InstantExecutor()
    async with assembled(executor) as assembly:
        with nothing_blocks():
            ended = await _take_turns(assembly)
    assert ended == 1
    assert set(executor.runs.values()) == {1}
    assert len(executor.runs) == 4
    assert not executor.unqueued


async def _take_turns(assembly: Assembly) -> int:
    stages = ("create", "start", "schedule", "enqueue", "executor:InstantExecutor")
    ended = 0
    for _ in range(8):
        for stage in stages:
            outcome = await assembly.supervisor.drivers[stage].routine.run_once()
            ended += outcome.counts.get("ended", 0)
    return ended
