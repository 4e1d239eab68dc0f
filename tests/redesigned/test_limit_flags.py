"""The limit flag of a dag whose row somebody holds: nobody waits for it, and it is corrected later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.dag import DagModel
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import select, update

from async_scheduler.routines.redesigned import flags
from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED, run_states
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.orm import Session

    from tests.support.postgres import Database

HELD = select(DagModel.dag_id).where(DagModel.dag_id == "dag").with_for_update()
"""What a DAG processor does with the rows of the dags that it has parsed, until it commits."""


def flag() -> Any:
    """Return the flag of the dag, as others see it."""
    with create_session(scoped=False) as session:
        return session.scalar(select(DagModel.exceeds_max_non_backfill))


def almost_over(*, flagged: bool) -> int:
    """Write a dag with a run that the next visit ends; return the run's id."""
    write_dags(layered_dag("dag", [1], max_active_runs=1))
    run = create_run("dag", state=DagRunState.RUNNING)
    with create_session(scoped=False) as session:
        session.execute(update(TaskInstance).values(state="success"))
        session.execute(update(DagModel).values(exceeds_max_non_backfill=flagged))
    return int(run.id)


@pytest.fixture
def other(airflow_db: Database) -> Iterator[Session]:
    """A second session, on a connection of its own."""
    with create_session(scoped=False) as session:
        yield session


async def test_a_held_row_is_passed_over_and_its_flag_corrected_once_it_is_free(other: Session) -> None:
    run = almost_over(flagged=True)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        schedule, dirty = stages(assembly).schedule, stages(assembly).dirty
        dirty.mark([run])
        await schedule.run_once()  # reads the dag
        other.execute(HELD)
        ended = await schedule.run_once()
        assert (ended.counts["ended"], ended.due_in) == (1, flags.LOOK_AGAIN)
        assert flag() is True
        still_held = await schedule.run_once()
        assert (still_held.progressed, still_held.due_in) == (False, flags.LOOK_AGAIN)
        other.rollback()
        freed = await schedule.run_once()
        assert (freed.progressed, freed.wakes, freed.due_in) == (True, ("create",), None)
    assert flag() is False
    assert run_states() == ["success"]


async def test_a_flag_that_is_right_already_needs_no_lock(other: Session) -> None:
    run = almost_over(flagged=False)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        schedule, dirty = stages(assembly).schedule, stages(assembly).dirty
        dirty.mark([run])
        await schedule.run_once()  # reads the dag
        other.execute(HELD)
        ended = await schedule.run_once()
        assert (ended.counts["ended"], ended.due_in) == (1, None)
    assert flag() is False


async def test_a_visit_that_ends_nothing_corrects_what_was_passed_over(other: Session) -> None:
    run = almost_over(flagged=True)
    later = create_run("dag", 1, state=DagRunState.RUNNING)
    with create_session(scoped=False) as session:
        session.execute(update(DagModel).values(max_active_runs=2))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        schedule, dirty = stages(assembly).schedule, stages(assembly).dirty
        dirty.mark([run])
        await schedule.run_once()  # reads the dag
        other.execute(HELD)
        await schedule.run_once()
        other.rollback()
        dirty.mark([later.id])
        visited = await schedule.run_once()
        assert (visited.counts["ended"], visited.counts["scheduled"]) == (0, 1)
        assert visited.wakes is not None
        assert "create" in visited.wakes
    assert flag() is False


async def test_a_correction_that_fails_is_made_later(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = almost_over(flagged=True)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        schedule, dirty = stages(assembly).schedule, stages(assembly).dirty
        dirty.mark([run])
        await schedule.run_once()  # reads the dag
        with monkeypatch.context() as patched:

            async def fail(*_: object) -> None:
                raise ConnectionError("planted")

            patched.setattr(flags, "correct_exceeding", fail)
            with pytest.raises(ConnectionError, match="planted"):
                await schedule.run_once()
        assert flag() is True
        await schedule.run_once()
    assert flag() is False
