"""The session that a routine keeps for its looks: one connection, no transaction, renewed after trouble."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import pytest
from airflow.utils.session import create_session
from sqlalchemy import event, text
from sqlalchemy.exc import DBAPIError

from async_scheduler.database.engine import create_engine
from async_scheduler.database.faults import classify
from async_scheduler.database.kept import KeptSession
from async_scheduler.database.sessions import PooledSessions
from async_scheduler.database.transaction import transaction
from async_scheduler.settings import Settings
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from tests.support.postgres import Database

BACKEND = text("SELECT pg_backend_pid()")


@pytest.fixture
async def engine(airflow_db: Database) -> AsyncIterator[AsyncEngine]:
    engine = create_engine(pool_size=2, pool_timeout=10)
    yield engine
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    await engine.dispose()


@pytest.fixture
async def looks(engine: AsyncEngine) -> AsyncIterator[KeptSession]:
    kept = KeptSession(engine, lambda _: None)
    yield kept
    await kept.aclose()


async def look(looks: KeptSession, statement: Any = BACKEND) -> Any:
    """Return what *statement* selects."""
    async with transaction(looks) as tx:
        return await tx.session.scalar(statement)


async def test_every_look_sees_what_is_committed_on_one_connection_that_is_in_no_transaction(
    engine: AsyncEngine, looks: KeptSession
) -> None:
    backend = await look(looks)
    count = text("SELECT count(*) FROM log")
    assert await look(looks, count) == 0
    async with transaction(PooledSessions(engine, lambda _: None)) as tx:
        await tx.session.execute(text("INSERT INTO log (dttm, event) VALUES (now(), 'seen')"))
        seen = text("SELECT state, xact_start FROM pg_stat_activity WHERE pid = :pid")
        assert tuple((await tx.session.execute(seen, {"pid": backend})).one()) == ("idle", None)
        assert await look(looks, count) == 0
    assert await look(looks, count) == 1
    assert await look(looks) == backend


async def test_after_an_error_another_connection_is_used(looks: KeptSession) -> None:
    backend = await look(looks)
    with pytest.raises(Exception, match="division by zero"):
        await look(looks, text("SELECT 1 / 0"))
    assert await look(looks) != backend


async def test_a_look_whose_server_process_was_ended_is_a_passing_fault(
    looks: KeptSession,
) -> None:
    backend = await look(looks)
    with create_session() as session:
        session.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": backend})
    with pytest.raises(DBAPIError) as caught:
        await look(looks)
    assert classify(caught.value).passing
    assert await look(looks) != backend


async def test_a_look_that_is_given_up_leaves_no_statement_behind(
    engine: AsyncEngine, looks: KeptSession
) -> None:
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await look(looks, text("SELECT pg_sleep(3600)"))
    assert engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    sleeping = text("SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'")
    async with asyncio.timeout(10):
        while await look(looks, sleeping):  # noqa: ASYNC110 (it is the server that ends)
            await asyncio.sleep(0.05)


async def test_the_connection_goes_back_to_the_pool_from_time_to_time(engine: AsyncEngine) -> None:
    taken: list[Any] = []
    event.listen(engine.sync_engine, "checkout", lambda *given: taken.append(given))
    for kept_for, times in ((3600.0, 1), (0.0, 3)):
        taken.clear()
        kept = KeptSession(engine, lambda _: None, kept_for)
        for _ in range(3):
            await look(kept)
        assert len(taken) == times
        await kept.aclose()


async def test_writers_find_their_connection_as_they_left_it(engine: AsyncEngine) -> None:
    """The same connection, taken from the pool after looks, is in a transaction again."""
    kept = KeptSession(engine, lambda _: None)
    backend = await look(kept)
    await kept.aclose()
    with pytest.raises(ZeroDivisionError):
        async with transaction(PooledSessions(engine, lambda _: None)) as tx:
            assert await tx.session.scalar(BACKEND) == backend
            await tx.session.execute(text("INSERT INTO log (dttm, event) VALUES (now(), 'undone')"))
            raise ZeroDivisionError
    assert await look(kept, text("SELECT count(*) FROM log")) == 0
    await kept.aclose()


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        (Settings(), 7),  # the probe, the sweep, the executor and four lanes
        (Settings(pool_size=8), 0),
        (Settings(pgbouncer="true"), 0),
        (Settings(mode="sequential"), 0),
        (Settings(mode="shared_session"), 0),
        (Settings(algorithm="upstream"), 0),
    ],
    ids=["as it is", "a small pool", "a pooler", "sequential", "shared session", "upstream"],
)
async def test_connections_are_kept_where_the_pool_has_them_to_spare(
    airflow_db: Database, settings: Settings, kept: int
) -> None:
    async with assembled(InstantExecutor(), settings=settings) as assembly:
        assert len(assembly._kept) == kept
        for name in ("probe", "sweep"):
            if name in assembly.supervisor.drivers:
                await assembly.supervisor.drivers[name].run_pass()
    assert assembly.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
