"""The stock scheduler under our ledger: its phases have names, and nothing stays wrapped."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from sqlalchemy import create_engine, text

from async_scheduler.contention.reading import read_trace
from poc_bench.contention import beside, stock
from poc_bench.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


def test_phases_are_methods_of_airflow() -> None:
    assert all(callable(getattr(SchedulerJobRunner, method)) for method in stock.PHASES)
    assert callable(DagRun.get_running_dag_runs_to_examine)


def test_loop_is_traced_by_phase(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = create_engine(f"sqlite:///{tmp_path / 'stock.db'}")
    monkeypatch.setattr("airflow.settings.engine", engine)

    def ask(number: int) -> int:
        with engine.begin() as connection:
            return int(connection.scalar(text("SELECT :number"), {"number": number}) or 0)

    def loop(runner: Any) -> None:
        ask(1)
        assert stock.named(ask, "enqueue")(2) == 2
        with pytest.raises(ZeroDivisionError):
            stock.named(lambda: 1 / 0, "schedule")()

    stock.traced_loop(loop, tmp_path / "trace")(None)
    trace = read_trace(tmp_path / "trace")
    assert [t.routine for t in trace.transactions] == [stock.LOOP, "enqueue"]
    assert {i.routine: i.error for i in trace.iterations} == {
        stock.LOOP: None,
        "enqueue": None,
        "schedule": "ZeroDivisionError",
    }
    engine.dispose()


def test_processes_beside_are_known_by_name() -> None:
    assert beside.beside("dag-processor,triggerer") == ("dag-processor", "triggerer")
    assert beside.beside("") == ()
    with pytest.raises(UsageError, match="dag-processor"):
        beside.beside("worker")
