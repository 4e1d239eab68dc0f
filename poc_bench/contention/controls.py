"""Work of which the right answer is known: the instrument must say yes to contention, and no to none.

Each control is a set of routines without a scheduler, over a table of a few rows. Most of their time
is a sleep inside the server while a lock is held, so that the ratios hold on a noisy machine too.
"""

from __future__ import annotations

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from time import monotonic_ns
from typing import TYPE_CHECKING

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from async_scheduler.contention.building import Joined, build, load
from async_scheduler.measure import attribution, stepping
from async_scheduler.measure.attribution import DeadlockVictim
from async_scheduler.measure.instrument import Instrument, Level
from async_scheduler.measure.sqlstate import code_of, contention
from async_scheduler.measure.watchdog import Watchdog

if TYPE_CHECKING:
    from pathlib import Path

    from async_scheduler.contention.report import Report
    from async_scheduler.measure.watchdog import Edges

ROUTINES = 4
HOLD = 0.03
"""Seconds that a pass keeps its row locked, asleep in the server."""
LONG_HOLD = 0.08
"""The same where a share of time is asked for: the rest of a pass takes longer on a loaded machine."""

TAKE = text("UPDATE item SET n = n + 1 WHERE id = :id")
SLEEP = text("SELECT pg_sleep(:seconds)")

Pass = Callable[[AsyncEngine, int], Awaitable[None]]
"""One pass of a routine: the engine and the number of the pass."""


@dataclass(frozen=True, slots=True)
class Held:
    """What the work itself knows to be true: who had which row, from when to when."""

    routine: str
    row: int
    start: int
    end: int


@dataclass
class Truth:
    """Collects who held what, independently of the instrument."""

    held: list[Held] = field(default_factory=list)

    def holder(self, start: int, end: int) -> str:
        """Return who held a row for most of that time."""
        return max(self.held, key=lambda h: min(h.end, end) - max(h.start, start)).routine


@dataclass(frozen=True, slots=True)
class Control:
    """Routines by name, and how often each passes."""

    name: str
    routines: dict[str, Pass]
    passes: int = 6
    pool_size: int = ROUTINES


def one_row(truth: Truth | None = None, hold: float = HOLD) -> Control:
    """Return routines that all update the same row: nothing can be gained by running them at once."""
    return Control(
        "one row", {f"routine {n}": updater(1, f"routine {n}", truth, hold) for n in range(ROUTINES)}
    )


def disjoint_rows(truth: Truth | None = None, hold: float = HOLD) -> Control:
    """Return routines that each update a row of their own: everything can be gained."""
    return Control(
        "disjoint rows",
        {f"routine {n}": updater(n + 1, f"routine {n}", truth, hold) for n in range(ROUTINES)},
    )


def pool_of_one(hold: float = HOLD) -> Control:
    """Return routines without a common row that share a single connection."""
    return Control(
        "pool of one",
        {f"routine {n}": updater(n + 1, f"routine {n}", hold=hold) for n in range(ROUTINES)},
        pool_size=1,
    )


def crosswise() -> Control:
    """Return two routines that update two rows in opposite order: a deadlock in the database."""
    met = asyncio.Barrier(2)

    def body(first: int, second: int) -> Pass:
        async def run(engine: AsyncEngine, number: int) -> None:
            async with engine.begin() as connection:
                await connection.execute(TAKE, {"id": first})
                if number == 0:
                    await met.wait()
                await connection.execute(TAKE, {"id": second})

        return run

    return Control("crosswise", {"forwards": body(1, 2), "backwards": body(2, 1)}, passes=1)


def updater(row: int, name: str, truth: Truth | None = None, hold: float = HOLD) -> Pass:
    """Return a pass that updates *row* and keeps it for *hold* seconds, asleep in the server."""

    async def run(engine: AsyncEngine, number: int) -> None:
        async with engine.connect() as connection:
            await connection.execute(TAKE, {"id": row})
            start = monotonic_ns()
            await connection.execute(SLEEP, {"seconds": hold})
            await connection.commit()
        if truth is not None:
            truth.held.append(Held(name, row, start, monotonic_ns()))

    return run


