"""Airflow's own examination of runs as a routine: all of them, also where few fit in a transaction."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import func, select, update

from async_scheduler.routines.upstream.schedule import Parts, ScheduleTaskInstances
from async_scheduler.settings import Settings
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from tests.support.postgres import Database

NAIVE = Settings(algorithm="upstream", event_loop="asyncio")
RUNS = 5


async def examine(assembly: Assembly, most: int | None) -> list[int]:
    """Let the stage come to rest; return how many runs each transaction examined."""
    schedule = ScheduleTaskInstances(assembly._scheduler, assembly._sessions, most)
    examined, more = list[int](), True
    while more:
        outcome = await schedule.run_once()
        examined.append(outcome.counts["examined"])
        more = outcome.more
        assert len(examined) < 20, "it does not come to rest"
    return examined


@pytest.mark.parametrize(("most", "parts"), [(2, [2, 2, 1, 2, 2, 1]), (None, [RUNS]), (1000, [RUNS, RUNS])])
async def test_every_run_is_examined(airflow_db: Database, most: int | None, parts: list[int]) -> None:
    """In parts they are looked at twice: what was seen first may have changed since."""
    write_dags(layered_dag("dag", [1]))
    for number in range(RUNS):
        create_run("dag", number, state=DagRunState.RUNNING)
    async with assembled(InstantExecutor(), settings=NAIVE) as assembly:
        assert await examine(assembly, most) == parts
    with create_session() as session:
        assert session.scalar(select(func.count()).where(TaskInstance.state == "scheduled")) == RUNS


async def test_runs_that_cannot_be_examined_keep_no_others_waiting(airflow_db: Database) -> None:
    """Airflow passes over a run of the future without a note: it stays the first to be examined."""
    write_dags(layered_dag("dag", [1]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING) for number in range(4)]
    later = datetime.now(UTC) + timedelta(days=1)
    with create_session() as session:
        for number, run in enumerate(runs[:2]):
            future = later + timedelta(days=number)
            session.execute(update(DagRun).where(DagRun.id == run.id).values(logical_date=future))
    async with assembled(InstantExecutor(), settings=NAIVE) as assembly:
        assert await examine(assembly, 2) == [2, 2, 2, 2]
    with create_session() as session:
        scheduled = session.scalars(select(TaskInstance.run_id).where(TaskInstance.state == "scheduled"))
        assert sorted(scheduled) == ["run_2", "run_3"]


def runs(*ids: int) -> list[Any]:
    return [SimpleNamespace(id=one) for one in ids]


def ids(part: list[Any]) -> list[int]:
    return [run.id for run in part]


def test_an_order_that_never_changes_leaves_nobody_out() -> None:
    parts, selected = Parts(2), runs(1, 2, 3, 4, 5)
    turn = []
    for last in (False, False, True):
        turn.append(ids(parts.choose(selected)))
        assert parts.follow(progressed=False) is not last
    assert turn == [[1, 2], [3, 4], [5]]
    assert ids(parts.choose(selected)) == [1, 2], "a new turn"


def test_a_part_whose_transaction_failed_is_chosen_again() -> None:
    parts = Parts(2)
    assert ids(parts.choose(runs(1, 2, 3))) == [1, 2]
    assert ids(parts.choose(runs(1, 2, 3))) == [1, 2]


@pytest.mark.parametrize("progressed", [True, False])
def test_a_turn_that_changed_something_is_followed_by_another(progressed: bool) -> None:
    parts = Parts(1)
    parts.choose(runs(1, 2))
    assert parts.follow(progressed=progressed)
    parts.choose(runs(2, 1))
    assert parts.follow(progressed=False) is progressed


def test_without_runs_there_is_nothing_more() -> None:
    parts = Parts(2)
    assert parts.choose([]) == []
    assert not parts.follow(progressed=False)
