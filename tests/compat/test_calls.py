"""How a call behaves for its caller: transactions, objects, effects, loops, clocks, replaced methods."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from unittest.mock import MagicMock

import airflow.timetables.trigger  # noqa: F401  (takes the clock by name: not while a test has stopped it)
import pytest
from airflow import settings
from airflow._shared.timezones import timezone
from airflow.executors.executor_utils import ExecutorName
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import DagRunState, TaskInstanceState
from sqlalchemy import event, func, select

from async_scheduler.compat import SyncFacadeRunner
from async_scheduler.facade.driving import CannotWait, step
from async_scheduler.facade.sessions import OverBlockingDriver
from async_scheduler.facade.stages import ScheduleGivenRuns
from tests.compat.rows import ASSET, RUNNERS, chain, new_runner, queue_asset_event, set_states
from tests.support.dags import create_run, scheduled_dag, write_dags

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

pytestmark = pytest.mark.usefixtures("any_db")
LOCKS_ROWS = pytest.mark.parametrize("fresh_db", ["postgresql"], indirect=True)
"""For tests of what two transactions do to each other: SQLite has one writer."""


@pytest.fixture
def run_of_two(any_db: str) -> None:
    """A running run of two tasks in a row."""
    write_dags(chain("dag", "a", "b"))
    create_run("dag", state=DagRunState.RUNNING)


def states() -> dict[str, str | None]:
    """Return what is committed."""
    with create_session() as session:
        return {ti.task_id: ti.state for ti in session.scalars(select(TaskInstance))}


def the_run(session: Session) -> DagRun:
    """Return the only run there is."""
    return session.scalars(select(DagRun)).one()


@pytest.mark.usefixtures("run_of_two")
def test_the_callers_transaction_stays_open() -> None:
    """Nothing is committed: the caller's rollback takes it all back, its own changes included."""
    runner = new_runner(SyncFacadeRunner)
    with create_session() as session:
        session.add(Pool(pool="pool", slots=1, include_deferred=False))
        run = the_run(session)
        runner._schedule_dag_run(run, session)
        runner._critical_section_enqueue_task_instances(session)
        session.flush()
        assert {ti.task_id: ti.state for ti in run.get_task_instances(session=session)}["a"] == "queued"
        session.rollback()
    assert states() == {"a": None, "b": None}
    with create_session() as session:
        assert session.scalar(select(func.count()).where(Pool.pool == "pool")) == 0


