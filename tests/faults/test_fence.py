"""A scheduler that others have declared dead commits nothing, hands nothing over and steps down."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow.jobs import job
from airflow.jobs.job import Job, JobState
from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.models.variable import Variable
from airflow.utils.session import create_session
from sqlalchemy import func, select, update

from async_scheduler.bridge.threads import PurposeThread
from async_scheduler.database.engine import create_engine
from async_scheduler.database.fence import LEASE, Fence
from async_scheduler.database.sessions import PooledSessions
from async_scheduler.database.transaction import transaction
from async_scheduler.errors import SchedulerFenced
from async_scheduler.routines.heartbeat import SEEN_LATELY, SendHeartbeat
from async_scheduler.settings import Algorithm, Settings
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled, run_until_idle

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.support.postgres import Database

THRESHOLD = 30.0


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def engine(airflow_db: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(pool_size=2, pool_timeout=10)
    yield engine
    await engine.dispose()


@pytest.fixture
def runner(airflow_db: Database) -> SchedulerJobRunner:
    runner = SchedulerJobRunner(Job(), executors=[InstantExecutor()])
    with create_session() as session:
        runner.job.prepare_for_execution(session=session)
    return runner


def _mark(job: Any, state: JobState) -> None:
    with create_session() as session:
        session.execute(update(Job).where(Job.id == job.id).values(state=state))


def _state(job: Any) -> tuple[str | None, datetime | None]:
    with create_session() as session:
        found = session.execute(select(Job.state, Job.latest_heartbeat).where(Job.id == job.id)).one()
        return found[0], found[1]


async def _write(sessions: PooledSessions, key: str) -> None:
    async with transaction(sessions) as tx:
        tx.session.add(Variable(key, "value"))


def _written() -> set[str]:
    with create_session() as session:
        return set(session.scalars(select(Variable.key)))


async def test_nothing_is_committed_for_a_job_marked_failed(
    engine: AsyncEngine, runner: SchedulerJobRunner
) -> None:
    clock = Clock()
    fence = Fence(runner.job.id, THRESHOLD, clock=clock)
    sessions = PooledSessions(engine, lambda _: None, fence)
    await _write(sessions, "alive")
    clock.now = 40.0
    _mark(runner.job, JobState.FAILED)
    with pytest.raises(SchedulerFenced, match=r"is failed in the database.* 40 s ago; .* is 30 s") as caught:
        await _write(sessions, "dead")
    assert (caught.value.job, caught.value.state) == (runner.job.id, "failed")
    _mark(runner.job, JobState.RUNNING)
    with pytest.raises(SchedulerFenced):
        await _write(sessions, "dead for good")
    assert _written() == {"alive"}


async def test_job_whose_row_is_gone(engine: AsyncEngine, runner: SchedulerJobRunner) -> None:
    clock = Clock()
    sessions = PooledSessions(engine, lambda _: None, Fence(runner.job.id + 1, THRESHOLD, clock=clock))
    clock.now = LEASE + 0.001
    with pytest.raises(SchedulerFenced, match="is no longer in the database"):
        await _write(sessions, "dead")


async def test_a_look_is_believed_for_the_lease_and_no_longer(
    engine: AsyncEngine, runner: SchedulerJobRunner
) -> None:
    clock = Clock()
    sessions = PooledSessions(engine, lambda _: None, Fence(runner.job.id, THRESHOLD, clock=clock))
    clock.now = 10.0
    await _write(sessions, "looked")
    _mark(runner.job, JobState.FAILED)
    clock.now += LEASE
    await _write(sessions, "believed")
    clock.now += 0.001
    with pytest.raises(SchedulerFenced):
        await _write(sessions, "looked again")
    assert _written() == {"looked", "believed"}


async def test_no_look_is_believed_when_the_heartbeat_is_late(
    engine: AsyncEngine, runner: SchedulerJobRunner
) -> None:
    clock = Clock()
    fence = Fence(runner.job.id, THRESHOLD, clock=clock)
    sessions = PooledSessions(engine, lambda _: None, fence)
    clock.now = THRESHOLD / 2 + 1
    await _write(sessions, "looked")
    assert not fence.fresh
    fence.beaten(age=THRESHOLD / 2)
    assert fence.fresh


async def test_thread_with_airflows_own_sessions_is_fenced(runner: SchedulerJobRunner) -> None:
    thread = PurposeThread("timer")
    clock = Clock()
    fence = Fence(runner.job.id, THRESHOLD, clock=clock)
    clock.now = 10.0

    def writes() -> None:
        with create_session() as session:
            session.add(Variable("from the thread", "value"))

    _mark(runner.job, JobState.FAILED)
    with pytest.raises(SchedulerFenced):
        await thread.call(fence.around(writes))
    assert _written() == set()
    await thread.call(writes)  # what is not fenced on that thread is not
    assert _written() == {"from the thread"}
    thread.close()


async def test_heartbeat_does_not_bring_a_failed_job_back(runner: SchedulerJobRunner) -> None:
    """Airflow's own does: it writes the state that the process remembers."""
    _mark(runner.job, JobState.FAILED)
    runner.job.latest_heartbeat = long_ago = datetime.now(UTC) - timedelta(hours=1)
    heartbeat = SendHeartbeat(runner, PurposeThread("heartbeat"), Fence(runner.job.id, THRESHOLD))
    with pytest.raises(SchedulerFenced):
        await heartbeat.run_once()
    assert _state(runner.job)[0] == JobState.FAILED
    assert runner.job.latest_heartbeat == long_ago


