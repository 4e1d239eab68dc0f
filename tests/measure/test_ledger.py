"""What the wrappers see of real transactions, with both PostgreSQL drivers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import column, func, select, table, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncSession

from async_scheduler.measure import attribution
from async_scheduler.measure.events import Iteration, StatementText, Transaction, Wait
from tests.measure.turns import until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from async_scheduler.measure.instrument import Instrument
    from tests.measure.conftest import Records

ITEM = table("item", column("id"), column("n"))


async def _backend(engine: AsyncEngine) -> int:
    async with engine.connect() as connection:
        return int(await connection.scalar(select(func.pg_backend_pid())) or 0)


async def test_transaction_knows_its_routine_backend_and_statements(
    engine: AsyncEngine, instrument: Instrument, records: Records
) -> None:
    instrument.attach([engine.sync_engine])
    instrument.watch()
    with attribution.routine("schedule", iteration=7):
        async with AsyncSession(engine) as session:
            pid = await session.scalar(select(func.pg_backend_pid()))
            rows = await session.execute(select(ITEM.c.id).limit(3).with_for_update(skip_locked=True))
            assert len(rows.all()) == 3
            await session.commit()
    (transaction,) = records.of(Transaction)
    assert (transaction.routine, transaction.iteration, transaction.pid) == ("schedule", 7, pid)
    assert transaction.outcome == "commit"
    assert [(run.rows, run.wanted) for run in transaction.statements] == [(1, None), (3, 3)]
    texts = {record.hash: record for record in records.of(StatementText)}
    taker = texts[transaction.lock_hash or ""]
    assert "FOR UPDATE SKIP LOCKED" in taker.text
    assert transaction.lock_from == transaction.statements[1].start
    (iteration,) = records.of(Iteration)
    assert (iteration.transactions, iteration.statements) == (1, 2)
    assert (iteration.wanted, iteration.claimed) == (3, 3)
    assert iteration.statement_ns >= sum(run.ns for run in transaction.statements)


async def test_in_autocommit_each_statement_is_a_transaction(
    engine: AsyncEngine, instrument: Instrument, records: Records
) -> None:
    instrument.attach([engine.sync_engine])
    instrument.watch()
    with attribution.routine("probe", iteration=1):
        async with engine.connect() as connection:
            await connection.execution_options(isolation_level="AUTOCOMMIT")
            for number in range(2):
                await connection.execute(select(ITEM.c.id))
                assert len(records.of(Transaction)) == number + 1
            with pytest.raises(DBAPIError):
                await connection.execute(text("SELECT 1 / 0"))
    found = [(one.routine, one.outcome, len(one.statements)) for one in records.of(Transaction)]
    assert found == [("probe", "commit", 1), ("probe", "commit", 1), ("probe", "rollback", 1)]
    (iteration,) = records.of(Iteration)
    assert (iteration.transactions, iteration.statements) == (3, 3)


async def test_reading_transaction_holds_no_lock_and_rolls_back(
    engine: AsyncEngine, instrument: Instrument, records: Records
) -> None:
    instrument.attach([engine.sync_engine])
    instrument.watch()
    async with engine.connect() as connection:
        await connection.execute(select(ITEM.c.id))
        await connection.execute(text("UPDATE item SET n = 1 WHERE id = -1"))
    (transaction,) = records.of(Transaction)
    assert transaction.outcome == "rollback"
    assert transaction.lock_from is None
    assert transaction.routine is None


async def test_failures_that_mean_contention_are_counted_by_sqlstate(
    engine: AsyncEngine, instrument: Instrument, records: Records
) -> None:
    instrument.attach([engine.sync_engine])
    instrument.watch()
    async with engine.connect() as holder, engine.connect() as other:
        await holder.execute(text("SELECT 1 FROM item WHERE id = 1 FOR UPDATE"))
        await holder.execute(text("SELECT pg_advisory_xact_lock(5)"))
        with attribution.routine("enqueue"):
            assert not await other.scalar(text("SELECT pg_try_advisory_xact_lock(5)"))
            with pytest.raises(DBAPIError):
                await other.execute(text("SELECT 1 FROM item WHERE id = 1 FOR UPDATE NOWAIT"))
            await other.rollback()
    refused = records.of(Wait)
    assert {wait.what for wait in refused} == {"nowait_fail"}
    assert {wait.waiter.routine for wait in refused} == {"enqueue"}
    asked_twice = 2
    assert len(refused) >= 1
    if engine.dialect.driver == "asyncpg":
        assert len(refused) == asked_twice


async def test_concurrent_tasks_are_told_apart(
    engine: AsyncEngine, instrument: Instrument, records: Records
) -> None:
    instrument.attach([engine.sync_engine])
    instrument.watch()

    async def work(name: str) -> None:
        for n in range(3):
            with attribution.routine(name, iteration=n):
                async with AsyncSession(engine) as session:
                    await session.execute(text("UPDATE item SET n = n + 1 WHERE id = 1"))
                    await session.commit()

    async with asyncio.TaskGroup() as group:
        for name in ("create", "start", "schedule", "enqueue"):
            group.create_task(work(name))
    seen = [(t.routine, t.iteration) for t in records.of(Transaction)]
    assert sorted(seen) == sorted(
        (name, n) for name in ("create", "start", "schedule", "enqueue") for n in range(3)
    )


async def test_wait_for_the_pool_names_its_holders(
    engine: AsyncEngine, instrument: Instrument, records: Records
) -> None:
    instrument.attach([engine.sync_engine])
    instrument.watch()
    waiting = asyncio.Event()

    async def queue() -> None:
        with attribution.routine("start", iteration=2):
            waiting.set()
            async with engine.connect() as connection:
                await connection.execute(select(ITEM.c.id))

    with attribution.routine("create", iteration=1):
        held = [await engine.connect() for _ in range(4)]
    task = asyncio.create_task(queue())
    await waiting.wait()
    await until(lambda: instrument.waits.waiting)
    for connection in held:
        await connection.close()
    await task
    (wait,) = [w for w in records.of(Wait) if w.what == "pool"]
    assert (wait.waiter.routine, wait.waiter.iteration) == ("start", 2)
    assert {party.routine for party in wait.immediate_blockers} == {"create"}
    assert len(wait.immediate_blockers) == 4
    assert wait.outcome == "acquired"
    (iteration,) = [i for i in records.of(Iteration) if i.routine == "start"]
    assert iteration.pool_ns > 0
    assert [transaction.pool_ns for transaction in records.of(Transaction)] == [iteration.pool_ns]


async def test_switching_on_and_off_leaves_no_wrapper(engine: AsyncEngine, instrument: Instrument) -> None:
    sync = engine.sync_engine
    before = dict(sync.dialect.__dict__), dict(sync.pool.__dict__)
    instrument.attach([sync])
    instrument.watch()
    await _backend(engine)
    await engine.dispose()
    await _backend(engine)
    assert "do_execute" in sync.dialect.__dict__
    assert "connect" in sync.pool.__dict__
    assert not instrument.ledger.checkouts
    instrument.unwatch()
    assert set(sync.dialect.__dict__) == set(before[0])
    assert not {"connect", "_do_return_conn"} & set(sync.pool.__dict__)
    await _backend(engine)


async def test_switching_on_while_connections_are_in_use(
    engine: AsyncEngine, instrument: Instrument, records: Records
) -> None:
    async with engine.connect() as connection:
        await connection.execute(select(ITEM.c.id))
        instrument.attach([engine.sync_engine])
        instrument.watch()
        await connection.execute(select(ITEM.c.n))
        await connection.rollback()
    assert records.of(Transaction) == []
    pid = await _backend(engine)
    assert [t.pid for t in records.of(Transaction)] == [pid]


async def test_invalidated_connection_is_forgotten(engine: AsyncEngine, instrument: Instrument) -> None:
    instrument.attach([engine.sync_engine])
    instrument.watch()
    async with engine.connect() as connection:
        await connection.execute(select(ITEM.c.id))
        await connection.invalidate()
    assert not instrument.ledger.checkouts
