"""Interval timers: Airflow's own functions run them here too, on async sessions or threads of their own."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from airflow.executors.executor_utils import ExecutorName
from airflow.jobs.job import Job
from airflow.models.asset import (
    AssetActive,
    AssetModel,
    AssetWatcherModel,
)
from airflow.models.callback import Callback
from airflow.models.connection_test import ConnectionTestRequest
from airflow.models.dag_version import DagVersion
from airflow.models.dagwarning import DagWarning
from airflow.models.hitl import HITLDetail
from airflow.models.log import Log
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.trigger import Trigger
from airflow.sdk import Asset
from sqlalchemy import select, update

from tests.parity.arms import Scripted
from tests.parity.test_events import stuck
from tests.parity.test_queueing import two
from tests.parity.world import World, both
from tests.support.dags import EPOCH


def _callback(_context: Any) -> None:
    return None


class Adopting(Scripted):
    """Adopts whatever it is offered."""

    adopts = True


class Unrevoking(Scripted):
    """Cannot take a task back."""

    revokes = False


# --- orphaned task instances ------------------------------------------------------------------------------


def dead_job(w: World, state: str = "failed", age: float = 15, kind: str = "SchedulerJob") -> int:
    """Store another scheduler's job and return its id."""
    job: Any = Job(job_type=kind, state=state, latest_heartbeat=w.now - timedelta(minutes=age))
    job.start_date = EPOCH
    with w.rows() as session:
        session.add(job)
        session.flush()
        return int(job.id)


ORPHANED = ("queued", "running", "restarting", "scheduled", "deferred", None, "success")


@both()
@pytest.mark.parametrize("job", ["failed", "running-late", "running", "none", "own", "triggerer"])
def test_instances_of_dead_schedulers(w: World, job: str) -> None:
    w.compare_metrics("scheduler.orphaned", "schedulerjobrunner_end")
    w.dag(tasks=" ".join(f"t{number}" for number, _ in enumerate(ORPHANED)))
    w.run()
    w.run(number=1, state="queued")
    kinds: dict[str, Any] = {
        "failed": {},
        "running-late": {"state": "running"},
        "running": {"state": "running", "age": 0},
        "triggerer": {"kind": "TriggererJob", "state": "running"},
    }
    number = {"none": None, "own": w.job}.get(job, dead_job(w, **kinds.get(job, {})))
    for index, state in enumerate(ORPHANED):
        for run in range(2):
            stuck(
                w, f"t{index}", state, run=run, queued_by_job_id=number, next_method="resume", next_kwargs={}
            )
    w.timer("adopt_orphans")
    assert w.count(TaskInstanceHistory) == (3 if job in ("failed", "running-late") else 0)


@both(lambda: [Adopting()])
def test_adopted_instances(w: World) -> None:
    w.compare_metrics("scheduler.orphaned")
    w.dag(tasks="a b c")
    w.run(conf=None)
    job = dead_job(w)
    for task, state in zip("abc", ("queued", "running", "restarting"), strict=True):
        stuck(w, task, state, queued_by_job_id=job, last_heartbeat_at=EPOCH if task == "b" else None)
    w.timer("adopt_orphans")
    assert w.count(TaskInstance, TaskInstance.queued_by_job_id == w.job) == 3


@both(two(kind=Adopting))
def test_each_executor_is_offered_its_own(w: World) -> None:
    w.dag(tasks="a b c")
    w.run()
    job = dead_job(w)
    for task in "abc":
        stuck(w, task, queued_by_job_id=job)
    w.ti("b", executor="second")
    w.ti("c", executor="gone")
    w.timer("adopt_orphans")
    assert w.executors[1].offered == ["run_0/b/-1"]


# --- tasks without a heartbeat ----------------------------------------------------------------------------


@both()
@pytest.mark.parametrize("callback", [False, True])
@pytest.mark.parametrize(
    ("state", "retries", "tries"),
    [("running", 0, 1), ("running", 2, 1), ("running", 2, 2), ("running", 2, 3), ("restarting", 1, 5)],
)
def test_tasks_without_heartbeat(w: World, callback: bool, state: str, retries: int, tries: int) -> None:
    """What is sent at once; what the executor then reports is dealt with in the next pass."""
    w.compare_metrics("task_instances_without", "scheduler.tasks", "ti_failures")
    options = {"on_failure_callback": _callback} if callback else {}
    w.dag(tasks={task: {"retries": retries, **options} for task in "abcd"})
    w.run()
    old = {"last_heartbeat_at": w.now - timedelta(minutes=6), "try_number": tries, "max_tries": retries}
    stuck(w, "a", state, **old)
    stuck(w, "b", state, **{**old, "queued_by_job_id": 4711})
    stuck(w, "c", state, **{**old, "last_heartbeat_at": None})
    stuck(w, "d", state, **{**old, "last_heartbeat_at": w.now - timedelta(minutes=1)})
    w.executors[0].running.add(w.key("a", tries))
    w.timer("lost_heartbeats")
    w.check()
    assert w.count(Callback) == 1
    w.beat()
    assert w.state("a") != state


