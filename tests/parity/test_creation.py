"""Creation of scheduled runs: both schedulers make the same of the same dags."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from unittest.mock import patch

import pytest
from airflow.models.dag_version import DagVersion
from airflow.models.dagrun import DagRun
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.sdk import Param
from airflow.sdk.definitions.timetables.trigger import CronPartitionTimetable
from airflow.timetables.base import Timetable
from sqlalchemy import select, update
from sqlalchemy.exc import PendingRollbackError

from tests.parity.arms import redesigned, stock
from tests.parity.world import DAY, World, both, world
from tests.support.dags import EPOCH

DAILY: dict[str, Any] = {"schedule": DAY, "catchup": True}


def end_active_runs(w: World, limit: int | None = None) -> None:
    """Let the oldest active runs have succeeded, all their tasks with them."""
    with w.rows() as session:
        active = select(DagRun.id, DagRun.run_id).where(DagRun.state.in_(("queued", "running")))
        ended = session.execute(active.order_by(DagRun.logical_date).limit(limit)).all()
        values = {"state": "success", "end_date": EPOCH}
        session.execute(
            DagRun.__table__.update().where(DagRun.id.in_([one.id for one in ended])).values(values)
        )
        of_runs = TaskInstance.run_id.in_([one.run_id for one in ended])
        session.execute(TaskInstance.__table__.update().where(of_runs).values(values))


@both()
def test_stops_at_max_active_runs(w: World) -> None:
    w.dag(**DAILY, max_active_runs=10)
    w.create()
    assert w.runs() == ["queued"] * 10
    w.check()
    with w.rows() as session:
        session.execute(DagRun.__table__.update().values(state="running"))
    w.create()
    assert w.runs() == ["running"] * 10


@both()
def test_goes_on_when_a_run_has_ended(w: World) -> None:
    w.dag(**DAILY, max_active_runs=1)
    w.loop(3)
    assert w.runs() == ["running"]
    w.check()
    end_task(w)
    w.loop(3)
    assert sorted(w.runs()) == ["running", "success"]


def end_task(w: World, runs: int = 1) -> None:
    """Let the tasks of the oldest running runs have succeeded."""
    with w.rows() as session:
        oldest = select(DagRun.run_id).where(DagRun.state == "running").order_by(DagRun.logical_date)
        wanted = list(session.scalars(oldest.limit(runs)))
        values = {"state": "success", "start_date": EPOCH, "end_date": EPOCH}
        of_runs = TaskInstance.run_id.in_(wanted)
        session.execute(TaskInstance.__table__.update().where(of_runs).values(values))


@both()
def test_the_limit_flag_and_the_next_dates(w: World) -> None:
    w.dag(**DAILY, max_active_runs=1)
    w.create()
    w.check()
    w.create()
    assert w.runs() == ["queued"]
    w.start()
    end_task(w)
    w.schedule()
    assert w.runs() == ["success"]


@both()
def test_no_date_is_left_out(w: World) -> None:
    w.dag(**DAILY, max_active_runs=3)
    w.loop(3)
    for _ in range(4):
        end_task(w)
        w.loop(2)
        w.check()
    assert len(w.runs()) == 7


@both()
def test_columns_of_runs_and_instances(w: World) -> None:
    w.dag(tasks={"a": {"priority_weight": 3, "queue": "q"}, "b": {"retries": 2}}, edges="a>b", **DAILY)
    w.create()
    assert w.count(DagRun, DagRun.creating_job_id == w.job, DagRun.start_date.is_(None)) == 16


@both()
@pytest.mark.parametrize("advanced", [False, True], ids=["due", "far"])
def test_a_run_exists_already(w: World, advanced: bool) -> None:
    w.dag(**DAILY, max_active_runs=3)
    run = w.run(number=5 if advanced else 0, state="success", run_type="scheduled")
    assert run.logical_date == EPOCH + (5 * DAY if advanced else 0 * DAY)
    w.create()
    assert len(w.runs()) == 4


@both()
def test_a_manual_run_of_today_moves_nothing(w: World) -> None:
    w.dag(**DAILY, max_active_runs=2)
    w.loop()
    w.check()
    w.run(number=300, state="running")
    w.create()
    assert len(w.runs()) == 3


@both()
@pytest.mark.parametrize("damage", ["serialized", "version"])
def test_a_dag_that_is_not_serialized_holds_up_nobody(w: World, damage: str) -> None:
    w.dag("one", **DAILY, max_active_runs=1)
    w.dag("two", **DAILY, max_active_runs=1)
    with w.rows() as session:
        session.query(SerializedDagModel).filter_by(dag_id="two").delete()
        if damage == "version":
            session.query(DagVersion).filter_by(dag_id="two").delete()
    w.create()
    assert w.runs() == ["queued"]


@both()
def test_a_dag_that_cannot_be_read_holds_up_nobody(w: World) -> None:
    w.dag("one", **DAILY, max_active_runs=1)
    w.dag("two", **DAILY, max_active_runs=1)
    with w.rows() as session:
        of_two = SerializedDagModel.dag_id == "two"
        session.execute(update(SerializedDagModel).where(of_two).values(_data={"__version": 3, "dag": {}}))
    w.create()
    assert w.runs() == ["queued"]


@both()
def test_a_dag_that_raises_holds_up_nobody(w: World) -> None:
    w.dag("one", **DAILY, max_active_runs=1)
    w.dag("two", schedule="30 1 * * *", catchup=True, max_active_runs=1)
    generate = Timetable.generate_run_id

    def raising(self: Timetable, **given: Any) -> str:
        if given["run_after"].minute:
            raise ValueError("planted")
        return str(generate(self, **given))

    with patch.object(Timetable, "generate_run_id", raising):
        w.create()
    assert w.runs() == ["queued"]


@both()
def test_params_are_validated_and_not_stored(w: World) -> None:
    w.dag(**DAILY, max_active_runs=1, params={"x": Param(1, type="integer")})
    w.create()
    assert w.count(DagRun) == 1


@both()
def test_catchup_switched_off(w: World) -> None:
    w.dag(**DAILY, max_active_runs=1)
    w.loop()
    end_active_runs(w)
    w.dag(schedule="@daily", catchup=False, max_active_runs=1)
    w.of_dag(exceeds_max_non_backfill=False)
    w.create()
    with w.rows() as session:
        newest = session.scalar(select(DagRun.logical_date).order_by(DagRun.id.desc()))
        assert newest
        assert newest > w.now - 2 * DAY


@both()
@pytest.mark.parametrize("backfilled", [False, True])
def test_a_start_in_the_future(w: World, backfilled: bool) -> None:
    w.dag(schedule=DAY, catchup=True, start_date=datetime(2099, 1, 1, tzinfo=UTC))
    if backfilled:
        w.run(state="success", run_type="backfill")
    w.loop(2)
    assert w.runs() == ["success"] * backfilled


@both()
@pytest.mark.parametrize("catchup", [True, False])
def test_a_task_that_starts_later(w: World, catchup: bool) -> None:
    later = EPOCH + 2 * DAY if catchup else datetime(2099, 1, 1, tzinfo=UTC)
    tasks = {"a": {}, "late": {"start_date": later}, "gone": {"end_date": EPOCH}}
    w.dag(tasks=tasks, schedule="@daily", catchup=catchup, max_active_runs=4)
    w.loop()
    assert w.count(TaskInstance, TaskInstance.task_id == "a") == len(w.runs())


@both()
def test_a_schedule_made_coarser(w: World) -> None:
    w.dag(schedule="@hourly", catchup=True, max_active_runs=1)
    w.loop()
    end_active_runs(w)
    w.dag(schedule="@daily", catchup=True, max_active_runs=1)
    w.of_dag(exceeds_max_non_backfill=False)
    w.loop()
    assert "scheduled" in w.states() or "queued" in w.states()


FAR = datetime(2099, 1, 1, tzinfo=UTC)
DUE: tuple[dict[str, Any], ...] = (
    {},
    {"is_paused": True},
    {"is_stale": True},
    {"has_import_errors": True},
    {"exceeds_max_non_backfill": True},
    {"next_dagrun_create_after": FAR},
    {"next_dagrun_create_after": None},
    {"next_dagrun": None},
    {"max_active_runs": None},
    {"max_active_runs": 0},
    {"allowed_run_types": ["manual"]},
    {"allowed_run_types": ["scheduled"]},
    {"next_dagrun_data_interval_start": None, "next_dagrun_data_interval_end": None},
)


@both()
def test_which_dags_are_due(w: World) -> None:
    for number, _ in enumerate(DUE):
        w.dag(f"dag{number}", **DAILY, max_active_runs=2)
    for number, columns in enumerate(DUE):
        if columns:
            w.of_dag(f"dag{number}", **columns)
    for _ in range(3):
        w.create()
    assert w.count(DagRun, DagRun.dag_id == "dag0") == 2


@both()
def test_backfill_runs_do_not_count_for_the_limit(w: World) -> None:
    w.dag(**DAILY, max_active_runs=2)
    w.run(number=100, run_type="backfill")
    w.run(number=101, run_type="manual")
    w.create()
    assert len(w.runs()) == 3


@both()
@pytest.mark.parametrize("field", ["next_dagrun_partition_key", "next_dagrun_create_after", "none"])
def test_partitioned_timetables(w: World, field: str) -> None:
    timetable = CronPartitionTimetable("@daily", timezone="UTC")
    w.dag(schedule=timetable, catchup=True, max_active_runs=2)
    if field != "none":
        columns: dict[str, Any] = {field: None}
        w.of_dag(**columns)
    w.create()
    assert w.count(DagRun) == (2 if field == "none" else 0)


@both()
def test_created_metric(w: World) -> None:
    w.dag(tasks="a b c", **DAILY, max_active_runs=2)
    w.compare_metrics("task_instance_created", "asset.")
    w.create()
    assert w.metrics


@both(scheduler__use_job_schedule=False)
def test_starting_goes_on_without_job_schedule(w: World) -> None:
    w.dag(**DAILY, max_active_runs=2)
    w.run(state="queued")
    w.start()
    w.schedule()
    assert w.states() == {"scheduled": 1}


@both(scheduler__allowed_run_id_pattern="^[a-z]+$")
@pytest.mark.parametrize("run_id", ["good", "a..b", "BAD", "scheduled__2026-01-01", "manual_2026"])
def test_run_ids_of_a_timetable(w: World, run_id: str) -> None:
    """What a timetable of the user's calls its run has to match Airflow's own form or the pattern."""
    w.dag(**DAILY, max_active_runs=1)
    with patch.object(Timetable, "generate_run_id", lambda *_, **__: run_id):
        w.create()
    assert w.count(DagRun) == (run_id == "good")


def test_an_id_that_is_taken_holds_up_nobody(parity_db: None) -> None:
    """Airflow's scheduler ends here: its session is unusable after the failed insert, and it goes on with it.

    A dag whose timetable has become another kind can name its next run as it has named an earlier one.
    """
    with world(redesigned) as w:
        w.dag("one", **DAILY, max_active_runs=2)
        w.dag("two", **DAILY, max_active_runs=3)
        w.run("two", -5, "success", run_id="scheduled__2026-01-02T00:00:00+00:00")
        w.create()
        assert w.count(DagRun, DagRun.dag_id == "one") == 2
        assert w.count(DagRun, DagRun.dag_id == "two") == 1
    with world(stock) as w:
        w.dag("two", **DAILY, max_active_runs=3)
        w.run("two", -5, "success", run_id="scheduled__2026-01-02T00:00:00+00:00")
        with pytest.raises(PendingRollbackError):
            w.create()


def test_a_timetable_that_gives_all_runs_one_id(parity_db: None) -> None:
    with world(redesigned) as w:
        w.dag(**DAILY, max_active_runs=3)
        with patch.object(
            Timetable, "generate_run_id", lambda *_, **__: "scheduled__2026-01-02T00:00:00+00:00"
        ):
            w.create()
            w.create()
        assert w.count(DagRun) == 1
