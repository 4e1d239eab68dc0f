"""Several schedulers where a pool has too little for all that wait: the order of priority decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from airflow.models.dagrun import DagRun
from airflow.models.pool import Pool
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import update

from async_scheduler.routines.redesigned.peers import LEFT_FOR, ORDER_FOR, Courtesy, Peers
from async_scheduler.store.candidates import EVERYBODY
from tests.redesigned.test_peers import left, on, other_scheduler, queued_dags, record_owners
from tests.redesigned.test_races import set_state, stages
from tests.redesigned.test_stages import REDESIGNED
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    import pytest

    from tests.support.clock import Clock
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


async def test_while_there_is_too_little_for_all_nobodys_come_first(
    airflow_db: Database, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One look at all that wait, in place of one at its own, in vain, before it."""
    write_dags(layered_dag("first", [4]), layered_dag("second", [4]))
    for number, dag_id in enumerate(("first", "second")):
        create_run(dag_id, number, state=DagRunState.RUNNING)
    set_state("l0_t0", "success")  # of each dag: three are left
    other = other_scheduler()
    with create_session() as session:
        waiting = TaskInstance.state.is_(None)
        session.execute(update(TaskInstance).where(waiting).values(state="scheduled"))
        session.execute(update(DagRun).where(DagRun.dag_id == "first").values(scheduled_by_job_id=other))
    asked = record_owners(monkeypatch)
    everybodys, own_in_vain = [True], [False, True]
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        new = on(clock, assembly)
        await new.sweep.run_once()
        seen = []
        for slots, wait in ((1, 0.0), (0, 0.0), (1, 0.0), (1, ORDER_FOR), (100, 0.0), (100, 0.0)):
            clock.now += wait
            with create_session() as session:
                session.execute(update(Pool).values(slots=slots))
            new.enqueue._courtesy._not_before = 0.0
            asked.clear()
            outcome = await new.enqueue.run_once()
            seen.append((outcome.counts.get("queued", 0), [owners == EVERYBODY for owners in asked]))
            with create_session() as session:
                queued = TaskInstance.state == "queued"
                session.execute(update(TaskInstance).where(queued).values(state="success"))
    assert seen[:5] == [(1, own_in_vain), (0, []), (1, everybodys), (1, own_in_vain), (3, everybodys)]
    assert seen[5][1][0] is False, "there was enough for all: its own come first again"


def test_whom_nothing_was_left_to_is_not_late(clock: Clock) -> None:
    peers = Peers(1, clock)
    peers.see({1, 2}, {1, 2})
    courtesy = Courtesy(peers)
    for patience in (courtesy._waited, courtesy._stalled):
        patience.clock = clock
    courtesy.judge([left(1, 2)], busy=0)
    clock.now += LEFT_FOR
    courtesy.after_order(tried=True, scarce=True)
    assert courtesy.judge([left(1, 2)], busy=0) == []
    assert peers.spares(2)
    assert courtesy.order_decides
    courtesy.after_order(tried=False, scarce=False)
    assert not courtesy.order_decides