async def test_heartbeat_is_written_when_due(runner: SchedulerJobRunner) -> None:
    runner.job.latest_heartbeat = before = datetime.now(UTC) - timedelta(seconds=6)
    fence = Fence(runner.job.id, THRESHOLD)
    heartbeat = SendHeartbeat(runner, PurposeThread("heartbeat"), fence)
    await heartbeat.run_once()
    assert _state(runner.job) == (JobState.RUNNING, before), "Airflow writes the one it remembered"
    assert runner.job.latest_heartbeat > before
    assert fence.fresh
    now = runner.job.latest_heartbeat
    await heartbeat.run_once()
    assert runner.job.latest_heartbeat == now, "not due"


async def test_between_beats_the_job_is_looked_at_only_if_nobody_else_does(
    runner: SchedulerJobRunner,
) -> None:
    clock = Clock()
    runner.job.latest_heartbeat = datetime.now(UTC)
    heartbeat = SendHeartbeat(
        runner, PurposeThread("heartbeat"), Fence(runner.job.id, THRESHOLD, clock=clock)
    )
    _mark(runner.job, JobState.FAILED)
    clock.now = SEEN_LATELY
    await heartbeat.run_once()
    clock.now += 0.001
    with pytest.raises(SchedulerFenced):
        await heartbeat.run_once()


async def test_heartbeat_goes_on_when_the_clock_is_set_back(runner: SchedulerJobRunner) -> None:
    """Airflow's own would sleep for the hour."""
    runner.job.latest_heartbeat = future = datetime.now(UTC) + timedelta(hours=1)
    heartbeat = SendHeartbeat(runner, PurposeThread("heartbeat"), Fence(runner.job.id, THRESHOLD))
    await asyncio.wait_for(heartbeat.run_once(), 30)
    assert runner.job.latest_heartbeat < future - timedelta(minutes=59)


