"""Named locks, and cycles of waits across locks, pool slots and the database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from async_scheduler.measure import attribution, registry, watchdog
from async_scheduler.measure.attribution import DeadlockVictim
from async_scheduler.measure.events import Deadlock, LockObject, Wait
from async_scheduler.measure.locks import NamedLock
from async_scheduler.measure.service import BlockingQuestion
from async_scheduler.measure.watchdog import Node, Watchdog, cycle, deadlocked
from tests.measure.turns import next_turn, until

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

    from async_scheduler.measure.instrument import Instrument
    from tests.measure.conftest import Records
    from tests.support.postgres import Database


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the watchdog suspect a wait at once."""
    monkeypatch.setattr(watchdog, "PATIENCE_NS", 0)
    monkeypatch.setattr(watchdog, "INTERVAL", 0.02)


@pytest.fixture
async def one_slot(empty_database: Database) -> AsyncIterator[AsyncEngine]:
    """An engine with a single connection, and a table of two rows."""
    made = create_async_engine(empty_database.url("asyncpg"), pool_size=1, max_overflow=0)
    async with made.begin() as connection:
        await connection.execute(text("CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"))
        await connection.execute(text("INSERT INTO item VALUES (1), (2)"))
    yield made
    await made.dispose()


async def test_contended_lock_names_holder_and_waiter(instrument: Instrument, records: Records) -> None:
    instrument.watch()
    lock = NamedLock("shared session")

    async def holder() -> None:
        with attribution.routine("create", iteration=3):
            async with lock:
                await until(lambda: instrument.waits.waiting)

    async def waiter() -> None:
        with attribution.routine("start", iteration=4) as activity:
            async with lock:
                pass
        assert activity.lock_ns > 0

    async with asyncio.TaskGroup() as group:
        group.create_task(holder())
        group.create_task(waiter())
    (wait,) = records.of(Wait)
    assert wait.what == "asyncio_lock"
    assert wait.object.key == "shared session"
    assert (wait.waiter.routine, wait.waiter.iteration) == ("start", 4)
    assert wait.root_blocker is not None
    assert (wait.root_blocker.routine, wait.root_blocker.iteration) == ("create", 3)
    assert wait.outcome == "acquired"
    assert lock.holder is None


async def test_cancelled_wait_is_recorded_as_such(instrument: Instrument, records: Records) -> None:
    instrument.watch()
    lock = NamedLock("turn")
    async with lock:
        waiting = asyncio.create_task(lock.acquire())
        await until(lambda: instrument.waits.waiting)
        waiting.cancel()
        await asyncio.wait([waiting])
    assert [wait.outcome for wait in records.of(Wait)] == ["cancelled"]


async def test_lock_is_an_ordinary_lock_while_nothing_is_measured() -> None:
    assert registry.observer is None
    lock = NamedLock("turn")
    order: list[int] = []

    async def take(n: int) -> None:
        async with lock:
            order.append(n)

    async with lock, asyncio.timeout(300):
        tasks = [asyncio.create_task(take(n)) for n in range(3)]
        await next_turn()
    await asyncio.gather(*tasks)
    assert order == [0, 1, 2]


def node(ahead: list[int], *, any_of: bool = False, in_process: bool = True) -> Node:
    """Return a node for the graph alone; task and holder are not looked at."""
    holder = registry.Holder(None, None, 0)
    return Node(None, holder, ahead, any_of, LockObject(), 0, in_process, None)  # type: ignore[arg-type]


def test_cycle_is_found_and_those_behind_it_are_stuck_too() -> None:
    nodes = {1: node([2]), 2: node([1]), 3: node([1]), 4: node([5])}
    assert deadlocked(nodes) == {1, 2, 3}
    assert set(cycle(nodes, {1, 2, 3})) == {1, 2}


def test_pool_wait_is_stuck_only_when_every_holder_is() -> None:
    assert deadlocked({1: node([2, 9], any_of=True), 2: node([1])}) == set()
    assert deadlocked({1: node([2, 3], any_of=True), 2: node([1]), 3: node([1])}) == {1, 2, 3}


@given(st.dictionaries(st.integers(0, 8), st.lists(st.integers(0, 12), min_size=1, max_size=3), max_size=9))
def test_a_stuck_node_has_only_stuck_ones_ahead_somewhere(graph: dict[int, list[int]]) -> None:
    nodes = {n: node(ahead) for n, ahead in graph.items()}
    stuck = deadlocked(nodes)
    assert all(any(a in stuck for a in nodes[n].ahead) for n in stuck)
    assert all(not any(a in stuck for a in nodes[n].ahead) for n in set(nodes) - stuck)
    if stuck:
        found = cycle(nodes, stuck)
        following = [*found[1:], found[0]]
        assert all(after in nodes[n].ahead for n, after in zip(found, following, strict=True))


