"""The instrument must be able to say yes and no: work of which the right answer is known."""

from __future__ import annotations

import asyncio
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
    from sqlalchemy.ext.asyncio import AsyncEngine

    from async_scheduler.contention.report import Report
    from tests.contention.conftest import Site


async def test_one_row_gains_nothing(site: Site) -> None:
    assert 0.9 <= typical(await speed_ups(controls.one_row(), site.url)) <= 1.1


async def test_disjoint_rows_gain_what_four_routines_can(site: Site) -> None:
    assert typical(await speed_ups(controls.disjoint_rows(), site.url)) >= 3


async def test_one_row_is_all_waiting_for_the_right_holder(site: Site) -> None:
    truth = Truth()
    report, joined = await attribute(controls.one_row(truth), site.url, site.traces, site.logs)
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
    report, _ = await attribute(controls.disjoint_rows(), site.url, site.traces, site.logs)
    assert report.lock_share is not None
    assert report.lock_share <= 0.01
    assert {question.answer for question in report.questions if question.number == 3} == {"objection wrong"}


async def test_planted_holder_in_another_process_is_named(site: Site) -> None:
    control = Control("planted", {"victim": controls.updater(1, "victim", hold=0.0)}, passes=10)
    with PlantedHolder(site.dsn):
        report, _ = await attribute(control, site.url, site.traces, site.logs)
    pair = report.pairs[0]
    assert (pair.waiter, pair.holder, list(pair.tables)) == ("victim", PLANTED, ["item"])
    assert pair.total_ns >= 0.9 * sum(other.total_ns for other in report.pairs)


async def test_holder_here_and_victim_there_is_a_victim_of_ours(site: Site) -> None:
    control = Control("culprit", {"culprit": controls.updater(1, "culprit", hold=0.05)}, passes=4)
    with PlantedHolder(site.dsn, hold=0.0):
        report, _ = await attribute(control, site.url, site.traces, site.logs)
    assert {(pair.waiter, pair.holder) for pair in report.victims} == {(PLANTED, "culprit")}
    assert report.questions[3].answer == "objection right"


def test_loop_hog_lengthens_holds_without_a_database_lock(site: Site) -> None:
    def hold_of(*, hogged: bool) -> tuple[float, float, Report]:
        async def run() -> Report:
            hog = asyncio.create_task(_hog(0.02 if hogged else 0.0))
            try:
                directory = site.traces / str(hogged)
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
    report, _ = await attribute(controls.pool_of_one(), site.url, site.traces, site.logs)
    assert {pair.layer for pair in report.pairs} == {"pool"}
    pool = sum(r.categories["pool"].middle for r in report.routines)
    assert pool >= 0.6 * sum(r.wall_ns for r in report.routines)
    assert sum(r.categories["database lock"].middle for r in report.routines) == 0


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
