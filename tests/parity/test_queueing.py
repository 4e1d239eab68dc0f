"""The critical section: both schedulers queue the same task instances and hand over the same workloads.

Stories go on until nothing more is queued: how many fit into one pass is a setting of our own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from airflow.executors.executor_utils import ExecutorName
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.serialized_dag import SerializedDagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.db import DBLocks
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import func, select
from sqlalchemy.orm.attributes import set_committed_value

from tests.parity.arms import Scripted
from tests.parity.world import World, both, in_a_thread
from tests.support.dags import EPOCH


class Second(Scripted):
    """Another kind of executor."""


class Assigning(Scripted):
    """Wants to know its tasks' ids before it gets them."""

    pre_assigns_external_executor_id = True


def small(slots: int) -> Any:
    """Return what makes one executor with so many slots."""
    return lambda: [Scripted(parallelism=slots)]


def two(first: int = 32, second: int = 32, kind: type[Scripted] = Second) -> Any:
    """Return what makes a default executor and one called ``second``."""

    def make() -> list[Scripted]:
        made = [Scripted(parallelism=first), kind(parallelism=second)]
        made[0].name = ExecutorName("tests.parity.arms.Scripted", "first")
        made[1].name = ExecutorName(f"{kind.__module__}.{kind.__name__}", "second")
        return made

    return make


def scheduled(w: World, *tasks: str, run: int = 0, dag: str = "dag", **columns: Any) -> None:
    """Let these instances be scheduled, each with less weight than those before: among equals any may win."""
    for task in tasks:
        weight = 1000 - next(w.numbers)
        values = {"try_number": 1, "scheduled_dttm": EPOCH, "priority_weight": weight, **columns}
        w.ti(task, "scheduled", run=run, dag=dag, **values)


@both()
@pytest.mark.parametrize("state", ["queued", "running", "success", "failed"])
def test_only_running_runs(w: World, state: str) -> None:
    w.dag()
    w.run(state=state)
    w.run(number=1, run_type="backfill")
    scheduled(w, "a")
    scheduled(w, "a", run=1)
    w.enqueue()
    assert w.state() == ("queued" if state == "running" else "scheduled")


@both()
@pytest.mark.parametrize("columns", [{"is_paused": True}, {"is_stale": True}], ids=str)
def test_only_dags_that_may(w: World, columns: dict[str, Any]) -> None:
    w.dag("one")
    w.dag("two")
    w.run("one")
    w.run("two")
    w.of_dag("two", **columns)
    scheduled(w, "a", dag="one")
    scheduled(w, "a", dag="two")
    w.enqueue()
    assert w.state(dag="one") == "queued"


@both()
@pytest.mark.parametrize("state", [None, "running", "queued", "deferred", "success"])
def test_nothing_to_queue(w: World, state: str | None) -> None:
    w.dag()
    w.run()
    w.ti(state=state)
    w.enqueue()
    assert w.state() == state


ORDERS: dict[str, list[tuple[int, int]]] = {
    # (day, weight) of three instances
    "dates": [(1, 1), (0, 1), (2, 1)],
    "weights": [(0, 1), (0, 4), (0, 2)],
    "weight-before-date": [(0, 1), (1, 4), (2, 2)],
    "negative": [(0, -1), (1, 0), (2, -5)],
}


@both(small(1))
@pytest.mark.parametrize("order", ORDERS)
def test_who_comes_first(w: World, order: str) -> None:
    for number, (day, weight) in enumerate(ORDERS[order]):
        w.dag(f"dag{number}")
        w.run(f"dag{number}", day)
        scheduled(w, "a", dag=f"dag{number}", run=day, priority_weight=weight)
    w.enqueue()
    assert w.states() == {"queued": 1, "scheduled": 2}


@both()
def test_weights_over_pools(w: World) -> None:
    w.pool("p", 9)
    w.pool("q", 9)
    w.dag(tasks={"a": {"pool": "p"}, "b": {"pool": "q"}, "c": {"pool": "q"}}, max_active_tasks=2)
    w.run()
    for weight, task in enumerate("abc", 1):
        scheduled(w, task, priority_weight=weight)
    w.enqueue()
    assert w.state("a") == "scheduled"


@both()
@pytest.mark.parametrize("missing", ["serialized", "task"])
def test_a_missing_dag_while_limits_are_looked_up(w: World, missing: str) -> None:
    w.dag(tasks={"a": {"max_active_tis_per_dag": 1}, "b": {}})
    w.dag("two")
    w.run()
    w.run(number=1)
    w.run("two")
    scheduled(w, "a", "b")
    scheduled(w, "a", "b", run=1)
    scheduled(w, "a", dag="two")
    if missing == "serialized":
        with w.rows() as session:
            session.query(SerializedDagModel).filter_by(dag_id="dag").delete()
    else:
        w.ti("b", task_id="gone")
    w.enqueue()
    assert w.state(dag="two") == "queued"


# --- executors --------------------------------------------------------------------------------------------


@both(two())
def test_two_executors(w: World) -> None:
    names = {"a": None, "b": "first", "c": "second", "d": "tests.parity.test_queueing.Second", "e": "Second"}
    w.dag(tasks="a b c d e f")
    w.run()
    scheduled(w, *"abcdef")
    for task, name in names.items():
        w.ti(task, executor=name)
    w.ti("f", executor="unknown")
    w.enqueue()
    assert w.states() == {"queued": 5, "scheduled": 1}


