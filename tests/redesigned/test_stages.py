"""The redesigned stages against a real database, each once or in turn."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import func, select

from tests.support.blocking import nothing_blocks
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import FAST, assembled

if TYPE_CHECKING:
    import pytest

    from async_scheduler.assembly import Assembly
    from tests.support.postgres import Database

REDESIGNED = replace(FAST, algorithm="redesigned")
STAGES = ("create", "start", "sweep", "schedule", "enqueue", "executor:InstantExecutor")


async def take_turns(assembly: Assembly, turns: int = 8) -> dict[str, int]:
    """Let every stage pass in turn; return what they counted."""
    counted: dict[str, int] = {}
    for _ in range(turns):
        for stage in STAGES:
            outcome = await assembly.supervisor.drivers[stage].routine.run_once()
            for name, count in outcome.counts.items():
                counted[f"{stage} {name}"] = counted.get(f"{stage} {name}", 0) + count
    return counted


def states() -> dict[str, int]:
    """Return how many task instances are in which state."""
    with create_session() as session:
        rows = session.execute(select(TaskInstance.state, func.count()).group_by(TaskInstance.state))
        return {str(state): count for state, count in rows}


def run_states() -> list[str]:
    """Return the states of all runs."""
    with create_session() as session:
        return [str(run.state) for run in session.scalars(select(DagRun).order_by(DagRun.id))]


async def test_stages_in_turn_take_runs_to_their_end_without_blocking(airflow_db: Database) -> None:
    write_dags(layered_dag("one", [2, 3, 1]), layered_dag("two", [1, 1]))
    for number in range(3):
        create_run("one", number)
        create_run("two", number)
    executor = InstantExecutor()
    async with assembled(executor, settings=REDESIGNED) as assembly:
        with nothing_blocks():
            counted = await take_turns(assembly)
    assert set(run_states()) == {"success"}
    assert states() == {"success": 3 * 8}
    assert set(executor.runs.values()) == {1}
    assert not executor.unqueued
    assert counted["schedule ended"] == 6
    assert counted["schedule handed_over"] == 0


async def test_full_executors_make_the_next_event_wake_the_critical_section(airflow_db: Database) -> None:
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert assembly.redesigned is not None
        executor: Any = assembly.supervisor.drivers["executor:InstantExecutor"].routine
        await assembly.redesigned.enqueue.run_once()
        assert "enqueue" not in ((await executor.run_once()).wakes or ())
        assembly._scheduler._parallelism = 0
        await assembly.redesigned.enqueue.run_once()
        assert "enqueue" in ((await executor.run_once()).wakes or ())


async def test_more_dags_start_at_once_than_are_kept_in_memory(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("async_scheduler.routines.redesigned.stages.SCHEDULER_DAG_CACHE_SIZE", 1)
    names = ["one", "two", "three"]
    write_dags(*(layered_dag(name, [1]) for name in names))
    for name in names:
        create_run(name)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        assert assembly.redesigned is not None
        assert (await assembly.redesigned.start.run_once()).counts["started"] == 3
