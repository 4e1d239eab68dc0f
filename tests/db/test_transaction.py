"""Transactions of routines: effects after the commit, nested sessions, listeners, one shared session."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from airflow.callbacks.callback_requests import DagCallbackRequest
from airflow.callbacks.database_callback_sink import DatabaseCallbackSink
from airflow.listeners import hookimpl
from airflow.listeners.listener import get_listener_manager
from airflow.models.dagrun import DagRun
from airflow.models.db_callback_request import DbCallbackRequest
from airflow.models.variable import Variable
from airflow.utils.session import create_session
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import DagRunState
from sqlalchemy import func, select, text

from async_scheduler.bridge.listeners import ListenerThread, listeners_after_commit
from async_scheduler.database.engine import create_engine
from async_scheduler.database.joined import nested_sessions_joined, retries_left_to_the_driver
from async_scheduler.database.sessions import PooledSessions, SharedSession
from async_scheduler.database.transaction import RoutineSession, after_commit, transaction
from tests.support.blocking import nothing_blocks
from tests.support.dags import create_run, layered_dag, write_dags

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm import Session

    from tests.support.postgres import Database


@pytest.fixture
async def engine(airflow_db: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(pool_size=2, pool_timeout=300)
    yield engine
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await engine.dispose()


@pytest.fixture
def sessions(engine: AsyncEngine) -> PooledSessions:
    return PooledSessions(engine, lambda _: None)


class Cancel(Exception):
    """Ends a transaction without a commit."""


async def test_effects_wait_for_the_commit_and_keep_their_order(sessions: PooledSessions) -> None:
    done: list[str] = []
    async with transaction(sessions) as tx:
        await tx.session.execute(text("SELECT 1"))
        after_commit(lambda: done.append("first"))
        after_commit(lambda: done.append("second"))
        assert done == []
    assert done == ["first", "second"]


async def test_effects_are_forgotten_with_a_rollback(sessions: PooledSessions) -> None:
    done: list[str] = []
    with pytest.raises(Cancel):
        async with transaction(sessions):
            after_commit(lambda: done.append("never"))
            raise Cancel
    assert done == []


async def test_effects_of_an_inner_commit_survive_a_later_error(sessions: PooledSessions) -> None:
    done: list[str] = []

    def commits_on_its_way(session: Session) -> None:
        after_commit(lambda: done.append("committed"))
        session.commit()
        after_commit(lambda: done.append("rolled back"))
        raise Cancel

    with pytest.raises(Cancel):
        async with transaction(sessions) as tx:
            await tx.run(commits_on_its_way, tx.sync_session)
    assert done == ["committed"]


def test_outside_of_a_transaction_effects_happen_at_once() -> None:
    done: list[str] = []
    after_commit(lambda: done.append("now"))
    assert done == ["now"]


async def test_failed_commit_delivers_nothing(sessions: PooledSessions) -> None:
    done: list[str] = []
    with pytest.raises(Exception, match="dag_run"):
        async with transaction(sessions) as tx:
            tx.sync_session.add(DagRun(dag_id="missing", run_id=None))
            after_commit(lambda: done.append("never"))
    assert done == []


async def test_cancelled_routine_still_delivers_what_its_commit_made_true(engine: AsyncEngine) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    class SlowToCommit(PooledSessions):
        pass

    done: list[str] = []

    async def routine() -> None:
        async with transaction(SlowToCommit(engine, lambda _: None)) as tx:
            await tx.session.execute(text("CREATE TABLE marks (n int)"))
            after_commit(lambda: done.append("delivered"))
            commit = tx.session.commit

            async def slow_commit() -> None:
                reached.set()
                await go_on.wait()
                await commit()

            tx.session.commit = slow_commit  # type: ignore[method-assign]

    task = asyncio.ensure_future(routine())
    await reached.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task
    assert done == ["delivered"]
    async with transaction(PooledSessions(engine, lambda _: None)) as tx:
        assert await tx.session.scalar(text("SELECT count(*) FROM marks")) == 0


async def test_commit_that_fails_does_not_swallow_a_cancellation(sessions: PooledSessions) -> None:
    reached, go_on = asyncio.Event(), asyncio.Event()

    async def routine() -> None:
        async with transaction(sessions) as tx:
            await tx.session.execute(text("SELECT 1"))

            async def failing_commit() -> None:
                reached.set()
                await go_on.wait()
                raise ConnectionResetError

            tx.session.commit = failing_commit  # type: ignore[method-assign]

    task = asyncio.ensure_future(routine())
    await reached.wait()
    task.cancel()
    asyncio.get_running_loop().call_soon(go_on.set)
    with pytest.raises(asyncio.CancelledError):
        await task


@contextmanager
def _joined() -> Iterator[None]:
    with nested_sessions_joined(), retries_left_to_the_driver(), nothing_blocks():
        yield


async def test_nested_session_is_part_of_the_callers_transaction(sessions: PooledSessions) -> None:
    request = DagCallbackRequest(filepath="f", bundle_name="b", bundle_version=None, dag_id="d", run_id="r")

    def send(session: Session) -> None:
        with prohibit_commit(session):
            DatabaseCallbackSink().send(request)

    with _joined():
        with pytest.raises(Cancel):
            async with transaction(sessions) as tx:
                await tx.run(send, tx.sync_session)
                raise Cancel
        assert await _callbacks(sessions) == 0
        async with transaction(sessions) as tx:
            await tx.run(send, tx.sync_session)
        assert await _callbacks(sessions) == 1


async def _callbacks(sessions: PooledSessions) -> int:
    async with transaction(sessions) as tx:
        return await tx.session.scalar(select(func.count()).select_from(DbCallbackRequest)) or 0


async def test_error_in_a_nested_session_leaves_the_callers_work(sessions: PooledSessions) -> None:
    def outer(session: Session) -> None:
        session.execute(text("CREATE TABLE kept (n int)"))
        with pytest.raises(Exception, match="no_such_table"), create_session() as nested:
            nested.execute(text("SELECT * FROM no_such_table"))

    with _joined():
        async with transaction(sessions) as tx:
            await tx.run(outer, tx.sync_session)
        async with transaction(sessions) as tx:
            assert await tx.session.scalar(text("SELECT count(*) FROM kept")) == 0


async def test_variable_can_be_read_where_commits_are_prohibited(sessions: PooledSessions) -> None:
    Variable.set("interval", "5")

    def read(session: Session) -> str:
        with prohibit_commit(session):
            return str(Variable.get("interval"))

    with _joined():
        async with transaction(sessions) as tx:
            assert await tx.run(read, tx.sync_session) == "5"


class RememberingListener:
    """Follows a relation of the run it is told about, as listeners do."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, str, int, str]] = []
        self.called = asyncio.Event()

    @hookimpl  # type: ignore[untyped-decorator]
    def on_dag_run_running(self, dag_run: Any, msg: str) -> None:
        """Note the run, and count its task instances through the lazy relation."""
        self.seen.append((dag_run.run_id, msg, len(dag_run.task_instances), dag_run.marker))


