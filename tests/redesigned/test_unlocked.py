"""Visits that hold no lock: two statements, and nothing is written over what others did in between."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.jobs.job import Job
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import event, select, update

from async_scheduler.database.transaction import transaction
from async_scheduler.errors import LostRace, SchedulerFenced
from async_scheduler.routines.redesigned import schedule, unlocked
from async_scheduler.store.running import claim_runs
from async_scheduler.store.unlocked import Stamped, schedule_unless_changed, see_runs
from tests.redesigned.test_races import set_state, stages
from tests.redesigned.test_stages import REDESIGNED, run_states, states
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from async_scheduler.assembly import Assembly
    from async_scheduler.driver.routine import Outcome
    from tests.support.postgres import Database

COLUMNS = ("state", "try_number", "start_date", "end_date", "queued_dttm")


async def visit(assembly: Assembly, *runs: int) -> Outcome:
    """Let the first lane visit *runs*."""
    stages(assembly).dirty.mark(runs)
    return await assembly.supervisor.drivers["schedule"].routine.run_once()


def running(count: int = 1, layers: tuple[int, ...] = (2, 1)) -> list[int]:
    """Store running runs of a dag, and return their ids."""
    write_dags(layered_dag("dag", layers))
    return [create_run("dag", number, state=DagRunState.RUNNING).id for number in range(count)]


def give_state(run: int, state: str, tasks: str = "%") -> None:
    """Give the task instances of *run* this state, of tasks like *tasks*."""
    with create_session() as session:
        of_it = select(DagRun.run_id).where(DagRun.id == run).scalar_subquery()
        chosen = (TaskInstance.run_id == of_it, TaskInstance.task_id.like(tasks))
        session.execute(update(TaskInstance).where(*chosen).values(state=state))


def fail_first_of(run: int) -> None:
    """Let *run* be over once its last layer is upstream_failed: a visit under a lock writes both."""
    give_state(run, "failed", "l0%")


@contextmanager
def recorded(assembly: Assembly) -> Iterator[list[str]]:
    """Yield the first words of what is sent to the database meanwhile."""
    sent: list[str] = []

    def note(*arguments: Any) -> None:
        sent.append(arguments[2].split()[0])

    event.listen(assembly.engine.sync_engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(assembly.engine.sync_engine, "before_cursor_execute", note)


def before_writing(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Let *change* happen between the decision and its write, in a transaction of its own."""

    async def write(*arguments: Any) -> Any:
        await asyncio.to_thread(change)
        return await schedule_unless_changed(*arguments)

    monkeypatch.setattr(unlocked, "schedule_unless_changed", write)


def user_changes(**values: Any) -> Callable[[], None]:
    """Return what changes the row of every run."""

    def change() -> None:
        with create_session(scoped=False) as session:
            session.execute(update(DagRun).values(**values))

    return change


async def test_a_visit_is_one_read_and_one_write(airflow_db: Database) -> None:
    runs = running(3)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, *runs)  # reads the dag
        await visit(assembly, *runs)  # learns where the task instances lie
        with create_session() as session:
            session.execute(update(TaskInstance).values(state=None))
        with recorded(assembly) as sent:
            outcome = await visit(assembly, *runs)
        assert outcome.counts["scheduled"] == 6
        assert sent == ["SELECT", "WITH"]
    assert states() == {"scheduled": 6, "None": 3}