async def test_heartbeat_does_not_sleep_when_the_clock_is_set_back_meanwhile(
    runner: SchedulerJobRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Airflow's own would, with the job's row locked, and no other scheduler could take over its work."""
    runner.job.latest_heartbeat = datetime.now(UTC) - timedelta(hours=1)
    monkeypatch.setattr(job.timezone, "utcnow", lambda: datetime.now(UTC) - timedelta(hours=2))
    monkeypatch.setattr(SendHeartbeat, "_seconds_since_beat", lambda _: 3600.0)
    rate = runner.job.heartrate
    heartbeat = SendHeartbeat(runner, PurposeThread("heartbeat"), Fence(runner.job.id, THRESHOLD))
    await asyncio.wait_for(heartbeat.run_once(), 60)
    assert runner.job.heartrate == rate


async def test_nothing_is_handed_over_while_the_fence_is_stale(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [3]))
    create_run("dag", state="running")
    executor = InstantExecutor()
    async with assembled(executor) as assembly:
        for name in ("schedule", "enqueue"):
            await assembly.supervisor.drivers[name].run_pass()
        (port,) = assembly.ports
        assert port.waiting == 3
        _mark(assembly._scheduler.job, JobState.FAILED)
        assembly.fence.lease = 0.0  # as after a long pause
        assert (await port.beat()).handed_over == 0
        with pytest.raises(SchedulerFenced):
            await assembly.supervisor.drivers["executor:InstantExecutor"].run_pass()
        await assembly.end_executors()
    assert executor.runs == {}
    assert executor.ended
    with create_session() as session:
        # As the pause found them: whoever adopts them decides.
        assert set(session.scalars(select(TaskInstance.state))) == {"queued"}


class MarkedFailed(InstantExecutor):
    """In the middle of the work, which takes longer than the lease, somebody marks all jobs failed."""

    def sync(self) -> None:
        threading.Event().wait(0.1)
        if sum(self.runs.values()) == 20:
            with create_session() as session:
                session.execute(update(Job).values(state=JobState.FAILED))


@pytest.mark.parametrize("algorithm", ["upstream", "redesigned"])
def test_scheduler_steps_down_with_one_clear_message(
    airflow_db: Database, algorithm: Algorithm, caplog: pytest.LogCaptureFixture
) -> None:
    write_dags(layered_dag("dag", [20] * 30, max_active_tasks=20))
    create_run("dag")
    settings = Settings(algorithm=algorithm, event_loop="asyncio", executor_poll_interval=0.02)
    with pytest.raises(SchedulerFenced, match=r"^Job \d+ of this scheduler is failed in the database"):
        run_until_idle([MarkedFailed()], settings)
    assert "so others may have taken over its work" not in caplog.text, "the command prints the error, once"
    with create_session() as session:
        assert session.scalars(select(Job.state)).all() == [JobState.FAILED]
        assert session.scalars(select(DagRun.state)).all() == ["running"]
        assert session.scalar(select(func.count()).where(TaskInstance.state == "success")) < 600


class MarkedAtTheEnd(InstantExecutor):
    """While its executor ends, with nothing left to commit, others declare the scheduler dead."""

    def end(self) -> None:
        super().end()
        with create_session() as session:
            session.execute(update(Job).values(state=JobState.FAILED))


def test_job_marked_while_the_scheduler_ends_stays_failed(airflow_db: Database) -> None:
    settings = Settings(event_loop="asyncio", executor_poll_interval=0.02)
    with pytest.raises(SchedulerFenced, match=r"^Job \d+ of this scheduler is failed in the database"):
        run_until_idle([MarkedAtTheEnd()], settings)
    with create_session() as session:
        assert session.scalars(select(Job.state)).all() == [JobState.FAILED]


class SlowToStart(InstantExecutor):
    """Starts so slowly that others declare the scheduler dead meanwhile."""

    def start(self) -> None:
        with create_session() as session:
            session.execute(update(Job).values(state=JobState.FAILED))


def test_slow_start_is_not_a_death(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2]))
    create_run("dag")
    run_until_idle([SlowToStart()])
    with create_session() as session:
        assert session.scalars(select(Job.state)).all() == [JobState.SUCCESS]
        assert session.scalars(select(DagRun.state)).all() == ["success"]
