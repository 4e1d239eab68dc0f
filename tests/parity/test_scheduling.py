"""Decisions about task instances and runs: both schedulers bring the same runs to the same rest."""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.log import Log
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskreschedule import TaskReschedule
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel
from airflow.providers.standard.operators.branch import BaseBranchOperator
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk import DAG, Asset, BaseOperator, BaseSensorOperator
from airflow.triggers.base import StartTriggerArgs
from airflow.utils.session import create_session
from sqlalchemy import select

from tests.oracle.dags import RULES
from tests.parity.world import DAY, ENDED, World, both, in_a_thread, make_dag
from tests.support.dags import EPOCH, write_dags


def _callback(_context: Any) -> None:
    return None


@both()
def test_what_may_run_is_scheduled(w: World) -> None:
    options: dict[str, dict[str, Any]] = {
        "plain": {},
        "per_dag": {"max_active_tis_per_dag": 9},
        "per_run": {"max_active_tis_per_dagrun": 9},
        "past": {"depends_on_past": True},
    }
    states = {"none": None, "retry": "up_for_retry", "reschedule": "up_for_reschedule"}
    w.dag(tasks={f"{name}_{state}": given for name, given in options.items() for state in states})
    w.run()
    for name, (suffix, state) in itertools.product(options, states.items()):
        ended: dict[str, Any] = {"end_date": w.now - timedelta(minutes=15)} if suffix == "retry" else {}
        w.ti(f"{name}_{suffix}", state, try_number=1 if state else 0, **ended)
    w.schedule()
    assert w.states() == {"scheduled": 12}


STATES = (None, "success", "failed", "skipped", "upstream_failed", "removed", "running")


@both()
@pytest.mark.parametrize("rule", RULES)
def test_trigger_rules(w: World, rule: str) -> None:
    """All combinations of the states of two upstream tasks, each with a task of its own below them."""
    pairs = list(itertools.combinations_with_replacement(range(len(STATES)), 2))
    tasks: dict[str, Any] = {}
    edges = []
    for number, _ in enumerate(pairs):
        tasks |= {f"a{number}": {}, f"b{number}": {}, f"z{number}": {"trigger_rule": rule}}
        edges += [f"a{number}>z{number}", f"b{number}>z{number}"]
    w.dag(tasks=tasks, edges=" ".join(edges))
    w.run()
    for number, (one, other) in enumerate(pairs):
        w.ti(f"a{number}", STATES[one])
        w.ti(f"b{number}", STATES[other])
    w.schedule()
    assert w.runs() == ["running"]


@both()
def test_the_last_tasks_decide_the_run(w: World) -> None:
    """All combinations of states of a task and two below it, each in a run of its own."""
    w.dag(tasks="a b c", edges="a>b a>c")
    ended = [state for state in STATES if state not in (None, "running")]
    below = itertools.combinations_with_replacement(ended, 2)
    for number, (top, pair) in enumerate(itertools.product(ended, below)):
        w.run(number=number)
        for task, state in zip("abc", (top, *pair), strict=True):
            w.ti(task, state, run=number, **ENDED)
    w.schedule()
    assert set(w.runs()) == {"success", "failed"}


@both()
def test_no_task_instances_at_all(w: World) -> None:
    w.dag()
    w.run(bundle_version="1")  # else its integrity is checked, which makes them anew
    with w.rows() as session:
        session.query(TaskInstance).delete()
    w.schedule()
    assert w.runs() == ["success"]


@both()
def test_a_failure_above_a_success(w: World) -> None:
    w.dag(tasks={"a": {}, "b": {}, "c": {"trigger_rule": "one_success"}}, edges="a>c b>c")
    w.run()
    w.ti("c", "success", **ENDED)
    w.ti("a", "running")
    w.schedule()
    w.check()
    w.ti("a", "failed", **ENDED)
    w.ti("b", "success", **ENDED)
    w.schedule()
    assert w.runs() == ["success"]


@both()
@pytest.mark.parametrize(
    "state", ["success", "restarting", "running", "queued", "scheduled", "deferred", "awaiting_input"]
)
def test_deadlocks(w: World, state: str) -> None:
    """A task whose upstream has no row can never run; of what still moves, only some puts the verdict off."""
    w.dag(tasks="a b c", edges="a>b")
    w.run()
    w.remove("a")
    w.ti("c", state, **ENDED)
    w.schedule()
    assert w.state("b") is None


