"""The redesigned scheduler as a whole, in every mode."""

from __future__ import annotations

import time
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select, update

from async_scheduler.routines.redesigned import next_visits
from async_scheduler.runner import AsyncSchedulerJobRunner
from tests.redesigned.test_stages import REDESIGNED, run_states, states
from tests.support.dags import create_run, layered_dag, orphan_all, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import run_until_idle

if TYPE_CHECKING:
    from async_scheduler.settings import Mode
    from tests.support.postgres import Database


@pytest.mark.parametrize("mode", ["concurrent", "sequential", "shared_session"])
def test_runs_come_to_their_end(airflow_db: Database, mode: Mode) -> None:
    write_dags(layered_dag("one", [2, 3, 1]), layered_dag("two", [1, 1]))
    for number in range(4):
        create_run("one", number)
        create_run("two", number)
    executor = InstantExecutor()
    run_until_idle([executor], replace(REDESIGNED, mode=mode), idle_rounds=8)
    assert set(run_states()) == {"success"}
    assert states() == {"success": 4 * 8}
    assert set(executor.runs.values()) == {1}
    assert not executor.unqueued


@pytest.mark.parametrize("mode", ["concurrent", "sequential", "shared_session"])
def test_a_run_that_the_one_before_holds_back_keeps_it_from_no_end(
    airflow_db: Database, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is looked at again after a while, and all are from time to time: no round waits for that."""
    write_dags(layered_dag("held", [1], default_args={"depends_on_past": True}))
    create_run("held", 0, state="failed")
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="failed"))
    create_run("held", 1)
    monkeypatch.setattr(next_visits, "BLOCKED_LOOK_AGAIN", timedelta(days=1))
    settings = replace(REDESIGNED, mode=mode, examine_all_interval=0.0)
    run_until_idle([InstantExecutor()], settings, idle_rounds=8)
    assert sorted(run_states()) == ["failed", "running"]


@pytest.mark.parametrize("mode", ["concurrent", "sequential", "shared_session"])
def test_orphans_adopted_slowly_are_run_before_it_ends_for_being_idle(
    airflow_db: Database, mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("orphans", [3]))
    create_run("orphans", state="running")
    orphan_all()
    original = AsyncSchedulerJobRunner.adopt_or_reset_orphaned_tasks

    def slow(self: Any, **arguments: Any) -> int:
        time.sleep(1.0)
        return int(original(self, **arguments))

    monkeypatch.setattr(AsyncSchedulerJobRunner, "adopt_or_reset_orphaned_tasks", slow)
    run_until_idle([InstantExecutor()], replace(REDESIGNED, mode=mode, sweep_interval=60.0), idle_rounds=2)
    assert states() == {"success": 3}
    assert run_states() == ["success"]


def test_what_one_run_raises_at_its_end_does_not_stop_the_others(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("one", [1]), layered_dag("two", [1]))
    create_run("one")
    create_run("two")
    original = DagRun._emit_duration_stats_for_finished_state

    def broken(self: Any) -> None:
        if self.dag_id == "one":
            raise RuntimeError("planted")
        original(self)

    monkeypatch.setattr(DagRun, "_emit_duration_stats_for_finished_state", broken)
    run_until_idle([InstantExecutor()], REDESIGNED, idle_rounds=8)
    with create_session() as session:
        assert {str(run.state) for run in session.scalars(select(DagRun))} == {"success"}