@pytest.mark.usefixtures("run_of_two")
def test_an_error_takes_back_the_call_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the caller had begun is still there, to be committed or not."""

    async def fail(*_: Any) -> None:
        raise RuntimeError("in the middle")

    runner = new_runner(SyncFacadeRunner)
    with create_session() as session:
        run = the_run(session)
        run.conf = {"mine": 1}
        monkeypatch.setattr(ScheduleGivenRuns, "_end", fail)
        with pytest.raises(RuntimeError, match="in the middle"):
            runner._schedule_dag_run(run, session)
        assert run.conf == {"mine": 1}
    assert states() == {"a": None, "b": None}
    with create_session() as session:
        assert the_run(session).conf == {"mine": 1}


def commits(session: Session) -> list[Session]:
    """Return a list that grows by one with each commit of *session*."""
    seen: list[Session] = []
    event.listen(session, "after_commit", seen.append)
    return seen


def one_turn(runner: Any, session: Session) -> None:
    """Run the method that commits most."""
    runner._do_scheduling(session)


def all_runs(runner: Any, session: Session) -> None:
    """Run the method that commits once, guarded."""
    with prohibit_commit(session) as guard:
        runner._schedule_all_dag_runs(guard, [the_run(session)], session)


def creation(runner: Any, session: Session) -> None:
    """Run the other method that commits once, guarded."""
    with prohibit_commit(session) as guard:
        runner._create_dagruns_for_dags(guard, session)


def section(runner: Any, session: Session) -> None:
    """Run a method that does not commit, guarded."""
    with prohibit_commit(session):
        runner._critical_section_enqueue_task_instances(session)


@pytest.mark.usefixtures("run_of_two")
@pytest.mark.parametrize("call", [one_turn, all_runs, creation, section])
def test_commits_are_as_many_as_airflows(call: Any) -> None:
    """The same guard lets the same commits through."""
    counted = []
    for kind in RUNNERS:
        runner = new_runner(kind)
        with create_session() as session:
            seen = commits(session)
            call(runner, session)
            counted.append(len(seen))
    assert counted[1] == counted[0]


@pytest.mark.usefixtures("run_of_two")
def test_objects_show_what_was_written() -> None:
    """Those the caller holds in its session, and a run that an earlier session has left behind."""
    runner = new_runner(SyncFacadeRunner)
    with create_session() as session:
        left_behind = the_run(session)
    with create_session() as session:
        held = {ti.task_id: ti for ti in session.scalars(select(TaskInstance))}
        runner._schedule_dag_run(left_behind, session)
        assert (held["a"].state, held["a"].try_number, held["b"].state) == ("scheduled", 1, None)
        assert left_behind.last_scheduling_decision is not None
        assert left_behind.dag.dag_id == "dag"


@pytest.mark.usefixtures("run_of_two")
def test_objects_can_be_read_after_a_turn_has_detached_them() -> None:
    """``_do_scheduling`` forgets all objects, but leaves them readable."""
    runner = new_runner(SyncFacadeRunner)
    with create_session() as session:
        run = the_run(session)
        instances = list(session.scalars(select(TaskInstance)))
        runner._do_scheduling(session)
        assert run not in session
        assert (run.dag_id, run.state) == ("dag", "running")
        assert sorted((ti.task_id, ti.state) for ti in instances) == [("a", "scheduled"), ("b", None)]


@pytest.mark.usefixtures("run_of_two")
def test_changes_that_are_not_flushed_yet_count() -> None:
    """The caller has set a state on an object and nothing more."""
    runner = new_runner(SyncFacadeRunner)
    with create_session() as session:
        run = the_run(session)
        for ti in session.scalars(select(TaskInstance)):
            ti.state = TaskInstanceState.SUCCESS
        runner._schedule_dag_run(run, session)
        assert run.state == DagRunState.SUCCESS


def mock_executor(alias: str, slots: int) -> MagicMock:
    """Return a mock that has what a scheduler asks of an executor."""
    executor = MagicMock(name=alias, slots_available=slots, slots_occupied=0, team_name=None)
    executor.name = ExecutorName(alias=alias, module_path=f"path.of.{alias}")
    executor.jwt_generator.generate.return_value = "token"
    executor.sentry_integration = ""
    executor.pre_assigns_external_executor_id = False
    executor.get_event_buffer.return_value = {}
    return executor


@pytest.mark.usefixtures("run_of_two")
@pytest.mark.parametrize("kind", RUNNERS)
def test_mocks_may_be_executors(kind: Any) -> None:
    """Their slots count, they get the workloads, with the caller's session, before the call returns."""
    first, second = mock_executor("first", 1), mock_executor("second", 8)
    runner = new_runner(kind, first, second)
    with create_session() as session:
        runner._schedule_dag_run(the_run(session), session)
        assert runner._critical_section_enqueue_task_instances(session) == 1
        ((workload,), options) = first.queue_workload.call_args
        assert (workload.ti.task_id, options) == ("a", {"session": session})
        assert not second.queue_workload.called
        assert runner._process_executor_events(executor=first, session=session) == 0
        first.get_event_buffer.assert_called_once()


@pytest.mark.usefixtures("run_of_two")
def test_a_call_inside_a_running_loop_is_stepped() -> None:
    """A coroutine that calls a method gets its result, though its loop cannot run a second time."""
    runner = new_runner(SyncFacadeRunner)

    async def inside() -> int:
        with create_session() as session:
            return int(runner._do_scheduling(session))

    assert asyncio.run(inside()) == 1
    assert states()["a"] == "queued"


@pytest.mark.usefixtures("run_of_two")
def test_a_call_below_run_sync_is_awaited() -> None:
    """As Airflow's code makes it when a coroutine has handed it a session."""
    runner = new_runner(SyncFacadeRunner)

    async def inside(session: Session) -> None:
        over = OverBlockingDriver(sync_session_class=cast("Any", lambda **_: session))
        await over.run_sync(lambda same: runner._schedule_dag_run(the_run(same), same))

    with create_session() as session:
        asyncio.run(inside(session))
    assert states()["a"] == "scheduled"


def test_a_signal_ends_the_loop_of_turns() -> None:
    """As with Airflow's runner, whose signal handler exits; nothing is left pending."""
    runner = new_runner(SyncFacadeRunner)
    runner._do_scheduling = MagicMock(side_effect=SystemExit(0))
    with pytest.raises(SystemExit):
        runner._execute()
    assert runner.executor.ended


