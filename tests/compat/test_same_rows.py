"""Every method of ours, called on Airflow's runner and on the facade, on the same rows of two databases."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import select, update

from async_scheduler.compat import SyncFacadeRunner
from tests.compat.rows import (
    ASSET,
    RUNNERS,
    chain,
    change_runs,
    new_runner,
    queue_asset_event,
    set_states,
    snapshot,
    write_backfill,
)
from tests.support.dags import create_run, write_dags

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from tests.compat.conftest import FreshDatabase

Call = Callable[[Any, Any], Any]
"""Calls a method of the runner with a session and returns what can be compared of the result."""

RUNNING = DagRunState.RUNNING
EARLIER = datetime(2026, 1, 2, tzinfo=UTC)
SCENARIOS: dict[str, list[tuple[Callable[[], None], Call]]] = {}


def scenario(name: str, prepare: Callable[[], None]) -> Callable[[Call], Call]:
    """Register a call of method *name* on the rows that *prepare* writes."""

    def register(call: Call) -> Call:
        SCENARIOS.setdefault(name, []).append((prepare, call))
        return call

    return register


def due_dags() -> None:
    """Daily dags that are due, one of them at its limit, and one that waits for asset events."""
    dags_due_by_time()
    write_dags(chain("by_asset", "a", schedule=[ASSET]))
    queue_asset_event("by_asset")


def dags_due_by_time() -> None:
    """Daily dags that are due, one of them at its limit."""
    write_dags(
        chain("due", "a", "b", schedule="@daily"),
        chain("behind", "a", schedule="@daily", catchup=True, max_active_runs=3),
        chain("full", "a", schedule="@daily", catchup=True, max_active_runs=1),
    )
    create_run("full", state=RUNNING)
    with create_session() as session:
        session.execute(
            update(DagModel).where(DagModel.dag_id == "full").values(exceeds_max_non_backfill=True)
        )


@scenario("_create_dagruns_for_dags", due_dags)
def create_all(runner: Any, session: Session) -> Any:
    """By timetable and by asset events."""
    with prohibit_commit(session) as guard:
        return runner._create_dagruns_for_dags(guard, session)


@scenario("_create_dag_runs", due_dags)
def create_given(runner: Any, session: Session) -> Any:
    """A run each, none for the dag at its limit; the objects given show the next dates."""
    models = list(session.scalars(select(DagModel).where(DagModel.dag_id.in_(("due", "behind", "full")))))
    result = runner._create_dag_runs(models, session)
    return result, [(model.next_dagrun, model.exceeds_max_non_backfill) for model in models]


def queued_runs() -> None:
    """Queued runs of two dags, more than the limit of one of them, and of a backfill."""
    write_backfill("filled")
    write_dags(chain("one", "a", max_active_runs=1), chain("many", "a", max_active_runs=9))
    for number in range(3):
        create_run("one", number)
        create_run("many", number)


@scenario("_start_queued_dagruns", queued_runs)
def start(runner: Any, session: Session) -> Any:
    """Within the limits of dags and backfills."""
    return runner._start_queued_dagruns(session)


@scenario("_lock_backfills", queued_runs)
def lock_backfills(runner: Any, session: Session) -> Any:
    """The backfills of the runs, by id."""
    runs = list(session.scalars(select(DagRun)))
    locked = runner._lock_backfills(runs, session)
    return [
        (number, type(backfill).__name__, backfill.max_active_runs) for number, backfill in locked.items()
    ]


def running_run(states: dict[str, str | None], **options: Any) -> Callable[[], None]:
    """A running run of a dag of three tasks in a row."""

    def prepare() -> None:
        write_dags(chain("dag", "a", "b", "c", **options))
        create_run("dag", state=RUNNING)
        set_states("dag", states, try_number=1, end_date=EARLIER)

    return prepare


def _callback(_context: Any) -> None:
    return None


@scenario("_schedule_dag_run", running_run({"a": "success"}))
@scenario("_schedule_dag_run", running_run({"a": "failed"}))
@scenario("_schedule_dag_run", running_run({"a": "success", "b": "success", "c": "success"}))
@scenario(
    "_schedule_dag_run",
    running_run({"c": "failed", "a": "success", "b": "success"}, on_failure_callback=_callback),
)
@scenario(
    "_schedule_dag_run", running_run({"a": "up_for_retry"}, tasks={"retries": 2, "retry_delay": timedelta(0)})
)
def schedule_one(runner: Any, session: Session) -> Any:
    """Once for each level that is left, so that both have come to rest."""
    run = session.scalars(select(DagRun)).one()
    callbacks = [runner._schedule_dag_run(run, session) for _ in range(3)]
    session.flush()
    messages = [callback.msg for callback in callbacks if callback is not None]
    return (
        messages,
        run.state,
        sorted((ti.task_id, ti.state) for ti in run.get_task_instances(session=session)),
    )


def timed_out_run() -> None:
    """A run that has run longer than it may."""
    running_run({"a": "running"}, dagrun_timeout=timedelta(minutes=1))()
    change_runs("dag", start_date=EARLIER)


@scenario("_schedule_dag_run", timed_out_run)
def time_out(runner: Any, session: Session) -> Any:
    """The run fails, what is unfinished is skipped, the callback says why."""
    run = session.scalars(select(DagRun)).one()
    callback = runner._schedule_dag_run(run, session)
    session.flush()
    return callback.msg, callback.is_failure_callback, run.state


def several_runs() -> None:
    """One run to go on with, one that ends with a callback."""
    write_dags(chain("open", "a", "b"), chain("over", "a", on_success_callback=_callback))
    create_run("open", state=RUNNING)
    create_run("over", state=RUNNING)
    set_states("over", {"a": "success"})


@scenario("_schedule_all_dag_runs", several_runs)
def schedule_all(runner: Any, session: Session) -> Any:
    """The runs given, in their order, with their callbacks."""
    runs = list(session.scalars(select(DagRun).order_by(DagRun.dag_id)))
    with prohibit_commit(session) as guard:
        pairs = runner._schedule_all_dag_runs(guard, runs, session)
    assert [run for run, _ in pairs] == runs
    return [(run.dag_id, run.state, callback and callback.msg) for run, callback in pairs]


def scheduled_tasks() -> None:
    """Scheduled task instances of two runs, one with a limit of its own."""
    write_dags(
        chain("plain", "a", "b", "c", max_active_tasks=2),
        chain("limited", "a", "b", tasks={"max_active_tis_per_dag": 1, "priority_weight": 5}),
    )
    for dag_id, task_ids in (("plain", "abc"), ("limited", "ab")):
        create_run(dag_id, state=RUNNING)
        set_states(dag_id, dict.fromkeys(task_ids, "scheduled"), try_number=1)
    create_run("limited", 1, state=RUNNING)
    with create_session() as session:
        session.execute(
            update(TaskInstance)
            .where(TaskInstance.run_id == "run_1")
            .values(state=TaskInstanceState.RUNNING, try_number=1)
            .where(TaskInstance.task_id == "a")
        )


def key_of(ti: Any) -> Any:
    """Return what identifies a task instance in both databases."""
    return ti.dag_id, ti.task_id, ti.run_id, ti.map_index, ti.try_number


@scenario("_executable_task_instances_to_queued", scheduled_tasks)
def choose(runner: Any, session: Session) -> Any:
    """The chosen ones, best first, as task instances with their runs and dags at hand."""
    chosen = runner._executable_task_instances_to_queued(max_tis=32, session=session)
    assert all(isinstance(ti, TaskInstance) and ti not in session for ti in chosen)
    first = {ti.dag_id for ti in chosen[:1]}
    return (
        first,
        sorted(map(key_of, chosen)),
        [ti.dag_run.state for ti in chosen],
        [ti.dag_model.dag_id for ti in chosen],
    )


@scenario("_critical_section_enqueue_task_instances", scheduled_tasks)
def enqueue(runner: Any, session: Session) -> Any:
    """How many were queued; their workloads have reached the executor."""
    count = runner._critical_section_enqueue_task_instances(session=session)
    return count, sorted(tuple(key)[:4] for key in runner.executor.queued_tasks)


@scenario("_enqueue_task_instances_with_queued_state", scheduled_tasks)
def hand_over(runner: Any, session: Session) -> Any:
    """A workload for each, in order; those of a run that has ended lose their state instead."""
    session.execute(update(DagRun).where(DagRun.dag_id == "plain").values(state=DagRunState.FAILED))
    instances = list(
        session.scalars(select(TaskInstance).where(TaskInstance.run_id == "run_0").order_by(TaskInstance.id))
    )
    result = runner._enqueue_task_instances_with_queued_state(instances, runner.executor, session=session)
    session.flush()
    workloads = [
        (workload.ti.task_id, workload.log_path, str(workload.dag_rel_path), workload.bundle_info.name)
        for workload in runner.executor.queued_tasks.values()
    ]
    return result, workloads


@scenario("_process_executor_events", scheduled_tasks)
def process_events(runner: Any, session: Session) -> Any:
    """Ends that agree with the rows and one that does not, a start, and a task instance that is gone."""
    executor = runner.executor
    session.execute(
        update(TaskInstance)
        .where(TaskInstance.dag_id == "plain")
        .values(state=TaskInstanceState.QUEUED, queued_by_job_id=runner.job.id)
    )
    plain = {
        ti.task_id: ti.key
        for ti in session.scalars(select(TaskInstance).where(TaskInstance.dag_id == "plain"))
    }
    executor.event_buffer = {
        plain["a"]: (TaskInstanceState.FAILED, "killed"),
        plain["b"]: (TaskInstanceState.QUEUED, "external-id"),
    }
    left = runner._process_executor_events(executor=executor, session=session)
    session.flush()
    return left, dict(executor.event_buffer)


@scenario("_set_exceeds_max_active_runs", due_dags)
def set_flag(runner: Any, session: Session) -> Any:
    """The flag follows the runs, or the number that the caller has counted."""
    full, due = session.get_one(DagModel, "full"), session.get_one(DagModel, "due")
    session.execute(update(DagRun).values(state=DagRunState.SUCCESS))
    runner._set_exceeds_max_active_runs(dag_model=full, session=session)
    runner._set_exceeds_max_active_runs(dag_model=due, session=session, active_non_backfill_runs=99)
    session.flush()
    return full.exceeds_max_non_backfill, due.exceeds_max_non_backfill


# No run for asset events: SQLite's clock shows whole seconds, so whether a run due at the very moment of its
# creation starts in the same call depends on the second's end.
@scenario("_do_scheduling", dags_due_by_time)
@scenario("_do_scheduling", several_runs)
@scenario("_do_scheduling", scheduled_tasks)
def schedule(runner: Any, session: Session) -> Any:
    """One turn, which commits what it does."""
    return runner._do_scheduling(session)


def whole_life() -> None:
    """A run to be created, and one of two tasks in a row."""
    write_dags(chain("due", "a", schedule="@daily"), chain("queued", "a", "b"))
    create_run("queued")


@scenario("_run_scheduler_loop", whole_life)
def take_turns(runner: Any, session: Session) -> Any:
    """As many turns as it takes; both runs have ended then."""
    session.close()
    runner.num_runs = 10
    return runner._run_scheduler_loop()


CASES = [(name, prepare, call) for name, cases in SCENARIOS.items() for prepare, call in cases]


def test_every_method_of_ours_is_compared() -> None:
    """A method without a scenario fails here."""
    assert set(SCENARIOS) == SyncFacadeRunner.OURS


@pytest.mark.parametrize(
    ("prepare", "call"),
    [case[1:] for case in CASES],
    ids=[f"{name[1:]}-{call.__name__}-{number}" for number, (name, _, call) in enumerate(CASES)],
)
def test_both_leave_the_same(fresh_db: FreshDatabase, prepare: Callable[[], None], call: Call) -> None:
    """The same result, and the same rows once the caller has committed."""
    left = []
    for kind in RUNNERS:
        with fresh_db():
            prepare()
            runner = new_runner(kind)
            with create_session() as session:
                result = call(runner, session)
            left.append((result, snapshot()))
    theirs, ours = left
    assert ours[0] == theirs[0]
    for table, rows in theirs[1].items():
        assert ours[1][table] == rows, table
