"""The candidates of a section, read together with what is active: the same as when read apart."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import select, update

from async_scheduler.database.transaction import transaction
from async_scheduler.decide.admit import Starved
from async_scheduler.routines.redesigned import section
from async_scheduler.store.candidates import EVERYBODY, Owners, lock_candidates, lock_first_with_room
from async_scheduler.store.pools import count_occupied
from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED, states
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    import pytest

    from tests.support.postgres import Database

INSTANCES = 3 * 4
ANOTHER = 77
"""The job of another scheduler."""
OWNERS = (EVERYBODY, Owners(frozenset({ANOTHER}), theirs=False), Owners(frozenset({ANOTHER}), theirs=True))
ROWS = st.lists(
    st.tuples(st.sampled_from([None, "scheduled", "scheduled", "queued", "deferred"]), st.integers(0, 2)),
    min_size=INSTANCES,
    max_size=INSTANCES,
)


def set_rows(rows: list[tuple[str | None, int]]) -> None:
    """Give the task instances these states and weights."""
    with create_session(scoped=False) as session:
        ids = session.scalars(select(TaskInstance.id).order_by(TaskInstance.id)).all()
        for instance, (state, weight) in zip(ids, rows, strict=True):
            values = {"state": state, "priority_weight": weight}
            session.execute(update(TaskInstance).where(TaskInstance.id == instance).values(**values))


async def test_both_read_the_same(airflow_db: Database) -> None:
    write_dags(layered_dag("one", [4], max_active_tasks=2), layered_dag("two", [4]))
    create_run("one", state=DagRunState.RUNNING)
    theirs = create_run("two", 0, state=DagRunState.RUNNING)
    create_run("two", 1, state=DagRunState.RUNNING)
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.id == theirs.id).values(scheduled_by_job_id=ANOTHER))
    drawn: list[tuple[list[Any], int, Owners]] = []

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(ROWS, st.integers(1, 14), st.sampled_from(OWNERS))
    def draw(rows: list[Any], most: int, owners: Owners) -> None:
        drawn.append((rows, most, owners))

    draw()
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        for rows, most, owners in drawn:
            set_rows(rows)
            async with transaction(assembly._sessions) as tx:
                taken = [list(row) for row in await count_occupied(tx.session)]
                apart, waiting = await lock_candidates(tx.session, most, Starved(), owners)
                opening = await lock_first_with_room(tx.session, most, owners)
            assert opening.candidates == apart
            assert opening.waiting == (waiting or sum(state == "scheduled" for state, _ in rows))
            assert sorted(map(list, opening.taken)) == sorted(taken)


async def test_no_more_are_queued_than_there_is_room_for(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [4]))
    create_run("dag", state=DagRunState.RUNNING)
    with create_session() as session:
        session.execute(update(Pool).values(slots=3))
        session.execute(update(TaskInstance).values(state="scheduled"))
    asked: list[int] = []

    async def lock(session: Any, most: int, *others: Any) -> Any:
        asked.append(most)
        return await lock_candidates(session, most, *others)

    monkeypatch.setattr(section, "lock_candidates", lock)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        enqueue = stages(assembly).enqueue
        assert (await enqueue.run_once()).counts == {"queued": 3}
        assert (enqueue.backlog, asked) == (True, [])
        with create_session() as session:
            session.execute(
                update(TaskInstance).where(TaskInstance.state == "queued").values(state="success")
            )
        assert (await enqueue.run_once()).counts == {"queued": 1}
        assert asked == [3], "room was short: no more are locked than fit"
        assert not enqueue.backlog
    assert states() == {"success": 3, "queued": 1}


async def test_a_full_run_does_not_hide_the_others(airflow_db: Database) -> None:
    write_dags(layered_dag("full", [4], max_active_tasks=1), layered_dag("other", [2]))
    create_run("full", state=DagRunState.RUNNING)
    create_run("other", state=DagRunState.RUNNING)
    with create_session() as session:
        session.execute(update(TaskInstance).values(state="scheduled"))
        running = (TaskInstance.dag_id == "full", TaskInstance.task_id == "l0_t0")
        session.execute(update(TaskInstance).where(*running).values(state="running"))
        session.execute(update(TaskInstance).where(TaskInstance.dag_id == "full").values(priority_weight=9))
    async with assembled(InstantExecutor(), settings=replace(REDESIGNED, queue_batch=2)) as assembly:
        assert (await stages(assembly).enqueue.run_once()).counts == {"queued": 2}
    assert states() == {"running": 1, "scheduled": 3, "queued": 2}