@both()
@pytest.mark.parametrize("option", ["depends_on_past", "max_active_tis_per_dag"])
def test_no_deadlock_while_another_run_may_help(w: World, option: str) -> None:
    w.dag(tasks={"a": {option: 1 if option.startswith("max") else True}})
    for number in range(2):
        w.run(number=number)
    w.ti(state="running")
    w.schedule()
    assert w.runs() == ["running", "running"]


PAST = ("success", "skipped", "running", "failed", None, "removed", "upstream_failed", "up_for_retry")


@both()
@pytest.mark.parametrize("wait", [False, True], ids=["past", "downstream"])
def test_depends_on_past(w: World, wait: bool) -> None:
    options = {"depends_on_past": True, "wait_for_downstream": wait}
    tasks: dict[str, Any] = {}
    for number, _ in enumerate(PAST):
        tasks |= {f"a{number}": options, f"b{number}": {}}
    w.dag(tasks=tasks, edges=" ".join(f"a{number}>b{number}" for number, _ in enumerate(PAST)))
    w.run(state="failed")
    w.run(number=1)
    for number, state in enumerate(PAST):
        w.ti(f"a{number}", "success" if wait else state)
        w.ti(f"b{number}", state if wait else "success")
    w.schedule()
    assert w.state("a0", run=1) == "scheduled"
    assert w.state("a3", run=1) is None


@both()
@pytest.mark.parametrize("catchup", [True, False])
@pytest.mark.parametrize("types", [("scheduled", "manual"), ("manual", "scheduled")])
def test_which_run_is_the_previous_one(w: World, catchup: bool, types: tuple[str, str]) -> None:
    w.dag(tasks={"a": {"depends_on_past": True}}, schedule="@daily", catchup=catchup)
    for number, kind in enumerate((*types, "scheduled")):
        w.run(number=number, state="running" if number == 2 else "failed", run_type=kind)
    w.ti(state="success", run=0)
    w.ti(state="failed", run=1)
    w.schedule()
    assert w.state(run=2) in (None, "scheduled")


@both()
@pytest.mark.parametrize("case", ["no-date", "first-of-backfill", "second-of-backfill", "starts-later"])
def test_runs_without_a_past_to_wait_for(w: World, case: str) -> None:
    from tests.parity.test_starting import backfill

    later = {"start_date": EPOCH + DAY} if case == "starts-later" else {}
    w.dag(tasks={"a": {"depends_on_past": True, **later}}, schedule="@daily", catchup=True)
    w.run(state="failed", run_type="scheduled")
    if case != "starts-later":
        w.ti(state="failed")
    if case.endswith("backfill"):
        backfill(w, range(1, 3))
        with w.rows() as session:
            session.execute(DagRun.__table__.update().where(DagRun.state == "queued").values(state="running"))
    else:
        date: dict[str, Any] = {"logical_date": None} if case == "no-date" else {}
        w.run(number=1, run_type="manual" if date else "scheduled", **date)
    w.schedule()
    assert w.runs()[0] == "failed"


@both()
@pytest.mark.parametrize("ignored", [True, False])
@pytest.mark.parametrize("seen", [True, False])
def test_a_task_newer_than_the_dag(w: World, ignored: bool, seen: bool) -> None:
    w.dag(tasks={"a": {"depends_on_past": True, "ignore_first_depends_on_past": ignored}, "b": {}})
    for number in range(3):
        w.run(number=number, state="running" if number == 2 else "success")
        w.ti("b", "success", run=number, **ENDED)
    w.ti(state="success", **ENDED)
    with w.rows() as session:
        gone = ["run_1"] if seen else ["run_0", "run_1"]
        session.query(TaskInstance).filter(
            TaskInstance.task_id == "a", TaskInstance.run_id.in_(gone)
        ).delete()
    w.schedule()
    assert w.state(run=2) == ("scheduled" if ignored and not seen else None)


@both()
def test_a_mapped_task_depends_on_all_of_its_past(w: World) -> None:
    from tests.parity.test_mapping import mapped_dag

    mapped_dag([1, 2], depends_on_past=True)
    for number in range(2):
        w.run(number=number)
    w.schedule()
    w.check()
    w.ti("m", "success", index=0, **ENDED)
    w.schedule()
    w.check()
    w.ti("m", "success", index=1, **ENDED)
    w.schedule()
    assert w.state("m", run=1, index=0) == "scheduled"


