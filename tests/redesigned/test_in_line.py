"""A section that another is in: waited for beside async schedulers, tried again beside a stock one."""

from __future__ import annotations

import threading
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from airflow.models.pool import Pool
from airflow.utils.db import DBLocks
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState
from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncSession

from async_scheduler.routines.redesigned import peers
from async_scheduler.routines.redesigned.peers import NO_LINE_FOR, WAIT_IN_LINE, Courtesy, Peers
from async_scheduler.store.pools import wait_for_critical_section
from tests.redesigned.test_peers import REDESIGNED_KIND, other_scheduler
from tests.redesigned.test_races import set_state, stages
from tests.redesigned.test_stages import REDESIGNED, states
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from async_scheduler.assembly import Assembly
    from async_scheduler.settings import Mode
    from tests.support.postgres import Database

LOCK = select(func.pg_advisory_xact_lock(DBLocks.SCHEDULER_CRITICAL_SECTION.value))
IN_LINE = text(
    "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
LONG = 60.0
"""Seconds that no test lasts."""


@contextmanager
def another_is_in_it(*, until_in_line: bool) -> Iterator[None]:
    """Be another scheduler in its critical section, which leaves one slot in the pool.

    :param until_in_line: whether it leaves as soon as somebody waits, instead of when the block ends.
    """
    entered, leave = threading.Event(), threading.Event()

    def stay() -> None:
        with create_session(scoped=False) as session:
            session.execute(LOCK)
            session.execute(update(Pool).values(slots=1))
            entered.set()
            while not leave.wait(0.01):
                if until_in_line and session.scalar(IN_LINE):
                    return

    thread = threading.Thread(target=stay)
    thread.start()
    try:
        assert entered.wait(LONG)
        yield
    finally:
        leave.set()
        thread.join()


def write_work() -> None:
    """Write two task instances to queue."""
    write_dags(layered_dag("dag", [2]))
    create_run("dag", state=DagRunState.RUNNING)
    set_state("l0_t0", "scheduled")
    set_state("l0_t1", "scheduled")


@asynccontextmanager
async def beside(kind: str | None = REDESIGNED_KIND) -> AsyncIterator[Assembly]:
    """Be a scheduler that has something to queue and knows of another one of this *kind*."""
    write_work()
    other_scheduler(kind=kind)
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        await stages(assembly).sweep.run_once()
        yield assembly


async def test_whoever_waited_sees_what_the_one_before_has_done(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "WAIT_IN_LINE", LONG)
    async with beside() as assembly:
        with another_is_in_it(until_in_line=True):
            outcome = await stages(assembly).enqueue.run_once()
    assert outcome.counts == {"queued": 1, "waited": 1}
    assert states() == {"queued": 1, "scheduled": 1}, "one slot was left"


async def test_nobody_waits_for_long(airflow_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "WAIT_IN_LINE", 0.05)
    async with beside() as assembly:
        enqueue = stages(assembly).enqueue
        with another_is_in_it(until_in_line=False):
            assert (await enqueue.run_once()).counts == {"busy": 1}
            assert states() == {"scheduled": 2}
        monkeypatch.setattr(enqueue._courtesy, "_not_before", 0.0)
        assert (await enqueue.run_once()).counts == {"queued": 1}


async def test_beside_a_stock_scheduler_nobody_waits(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It only tries, and would find the section taken whenever somebody waits for it."""
    monkeypatch.setattr(peers, "WAIT_IN_LINE", LONG)
    async with beside(kind=None) as assembly:
        with another_is_in_it(until_in_line=False):
            assert (await stages(assembly).enqueue.run_once()).counts == {"busy": 1}


async def test_the_limit_of_the_wait_ends_with_the_transaction(airflow_db: Database) -> None:
    """On one connection: whoever gets it next must not find it."""
    limit = text("SHOW lock_timeout")
    async with beside() as assembly, assembly.engine.connect() as connection:
        session = AsyncSession(bind=connection)
        before = await session.scalar(limit)
        assert await wait_for_critical_section(session, 7.0)
        assert await session.scalar(limit) == "7s"
        await session.commit()
        assert await session.scalar(limit) == before
        await session.close()


def test_after_a_wait_in_vain_nobody_waits_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(peers, "perf_counter", lambda: now[0])
    others = Peers(1)
    others.see({1, 2}, {1, 2})
    courtesy = Courtesy(others)
    courtesy.after_taken()
    assert courtesy.patience == 0.0
    now[0] += NO_LINE_FOR / 2
    courtesy.after_taken()  # tried only, which is no wait in vain
    now[0] += NO_LINE_FOR / 2
    assert courtesy.patience == WAIT_IN_LINE


def test_where_all_else_would_wait_too_nobody_waits() -> None:
    others = Peers(1)
    others.see({1, 2}, {1, 2})
    assert Courtesy(others, lines_up=False).patience == 0.0


@pytest.mark.parametrize(("mode", "lines_up"), [("concurrent", True), ("sequential", False)])
async def test_the_mode_says_whether_all_else_would(airflow_db: Database, mode: Mode, lines_up: bool) -> None:
    async with assembled(InstantExecutor(), settings=replace(REDESIGNED, mode=mode)) as assembly:
        assert stages(assembly).enqueue._courtesy._lines_up is lines_up


def test_who_is_waited_for() -> None:
    peers = Peers(1)
    courtesy = Courtesy(peers)
    assert courtesy.patience == 0.0, "alone"
    peers.see({1, 2}, {1, 2})
    assert courtesy.patience == WAIT_IN_LINE
    peers.see({1, 2, 3}, {1, 2})
    assert courtesy.patience == 0.0, "beside a stock one"
