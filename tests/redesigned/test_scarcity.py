"""Several schedulers where a pool has too little for all that wait: the order of priority decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import update

from async_scheduler.store.candidates import EVERYBODY
from tests.redesigned.test_peers import other_scheduler, queued_dags, record_owners
from tests.redesigned.test_races import set_state, stages
from tests.redesigned.test_stages import REDESIGNED
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    import pytest

    from tests.support.postgres import Database


async def test_where_a_pool_has_too_little_for_all_the_order_decides(airflow_db: Database) -> None:
    """A task instance must not get a slot before one of a higher priority because of whose run it is."""
    write_dags(layered_dag("first", [1]), layered_dag("second", [1]))
    for number, dag_id in enumerate(("first", "second")):
        create_run(dag_id, number, state=DagRunState.RUNNING)
    set_state("l0_t0", "scheduled")
    with create_session() as session:
        session.execute(update(Pool).values(slots=1))
    other = other_scheduler()
    with create_session() as session:
        session.execute(update(DagRun).where(DagRun.dag_id == "first").values(scheduled_by_job_id=other))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        assert (await new.enqueue.run_once()).counts == {"queued": 1}
    assert queued_dags() == ["first"]


async def test_where_ones_own_would_use_a_pool_up_the_order_decides(airflow_db: Database) -> None:
    """The pool has room for all of this scheduler's, but then none for one that comes before them."""
    write_dags(layered_dag("first", [1]), layered_dag("second", [2]))
    for number, dag_id in enumerate(("first", "second")):
        create_run(dag_id, number, state=DagRunState.RUNNING)
    other = other_scheduler()
    with create_session() as session:
        session.add(Pool(pool="narrow", slots=2, include_deferred=False))
        session.execute(update(TaskInstance).values(state="scheduled", pool="narrow"))
        session.execute(update(DagRun).where(DagRun.dag_id == "first").values(scheduled_by_job_id=other))
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        assert (await new.enqueue.run_once()).counts == {"queued": 2}
    assert queued_dags() == ["first", "second"]


async def test_as_long_as_there_is_too_little_for_all_nobody_is_asked_for_first(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at all that wait, in place of one at its own, in vain, before it."""
    write_dags(layered_dag("first", [3]), layered_dag("second", [3]))
    for number, dag_id in enumerate(("first", "second")):
        create_run(dag_id, number, state=DagRunState.RUNNING)
    other = other_scheduler()
    with create_session() as session:
        session.add(Pool(pool="narrow", slots=1, include_deferred=False))
        session.execute(update(TaskInstance).values(state="scheduled", pool="narrow"))
        session.execute(update(DagRun).where(DagRun.dag_id == "first").values(scheduled_by_job_id=other))
    asked = record_owners(monkeypatch)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = stages(assembly)
        await new.sweep.run_once()
        seen = []
        for slots in (1, 1, 100, 100):
            with create_session() as session:
                session.execute(update(Pool).where(Pool.pool == "narrow").values(slots=slots))
            new.enqueue._courtesy._not_before = 0.0
            outcome = await new.enqueue.run_once()
            seen.append((outcome.counts.get("queued"), [owners == EVERYBODY for owners in asked]))
            asked.clear()
            with create_session() as session:
                queued = TaskInstance.state == "queued"
                session.execute(update(TaskInstance).where(queued).values(state="success"))
    assert seen[:3] == [(1, [False, True]), (1, [True]), (4, [True])]
    assert seen[3][1][0] is False, "there was enough for all: its own come first again"
