"""The instrument must be able to say yes and no: work of which the right answer is known."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from time import monotonic_ns
from typing import TYPE_CHECKING

from sqlalchemy import make_url

from async_scheduler.contention.matrix import DATABASE, label
from async_scheduler.measure import stepping
from async_scheduler.measure.locks import NamedLock
from async_scheduler.measure.service import BlockingQuestion
from poc_bench.contention import controls
from poc_bench.contention.controls import TAKE, Control, PlantedHolder, Truth, attribute, speed_ups, typical
from poc_bench.contention.planted_holder import NAME as PLANTED

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sqlalchemy.ext.asyncio import AsyncEngine

    from async_scheduler.contention.building import Joined
    from async_scheduler.contention.report import Report
    from tests.contention.conftest import Site


HOLDS = (0.03, 0.12, 0.5)
"""Seconds that a lock is held, asleep."""


async def beside_the_noise(check: Callable[[float], Awaitable[None]]) -> None:
    """Make the same check with longer and longer sleeps until it holds.

    A busy machine adds some milliseconds wherever it likes, little beside a long sleep. An instrument that is
    wrong is wrong with every length.
    """
    for hold in HOLDS:
        try:
            await check(hold)
        except AssertionError:
            if hold == HOLDS[-1]:
                raise
        else:
            return


async def test_one_row_gains_nothing(site: Site) -> None:
    async def check(hold: float) -> None:
        control = replace(controls.one_row(hold=hold), passes=3)
        assert 0.9 <= typical(await speed_ups(control, site.url)) <= 1.1

    await beside_the_noise(check)


async def test_disjoint_rows_gain_what_four_routines_can(site: Site) -> None:
    async def check(hold: float) -> None:
        control = replace(controls.disjoint_rows(hold=hold), passes=3)
        assert typical(await speed_ups(control, site.url)) >= 3

    await beside_the_noise(check)


async def test_one_row_is_all_waiting_for_the_right_holder(site: Site) -> None:
    async def check(hold: float) -> None:
        truth = Truth()
        traces = site.traces / str(hold)
        report, joined = await attribute(controls.one_row(truth, hold), site.url, traces, site.logs)
        _assert_all_waits_have_the_right_holder(report, joined, truth)

    await beside_the_noise(check)


def _assert_all_waits_have_the_right_holder(report: Report, joined: Joined, truth: Truth) -> None:
    assert report.lock_share is not None
    assert report.lock_share >= 0.6
    waits = [w for w in joined.waits if w.what in DATABASE]
    assert {w.source for w in waits} == {"server log"}
    right = [w for w in waits if label(w.root_blocker) == truth.holder(w.t_start, w.t_end)]
    assert len(right) >= 0.95 * len(waits)
    assert report.quality.attributed_share is not None
    assert report.quality.attributed_share >= 0.95
    assert {table for pair in report.pairs for table in pair.tables} == {"item"}
    (statement,) = report.statements
    assert statement.statement.startswith("UPDATE item")
    assert statement.held_by is not None
    assert statement.held_by.startswith("UPDATE item"), "not the statement that was running, but the taker"


async def test_disjoint_rows_wait_for_nobody(site: Site) -> None:
    async def check(hold: float) -> None:
        traces = site.traces / str(hold)
        report, _ = await attribute(controls.disjoint_rows(hold=hold), site.url, traces, site.logs)
        assert report.lock_share is not None
        assert report.lock_share <= 0.01
        answers = {question.answer for question in report.questions if question.number == 3}
        assert answers == {"objection wrong"}

    await beside_the_noise(check)


async def test_planted_holder_in_another_process_is_named(site: Site) -> None:
    control = Control("planted", {"victim": controls.updater(1, "victim", hold=0.0)}, passes=10)
    with PlantedHolder(site.dsn):
        report, _ = await attribute(control, site.url, site.traces, site.logs)
    pair = report.pairs[0]
    assert (pair.waiter, pair.holder, list(pair.tables)) == ("victim", PLANTED, ["item"])
    assert pair.total_ns >= 0.9 * sum(other.total_ns for other in report.pairs)


async def test_holder_here_and_victim_there_is_a_victim_of_ours(site: Site) -> None:
    async def check(hold: float) -> None:
        control = Control("culprit", {"culprit": controls.updater(1, "culprit", hold=hold)}, passes=6)
        with PlantedHolder(site.dsn, hold=0.0):
            report, _ = await attribute(control, site.url, site.traces / str(hold), site.logs)
        assert {(pair.waiter, pair.holder) for pair in report.victims} == {(PLANTED, "culprit")}
        assert report.questions[3].answer == "objection right"

    await beside_the_noise(check)


HOGS = (0.02, 0.2)
"""Seconds for which the loop is kept busy at a time: see :func:`beside_the_noise`."""


def test_loop_hog_lengthens_holds_without_a_database_lock(site: Site) -> None:
    for busy in HOGS:
        try:
            _assert_that_a_hog_shows(site, busy)
        except AssertionError:
            if busy == HOGS[-1]:
                raise
        else:
            return


def _assert_that_a_hog_shows(site: Site, busy: float) -> None:
    def hold_of(*, hogged: bool) -> tuple[float, float, Report]:
        async def run() -> Report:
            hog = asyncio.create_task(_hog(busy if hogged else 0.0))
            try:
                directory = site.traces / f"{busy} {hogged}"
                report, _ = await attribute(_quick(), site.url, directory, site.logs, level="steps")
            finally:
                hog.cancel()
            return report

        with asyncio.Runner(loop_factory=stepping.new_event_loop) as runner:
            report = runner.run(run())
        stepping.selector = None
        (hold,) = report.holds
        assert hold.loop is not None
        return hold.median_ns, hold.loop.high / hold.total_ns, report

    quiet, _, _ = hold_of(hogged=False)
    hogged, loop_share, report = hold_of(hogged=True)
    assert hogged > 2 * quiet
    assert loop_share >= 0.5
    assert all(pair.layer != "database" for pair in report.pairs)


def _quick() -> Control:
    return Control("quick", {"routine": controls.updater(1, "routine", hold=0.002)}, passes=10)


async def _hog(busy: float) -> None:
    """Keep the loop busy for *busy* seconds out of every *busy* and a little more."""
    while True:
        until = monotonic_ns() + busy * 1e9
        while monotonic_ns() < until:
            pass
        await asyncio.wait([asyncio.ensure_future(asyncio.sleep(0.001))])


async def test_pool_of_one_is_the_pool_and_not_the_database(site: Site) -> None:
    async def check(hold: float) -> None:
        traces = site.traces / str(hold)
        report, _ = await attribute(controls.pool_of_one(hold), site.url, traces, site.logs)
        assert {pair.layer for pair in report.pairs} == {"pool"}
        pool = sum(r.categories["pool"].middle for r in report.routines)
        assert pool >= 0.6 * sum(r.wall_ns for r in report.routines)
        assert sum(r.categories["database lock"].middle for r in report.routines) == 0

    await beside_the_noise(check)


async def test_deadlock_is_told_with_both_statements(site: Site) -> None:
    report, _ = await attribute(controls.crosswise(), site.url, site.traces, site.logs)
    assert len(report.failures) >= 1
    failure = report.failures[0]
    assert set(failure.parties) == {"forwards", "backwards"}
    assert failure.victim in {"forwards", "backwards"}
    assert all(text.startswith("UPDATE item") for text in failure.details)
    assert report.questions[5].answer == "objection right"


async def test_deadlock_across_layers_is_told_with_both_stacks(site: Site) -> None:
    lock, met = NamedLock("turn"), asyncio.Barrier(2)

    async def row_then_lock(engine: AsyncEngine, number: int) -> None:
        async with engine.begin() as connection:
            await connection.execute(TAKE, {"id": 1})
            if number == 0:
                await met.wait()
            async with lock:
                pass

    async def lock_then_row(engine: AsyncEngine, number: int) -> None:
        async with lock:
            if number == 0:
                await met.wait()
            async with engine.begin() as connection:
                await connection.execute(TAKE, {"id": 1})

    control = Control("across", {"row first": row_then_lock, "lock first": lock_then_row}, passes=1)
    question = BlockingQuestion(make_url(site.url))
    try:
        report, _ = await attribute(control, site.url, site.traces, site.logs, edges=question)
    finally:
        question.close()
    (failure,) = report.failures
    assert failure.source == "watchdog"
    assert set(failure.parties) == {"row first", "lock first"}
    assert failure.victim in failure.parties
    assert any("row_then_lock" in stack for stack in failure.details)
    assert any("lock_then_row" in stack for stack in failure.details)