@both()
@pytest.mark.parametrize("missing", ["version", "executor", "dag"])
def test_heartbeats_of_odd_tasks(w: World, missing: str) -> None:
    w.dag()
    w.run()
    stuck(w, state="running", last_heartbeat_at=EPOCH, hostname="host", pid=1, external_executor_id="x")
    if missing == "version":
        w.ti(dag_version_id=None)
    elif missing == "executor":
        w.ti(executor="gone")
    else:
        with w.rows() as session:
            session.query(SerializedDagModel).delete()
    w.timer("lost_heartbeats")
    assert w.state() == "running"


@both()
def test_no_heartbeat_is_missing(w: World) -> None:
    w.dag()
    w.run()
    stuck(w, state="running", last_heartbeat_at=w.now)
    w.timer("lost_heartbeats")
    assert w.count(Callback) == 0


@both()
@pytest.mark.parametrize("version", [None, "v1"])
def test_the_bundle_version_of_heartbeat_callbacks(w: World, version: str | None) -> None:
    w.dag()
    w.run(bundle_version=version)
    with w.rows() as session:
        session.execute(update(DagVersion).values(bundle_version="hash"))
    stuck(w, state="running", last_heartbeat_at=EPOCH)
    w.timer("lost_heartbeats")
    assert w.count(Callback) == 1


# --- stuck in queued --------------------------------------------------------------------------------------


@both()
@pytest.mark.parametrize("callback", [False, True])
@pytest.mark.parametrize("restarted", [False, True])
def test_tasks_stuck_in_queued(w: World, callback: bool, restarted: bool) -> None:
    w.dag(tasks={"a": {"on_failure_callback": _callback} if callback else {}, "b": {}, "c": {}})
    w.run(bundle_version="v1" if restarted else None)
    stuck(w, "b", queued_by_job_id=4711)
    stuck(w, "c", queued_dttm=w.now)
    for turn in range(5 if restarted else 3):
        stuck(w, "a", external_executor_id="kept")
        w.timer("stuck_in_queued")
        w.check()
        if restarted and turn == 1:
            instance = {"dag_id": "dag", "task_id": "a", "run_id": "run_0", "map_index": -1, "try_number": 1}
            w.add(Log(event="running", **instance))
    w.beat()
    assert w.state() == "failed"


@both(lambda: [Unrevoking()])
def test_an_executor_that_cannot_revoke(w: World) -> None:
    w.dag()
    w.run()
    stuck(w)
    w.timer("stuck_in_queued")
    assert w.state() == "queued"


# --- triggers and people ----------------------------------------------------------------------------------


@both()
def test_trigger_timeouts(w: World) -> None:
    w.dag(tasks="a b c d")
    w.run()
    trigger = Trigger(classpath="x.Y", kwargs={})
    with w.rows() as session:
        session.add(trigger)
        session.flush()
        number = trigger.id
    for task, (state, minutes) in zip(
        "abcd", [("deferred", -1), ("deferred", 60), ("running", -1), ("awaiting_input", 60)], strict=True
    ):
        w.ti(task, state, trigger_timeout=w.now + timedelta(minutes=minutes), trigger_id=number, try_number=1)
    w.timer("trigger_timeouts")
    assert w.state("a") == "scheduled"


ASKED: dict[str, dict[str, Any]] = {
    "defaults": {"defaults": ["yes"]},
    "nothing": {},
    "answered": {"chosen_options": ["no"], "responded_at": EPOCH, "responded_by": {"id": "1", "name": "me"}},
    "broken": {"defaults": ["yes"]},
    "early": {"defaults": ["yes"]},
}


@both()
def test_people_who_did_not_answer(w: World) -> None:
    w.dag(tasks={task: {} for task in ASKED})
    w.run()
    for task in ASKED:
        when = w.now + timedelta(hours=1 if task == "early" else -1)
        kwargs = {"__var": 1} if task == "broken" else {}
        w.ti(task, "awaiting_input", trigger_timeout=when, next_method="execute_complete", next_kwargs=kwargs)
    with w.rows() as session:
        for instance in session.scalars(select(TaskInstance)).all():
            session.add(
                HITLDetail(
                    ti_id=instance.id,
                    options=["yes", "no"],
                    subject="?",
                    params={},
                    **ASKED[instance.task_id],
                )
            )
    w.timer("awaiting_input_timeouts")
    assert w.states() == {"scheduled": 4, "awaiting_input": 1}


# --- assets and triggers nobody needs ---------------------------------------------------------------------