def test_a_stepped_coroutine_cannot_wait() -> None:
    """It says so instead of standing still."""

    async def wait() -> None:
        await asyncio.sleep(0)
        await asyncio.get_running_loop().create_future()

    async def inside() -> None:
        with pytest.raises(CannotWait):
            step(wait())

    asyncio.run(inside())


@pytest.mark.usefixtures("run_of_two")
def test_the_clock_is_airflows(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clock that a test has stopped is the clock of every time written."""
    stopped = datetime(2026, 2, 3, 4, 5, 6, tzinfo=UTC)
    monkeypatch.setattr(timezone, "utcnow", lambda: stopped)
    write_dags(scheduled_dag("due"))
    runner = new_runner(SyncFacadeRunner)
    with create_session() as session:
        runner._create_dag_runs([session.get(DagModel, "due")], session)
        runner._start_queued_dagruns(session)
        started = {run.dag_id: run.start_date for run in session.scalars(select(DagRun))}
        runner._schedule_dag_run(session.scalars(select(DagRun).where(DagRun.dag_id == "dag")).one(), session)
        runner._executable_task_instances_to_queued(max_tis=1, session=session)
        session.flush()
        ti = session.scalars(select(TaskInstance).where(TaskInstance.task_id == "a")).one()
        assert (ti.scheduled_dttm, ti.queued_dttm, started["due"]) == (stopped, stopped, stopped)


@pytest.mark.usefixtures("run_of_two")
def test_a_replaced_method_is_called() -> None:
    """On the instance, as tests do it; what it raises for one run does not hold up the others."""
    create_run("dag", 1, state=DagRunState.RUNNING)
    runner = new_runner(SyncFacadeRunner)
    runner._schedule_dag_run = MagicMock(side_effect=[TypeError("odd"), None])
    with create_session() as session, prohibit_commit(session) as guard:
        runs = list(session.scalars(select(DagRun).order_by(DagRun.id)))
        assert runner._schedule_all_dag_runs(guard, runs, session) == [(runs[1], None)]


@pytest.mark.usefixtures("run_of_two")
def test_a_spy_sees_the_call_once() -> None:
    """What is handed over to Airflow's method of the same name does not come back to the spy."""
    runner = new_runner(SyncFacadeRunner)
    set_states("dag", {"a": "queued"}, try_number=1, queued_by_job_id=runner.job.id)
    spy = MagicMock(side_effect=runner._process_executor_events)
    runner._process_executor_events = spy
    with create_session() as session:
        (key,) = (ti.key for ti in session.scalars(select(TaskInstance).where(TaskInstance.task_id == "a")))
        runner.executor.event_buffer[key] = TaskInstanceState.FAILED, "killed"
        runner._process_executor_events(executor=runner.executor, session=session)
    assert spy.call_count == 1
    assert states()["a"] == "failed"


@pytest.mark.usefixtures("run_of_two")
@pytest.mark.parametrize("kind", RUNNERS)
def test_the_dag_bag_may_be_replaced(kind: Any) -> None:
    """By a stand-in that knows the dag, and by one that does not: what has limits of its own then fails."""
    write_dags(chain("limited", "c", tasks={"max_active_tis_per_dag": 1}))
    create_run("limited", state=DagRunState.RUNNING)
    set_states("limited", {"c": "scheduled"}, try_number=1)
    runner = new_runner(kind)
    known, unknown = MagicMock(wraps=runner.scheduler_dag_bag), MagicMock()
    unknown.get_dag_for_run.return_value = None
    for bag, chosen, state in ((known, 1, "queued"), (unknown, 0, "failed")):
        runner.scheduler_dag_bag = bag
        with create_session() as session:
            found = runner._executable_task_instances_to_queued(max_tis=8, session=session)
            assert len(found) == chosen
            after = session.scalars(select(TaskInstance.state).where(TaskInstance.task_id == "c")).one()
            assert after == state
            session.rollback()


class Overridden(SyncFacadeRunner):
    """A subclass with a critical section of its own."""

    def _critical_section_enqueue_task_instances(self, session: Session) -> int:
        return 42


@pytest.mark.usefixtures("run_of_two")
def test_a_subclass_may_override() -> None:
    """Its method is the one that a turn calls."""
    runner = new_runner(Overridden)
    with create_session() as session:
        assert runner._do_scheduling(session) == 42


def test_airflows_bodies_are_not_entered(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dag's whole life goes by without any of Airflow's methods that are listed as ours."""

    def forbidden(*_: Any, **__: Any) -> Any:
        raise AssertionError("Airflow's own method was called")

    write_dags(chain("dag", "a", "b"), chain("due", "a", schedule="@daily"))
    create_run("dag")
    for name in SyncFacadeRunner.OURS:
        monkeypatch.setattr(SchedulerJobRunner, name, forbidden)
    for name in ("update_state", "schedule_tis", "verify_integrity"):
        monkeypatch.setattr(DagRun, name, forbidden)
    runner = new_runner(SyncFacadeRunner, num_runs=8)
    runner._execute()
    with create_session() as session:
        ended = Counter(session.scalars(select(DagRun.state)))
        assert ended == {"success": 2}
    assert set(runner.executor.runs.values()) == {1}


@pytest.mark.parametrize("kind", RUNNERS)
def test_asset_triggered_runs_are_airflows(kind: Any) -> None:
    """The redesign leaves them to Airflow's method, which both runners have."""
    write_dags(chain("by_asset", "a", schedule=[ASSET]))
    queue_asset_event("by_asset")
    runner = new_runner(kind)
    with create_session() as session:
        models = list(session.scalars(select(DagModel)))
        runner._create_dag_runs_asset_triggered(dag_models=models, session=session)
        session.flush()
        run = the_run(session)
        assert (run.run_type, run.state, len(run.consumed_asset_events)) == ("asset_triggered", "queued", 1)


@pytest.mark.usefixtures("run_of_two")
@pytest.mark.parametrize("kind", RUNNERS)
def test_orphans_are_adopted_or_reset(kind: Any) -> None:
    """By Airflow's method, on either runner."""
    set_states("dag", {"a": "queued"}, queued_by_job_id=new_runner(kind).job.id)
    runner = new_runner(kind)
    with create_session() as session:
        for job_id in range(1, runner.job.id):
            session.get(type(runner.job), job_id).state = "failed"
        assert runner.adopt_or_reset_orphaned_tasks(session=session) == 1
    assert states()["a"] is None


@LOCKS_ROWS
def test_a_turn_gives_way_to_another_scheduler() -> None:
    """Where it holds the critical section, the turn queues nothing and gives up its transaction."""
    write_dags(chain("dag", "a"))
    create_run("dag", state=DagRunState.RUNNING)
    set_states("dag", {"a": "scheduled"}, try_number=1)
    runner = new_runner(SyncFacadeRunner)
    assert settings.engine is not None
    with settings.engine.begin() as other, create_session() as session:
        other.execute(select(Pool.id).with_for_update())
        assert runner._do_scheduling(session) == 0
    assert states()["a"] == "scheduled"
    assert not runner.executor.queued_tasks


@LOCKS_ROWS
@pytest.mark.usefixtures("run_of_two")
def test_events_of_locked_rows_are_put_back() -> None:
    """Airflow's runner loses them (#55004)."""
    runner = new_runner(SyncFacadeRunner)
    set_states("dag", {"a": "queued"}, try_number=1, queued_by_job_id=runner.job.id)
    assert settings.engine is not None
    with settings.engine.begin() as other, create_session() as session:
        other.execute(select(TaskInstance.id).with_for_update())
        (key,) = (ti.key for ti in session.scalars(select(TaskInstance).where(TaskInstance.task_id == "a")))
        runner.executor.event_buffer[key] = TaskInstanceState.FAILED, "killed"
        assert runner._process_executor_events(executor=runner.executor, session=session) == 1
    assert runner.executor.event_buffer == {key: (TaskInstanceState.FAILED, "killed")}
    with create_session() as session:
        assert runner._process_executor_events(executor=runner.executor, session=session) == 0
    assert states()["a"] == "failed"


def test_a_retry_falls_due_by_airflows_clock() -> None:
    """A retry that is not due yet waits under a stopped clock, and runs when the clock has moved on."""
    write_dags(chain("dag", "a", tasks={"retries": 1, "retry_delay": timedelta(minutes=5)}))
    create_run("dag", state=DagRunState.RUNNING)
    now = datetime.now(UTC)
    set_states("dag", {"a": "up_for_retry"}, try_number=1, end_date=now)
    runner = new_runner(SyncFacadeRunner)
    for later, state in ((timedelta(minutes=4), "up_for_retry"), (timedelta(minutes=6), "scheduled")):
        with pytest.MonkeyPatch.context() as clock, create_session() as session:
            clock.setattr(timezone, "utcnow", lambda at=now + later: at)
            runner._schedule_dag_run(the_run(session), session)
        assert states()["a"] == state