@pytest.fixture
def listener() -> Iterator[RememberingListener]:
    manager = get_listener_manager()
    listener = RememberingListener()
    manager.add_listener(listener)
    yield listener
    manager.pm.unregister(listener)


def _notify(session: Session) -> None:
    run = session.scalars(select(DagRun)).one()
    run.state = DagRunState.RUNNING
    run.marker = "an attribute that is no column"
    run.notify_dagrun_state_changed(msg="started")


async def test_listeners_are_told_after_the_commit(
    sessions: PooledSessions, listener: RememberingListener
) -> None:
    write_dags(layered_dag("dag", [2]))
    create_run("dag")
    thread = ListenerThread()
    with listeners_after_commit(thread), nothing_blocks():
        with pytest.raises(Cancel):
            async with transaction(sessions) as tx:
                await tx.run(_notify, tx.sync_session)
                raise Cancel
        async with transaction(sessions) as tx:
            await tx.run(_notify, tx.sync_session)
            assert listener.seen == []
        await thread.drain()
    thread.close()
    assert listener.seen == [("run_0", "started", 2, "an attribute that is no column")]


async def test_shared_session_serves_one_transaction_at_a_time_in_order(engine: AsyncEngine) -> None:
    shared = SharedSession(engine, lambda _: None)
    inside, most, order = 0, 0, []

    async def work(number: int) -> None:
        nonlocal inside, most
        async with transaction(shared) as tx:
            inside, most = inside + 1, max(most, inside + 1)
            order.append(number)
            await tx.session.execute(text("SELECT pg_sleep(0.001)"))
            inside -= 1

    async with asyncio.TaskGroup() as group:
        for number in range(8):
            group.create_task(work(number), name=f"work {number}")
    assert (most, order) == (1, list(range(8)))


async def test_shared_session_is_usable_after_an_error(engine: AsyncEngine) -> None:
    shared = SharedSession(engine, lambda _: None)
    with pytest.raises(Exception, match="no_such_table"):
        async with transaction(shared) as tx:
            await tx.session.execute(text("SELECT * FROM no_such_table"))
    async with transaction(shared) as tx:
        assert await tx.session.scalar(text("SELECT 1")) == 1
        assert isinstance(tx.sync_session, RoutineSession)


async def test_pool_is_a_hard_cap(airflow_db: Database) -> None:
    engine = create_engine(pool_size=1, pool_timeout=0.05)
    sessions = PooledSessions(engine, lambda _: None)
    async with transaction(sessions):
        with pytest.raises(Exception, match="QueuePool limit"):
            async with transaction(sessions):
                pass
    await engine.dispose()
