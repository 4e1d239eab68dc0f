"""Several visiting transactions at once."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from airflow._shared.timezones import timezone
from airflow.utils.state import DagRunState

from async_scheduler.routines.redesigned import next_visits, schedule, unlocked
from async_scheduler.store import running
from async_scheduler.store import unlocked as store
from tests.redesigned.test_races import stages
from tests.redesigned.test_stages import REDESIGNED, states
from tests.support.dags import create_run, layered_dag, write_dags
from tests.support.executor import InstantExecutor
from tests.support.scheduler import assembled

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection

    from async_scheduler.assembly import Assembly
    from async_scheduler.driver.runner import RoutineDriver
    from tests.support.postgres import Database

FOUR_LANES = replace(REDESIGNED, runs_per_visit=1, visits_at_once=4)


async def know_the_dag(assembly: Assembly, run: int) -> None:
    """Let the first pass read the dag."""
    stages(assembly).dirty.mark([run])
    await stages(assembly).schedule.run_once()


def lanes(assembly: Assembly) -> list[RoutineDriver]:
    """The drivers that visit runs."""
    drivers = assembly.supervisor.drivers
    return [drivers[name] for name in ("schedule", "schedule:2", "schedule:3", "schedule:4")]


def woken(assembly: Assembly) -> list[bool]:
    """Which of them are asked for a pass."""
    return [lane.wakeup.is_set for lane in lanes(assembly)]


def before_reading(
    monkeypatch: pytest.MonkeyPatch, act: Callable[[Collection[int]], Awaitable[None]]
) -> None:
    """Let *act* happen before a lane reads runs, with or without a lock."""

    def acting(real: Any) -> Any:
        async def read(session: Any, ids: Any) -> Any:
            await act(ids)
            return await real(session, ids)

        return read

    monkeypatch.setattr(schedule, "claim_runs", acting(running.claim_runs))
    monkeypatch.setattr(unlocked, "see_runs", acting(store.see_runs))


class Held:
    """Holds up whoever reads certain runs, until told to let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, runs: set[int]) -> None:
        self.let_go = asyncio.Event()
        self.entered = asyncio.Event()
        self._runs = runs
        before_reading(monkeypatch, self._hold)

    async def _hold(self, ids: Collection[int]) -> None:
        if self._runs & set(ids):
            self.entered.set()
            await self.let_go.wait()


async def test_each_lane_visits_a_batch_of_its_own(airflow_db: Database) -> None:
    write_dags(layered_dag("dag", [2]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING).id for number in range(6)]
    async with assembled(InstantExecutor(), settings=FOUR_LANES) as assembly:
        await know_the_dag(assembly, runs[0])
        stages(assembly).dirty.mark(runs)
        outcomes = await asyncio.gather(*(lane.run_pass() for lane in lanes(assembly)))
    assert [outcome.counts["examined"] for outcome in outcomes] == [1, 1, 1, 1]
    assert states() == {"scheduled": 8, "None": 4}


async def test_a_long_visit_holds_up_no_other_run(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [2]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING).id for number in range(3)]
    async with assembled(InstantExecutor(), settings=FOUR_LANES) as assembly:
        await know_the_dag(assembly, runs[0])
        held, (first, second, *_) = Held(monkeypatch, {runs[0]}), lanes(assembly)
        stages(assembly).dirty.mark(runs)
        async with asyncio.TaskGroup() as group:
            group.create_task(first.run_pass())
            await held.entered.wait()
            assert (await second.run_pass()).more
            assert not (await second.run_pass()).more
            assert states() == {"scheduled": 4, "None": 2}
            held.let_go.set()


async def test_a_run_under_visit_is_given_to_nobody_else(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [2]))
    run = create_run("dag", state=DagRunState.RUNNING).id
    async with assembled(InstantExecutor(), settings=FOUR_LANES) as assembly:
        await know_the_dag(assembly, run)
        held, (first, second, *_) = Held(monkeypatch, {run}), lanes(assembly)
        dirty = stages(assembly).dirty
        dirty.mark([run])
        async with asyncio.TaskGroup() as group:
            visit = group.create_task(first.run_pass())
            await held.entered.wait()
            dirty.mark([run])  # it changed again meanwhile
            assert not (await second.run_pass()).counts
            held.let_go.set()
        assert visit.result().more, "whoever held it looks again"
        assert (await first.run_pass()).counts["examined"] == 1