@both()
def test_assets_nobody_uses(w: World) -> None:
    one, two_, three = (
        Asset(name=name, uri=f"x://{name}", group="asset") for name in ("one", "two", "three")
    )
    w.dag("consumer", schedule=[one])
    w.dag("producer", tasks={"a": {"outlets": [two_]}, "b": {"inlets": [three]}})
    w.timer("asset_orphanage")
    w.check()
    w.dag("consumer", schedule=None)
    w.dag("producer", tasks={"a": {"outlets": [two_]}})
    w.timer("asset_orphanage")
    w.check()
    w.timer("asset_orphanage")
    assert w.count(AssetActive) == 1


@both()
@pytest.mark.parametrize("warned", [False, True])
def test_assets_that_clash(w: World, warned: bool) -> None:
    w.dag("one", schedule=[Asset(name="a", uri="x://1", group="asset")])
    w.timer("asset_orphanage")
    if warned:
        w.dag("two")
        w.add(DagWarning("two", "asset conflict", "old"), DagWarning("one", "asset conflict", "old"))
    clashing = [Asset(name="a", uri="x://2", group="asset"), Asset(name="b", uri="x://1", group="asset")]
    w.dag("two", schedule=clashing)
    w.timer("asset_orphanage")
    assert w.count(DagWarning) == 1


@both()
@pytest.mark.parametrize("case", ["active", "stale", "paused"])
def test_triggers_nobody_needs(w: World, case: str) -> None:
    w.dag(tasks="a b", schedule=[Asset(name="one", uri="x://1", group="asset")])
    w.run()
    with w.rows() as session:
        triggers = [Trigger(classpath=f"x.{name}", kwargs={}) for name in ("Watcher", "Task", "Nobody")]
        session.add_all(triggers)
        session.flush()
        watcher, task, _ = (trigger.id for trigger in triggers)
        asset = session.scalars(select(AssetModel)).one()
        session.add(AssetWatcherModel(name="w", asset_id=asset.id, trigger_id=watcher))
    w.ti("a", "deferred", trigger_id=task)
    if case != "active":
        columns: dict[str, Any] = {f"is_{case}": True}
        w.of_dag(**columns)
    w.timer("unreferenced_triggers")
    w.note(w.count(Trigger))
    assert w.count(Trigger, Trigger.classpath == "x.Nobody") == 0


# --- metrics ----------------------------------------------------------------------------------------------


@both(metrics__statsd_on=True)
@pytest.mark.parametrize("name", ["pool_metrics", "ti_metrics", "running_dags_metric"])
def test_gauges(w: World, name: str) -> None:
    w.compare_metrics("pool.", "ti.", "scheduler.dagruns")
    w.pool("p", 4)
    w.dag(tasks={"a": {"pool": "p"}, "b": {}, "c": {}, "d": {}})
    w.run()
    w.run(number=1)
    for task, state in zip("abcd", ("running", "queued", "deferred", "scheduled"), strict=True):
        w.ti(task, state)
    w.timer(name)
    assert w.metrics


# --- connection tests -------------------------------------------------------------------------------------


class Probing(Scripted):
    """Can test connections."""

    supports_connection_test = True


def connection_test(
    w: World, state: str = "pending", minutes: float = 0, **columns: Any
) -> ConnectionTestRequest:
    """Return a request made so many minutes ago."""
    name = "-".join([state, f"{minutes:g}", *columns.values()])
    made = ConnectionTestRequest(connection_id=name, conn_type="http", **columns)
    made.state = state
    made.created_at = made.updated_at = w.now - timedelta(minutes=minutes)
    return made


@both(lambda: [Probing()], connection_test__max_concurrency=3)
def test_connection_tests_within_their_budget(w: World) -> None:
    w.compare_metrics("connection_test.")
    w.add(
        *(connection_test(w, "pending", 30 - n, queue=f"q{n}") for n in range(4)),
        connection_test(w, "running"),
    )
    w.step("connection_tests")
    assert w.count(ConnectionTestRequest, ConnectionTestRequest.state == "queued") == 2


def with_testing() -> list[Scripted]:
    """Return a default executor that cannot test connections, and one called ``second`` that can."""
    made = two(kind=Probing)()
    made[1].name = ExecutorName(f"{Probing.__module__}.Probing", "second")
    return list(made)


@both(with_testing)
@pytest.mark.parametrize(
    "name", [None, "first", "second", "Probing", f"{Probing.__module__}.Probing", "gone"]
)
def test_executors_of_connection_tests(w: World, name: str | None) -> None:
    w.add(connection_test(w, "pending", 0, **({"executor": name} if name else {})))
    w.step("connection_tests")
    assert w.count(ConnectionTestRequest, ConnectionTestRequest.state == "pending") == 0


@both(lambda: [Probing()])
def test_connection_tests_that_hang(w: World) -> None:
    w.compare_metrics("connection_test.reaped")
    for state in ("pending", "queued", "running", "success", "failed"):
        w.add(connection_test(w, state, 10), connection_test(w, state, 0))
    w.timer("connection_test_reaper")
    assert w.count(ConnectionTestRequest, ConnectionTestRequest.state == "failed") == 5
