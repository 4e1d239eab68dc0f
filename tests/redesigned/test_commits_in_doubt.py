"""The critical section's commit is cut off or gets no answer: what it has queued is handed over, once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from sqlalchemy import delete, select, update

from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED, run_states, states, take_turns
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from async_scheduler.assembly import Assembly
    from async_scheduler.routines.redesigned.enqueue import EnqueueTaskInstances
    from tests.support.postgres import Database


async def _scheduled(assembly: Assembly) -> EnqueueTaskInstances:
    """Bring the stored run so far that its tasks are scheduled; return the stage that queues them."""
    await stages(assembly).start.run_once()
    await stages(assembly).schedule.run_once()
    return stages(assembly).enqueue


def _cut_off_next_commit(assembly: Assembly, *, committed: bool) -> None:
    """Let the connection end in the next commit: after the server made it, or before."""
    dialect: Any = assembly.engine.sync_engine.dialect
    commit = dialect.do_commit

    def cut_off(connection: Any) -> None:
        dialect.do_commit = commit
        if committed:
            commit(connection)
        raise ConnectionResetError

    dialect.do_commit = cut_off


@pytest.mark.parametrize("committed", [True, False])
async def test_a_commit_without_an_answer_loses_no_workload(airflow_db: Database, committed: bool) -> None:
    write_dags(layered_dag("dag", [3, 1]))
    create_run("dag")
    executor = InstantExecutor()
    async with assembled(executor, settings=REDESIGNED) as assembly:
        enqueue = await _scheduled(assembly)
        _cut_off_next_commit(assembly, committed=committed)
        with pytest.raises(ConnectionResetError):
            await enqueue.run_once()
        assert assembly.ports[0].waiting == 0
        assert states()["queued" if committed else "scheduled"] == 3
        await enqueue.run_once()
        assert assembly.ports[0].waiting == 3
        await take_turns(assembly, 4)
    assert run_states() == ["success"]
    assert set(executor.runs.values()) == {1}
    assert not executor.unqueued


async def test_what_was_changed_before_its_commit_was_known_is_not_handed_over(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [3]))
    create_run("dag")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        enqueue = await _scheduled(assembly)
        _cut_off_next_commit(assembly, committed=True)
        with pytest.raises(ConnectionResetError):
            await enqueue.run_once()
        with create_session(scoped=False) as user:
            user.execute(update(TaskInstance).values(state="failed"))
        await enqueue.run_once()
        assert assembly.ports[0].waiting == 0


async def test_rows_that_the_server_still_holds_stay_in_doubt(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [3]))
    create_run("dag")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        enqueue = await _scheduled(assembly)
        _cut_off_next_commit(assembly, committed=True)
        with pytest.raises(ConnectionResetError):
            await enqueue.run_once()
        with create_session(scoped=False) as other:
            held = other.scalars(select(TaskInstance).limit(1).with_for_update(of=TaskInstance)).one()
            outcome = await enqueue.run_once()
            assert (assembly.ports[0].waiting, outcome.due_in) == (2, 1.0)
        await enqueue.run_once()
        assert assembly.ports[0].waiting == 3
        assert assembly.ports[0].awaits(held.key)


async def test_rows_that_are_gone_do_not_stay_in_doubt(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [3]))
    create_run("dag")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        enqueue = await _scheduled(assembly)
        _cut_off_next_commit(assembly, committed=True)
        with pytest.raises(ConnectionResetError):
            await enqueue.run_once()
        with create_session(scoped=False) as user:
            user.execute(delete(TaskInstance))
        assert (await enqueue.run_once()).due_in is None
        assert assembly.ports[0].waiting == 0


class SlowToCommit:
    """Lends sessions that wait before their commit."""

    def __init__(self, sessions: Any) -> None:
        self._sessions = sessions
        self.reached, self.go_on = asyncio.Event(), asyncio.Event()

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Any]:
        """Lend one."""
        async with self._sessions.borrow() as session:
            commit = session.commit

            async def slow() -> None:
                self.reached.set()
                await self.go_on.wait()
                await commit()

            session.commit = slow
            yield session


async def test_a_pass_cancelled_in_its_commit_hands_over_what_it_queued(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [3]))
    create_run("dag")
    async with assembled(InstantExecutor(), settings=REDESIGNED) as assembly:
        enqueue: Any = await _scheduled(assembly)
        slow = enqueue._sessions = SlowToCommit(enqueue._sessions)
        under_way = asyncio.ensure_future(enqueue.run_once())
        await slow.reached.wait()
        under_way.cancel()
        asyncio.get_running_loop().call_soon(slow.go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await under_way
        assert assembly.ports[0].waiting == 3
        await enqueue.run_once()
        assert assembly.ports[0].waiting == 3
