"""The sampler's own process against real lock waits."""

from __future__ import annotations

import asyncio
import sys
import uuid
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from async_scheduler.contention.reading import read_trace
from async_scheduler.measure.events import Clock, Event, LockObject, Party, Wait
from async_scheduler.measure.instrument import Instrument
from async_scheduler.measure.postgres_sampler import APPLICATION, ServerClock, Sightings, root_blocker
from async_scheduler.measure.sampler import BACKEND, Sampler, asyncpg_arguments
from async_scheduler.measure.service import MeasureService

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.postgres import Database


def snapshot(at: float, *waiters: tuple[int, float | None, list[int]]) -> dict[str, object]:
    """Return what the server says at *at*: waiters as (pid, start, blockers)."""
    pids = {pid for pid, _, blockers in waiters for pid in (pid, *blockers)}
    return {
        "at": at,
        "waiters": [
            {
                "pid": pid,
                "type": "transactionid",
                "mode": "ShareLock",
                "start": start,
                "relation": "item",
                "key": None,
                "blockers": blockers,
            }
            for pid, start, blockers in waiters
        ],
        "parties": [
            {
                "pid": pid,
                "application": f"app {pid}",
                "state": "active",
                "query": "UPDATE item",
                "since": at - 1,
            }
            for pid in sorted(pids)
        ],
    }


def waits(*snapshots: dict[str, object]) -> list[Wait]:
    records: list[Event] = []
    sightings = Sightings(records.append)
    for seen in snapshots:
        sightings.see(seen, ServerClock(0))
    sightings.close(10**12)
    return [record for record in records if isinstance(record, Wait)]


def test_wait_lasts_from_the_servers_start_to_the_first_snapshot_without_it() -> None:
    (wait,) = waits(snapshot(1.0, (5, 0.9, [6])), snapshot(1.5, (5, 0.9, [6])), snapshot(2.0))
    assert (wait.t_start, wait.t_end, wait.exactness) == (900_000_000, 2_000_000_000, "start-exact")
    assert wait.object == LockObject(relation="item", mode="ShareLock")
    assert [party.process for party in wait.immediate_blockers] == ["app 6"]


def test_queue_resolves_to_its_head() -> None:
    first, second = waits(snapshot(1.0, (5, 0.9, [6]), (6, 0.8, [7])), snapshot(2.0))
    assert {
        first.root_blocker and first.root_blocker.pid,
        second.root_blocker and second.root_blocker.pid,
    } == {7}


def test_start_filled_in_later_is_the_same_wait_and_a_new_start_is_another() -> None:
    assert len(waits(snapshot(1.0, (5, None, [6])), snapshot(1.1, (5, 1.0, [6])), snapshot(2.0))) == 1
    assert len(waits(snapshot(1.0, (5, 0.9, [6])), snapshot(1.1, (5, 1.05, [6])), snapshot(2.0))) == 2


def test_wait_under_way_at_the_end_is_unfinished() -> None:
    (wait,) = waits(snapshot(1.0, (5, 0.9, [6])))
    assert wait.outcome == "unfinished"


@pytest.mark.parametrize(
    ("blockers", "root"),
    [({1: [2]}, 2), ({1: [2], 2: [3]}, 3), ({1: [2], 2: [1]}, None), ({}, None), ({1: [2, 3], 2: [3]}, 3)],
)
def test_root_blocker(blockers: dict[int, list[int]], root: int | None) -> None:
    assert root_blocker(1, blockers) == root


def test_any_postgres_url_will_do() -> None:
    arguments = asyncpg_arguments(make_url("postgresql+psycopg2://u:p@/db?host=/run/x"))
    assert (arguments["user"], arguments["host"], arguments["database"]) == ("u", "/run/x", "db")


SAMPLERS_TURN = text(
    "SELECT xact_start FROM pg_stat_activity WHERE application_name = :name AND datname = current_database()"
    " AND xact_start > (SELECT min(waitstart) FROM pg_locks WHERE NOT granted)"
)