async def test_the_rows_are_as_a_visit_under_a_lock_leaves_them(airflow_db: Database) -> None:
    with_lock, without = running(2)
    set_state("l0_t1", "up_for_reschedule")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, without)  # reads the dag
        await visit(assembly, without)
        stages(assembly).dirty.mark([with_lock])
        await stages(assembly).schedule.run_once()
    with create_session() as session:
        for of, columns in ((TaskInstance, COLUMNS), (DagRun, ("state", "scheduled_by_job_id", "end_date"))):
            query = select(of).order_by(of.run_id, *([of.task_id] if of is TaskInstance else []))
            rows = [[getattr(row, name) for name in columns] for row in session.scalars(query)]
            half = len(rows) // 2
            assert rows[:half] == rows[half:]
        for run in session.scalars(select(DagRun)):
            assert run.last_scheduling_decision is not None
            assert run.updated_at >= run.last_scheduling_decision
        for instance in session.scalars(select(TaskInstance).where(TaskInstance.state == "scheduled")):
            assert instance.updated_at >= instance.scheduled_dttm
    assert states() == {"scheduled": 4, "None": 2}


async def test_a_run_that_was_changed_meanwhile_is_visited_under_a_lock(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = running()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        before_writing(monkeypatch, user_changes(conf={"changed": True}))
        outcome = await visit(assembly, run)
        assert (outcome.counts["scheduled"], outcome.counts["locked"]) == (2, 0)
        assert outcome.wakes == ("enqueue",)
    assert states() == {"scheduled": 2, "None": 1}


async def test_nothing_is_scheduled_of_a_run_that_a_user_has_cleared_meanwhile(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = running()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        before_writing(monkeypatch, user_changes(state="queued", clear_number=1))
        assert (await visit(assembly, run)).counts["locked"] == 1
    assert states() == {"None": 3}
    assert run_states() == ["queued"]


async def test_a_run_that_is_locked_is_skipped_and_not_forgotten(airflow_db: Database) -> None:
    one, other = running(2)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, one, other)
        with create_session(scoped=False) as somebody:
            somebody.execute(select(DagRun.id).where(DagRun.id == one).with_for_update())
            assert (await visit(assembly, one, other)).counts["locked"] == 1
            assert states() == {"scheduled": 2, "None": 4}
            await stages(assembly).sweep.run_once()
            assert one in stages(assembly).dirty


async def test_a_task_that_a_user_has_set_meanwhile_is_left_alone_and_its_run_decided_anew(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = running(layers=(1, 1))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        before_writing(monkeypatch, lambda: set_state("l0_t0", "success"))
        assert (await visit(assembly, run)).counts["scheduled"] == 1
    assert states() == {"success": 1, "scheduled": 1}


async def test_nothing_is_written_for_a_scheduler_that_was_declared_dead(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though it was found alive a moment ago: the statement that writes asks itself."""
    (run,) = running()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)

        def declare_dead() -> None:
            assert assembly.fence.fresh
            with create_session(scoped=False) as session:
                session.execute(update(Job).values(state="failed"))

        before_writing(monkeypatch, declare_dead)
        with pytest.raises(SchedulerFenced):
            await visit(assembly, run)
        assert assembly.fence.lost
    assert states() == {"None": 3}


async def test_a_write_is_a_look_at_the_job(airflow_db: Database) -> None:
    (run,) = running()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        before = assembly.fence._confirmed
        await visit(assembly, run)
        assert assembly.fence._confirmed > before


async def test_a_task_that_somebody_holds_is_waited_for_in_a_transaction(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Never in the statement that commits by itself: nobody could take it back."""
    (run,) = running()
    entered = asyncio.Event()

    async def claim(*arguments: Any) -> Any:
        entered.set()
        return await claim_runs(*arguments)

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        monkeypatch.setattr(schedule, "claim_runs", claim)
        async with asyncio.TaskGroup() as group:
            with create_session(scoped=False) as somebody:
                held = select(TaskInstance.id).where(TaskInstance.task_id == "l0_t0").with_for_update()
                somebody.execute(held)
                passing = group.create_task(visit(assembly, run))
                await entered.wait()
                assert states() == {"scheduled": 1, "None": 2}
        assert passing.result().counts["scheduled"] == 2
    assert states() == {"scheduled": 2, "None": 1}


async def test_when_the_rest_of_a_pass_fails_all_of_it_is_visited_again(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, beginning = running(2)
    fail_first_of(over)

    async def lose(*_: Any) -> Any:
        raise LostRace("dag_run", 1)

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, beginning)  # reads the dag
        with monkeypatch.context() as patch:
            patch.setattr(schedule, "end_runs", lose)
            outcome = await visit(assembly, over, beginning)
        assert outcome.progressed
        assert outcome.counts == {"lost_race": 1, "scheduled": 2}
        assert over in stages(assembly).dirty
        assert beginning in stages(assembly).dirty
        assert (await visit(assembly)).counts["ended"] == 1
    assert states() == {"failed": 2, "upstream_failed": 1, "scheduled": 2, "None": 1}


async def test_a_write_whose_outcome_is_unknown_wakes_the_critical_section(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    (run,) = running()

    async def lose(*arguments: Any) -> Any:
        await schedule_unless_changed(*arguments)
        raise ConnectionResetError

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await visit(assembly, run)
        enqueue = assembly.supervisor.drivers["enqueue"].wakeup
        enqueue.clear()
        monkeypatch.setattr(unlocked, "schedule_unless_changed", lose)
        with pytest.raises(ConnectionResetError):
            await visit(assembly, run)
        assert enqueue.is_set
        assert run in stages(assembly).dirty
    assert states() == {"scheduled": 2, "None": 1}


async def test_of_two_that_have_read_the_same_the_first_one_writes(airflow_db: Database) -> None:
    (run,) = running()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        kept: Any = assembly.supervisor.drivers["schedule"].routine.unlocked  # type: ignore[attr-defined]
        job = assembly._scheduler.job.id
        with create_session() as session:
            chosen = session.scalars(select(TaskInstance).order_by(TaskInstance.task_id).limit(1)).one()
        async with transaction(kept.sessions) as tx:
            seen = {run: (await see_runs(tx.session, [run]))[run].version}
            now = chosen.updated_at
            wanted = [(chosen.id, run)]
            first = await schedule_unless_changed(tx.session, seen, wanted, job, now)
            second = await schedule_unless_changed(tx.session, seen, wanted, job, now)
        assert first == Stamped("running", {run: 1})
        assert second == Stamped("running", {})


async def test_what_was_scheduled_is_queued_before_the_rest_of_the_pass_is_over(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    over, beginning = running(2)
    fail_first_of(over)
    entered, let_go = asyncio.Event(), asyncio.Event()

    async def claim(*arguments: Any) -> Any:
        entered.set()
        await let_go.wait()
        return await claim_runs(*arguments)

    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        drivers = assembly.supervisor.drivers
        await visit(assembly, beginning)  # reads the dag
        monkeypatch.setattr(schedule, "claim_runs", claim)
        drivers["enqueue"].wakeup.clear()
        async with asyncio.TaskGroup() as group:
            passing = group.create_task(visit(assembly, over, beginning))
            await entered.wait()
            assert drivers["enqueue"].wakeup.is_set
            assert states() == {"failed": 2, "scheduled": 2, "None": 2}
            let_go.set()
        outcome = passing.result()
        assert (outcome.counts["ended"], outcome.counts["scheduled"]) == (1, 2)
        assert "enqueue" not in (outcome.wakes or ())
    assert run_states() == ["failed", "running"]


@pytest.mark.parametrize("settings", [{"pool_size": 8}, {"pgbouncer": "true"}, {"mode": "shared_session"}])
async def test_where_no_connection_is_kept_runs_are_visited_under_a_lock(
    airflow_db: Database, settings: Any
) -> None:
    (run,) = running()
    async with assembled(InstantExecutor(), settings=replace(REDESIGNED, **settings)) as assembly:
        await visit(assembly, run)
        with recorded(assembly) as sent:
            await visit(assembly, run)
        assert sent.count("UPDATE") + sent.count("WITH") > 1, "scheduled and stamped apart"
    assert states() == {"scheduled": 2, "None": 1}