Body = Callable[[], Awaitable[None]]


async def run_until_broken(instrument: Instrument, edges: watchdog.Edges | None, **bodies: Body) -> list[str]:
    """Run *bodies* as passes under a watchdog, retrying victims; return the routines that were victims."""
    victims: list[str] = []

    async def drive(name: str, body: Body) -> None:
        while True:
            try:
                with attribution.routine(name):
                    await body()
            except DeadlockVictim as error:
                victims.append(error.routine)
            else:
                return

    guard = asyncio.create_task(Watchdog(instrument, edges).run())
    try:
        async with asyncio.timeout(300), asyncio.TaskGroup() as group:
            for name, body in bodies.items():
                group.create_task(drive(name, body))
    finally:
        guard.cancel()
    return victims


async def test_two_locks_taken_crosswise(instrument: Instrument, records: Records) -> None:
    instrument.watch()
    first, second = NamedLock("first"), NamedLock("second")
    met = asyncio.Barrier(2)
    crossed: set[str] = set()

    def body(name: str, one: NamedLock, other: NamedLock) -> Body:
        async def take() -> None:
            async with one:
                if name not in crossed:
                    crossed.add(name)
                    await met.wait()
                async with other:
                    pass

        return take

    victims = await run_until_broken(
        instrument, None, old=body("old", first, second), young=body("young", second, first)
    )
    assert victims == ["young"]
    (found,) = records.of(Deadlock)
    assert {party.routine for party in found.parties} == {"old", "young"}
    assert {what.key for what in found.objects} == {"first", "second"}
    assert found.victim is not None
    assert found.parties[found.victim].routine == "young"
    assert all(any("take" in line for line in stack) for stack in found.stacks)


async def test_lock_against_pool_slot(
    one_slot: AsyncEngine, instrument: Instrument, records: Records
) -> None:
    instrument.attach([one_slot.sync_engine])
    instrument.watch()
    lock = NamedLock("turn")
    met = asyncio.Barrier(2)
    crossed: set[str] = set()

    async def pause(name: str) -> None:
        if name not in crossed:
            crossed.add(name)
            await met.wait()

    async def slot_then_lock() -> None:
        async with one_slot.connect():
            await pause("slot")
            async with lock:
                pass

    async def lock_then_slot() -> None:
        async with lock:
            await pause("lock")
            async with one_slot.connect():
                pass

    victims = await run_until_broken(instrument, None, create=slot_then_lock, start=lock_then_slot)
    assert victims == ["start"]
    (found,) = records.of(Deadlock)
    assert {what.key for what in found.objects} == {"turn", "connection pool"}
    assert any("wrappers.py" in line for stack in found.stacks for line in stack), "greenlet stack missing"


async def test_row_lock_against_named_lock(
    engine: AsyncEngine, empty_database: Database, instrument: Instrument, records: Records
) -> None:
    instrument.attach([engine.sync_engine])
    instrument.watch()
    lock = NamedLock("turn")
    met = asyncio.Barrier(2)
    crossed: set[str] = set()
    question = BlockingQuestion(engine.url)
    update = text("UPDATE item SET n = n + 1 WHERE id = 1")

    async def pause(name: str) -> None:
        if name not in crossed:
            crossed.add(name)
            await met.wait()

    async def row_then_lock() -> None:
        async with engine.begin() as connection:
            await connection.execute(update)
            await pause("row")
            async with lock:
                pass

    async def lock_then_row() -> None:
        async with lock:
            await pause("lock")
            async with engine.begin() as connection:
                await connection.execute(update)

    try:
        victims = await run_until_broken(instrument, question, schedule=row_then_lock, enqueue=lock_then_row)
    finally:
        question.close()
    assert victims == ["enqueue"]
    (found,) = records.of(Deadlock)
    assert {party.routine for party in found.parties} == {"schedule", "enqueue"}
    async with engine.connect() as connection:
        assert await connection.scalar(text("SELECT n FROM item WHERE id = 1")) == len(victims) + 1


async def test_cancellation_by_others_stays_a_cancellation() -> None:
    async def body() -> None:
        with attribution.routine("create") as activity:
            activity.victim = True
            await asyncio.Event().wait()

    task = asyncio.create_task(body())
    await next_turn()
    task.cancel()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