async def test_lanes_are_woken_one_by_one(airflow_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dags(layered_dag("dag", [2]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING).id for number in range(2)]
    async with assembled(InstantExecutor(), settings=FOUR_LANES) as assembly:
        await know_the_dag(assembly, runs[0])
        held = Held(monkeypatch, set(runs))
        for lane in lanes(assembly):
            lane.wakeup.clear()
        stages(assembly).dirty.mark(runs)
        async with asyncio.TaskGroup() as group:
            group.create_task(lanes(assembly)[0].run_pass())
            await held.entered.wait()
            assert woken(assembly) == [False, True, False, False], "a run was left"
            group.create_task(lanes(assembly)[1].run_pass())
            await asyncio.sleep(0)
            assert woken(assembly) == [False, False, False, False], "none was left"
            assembly.supervisor.wake(["schedule"])
            assert woken(assembly) == [False, False, True, False]
            held.let_go.set()


async def test_what_comes_due_during_a_long_visit_wakes_another_lane(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [2]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING).id for number in range(2)]
    async with assembled(InstantExecutor(), settings=FOUR_LANES) as assembly:
        await know_the_dag(assembly, runs[0])
        held = Held(monkeypatch, set(runs))
        for lane in lanes(assembly):
            lane.wakeup.clear()
        dirty = stages(assembly).dirty
        dirty.mark(runs[:1])
        dirty.mark_at(runs[1], timezone.utcnow() + timedelta(seconds=0.5))
        async with asyncio.TaskGroup() as group:
            group.create_task(lanes(assembly)[0].run_pass())
            await held.entered.wait()
            assert woken(assembly) == [False, False, False, False]
            async with asyncio.timeout(60):
                await lanes(assembly)[1].wakeup.wait(60)
            assert (dirty.due_in(timezone.utcnow()) or 0.0) < 0.1, "the timer's clock is another one"
            held.let_go.set()


async def test_a_large_run_is_visited_alone(airflow_db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    write_dags(layered_dag("small", [2]), layered_dag("large", [4]))
    large = create_run("large", state=DagRunState.RUNNING).id
    small = [create_run("small", number, state=DagRunState.RUNNING).id for number in range(2)]
    monkeypatch.setattr(next_visits, "LARGE", 4)
    settings = replace(FOUR_LANES, runs_per_visit=3)
    async with assembled(InstantExecutor(), settings=settings) as assembly:
        dirty, visit = stages(assembly).dirty, stages(assembly).schedule.run_once
        dirty.mark([large, *small])
        await visit()  # reads the dags
        first, second, third = await visit(), await visit(), await visit()
        assert [one.counts.get("examined") for one in (first, second, third)] == [2, 1, None]
        assert (first.counts["scheduled"], second.counts["scheduled"]) == (4, 4)
        assert first.more
        dirty.mark([*small, large])
        assert (await visit()).counts["examined"] == 2, "known to be large"
        for _ in range(99):  # the clocks of the rest and of the sleep are not the same
            await asyncio.sleep(dirty.due_in(timezone.utcnow()) or 0)
        assert (await visit()).counts["examined"] == 1
    assert states() == {"scheduled": 8}


async def test_what_fails_in_one_lane_does_not_keep_the_others_from_their_work(
    airflow_db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_dags(layered_dag("dag", [2]))
    runs = [create_run("dag", number, state=DagRunState.RUNNING).id for number in range(3)]

    async def fail(ids: Collection[int]) -> None:
        if runs[1] in ids:
            raise RuntimeError("planted")

    async with assembled(InstantExecutor(), settings=FOUR_LANES) as assembly:
        await know_the_dag(assembly, runs[0])
        new = stages(assembly)
        new.dirty.mark(runs)
        with monkeypatch.context() as patch:
            before_reading(patch, fail)
            passes = (lane.routine.run_once() for lane in lanes(assembly))
            results = await asyncio.gather(*passes, return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["Outcome", "RuntimeError", *["Outcome"] * 2]
        assert states() == {"scheduled": 4, "None": 2}
        assert runs[1] in new.dirty
        await new.schedule.run_once()
    assert states() == {"scheduled": 6}


@pytest.mark.parametrize("mode", ["sequential", "shared_session"])
def test_there_is_one_lane_unless_routines_run_at_once(mode: Any) -> None:
    assert replace(FOUR_LANES, mode=mode).lanes == 1