async def seen_by_the_sampler(observer: AsyncConnection) -> None:
    """Return when the sampler has looked since somebody waits.

    It begins a transaction when it sees something new, and each second. One may have begun after a look just
    before the wait; the one after that has not.
    """
    began: set[object] = set()
    async with asyncio.timeout(300):
        while len(began) < 2:
            began.update(await observer.scalars(SAMPLERS_TURN, {"name": APPLICATION}))
            await observer.execute(text("SELECT pg_sleep(0.02)"))
            await observer.rollback()  # so that the next look is not the last one again


async def contend(engine: AsyncEngine) -> tuple[int, int]:
    """Let one connection wait for another's row until the sampler has seen it; return both's pids."""
    update = text("UPDATE item SET n = n + 1 WHERE id = 1")
    async with engine.connect() as holder, engine.connect() as waiter:
        pids = [await c.scalar(text("SELECT pg_backend_pid()")) for c in (holder, waiter)]
        await holder.execute(update)
        blocked = asyncio.create_task(waiter.execute(update))
        async with engine.connect() as observer:
            await seen_by_the_sampler(observer)
            await observer.execute(text("SELECT pg_sleep(0.1)"))
        await holder.commit()
        await blocked
        await waiter.commit()
    return int(pids[0] or 0), int(pids[1] or 0)


@pytest.fixture
async def named_engine(empty_database: Database) -> AsyncEngine:
    engine = create_async_engine(
        empty_database.url("asyncpg"), connect_args={"server_settings": {"application_name": "culprit"}}
    )
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"))
        await connection.execute(text("INSERT INTO item VALUES (1)"))
    return engine


async def test_real_wait_is_seen_with_holder_table_and_name(
    named_engine: AsyncEngine, tmp_path: Path
) -> None:
    sampler = await Sampler.start(named_engine.url, tmp_path)
    holder, waiter = await contend(named_engine)
    await named_engine.dispose()
    await sampler.stop()
    trace = read_trace(tmp_path)
    (wait,) = [w for w in trace.waits if w.waiter.pid == waiter]
    assert wait.root_blocker is not None
    assert (wait.root_blocker.pid, wait.root_blocker.process) == (holder, "culprit")
    assert wait.object.relation == "item"
    assert wait.exactness == "start-exact"
    assert wait.t_end - wait.t_start >= 100_000_000
    assert [h.process for h in trace.headers] == ["sampler"]
    assert trace.of(Clock)
    both = {"sampler", BACKEND} if sys.platform == "linux" else {"sampler"}
    assert {stopped.process for stopped in trace.stopped} == both, "what it cost, in both places"


async def test_role_that_may_not_see_others_events_sees_their_waits(
    named_engine: AsyncEngine, tmp_path: Path
) -> None:
    role = f"watcher_{uuid.uuid4().hex[:12]}"
    async with named_engine.begin() as connection:
        await connection.execute(text(f"CREATE ROLE {role} LOGIN"))
    sampler = await Sampler.start(named_engine.url.set(username=role), tmp_path)
    holder, waiter = await contend(named_engine)
    await sampler.stop()
    async with named_engine.begin() as connection:
        await connection.execute(text(f"DROP ROLE {role}"))
    await named_engine.dispose()
    (wait,) = [w for w in read_trace(tmp_path).waits if w.waiter.pid == waiter]
    assert wait.root_blocker is not None
    assert wait.root_blocker.pid == holder


async def test_service_samples_beside_the_trace(named_engine: AsyncEngine, tmp_path: Path) -> None:
    instrument = Instrument("scheduler")
    instrument.attach([named_engine.sync_engine])
    service = MeasureService(instrument, named_engine.url, None, sampled=named_engine.url)
    await service.on(tmp_path, "ledger")
    _, waiter = await contend(named_engine)
    await service.off()
    await named_engine.dispose()
    trace = read_trace(tmp_path)
    assert {header.process for header in trace.headers} == {"scheduler", "sampler"}
    assert waiter in {wait.waiter.pid for wait in trace.waits}
    assert waiter in {transaction.pid for transaction in trace.transactions}


async def test_sampler_that_cannot_connect_says_why(tmp_path: Path) -> None:
    nowhere = make_url(f"postgresql+asyncpg://nobody@/none?host={tmp_path}")
    with pytest.raises(RuntimeError, match=r"Error"):
        await Sampler.start(nowhere, tmp_path)


def test_party_has_no_parameters() -> None:
    assert "parameters" not in Party.__struct_fields__
