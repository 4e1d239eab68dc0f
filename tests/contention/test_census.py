"""The skip census: rows that SKIP LOCKED passed over, exactly, from real plans."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from async_scheduler.contention.building import build, load
from async_scheduler.contention.matrix import label
from async_scheduler.measure import attribution
from async_scheduler.measure.instrument import Instrument
from poc_bench.contention import controls
from poc_bench.contention.servers import SPEED, ExplainingPostgres
from poc_bench.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CLAIM = text("SELECT id FROM item ORDER BY id LIMIT 10 FOR NO KEY UPDATE SKIP LOCKED")


@pytest.fixture(scope="module")
def explaining_server() -> Iterator[ExplainingPostgres]:
    """An installed server with auto_explain."""
    try:
        server = ExplainingPostgres(SPEED)
    except UsageError as error:
        pytest.skip(str(error))
    yield server
    server.close()


async def claim(engine: AsyncEngine, name: str, claimed: asyncio.Event, leave: asyncio.Event) -> None:
    """Claim ten rows and keep them until told to leave."""
    with attribution.routine(name):
        async with engine.begin() as connection:
            await connection.execute(CLAIM)
            claimed.set()
            await leave.wait()


async def claim_as_worker(url: str) -> None:
    """Claim ten rows from a process that is not traced, and let them go."""
    engine = create_async_engine(url, connect_args={"server_settings": {"application_name": "worker"}})
    async with engine.begin() as connection:
        await connection.execute(CLAIM)
    await engine.dispose()


async def test_rows_passed_over_are_counted_by_routine(
    explaining_server: ExplainingPostgres, tmp_path: Path
) -> None:
    explaining_server.create("census")
    url = explaining_server.address("census").async_url
    await controls.prepare(url)
    engine = create_async_engine(url)
    instrument = Instrument("census")
    instrument.attach([engine.sync_engine])
    instrument.start(tmp_path)
    claimed, leave = asyncio.Event(), asyncio.Event()
    async with asyncio.TaskGroup() as group:
        group.create_task(claim(engine, "first", claimed, leave))
        await claimed.wait()
        done = asyncio.Event()
        group.create_task(claim(engine, "second", done, leave))
        await done.wait()
        await claim_as_worker(url)
        leave.set()
    instrument.stop()
    await engine.dispose()
    joined = load(tmp_path, server_logs=explaining_server.logs, database="census")
    skips = [wait for wait in joined.waits if wait.what == "skip"]
    assert {(label(skip.waiter), skip.rows) for skip in skips} == {("second", 10), ("worker", 20)}
    assert {(skip.object.relation, skip.exactness) for skip in skips} == {("item", "exact")}
    report = build(joined)
    skipped = {count.routine: (count.claimed, count.skipped) for count in report.skips}
    assert skipped == {"first": (10, 0), "second": (10, 10), "worker": (10, 20)}
    question = report.questions[4]
    assert question.figure.startswith("33.3 % passed over")
    assert question.detail.endswith("worker passed over 20 of 30"), "and it is not counted as ours"
    assert question.answer == "objection right"
