"""The redesigned scheduler as a whole, in every mode."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from sqlalchemy import select

from tests.redesigned.test_stages import REDESIGNED, run_states, states
from tests.support.dags import create_run, layered_dag, write_dags
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