@both()
def test_waiting_for_a_retry(w: World) -> None:
    """A delay, a growing one, and one that the worker asked for; failed so many minutes ago."""
    columns: dict[str, dict[str, Any]] = {"plain": {}, "growing": {}, "asked": {"retry_delay_override": 60.0}}
    ages = (5, 16, 600)
    tasks: dict[str, Any] = {}
    for name, age in itertools.product(columns, ages):
        growing = {"retry_exponential_backoff": 2.0} if name == "growing" else {}
        tasks[f"{name}{age}"] = {"retries": 3, "retry_delay": timedelta(minutes=15), **growing}
    w.dag(tasks=tasks)
    w.run()
    for name, age in itertools.product(columns, ages):
        failed = {"try_number": 2, "end_date": w.now - timedelta(minutes=age), **columns[name]}
        w.ti(f"{name}{age}", "up_for_retry", **failed)
    w.schedule()
    assert w.state("plain5") == "up_for_retry"
    assert w.state("plain16") == "scheduled"


RESCHEDULES = ((), (-1,), (-21, -11, -1), (9,), (-19, -9, 9), (9, -1))
"""Minutes from now, in the order in which they were asked for: the last one counts."""


@both()
@pytest.mark.parametrize("state", ["up_for_reschedule", None])
def test_waiting_for_a_reschedule(w: World, state: str | None) -> None:
    with DAG("dag", start_date=EPOCH, schedule=None) as dag:
        for number, _ in enumerate(RESCHEDULES):
            BaseSensorOperator(task_id=f"sensor{number}", mode="reschedule")
            BaseOperator(task_id=f"other{number}")
    write_dags(dag)
    w.run()
    with w.rows() as session:
        for instance in session.scalars(select(TaskInstance)):
            instance.state, instance.try_number = state, 3
            for minutes in RESCHEDULES[int(instance.task_id[-1])]:
                when = w.now + timedelta(minutes=minutes)
                session.add(TaskReschedule(instance.id, EPOCH, EPOCH, when))
                session.flush()
    w.schedule()
    assert w.state("sensor2") == "scheduled"


class Branch(BaseBranchOperator):  # type: ignore[misc]
    """Chooses nothing: the story stores its choice."""

    def choose_branch(self, context: Any) -> list[str]:
        return []


CHOICES: tuple[Any, ...] = (
    None,
    {"followed": ["b"]},
    {"followed": ["c"]},
    {"skipped": ["b"]},
    {"skipped": ["c"]},
    {"followed": ["b"], "skipped": ["b"]},
    {"followed": []},
    {},
)


@both()
@pytest.mark.parametrize("parent", ["success", "running", "skipped"])
def test_what_a_branch_left_out(w: World, parent: str) -> None:
    with DAG("dag", start_date=EPOCH, schedule=None) as dag:
        for number, _ in enumerate(CHOICES):
            below = BaseOperator(task_id=f"d{number}", trigger_rule="none_failed")
            one = BaseOperator(task_id=f"b{number}")
            other = BaseOperator(task_id=f"c{number}", trigger_rule="all_done")
            Branch(task_id=f"a{number}") >> [one, other] >> below
    write_dags(dag)
    run = w.run()
    for number, choice in enumerate(CHOICES):
        w.ti(f"a{number}", parent, **ENDED)
        if choice is not None:
            value = {key: [f"{task}{number}" for task in tasks] for key, tasks in choice.items()}
            w.add(skip_decision(run, f"a{number}", value))
    w.schedule()
    assert w.runs() == ["running"]


def skip_decision(run: DagRun, task: str, value: Any) -> XComModel:
    """Return what a branch leaves behind."""
    return XComModel(
        dag_run_id=run.id,
        task_id=task,
        map_index=-1,
        key="skipmixin_key",
        dag_id=run.dag_id,
        run_id=run.run_id,
        value=value,
    )


@both()
def test_empty_tasks(w: World) -> None:
    with DAG("dag", start_date=EPOCH, schedule=None) as dag:
        first = EmptyOperator(task_id="first")
        first >> EmptyOperator(task_id="second") >> BaseOperator(task_id="third")
        EmptyOperator(task_id="executes", on_execute_callback=_callback)
        EmptyOperator(task_id="succeeds", on_success_callback=_callback)
        EmptyOperator(task_id="fails", on_failure_callback=_callback)
        EmptyOperator(task_id="outlet", outlets=[Asset("one")])
        EmptyOperator(task_id="inlet", inlets=[Asset("one")])
        EmptyOperator(task_id="rescheduled")
        EmptyOperator(task_id="dated")
    write_dags(dag)
    w.run()
    w.ti("rescheduled", "up_for_reschedule", try_number=2, **ENDED)
    w.ti("dated", "up_for_retry", try_number=2, **ENDED)
    w.schedule()
    assert w.states() == {"success": 5, "scheduled": 5}


