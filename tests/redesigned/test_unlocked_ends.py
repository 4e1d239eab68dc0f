"""Runs that are over are ended without a lock: one read, one write, and nothing over what others did."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from airflow.jobs.job import Job
from airflow.listeners import hookimpl
from airflow.listeners.listener import get_listener_manager
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select, update

from async_scheduler.errors import LostRace, SchedulerFenced
from async_scheduler.routines.redesigned import ending, schedule
from async_scheduler.store.unlocked import end_unless_changed
from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED, run_states, states
from tests.redesigned.test_unlocked import fail_first_of, give_state, recorded, running, user_changes, visit
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.postgres import Database

COLUMNS = ("state", "scheduled_by_job_id", "clear_number")


class Listener:
    """Follows a relation of the runs it is told about, as listeners do."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, str, int]] = []
        self.threads: set[str] = set()

    @hookimpl  # type: ignore[untyped-decorator]
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """Note the run, and count its task instances."""
        self.threads.add(threading.current_thread().name)
        self.told.append((dag_run.run_id, dag_run.state, msg, len(dag_run.task_instances)))


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Return a listener that Airflow knows."""
    manager, listener = get_listener_manager(), Listener()
    manager.add_listener(listener)
    yield listener
    manager.pm.unregister(listener)


def before_ending(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Let *change* happen between the decision and its write, in a transaction of its own."""

    async def end(*arguments: Any) -> Any:
        await asyncio.to_thread(change)
        return await end_unless_changed(*arguments)

    monkeypatch.setattr(ending, "end_unless_changed", end)


def exceeds() -> list[bool]:
    """Return whether each dag is at its limit of active runs, as its row says."""
    with create_session() as session:
        return list(session.scalars(select(DagModel.exceeds_max_non_backfill).order_by(DagModel.dag_id)))


async def test_an_end_is_one_read_and_one_write(airflow_db: Database) -> None:
    runs = running(3)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, *runs)  # reads the dag
        await visit(assembly, *runs)  # learns where the task instances lie
        give_state(runs[0], "success")
        give_state(runs[1], "failed")
        with recorded(assembly) as sent:
            outcome = await visit(assembly, *runs)
        assert (outcome.counts["ended"], outcome.counts["examined"]) == (2, 3)
        assert "start" in (outcome.wakes or ())
        # What the third one has is stamped as examined; then the flag of the dag is looked at.
        assert sent == ["SELECT", "WITH", "WITH", "SELECT"]
        assert stages(assembly).dirty.take_room() == {"dag"}
    assert run_states() == ["success", "failed", "running"]


async def test_the_rows_are_as_an_end_under_a_lock_leaves_them(airflow_db: Database) -> None:
    with_lock, without = running(2)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, with_lock, without)  # reads the dag
        for run in (with_lock, without):
            give_state(run, "success")
        await visit(assembly, without)
        stages(assembly).dirty.mark([with_lock])
        await stages(assembly).schedule.run_once()
    with create_session() as session:
        one, other = session.scalars(select(DagRun).order_by(DagRun.id))
        assert [getattr(one, name) for name in COLUMNS] == [getattr(other, name) for name in COLUMNS]
        for run in (one, other):
            assert run.end_date == run.last_scheduling_decision
            assert run.updated_at >= run.end_date
    assert run_states() == ["success", "success"]


