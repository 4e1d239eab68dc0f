"""What the ledger adds to one transaction: blocks of real transactions, traced and not, in alternating pairs.

``python -m poc_bench.contention.unit_cost``. CPU of the whole process, so the trace's writer is in it. A
scheduler's own CPU varies too much from run to run for an effect of a percent to be seen in it.
"""

from __future__ import annotations

import asyncio
import tempfile
from math import sqrt
from pathlib import Path
from statistics import fmean, median, stdev
from time import process_time
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from async_scheduler.measure import attribution
from async_scheduler.measure.instrument import Instrument
from poc_bench.contention import controls
from poc_bench.database.postgres import EmbeddedPostgres

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncEngine

LOCK = text("SELECT id FROM item WHERE id = :id FOR UPDATE")
PAIRS = 40
TRIMMED = 4
"""Pairs left out at either end: a loaded machine has outliers."""


async def block(engine: AsyncEngine, transactions: int, statements: int) -> float:
    """Return the CPU of one transaction of so many statements, in microseconds."""
    start = process_time()
    for number in range(transactions):
        with attribution.routine("schedule", iteration=number):
            async with engine.begin() as connection:
                for _ in range(statements):
                    await connection.execute(LOCK, {"id": 1})
    return (process_time() - start) / transactions * 1e6


async def extra(engine: AsyncEngine, transactions: int, statements: int) -> tuple[list[float], float]:
    """Return what tracing adds, pair by pair and sorted, and the cost without it; microseconds."""
    instrument = Instrument("unit")
    instrument.attach([engine.sync_engine])
    added, without = [], []
    for pair in range(PAIRS):
        cost = {}
        for traced in (pair % 2 == 0, pair % 2 == 1):
            with tempfile.TemporaryDirectory() as folder:
                if traced:
                    instrument.start(Path(folder))
                await block(engine, 5, statements)
                cost[traced] = await block(engine, transactions, statements)
                instrument.stop()
        added.append(cost[True] - cost[False])
        without.append(cost[False])
    return sorted(added), median(without)


async def main() -> None:
    """Measure and print."""
    server = EmbeddedPostgres()
    try:
        server.create("unit")
        url = server.address("unit").async_url
        await controls.prepare(url)
        engine = create_async_engine(url, pool_size=1, max_overflow=0)
        for statements, transactions in ((1, 150), (11, 40)):
            added, without = await extra(engine, transactions, statements)
            kept = added[TRIMMED:-TRIMMED]
            half = 2 * stdev(kept) / sqrt(len(kept))
            print(  # noqa: T201
                f"{statements:>2} statements: {without:.0f} µs untraced,"
                f" {fmean(kept):+.1f} ± {half:.1f} µs traced"
            )
        await engine.dispose()
    finally:
        server.close()


if __name__ == "__main__":
    asyncio.run(main())