@both()
@pytest.mark.parametrize("state", ["up_for_reschedule", "up_for_retry", None])
def test_tries(w: World, state: str | None) -> None:
    w.dag(tasks={"a": {"retries": 5}})
    w.run()
    w.ti(state=state, try_number=3, start_date=EPOCH, end_date=EPOCH, external_executor_id="kept")
    w.schedule()
    assert w.state() == "scheduled"


@both()
@pytest.mark.parametrize("paused_too", [False, True])
def test_runs_of_paused_dags(w: World, paused_too: bool) -> None:
    w.dag()
    w.run(run_type="backfill" if paused_too else "manual")
    w.ti(state="running")
    w.of_dag(is_paused=True)
    w.timer("paused_dag_runs")
    w.check()
    with w.rows() as session:
        session.execute(DagRun.__table__.update().values(last_scheduling_decision=EPOCH))
    w.ti(state="success", **ENDED)
    w.timer("paused_dag_runs")
    assert w.runs() == ["success"]


@both()
def test_what_one_run_raises_does_not_stop_the_others(w: World) -> None:
    w.dag("one")
    w.dag("two")
    w.run("one")
    w.run("two")
    for dag in ("one", "two"):
        w.ti(dag=dag, state="success", **ENDED)
    emit = DagRun._emit_duration_stats_for_finished_state

    def raising(self: Any) -> None:
        if self.dag_id == "one":
            raise RuntimeError("planted")
        emit(self)

    with patch.object(DagRun, "_emit_duration_stats_for_finished_state", raising):
        w.schedule()
    assert w.runs() == ["success", "success"]


@both()
@pytest.mark.parametrize("mark", [(), ("a",), ("b",), ("a", "b")], ids="-".join)
@pytest.mark.parametrize("limit", [1, 2])
def test_pause_after_failures(w: World, mark: tuple[str, ...], limit: int) -> None:
    w.dag(max_consecutive_failed_dag_runs=limit)
    w.run(state="failed")
    w.run(number=1)
    w.ti(run=1, state="failed" if mark else "success", **ENDED)
    if mark == ("b",):
        w.run(number=2, state="success")
    w.schedule()
    assert w.count(Log, Log.event == "paused") in (0, 1)


@both()
@pytest.mark.parametrize("state", ["failed", "success"])
def test_the_limit_flag_when_a_run_ends(w: World, state: str) -> None:
    kinds = (
        "manual",
        "scheduled",
        "asset_triggered",
        "backfill",
        "operator_triggered",
        "asset_materialization",
    )
    for kind in kinds:
        w.dag(kind, schedule="@daily", max_active_runs=1)
        w.run(kind, run_type=kind)
        w.of_dag(kind, exceeds_max_non_backfill=True)
        w.ti(dag=kind, state=state, **ENDED)
    w.schedule()
    assert set(w.runs()) == {state}


@both()
def test_metrics_of_an_ended_run(w: World) -> None:
    w.compare_metrics(
        "dagrun.duration", "dagrun.first_task", "dagrun.dag.first", "ti_", "task_", "dagrun.dependency-check?"
    )
    w.dag(schedule="@daily", catchup=True)
    for number, kind in enumerate(("scheduled", "manual", "scheduled", "scheduled")):
        w.run(number=number, run_type=kind, queued_at=EPOCH, clear_number=int(number == 3))
        w.ti(run=number, state="failed" if number == 2 else "success", **ENDED)
        with w.rows() as session:
            session.execute(TaskInstance.__table__.update().values(start_date=EPOCH + 9 * DAY))
    w.schedule()
    assert w.metrics


@both()
@pytest.mark.parametrize("state", ["queued", "running", "success"])
@pytest.mark.parametrize("kind", [BaseOperator, EmptyOperator])
def test_a_task_that_another_scheduler_took_meanwhile(w: World, state: str, kind: Any) -> None:
    """Between reading and writing the row became another; it is not touched."""
    with DAG("dag", start_date=EPOCH, schedule=None) as dag:
        kind(task_id="a")
        BaseOperator(task_id="b")
    write_dags(dag)
    w.run()
    taken: list[str] = []
    original = DagRun.schedule_tis

    def late(self: Any, *args: Any, **kwargs: Any) -> Any:
        take(state, taken)
        return original(self, *args, **kwargs)

    with patch.object(DagRun, "schedule_tis", late), _before_writing(lambda: take(state, taken)):
        w.schedule()
    assert taken == [state]
    assert w.state() == state


def take(state: str, taken: list[str]) -> None:
    """Change the row as another scheduler would, once, in a transaction of its own."""
    if taken:
        return
    taken.append(state)

    def change() -> None:
        with create_session(scoped=False) as session:
            values = {"state": state, "try_number": 3, "end_date": EPOCH}
            of_a = TaskInstance.task_id == "a"
            session.execute(TaskInstance.__table__.update().where(of_a).values(values))

    in_a_thread(change)