async def test_a_run_that_was_changed_meanwhile_is_ended_under_a_lock(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = running()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        give_state(run, "success")
        before_ending(monkeypatch, user_changes(conf={"changed": True}))
        assert (await visit(assembly, run)).counts["ended"] == 1
    assert run_states() == ["success"]


async def test_a_run_that_a_user_has_cleared_meanwhile_does_not_end(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = running()

    def clear() -> None:
        user_changes(state="queued", clear_number=1)()
        give_state(run, "up_for_retry")

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        give_state(run, "success")
        before_ending(monkeypatch, clear)
        outcome = await visit(assembly, run)
        assert (outcome.counts["ended"], outcome.counts["locked"]) == (0, 1)
    assert run_states() == ["queued"]


async def test_a_run_that_somebody_has_locked_is_passed_over(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = running(2)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, one, other)
        for run in (one, other):
            give_state(run, "success")
        with create_session(scoped=False) as somebody:
            somebody.execute(select(DagRun.id).where(DagRun.id == one).with_for_update())
            outcome = await visit(assembly, one, other)
            assert (outcome.counts["ended"], outcome.counts["locked"]) == (1, 1)
        assert (await visit(assembly, one)).counts["ended"] == 1
    assert run_states() == ["success", "success"]


async def test_nothing_ends_for_a_scheduler_that_was_declared_dead(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    """Though it was found alive a moment ago: the statement that writes asks itself."""
    (run,) = running()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        give_state(run, "success")

        def declare_dead() -> None:
            with create_session(scoped=False) as session:
                session.execute(update(Job).values(state="failed"))

        before_ending(monkeypatch, declare_dead)
        with pytest.raises(SchedulerFenced):
            await visit(assembly, run)
        assert assembly.fence.lost
        await assembly.listeners.drain()
    assert run_states() == ["running"]
    assert listener.told == []


async def test_listeners_are_told_in_their_own_thread(airflow_db: Database, listener: Listener) -> None:
    runs = running(2)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, *runs)
        for run in runs:
            give_state(run, "success")
        await visit(assembly, *runs)
        await assembly.listeners.drain()
    assert sorted(listener.told) == [(f"run_{number}", "success", "success", 3) for number in range(2)]
    assert listener.threads == {"listeners"}


async def test_an_end_under_way_is_told_of_though_the_pass_is_cancelled(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch, listener: Listener
) -> None:
    (run,) = running()
    written, let_go = asyncio.Event(), asyncio.Event()

    async def end(*arguments: Any) -> Any:
        ended = await end_unless_changed(*arguments)
        written.set()
        await let_go.wait()
        return ended

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        give_state(run, "success")
        monkeypatch.setattr(ending, "end_unless_changed", end)
        async with asyncio.TaskGroup() as group:
            passing = group.create_task(visit(assembly, run))
            await written.wait()
            passing.cancel()
            await asyncio.sleep(0)
            let_go.set()
        assert passing.cancelled()
        await assembly.listeners.drain()
        assert [run_id for run_id, *_ in listener.told] == ["run_0"]
        # Its connection was given up; the next pass has another one.
        assert (await visit(assembly, run)).counts["ended"] == 0


async def test_the_kept_session_keeps_no_run(airflow_db: Database) -> None:
    runs = running(2)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, *runs)
        give_state(runs[0], "success")
        await visit(assembly, *runs)
        lane = stages(assembly).lanes[0]
        assert lane.unlocked is not None
        async with lane.unlocked.sessions.borrow() as session:
            assert list(session.sync_session.identity_map.values()) == []


async def test_a_dag_that_may_be_paused_for_its_failures_is_ended_under_a_lock(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1], max_consecutive_failed_dag_runs=1))
    run = create_run("dag", state=DagRunState.RUNNING).id
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        give_state(run, "failed")
        with recorded(assembly) as sent:
            assert (await visit(assembly, run)).counts["ended"] == 1
        assert "UPDATE" in sent
    with create_session() as session:
        assert session.scalars(select(DagModel.is_paused)).one()


async def test_when_the_rest_of_a_pass_fails_room_was_made_all_the_same(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has ended is committed: the pass that follows does not find it again."""
    write_dags(layered_dag("at_limit", [1], max_active_runs=1), layered_dag("dag", [2, 1]))
    over = create_run("at_limit", state=DagRunState.RUNNING).id
    fails = create_run("dag", 1, state=DagRunState.RUNNING).id
    create_run("at_limit", 2)
    with create_session() as session:
        of_it = DagModel.dag_id == "at_limit"
        session.execute(update(DagModel).where(of_it).values(exceeds_max_non_backfill=False))

    async def lose(*_: Any) -> Any:
        raise LostRace("dag_run", 1)

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, over, fails)
        give_state(over, "success")
        fail_first_of(fails)
        with monkeypatch.context() as patch:
            patch.setattr(schedule, "end_runs", lose)
            outcome = await visit(assembly, over, fails)
        assert outcome.counts == {"lost_race": 1}
        assert outcome.wakes == ("start",)
        assert exceeds()[0] is False
        await visit(assembly)
        assert exceeds()[0] is True, "a run of its limit of one is queued"
        await stages(assembly).start.run_once()
    assert run_states() == ["success", "failed", "running"]
    assert states()["upstream_failed"] == 1