@both(two(2, 8))
def test_slots_of_each_executor(w: World) -> None:
    w.dag(tasks="a b c d e f g h")
    w.run()
    scheduled(w, *"abcdefgh")
    for task in "efgh":
        w.ti(task, executor="second")
    w.enqueue()
    w.check()
    w.executors[0].queued_tasks.clear()
    w.enqueue()
    assert w.states() == {"queued": 8}


@both(small(31))
def test_as_many_as_there_are_slots(w: World) -> None:
    w.dag(tasks=" ".join(f"t{number}" for number in range(40)), max_active_tasks=100)
    w.run()
    scheduled(w, *(f"t{number}" for number in range(40)))
    w.enqueue()
    assert w.states() == {"queued": 31, "scheduled": 9}


@both(two(31, 31), core__parallelism=40)
@pytest.mark.parametrize("spread", [True, False])
def test_parallelism_over_executors(w: World, spread: bool) -> None:
    names = [f"t{number}" for number in range(62)]
    w.dag(tasks=" ".join(names), max_active_tasks=100)
    w.run()
    scheduled(w, *names)
    for name in names[::2] if spread else names:
        w.ti(name, executor="second")
    w.enqueue()
    assert w.states()["queued"] == (40 if spread else 31)


@both(two(kind=Assigning))
def test_ids_assigned_beforehand(w: World) -> None:
    w.dag(tasks="a b")
    w.run()
    scheduled(w, "a", "b", external_executor_id="old")
    w.ti("b", executor="second")
    w.enqueue()
    assert w.count(TaskInstance, TaskInstance.external_executor_id == "old") == 1


@both(lambda: [Assigning()])
def test_ids_assigned_beforehand_by_everyone(w: World) -> None:
    w.dag(tasks="a b")
    w.run()
    scheduled(w, "a", "b")
    w.enqueue()
    assert w.count(TaskInstance, TaskInstance.external_executor_id.is_not(None)) == 2


@both(small(1))
def test_full_executors(w: World) -> None:
    w.executors[0].running.add(w.key("other"))
    w.compare_metrics("scheduler.critical", "pool.starving", "scheduler.tasks")
    w.dag()
    w.run()
    scheduled(w, "a")
    w.enqueue()
    assert w.states() == {"scheduled": 1}


@both()
def test_an_instance_without_a_version(w: World) -> None:
    w.dag(tasks="a b")
    w.run()
    scheduled(w, "a", "b")
    w.ti("a", dag_version_id=None)
    w.enqueue()
    assert w.states() == {"queued": 2}


@both()
@pytest.mark.parametrize("state", ["failed", "success"])
def test_a_run_that_ends_meanwhile(w: World, state: str) -> None:
    """It ends between the choice of the candidates and the hand-over, as each scheduler can see it."""
    w.dag()
    run = w.run()
    scheduled(w, "a")

    def end() -> None:
        with create_session(scoped=False) as session:
            session.execute(DagRun.__table__.update().where(DagRun.id == run.id).values(state=state))

    original, sorted_out = SchedulerJobRunner._try_to_load_executor, SchedulerJobRunner._executor_to_workloads

    def ours(self: Any, *args: Any, **kwargs: Any) -> Any:
        in_a_thread(end)
        return original(self, *args, **kwargs)

    def stock(self: Any, instances: Any, session: Any) -> Any:
        for instance in instances:
            set_committed_value(instance.dag_run, "_state", DagRunState(state))
        return sorted_out(self, instances, session)

    with (
        patch.object(SchedulerJobRunner, "_try_to_load_executor", ours),
        patch.object(SchedulerJobRunner, "_executor_to_workloads", stock),
    ):
        w.enqueue()
    assert w.state() is None


@both()
def test_a_retry_that_the_executor_still_knows(w: World) -> None:
    w.dag(tasks={"a": {"retries": 1}})
    w.run()
    scheduled(w, "a")
    w.executors[0].running.add(w.key())
    w.enqueue()
    assert w.state() == "queued"
    w.ti(state="success")
    w.report((w.key(), TaskInstanceState.SUCCESS))
    assert w.state() == "success"


@both()
def test_workloads(w: World) -> None:
    """What executors are given: bundle, file, log path, ids, queue, weight, slots, configuration."""
    w.dag(
        tasks={"a": {"queue": "q", "priority_weight": 4, "pool_slots": 2}, "b": {"executor_config": {"k": 1}}}
    )
    w.run(bundle_version="v1")
    scheduled(w, "a", "b")
    w.ti("b", try_number=3, hostname="before", external_executor_id="old")
    w.enqueue()
    assert len(w.executors[0].given) == 2


@both()
def test_durations_that_are_reported(w: World) -> None:
    w.compare_metrics("task.scheduled_duration", "scheduler.critical_section?")
    w.dag(tasks="a b c")
    w.run()
    scheduled(w, "a", "b", "c", scheduled_dttm=w.now - timedelta(hours=1))
    w.ti("b", end_date=EPOCH)
    w.ti("c", scheduled_dttm=None)
    w.enqueue()
    assert w.states() == {"queued": 3}


@both()
@pytest.mark.parametrize("held", ["advisory", "pool"])
def test_another_scheduler_is_in_the_section(w: World, held: str) -> None:
    w.compare_metrics("scheduler.critical_section")
    w.dag()
    w.run()
    scheduled(w, "a")
    with create_session(scoped=False) as other:
        if held == "pool":
            other.execute(select(Pool.id).with_for_update())
        else:
            other.execute(select(func.pg_advisory_xact_lock(DBLocks.SCHEDULER_CRITICAL_SECTION.value)))
        w.enqueue()
    assert w.states() == {"scheduled": 1}
