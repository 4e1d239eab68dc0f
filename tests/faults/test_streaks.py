"""A dag that cannot be scheduled is said once for as long as it lasts, and again when it breaks anew."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import pytest
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG
from airflow.timetables.trigger import DeltaTriggerTimetable
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import func, select, update

from async_scheduler.plans import cache
from async_scheduler.routines.redesigned import next_visits
from tests.redesigned.test_stages import REDESIGNED, take_turns
from tests.support.dags import EPOCH, create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from tests.support.postgres import Database

UNREADABLE = {"__version": 3, "dag": {"tasks": "no"}}
RAISING = timedelta(days=3)
BROKEN = ("raising", "unreadable_due", "unreadable_queued", "unreadable_running")


def _dag(dag_id: str, every: timedelta) -> DAG:
    with DAG(dag_id, start_date=EPOCH, schedule=every, catchup=True, max_active_runs=1) as dag:
        EmptyOperator(task_id="task", retries=1)
    return dag


@dataclass
class World:
    """Whether timetables of three days raise, and the time by which missing dags are looked for again."""

    raises: bool = False
    now: float = 0.0

    async def turn(self, assembly: Assembly, times: int) -> None:
        """Let all stages pass so often; each time everything is looked at again."""
        for _ in range(times):
            self.now += 2 * cache.ABSENT_FOR
            await take_turns(assembly, 1)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setenv("AIRFLOW__CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL", "0")
    monkeypatch.setattr(next_visits, "BLOCKED_LOOK_AGAIN", timedelta(0))
    world, original = World(), DeltaTriggerTimetable.generate_run_id

    def raising(self: Any, **more: Any) -> Any:
        if world.raises and self._delta == RAISING:
            raise RuntimeError("planted: the timetable raises")
        return original(self, **more)

    monkeypatch.setattr(cache, "monotonic", lambda: world.now)
    monkeypatch.setattr(DeltaTriggerTimetable, "generate_run_id", raising)
    return world


def _break(dag_id: str) -> None:
    with create_session() as session:
        stored = SerializedDagModel.dag_id == dag_id
        session.execute(
            update(SerializedDagModel).where(stored).values(_data=UNREADABLE, _data_compressed=None)
        )


def _runs(dag_id: str) -> int:
    with create_session() as session:
        return session.scalar(select(func.count()).where(DagRun.dag_id == dag_id)) or 0


def _said(caplog: pytest.LogCaptureFixture) -> Counter[tuple[str, str]]:
    """Count the lines about each broken dag, by what they say, and forget them."""
    lines = [record.getMessage() for record in caplog.records if record.levelname in ("WARNING", "ERROR")]
    caplog.clear()
    return Counter((name, line) for line in lines for name in BROKEN if name in line)


async def test_one_message_for_each_streak(
    airflow_db: Database, world: World, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(
        _dag("raising", RAISING),
        _dag("unreadable_due", timedelta(days=2)),
        _dag("good", timedelta(days=1)),
        layered_dag("unreadable_queued", [1]),
        layered_dag("unreadable_running", [1]),
    )
    create_run("unreadable_queued")
    create_run("unreadable_running", state=DagRunState.RUNNING)
    for name in BROKEN[1:]:
        _break(name)
    world.raises = True
    left_to_airflow = Mock()  # its lines are not among those of caplog
    monkeypatch.setattr(SchedulerJobRunner, "_create_dag_runs", left_to_airflow)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await world.turn(assembly, 20)
        said = _said(caplog)
        assert {name for name, _ in said} == set(BROKEN)
        assert set(said.values()) == {1}, said
        assert _runs("good") > 5
        assert not _runs("raising")
        world.raises = False
        await world.turn(assembly, 10)
        assert _runs("raising") > 2
        world.raises = True
        await world.turn(assembly, 10)
    again = _said(caplog)
    assert {name for name, _ in again} == {"raising"}
    assert set(again.values()) == {1}, again
    assert not left_to_airflow.called
