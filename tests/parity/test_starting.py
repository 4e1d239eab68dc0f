"""Starting queued runs: both schedulers start the same, backfills included."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.models.backfill import Backfill, BackfillDagRun
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import select, update

from tests.parity.world import DAY, World, both
from tests.support.dags import EPOCH


def backfill(w: World, numbers: range, dag: str = "dag", limit: int = 3, **options: Any) -> int:
    """Store a backfill with queued runs and return its id."""
    with w.rows() as session:
        made = Backfill(
            dag_id=dag,
            from_date=EPOCH,
            to_date=EPOCH,
            dag_run_conf={},
            max_active_runs=limit,
            reprocess_behavior="none",
            **options,
        )
        session.add(made)
        session.flush()
        number = int(made.id)
    for ordinal, run_number in enumerate(numbers, 1):
        run = w.run(dag, run_number, "queued", run_type="backfill", backfill_id=number)
        w.add(
            BackfillDagRun(
                backfill_id=number, dag_run_id=run.id, logical_date=run.logical_date, sort_ordinal=ordinal
            )
        )
    return number


def finish(w: World, **where: Any) -> None:
    """Let running runs and their tasks have succeeded."""
    with w.rows() as session:
        running = select(DagRun.id, DagRun.run_id, DagRun.dag_id).filter_by(state="running", **where)
        for run in session.execute(running).all():
            values = {"state": "success", "end_date": EPOCH}
            session.execute(DagRun.__table__.update().where(DagRun.id == run.id).values(values))
            of_run = (TaskInstance.run_id == run.run_id, TaskInstance.dag_id == run.dag_id)
            session.execute(TaskInstance.__table__.update().where(*of_run).values(values))


@both()
def test_delay_metric_and_columns(w: World) -> None:
    w.dag(schedule="@daily", catchup=True, max_active_runs=2)
    w.compare_metrics("dagrun.schedule_delay")
    w.create()
    w.run(number=100, state="queued", run_type="manual")
    w.start()
    assert w.metrics


@both()
def test_which_delays_are_reported(w: World) -> None:
    w.compare_metrics("dagrun.schedule_delay")
    kinds: dict[str, dict[str, Any]] = {
        "manual": {"run_type": "manual"},
        "asset": {"run_type": "scheduled", "triggered_by": "ASSET"},
        "timetable": {"run_type": "scheduled", "triggered_by": "TIMETABLE"},
        "cleared": {"run_type": "scheduled", "triggered_by": "TIMETABLE", "clear_number": 1},
        "asset_triggered": {"run_type": "asset_triggered", "triggered_by": "ASSET"},
        "dates": {"run_type": "scheduled", "start_date": EPOCH, "end_date": EPOCH},
    }
    for name, columns in kinds.items():
        w.dag(name, schedule="@daily", catchup=False)
        w.run(name, state="queued", **columns)
    w.start()
    assert set(w.runs()) == {"running"}


@both()
def test_order_of_dates(w: World) -> None:
    w.dag(max_active_runs=1)
    for number in (3, 1, 2, 0):
        w.run(number=number, state="queued")
    for _ in range(3):
        w.start()
        w.check()
        finish(w)
    assert sorted(w.runs()) == ["queued", "success", "success", "success"]


@both()
def test_a_full_dag_does_not_hold_up_others(w: World) -> None:
    w.dag("one", max_active_runs=1)
    w.dag("two")
    for number in range(8):
        w.run("one", number, "queued")
        w.run("two", number, "queued")
    w.start()
    assert w.runs().count("running") == 9


@both()
def test_a_manual_run_waits_for_the_limit(w: World) -> None:
    weights = {task: {"priority_weight": weight} for task, weight in (("a", 3), ("b", 2), ("c", 1))}
    w.dag(tasks=weights, max_active_runs=1, max_active_tasks=2)
    w.run(state="queued")
    w.loop()
    w.check()
    w.run(number=1, state="queued")
    w.loop()
    assert w.runs() == ["running", "queued"]


@both()
def test_cleared_runs_respect_the_limit(w: World) -> None:
    w.dag(max_active_runs=1)
    for number in range(3):
        w.run(number=number, state="success")
        w.ti(run=number, state="success")
    clear(w)
    w.start()
    assert sorted(w.runs()) == ["queued", "queued", "running"]


def clear(w: World, **options: Any) -> None:
    """Clear all task instances as a user would."""
    from airflow.models.taskinstance import clear_task_instances

    with w.rows() as session:
        clear_task_instances(list(session.scalars(select(TaskInstance))), session, **options)


@both()
def test_runs_that_end_make_room(w: World) -> None:
    w.dag("one", max_active_runs=1)
    w.dag("two")
    w.run("one", 0)
    w.run("one", 1, "queued")
    for number in range(18):
        w.run("two", number, "running" if number < 16 else "queued")
    w.ti(dag="one", state="success")
    w.loop(2)
    assert w.runs()[:2] == ["success", "running"]


@both()
def test_a_run_that_timed_out_makes_room(w: World) -> None:
    w.dag(max_active_runs=1, dagrun_timeout=DAY)
    w.run(run_type="scheduled")
    w.run(number=1, state="queued")
    w.ti(state="running")
    w.schedule()
    w.check()
    w.start()
    with w.rows() as session:
        session.execute(DagRun.__table__.update().values(start_date=w.now))
    w.schedule()
    assert w.runs() == ["failed", "running"]


@both()
@pytest.mark.parametrize("most", [2, 0, None])
def test_the_limit_is_that_of_the_dag_row(w: World, most: int | None) -> None:
    w.dag(max_active_runs=1)
    w.of_dag(max_active_runs=most)
    w.run()
    w.run(number=1, state="queued")
    w.start()
    assert len(w.runs()) == 2


@both()
@pytest.mark.parametrize("column", ["is_paused", "is_stale"])
def test_paused_and_stale_dags(w: World, column: str) -> None:
    w.dag()
    w.run()
    w.run(number=1, state="queued")
    columns: dict[str, Any] = {column: True}
    w.of_dag(**columns)
    w.start()
    w.schedule()
    assert w.runs() == ["running", "queued"]


@both()
def test_run_after_in_the_future(w: World) -> None:
    w.dag()
    future = datetime(2099, 1, 1, tzinfo=UTC)
    w.run(state="queued", run_after=future)
    w.run(number=1, state="running", run_after=future)
    w.run(number=2, state="queued", logical_date=future)
    w.start()
    w.schedule()
    assert w.runs() == ["queued", "running", "running"]


@both()
def test_a_missing_dag(w: World) -> None:
    w.dag("one")
    w.dag("two")
    w.run("one", 0, "queued")
    w.run("two", 0, "queued")
    with w.rows() as session:
        session.query(SerializedDagModel).filter_by(dag_id="two").delete()
        session.execute(DagRun.__table__.update().values(created_dag_version_id=None))
        session.execute(TaskInstance.__table__.update().values(dag_version_id=None))
        session.query(DagVersion).filter_by(dag_id="two").delete()
    w.start()
    assert w.runs() == ["running", "queued"]


@both()
@pytest.mark.parametrize("first", ["ordinary", "backfill"])
@pytest.mark.parametrize("catchup", [True, False])
def test_backfills_have_limits_of_their_own(w: World, first: str, catchup: bool) -> None:
    w.dag("one", schedule="@daily", max_active_runs=1, catchup=catchup)
    w.dag("two", schedule="@daily", catchup=catchup)

    def ordinary() -> None:
        for number in range(4):
            w.run("one", number, "queued", run_type="scheduled")
            w.run("two", number, "queued", run_type="scheduled")

    if first == "ordinary":
        ordinary()
        w.start()
        w.check()
    backfill(w, range(10, 16), dag="one")
    w.start()
    if first == "backfill":
        w.check()
        ordinary()
        w.start()
    w.start()
    assert w.runs().count("running") == 1 + 4 + 3


@both()
@pytest.mark.parametrize("paused", [True, False])
def test_paused_backfills(w: World, paused: bool) -> None:
    w.dag()
    backfill(w, range(5), is_paused=paused)
    w.start()
    assert w.runs().count("running") == (0 if paused else 3)


@both()
def test_a_backfill_that_is_locked(w: World) -> None:
    w.dag()
    number = backfill(w, range(5))
    with create_session(scoped=False) as other:
        other.execute(select(Backfill.id).where(Backfill.id == number).with_for_update())
        w.start()
        w.check()
    assert w.runs().count("running") == 0
    w.start()
    assert w.runs().count("running") == 3


@both()
def test_two_backfills_of_a_dag(w: World) -> None:
    w.dag(max_active_runs=1)
    backfill(w, range(4), limit=2)
    backfill(w, range(10, 14), limit=1)
    w.run(number=20, state="queued")
    w.start()
    assert w.runs().count("running") == 4


@both()
@pytest.mark.parametrize("case", ["running", "done", "initializing", "orphan", "old-running", "two"])
def test_backfills_are_completed(w: World, case: str) -> None:
    w.dag()
    if case in ("initializing", "orphan"):
        number = backfill(w, range(0))
    else:
        number = backfill(w, range(2))
        finished = case in ("done", "two")
        with w.rows() as session:
            session.execute(
                DagRun.__table__.update().values(state="success" if finished else "running", end_date=EPOCH)
            )
    if case == "two":
        backfill(w, range(10, 12))
    if case in ("orphan", "old-running"):
        with w.rows() as session:
            session.execute(update(Backfill).where(Backfill.id == number).values(created_at=EPOCH))
    w.timer("backfills")
    assert w.count(Backfill, Backfill.completed_at.is_not(None)) == (case in ("done", "orphan", "two"))
