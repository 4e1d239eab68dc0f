"""Rows that change under a decision: nothing is overwritten, and the run is looked at again."""

from __future__ import annotations

import threading
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select, update

from async_scheduler.routines.redesigned import writing
from async_scheduler.store import candidates
from tests.redesigned.test_stages import REDESIGNED, run_states, states, take_turns
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from async_scheduler.routines.redesigned.stages import RedesignedStages
    from tests.support.postgres import Database


def stages(assembly: Assembly) -> RedesignedStages:
    """Return the redesigned stages."""
    assert assembly.redesigned is not None
    return assembly.redesigned


def set_state(task_id: str, state: str | None) -> None:
    """Change a task instance as a user would, in a transaction of its own."""
    with create_session(scoped=False) as session:
        session.execute(update(TaskInstance).where(TaskInstance.task_id == task_id).values(state=state))


def after_deciding(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let *change* happen once, between a decision and its write, in a transaction of its own."""
    pending = [change]

    async def write(*args: Any) -> Any:
        if pending:
            # A thread does not inherit the context that makes sessions join the routine's transaction.
            thread = threading.Thread(target=pending.pop())
            thread.start()
            thread.join()
        return await writing.write(*args)

    monkeypatch.setattr("async_scheduler.routines.redesigned.schedule.write", write)


async def test_a_state_a_user_set_meanwhile_is_not_overwritten(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [1, 1, 1]))
    run = create_run("dag", state=DagRunState.RUNNING)
    set_state("l0_t0", "failed")
    after_deciding(monkeypatch, lambda: set_state("l1_t0", "success"))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        new.dirty.mark([run.id])
        await new.schedule.run_once()  # reads the dag
        outcome = await new.schedule.run_once()
        assert +Counter(outcome.counts) == {"lost_race": 1}
        assert outcome.more
        assert states() == {"failed": 1, "success": 1, "None": 1}
        await new.schedule.run_once()
    assert states() == {"failed": 1, "success": 1, "scheduled": 1}
    assert run_states() == ["running"]


async def test_a_task_scheduled_meanwhile_is_left_alone_and_its_run_looked_at_again(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [2]))
    run = create_run("dag", state=DagRunState.RUNNING)
    after_deciding(monkeypatch, lambda: set_state("l0_t0", "success"))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        new.dirty.mark([run.id])
        await new.schedule.run_once()
        await new.schedule.run_once()
        assert run.id in new.dirty
    assert states() == {"success": 1, "scheduled": 1}


async def test_a_run_locked_by_another_scheduler_is_skipped_and_not_forgotten(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    run = create_run("dag", state=DagRunState.RUNNING)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        await new.schedule.run_once()
        with create_session(scoped=False) as other:
            other.execute(select(DagRun.id).where(DagRun.id == run.id).with_for_update())
            new.dirty.mark([run.id])
            assert (await new.schedule.run_once()).counts["locked"] == 1
            assert run.id not in new.dirty
            await new.sweep.run_once()
            assert run.id in new.dirty


@pytest.mark.parametrize("state", ["success", None, "up_for_retry"])
async def test_the_sweep_finds_what_nobody_reported(airflow_db: Database, state: str | None) -> None:
    write_dags(layered_dag("dag", [1, 1]))
    run = create_run("dag", state=DagRunState.RUNNING)
    set_state("l0_t0", "running")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        while len(new.dirty):
            await new.schedule.run_once()
        assert (await new.sweep.run_once()).counts["marked"] == 0
        set_state("l0_t0", state)
        assert (await new.sweep.run_once()).counts["marked"] == 1
        assert run.id in new.dirty


async def _visited(assembly: Assembly) -> RedesignedStages:
    """Return the stages after a first sweep and the visits it asked for."""
    new = stages(assembly)
    await new.sweep.run_once()
    while len(new.dirty):
        await new.schedule.run_once()
    return new


@pytest.mark.parametrize("visited", [True, False])
async def test_a_run_with_visits_of_its_own_is_marked_only_if_none_follows_a_change(
    airflow_db: Database, visited: bool
) -> None:
    """The event of a task that ended is on its way: to visit the run for the change and for the event is once
    too often."""
    write_dags(layered_dag("dag", [2]))
    run = create_run("dag", state=DagRunState.RUNNING)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = await _visited(assembly)
        set_state("l0_t0", "success")
        left = await new.sweep.run_once()
        assert left.counts["marked"] == 0
        assert left.progressed, "a scheduler that counts idle rounds must not end now"
        if visited:
            new.dirty.mark([run.id])
            await new.schedule.run_once()
        assert (await new.sweep.run_once()).counts["marked"] == (0 if visited else 1)


@pytest.mark.parametrize("visited", [True, False])
async def test_a_run_visited_before_its_first_sweep_is_marked_only_if_no_visit_follows(
    airflow_db: Database, visited: bool
) -> None:
    """It was started here, and its tasks will end."""
    write_dags(layered_dag("dag", [2]))
    create_run("dag")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.start.run_once()
        (run,) = list(new.dirty._marked)
        while len(new.dirty):
            await new.schedule.run_once()
        first = await new.sweep.run_once()
        assert (first.counts["marked"], first.progressed) == (0, True)
        if visited:
            new.dirty.mark([run])
            await new.schedule.run_once()
        assert (await new.sweep.run_once()).counts["marked"] == (0 if visited else 1)


async def test_a_visit_under_way_when_a_change_was_seen_does_not_count(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have read the run before the change and written its time after the sweep."""
    write_dags(layered_dag("dag", [2]))
    run = create_run("dag", state=DagRunState.RUNNING)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = await _visited(assembly)
        set_state("l0_t0", "success")
        before = datetime.now(UTC)
        assert (await new.sweep.run_once()).counts["marked"] == 0
        with create_session() as session:
            session.execute(update(DagRun).values(last_scheduling_decision=before))
        assert (await new.sweep.run_once()).counts["marked"] == 1
        assert run.id in new.dirty


async def test_a_heartbeat_is_no_change(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag", state=DagRunState.RUNNING)
    set_state("l0_t0", "running")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        set_state("l0_t0", "running")
        assert (await new.sweep.run_once()).counts["marked"] == 0


async def test_a_task_is_queued_after_the_places_were_counted(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [1]))
    create_run("dag")
    counted: list[datetime] = []

    async def lock(*args: Any) -> Any:
        found = await candidates.lock_first_with_room(*args)
        counted.append(datetime.now(UTC))
        return found

    monkeypatch.setattr("async_scheduler.routines.redesigned.section.lock_first_with_room", lock)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await take_turns(assembly)
    with create_session() as session:
        queued = session.scalars(select(TaskInstance.queued_dttm)).one()
    assert queued is not None
    assert queued >= counted[0]


async def test_a_section_that_another_scheduler_is_in_is_tried_again_soon(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2]))
    create_run("dag", state=DagRunState.RUNNING)
    set_state("l0_t0", "scheduled")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        enqueue = stages(assembly).enqueue
        with create_session(scoped=False) as other:
            other.execute(select(Pool).with_for_update())
            taken = await enqueue.run_once()
        assert taken.counts == {"busy": 1}
        assert 0 < (taken.due_in or 0) < 0.25, "sooner than the probe looks"
        assert (await enqueue.run_once()).counts == {"queued": 1}