async def prepare(url: str) -> None:
    """Create the table, with a row for each routine and some more."""
    engine = create_async_engine(url)
    async with engine.begin() as connection:
        await connection.execute(text("CREATE TABLE item (id int PRIMARY KEY, n int NOT NULL DEFAULT 0)"))
        await connection.execute(text("INSERT INTO item SELECT g, 0 FROM generate_series(1, 100) g"))
    await engine.dispose()


async def work(control: Control, engine: AsyncEngine, *, concurrent: bool) -> float:
    """Do the control's fixed work, all routines at once or one after another; return the seconds it took."""
    start = monotonic_ns()
    if concurrent:
        async with asyncio.TaskGroup() as group:
            for name, body in control.routines.items():
                group.create_task(_passes(name, body, engine, control.passes), name=name)
    else:
        for number in range(control.passes):
            for name, body in control.routines.items():
                await _pass(name, body, engine, number)
    return (monotonic_ns() - start) / 1e9


async def _passes(name: str, body: Pass, engine: AsyncEngine, passes: int) -> None:
    for number in range(passes):
        await _pass(name, body, engine, number)


async def _pass(name: str, body: Pass, engine: AsyncEngine, number: int) -> None:
    """Run one pass; deadlocks, of the database or across layers, are retried as a driver would."""
    attempt = number
    while True:
        try:
            with attribution.routine(name, iteration=number):
                await stepping.stepped(_awaited(body(engine, attempt)))
        except DeadlockVictim:
            attempt += 1_000
        except Exception as error:
            if contention(code_of(error)) != "deadlock":
                raise
            attempt += 1_000
        else:
            return


async def _awaited(awaitable: Awaitable[None]) -> None:
    await awaitable


async def speed_ups(control: Control, url: str, *, pairs: int = 3) -> list[float]:
    """Return sequential / concurrent seconds of pairs of runs in random order, with nothing traced."""
    engine = create_async_engine(url, pool_size=control.pool_size, max_overflow=0)
    try:
        await work(Control(control.name, control.routines, 1), engine, concurrent=True)
        ratios = []
        for _ in range(pairs):
            seconds = {
                concurrent: await work(control, engine, concurrent=concurrent)
                for concurrent in random.sample([True, False], 2)
            }
            ratios.append(seconds[False] / seconds[True])
        return ratios
    finally:
        await engine.dispose()


async def attribute(
    control: Control,
    url: str,
    directory: Path,
    logs: Callable[[], Sequence[Path]],
    *,
    level: Level = "ledger",
    edges: Edges | None = None,
) -> tuple[Report, Joined]:
    """Do the work once, traced, all routines at once; return the report and what it was made from."""
    engine = create_async_engine(url, pool_size=control.pool_size, max_overflow=0)
    instrument = Instrument("control", labels={"control": control.name})
    instrument.attach([engine.sync_engine])
    instrument.start(directory, level=level)
    guard = asyncio.create_task(Watchdog(instrument, edges).run())
    try:
        await work(control, engine, concurrent=True)
    finally:
        guard.cancel()
        instrument.stop()
        await engine.dispose()
    joined = load(directory, server_logs=logs(), database=engine.url.database)
    return build(joined, title=control.name), joined


def typical(ratios: Sequence[float]) -> float:
    """Return the median of *ratios*."""
    return median(ratios)


class PlantedHolder:
    """Another process, ``planted holder`` to the server, that keeps taking a row for 50 ms at a time."""

    def __init__(self, dsn: str, row: int = 1, hold: float = 0.05) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "poc_bench.contention.planted_holder", str(row), str(hold)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(dsn + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def __enter__(self) -> PlantedHolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate("")