@contextmanager
def _before_writing(change: Any) -> Iterator[None]:
    """Let *change* happen before the redesigned stage writes what it decided, with or without a lock."""
    from async_scheduler.routines.redesigned import schedule, unlocked, writing
    from async_scheduler.store import unlocked as store

    def late(write: Any) -> Any:
        async def changed_before(*args: Any) -> Any:
            change()
            return await write(*args)

        return changed_before

    with (
        patch.object(schedule, "write", late(writing.write)),
        patch.object(unlocked, "schedule_unless_changed", late(store.schedule_unless_changed)),
    ):
        yield


WIRINGS = ("s>w w>t s>t", "s>w w>t", "w>t s>t", "w>t", "s>w", "s>t", "s>w w>t s>t t>u", "s>w w>t s>t w>u", "")
"""Of a setup, a work task, a teardown and another task or teardown."""


@both()
@pytest.mark.parametrize(("fails_run", "last"), [(False, "work"), (True, "teardown")])
def test_teardowns_and_the_run(w: World, fails_run: bool, last: str) -> None:
    """Which tasks decide the run, whatever the wiring and whoever fails."""
    with warnings.catch_warnings(action="ignore"):
        for number, wiring in enumerate(WIRINGS):
            dag = make_dag(f"dag{number}", "s w t u", wiring)
            dag.get_task("s").as_setup()
            dag.get_task("t").as_teardown(on_failure_fail_dagrun=fails_run)
            if last == "teardown":
                dag.get_task("u").as_teardown(on_failure_fail_dagrun=False)
            write_dags(dag)
            for run, failed in enumerate(("", "w", "t", "tu")):
                w.run(dag.dag_id, run)
                for task in "swtu":
                    state = "failed" if task in failed else "success"
                    w.ti(task, state, run=run, dag=dag.dag_id, **ENDED)
    w.schedule()
    assert {"success", "failed"} == set(w.runs())


@both()
@pytest.mark.parametrize("rule", ["all_success", "all_done", "none_failed"])
@pytest.mark.parametrize("past", [False, True])
def test_setups_hold_back_what_is_below(w: World, rule: str, past: bool) -> None:
    """Each pair of states of two setups, with work directly and indirectly below them, and a teardown."""
    pairs = list(itertools.product(("success", "failed", "skipped", "running", None), repeat=2))
    options = {"depends_on_past": True, "wait_for_past_depends_before_skipping": True} if past else {}
    dag = make_dag(
        "dag",
        {
            f"{task}{number}": {"trigger_rule": rule, **options} if task in "wv" else {}
            for number, _ in enumerate(pairs)
            for task in "rswvt"
        },
        " ".join(f"r{n}>w{n} s{n}>w{n} w{n}>v{n} v{n}>t{n} r{n}>t{n} s{n}>t{n}" for n, _ in enumerate(pairs)),
    )
    for number, _ in enumerate(pairs):
        dag.get_task(f"r{number}").as_setup()
        dag.get_task(f"s{number}").as_setup()
        dag.get_task(f"t{number}").as_teardown()
    write_dags(dag)
    if past:
        w.run(state="failed")
    w.run(number=1)
    for number, pair in enumerate(pairs):
        for task, state in zip("rs", pair, strict=True):
            w.ti(f"{task}{number}", state, run=1)
    w.schedule()
    assert w.runs()[-1] == "running"


class Starting(BaseOperator):  # type: ignore[misc]
    """Starts in the triggerer."""

    start_from_trigger = True
    start_trigger_args = StartTriggerArgs(
        trigger_cls="airflow.providers.standard.triggers.temporal.TimeDeltaTrigger",
        trigger_kwargs={"delta": timedelta(hours=1)},
        next_method="execute_complete",
        next_kwargs={"delta": timedelta(hours=2)},
        timeout=timedelta(minutes=5),
    )


@both()
@pytest.mark.parametrize("state", [None, "up_for_reschedule"])
def test_tasks_that_start_from_a_trigger(w: World, state: str | None) -> None:
    with DAG("dag", start_date=EPOCH, schedule=None) as dag:
        BaseOperator(task_id="a") >> Starting(task_id="b")
    write_dags(dag)
    w.run()
    w.ti("b", state, try_number=1)
    w.schedule()
    w.ti("a", "success", **ENDED)
    w.schedule()
    assert w.state("b") == "deferred"
    assert w.count(Trigger) == 1
