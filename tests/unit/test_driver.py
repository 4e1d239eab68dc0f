"""The routine driver: wake-ups, retries, time-outs, rounds, stopping, and how errors end it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from async_scheduler.driver.backoff import FIRST_WAIT, Backoff
from async_scheduler.driver.rounds import Rounds
from async_scheduler.driver.routine import NOTHING, Outcome, Schedule
from async_scheduler.driver.runner import Policy, RoutineDriver
from async_scheduler.driver.supervisor import Supervisor
from async_scheduler.errors import RoutineFailed


class PassingError(Exception):
    """Passes by itself."""


class Recorder:
    """An observer that remembers what it was told."""

    def __init__(self) -> None:
        self.passes: list[str] = []
        self.retries: list[tuple[str, str]] = []

    def attribute(self, routine: str, iteration: int) -> AbstractContextManager[object]:
        return nullcontext()

    def passed(self, routine: str, seconds: float, outcome: Outcome) -> None:
        self.passes.append(routine)

    def timed(self, one_pass: Coroutine[Any, Any, Outcome]) -> Coroutine[Any, Any, Outcome]:
        return one_pass

    def retried(self, routine: str, fault: str) -> None:
        self.retries.append((routine, fault))


@dataclass
class Scripted:
    """A routine whose passes do what the script says; the last entry repeats."""

    name: str
    script: list[Outcome | Exception | Callable[[], Outcome]]
    calls: int = 0
    blocked: asyncio.Event = field(default_factory=asyncio.Event)

    async def run_once(self) -> Outcome:
        step = self.script[min(self.calls, len(self.script) - 1)]
        self.calls += 1
        if isinstance(step, Exception):
            raise step
        if callable(step):
            return step()
        return step


class Stuck(Scripted):
    """Never comes back from its first pass."""

    async def run_once(self) -> Outcome:
        self.calls += 1
        await self.blocked.wait()
        return NOTHING


@dataclass
class Busy(Scripted):
    """Has a use for the time between its passes: it may be left alone for an hour."""

    rested: list[float] = field(default_factory=list)

    def rest(self, seconds: float) -> float:
        self.rested.append(seconds)
        return 3600.0


class Scheduler:
    """Drivers, a supervisor and what they reported."""

    def __init__(self, *, grace: float = 5.0, timeout: float = 60.0, give_up_after: float = 60.0) -> None:
        self.observer = Recorder()
        self.rounds: Rounds | None = None
        self._policy = Policy(timeout, 0.001, give_up_after, _fault)
        self._drivers: list[RoutineDriver] = []
        self._grace = grace

    def add(self, routine: Scripted, schedule: Schedule | None = None) -> RoutineDriver:
        driver = RoutineDriver(
            routine,
            schedule or Schedule(3600.0),
            self._policy,
            self.observer,
            wake_followers=lambda names: self.supervisor.wake(names),
            on_pass=self._on_pass,
        )
        self._drivers.append(driver)
        return driver

    def assemble(self, *, limit: int = -1, only_idle: bool = False) -> Supervisor:
        self.supervisor = Supervisor(self._drivers, self._grace)
        core = [driver.name for driver in self._drivers if driver.schedule.core]
        self.rounds = Rounds(core, limit, only_idle, lambda _: None, self.supervisor.stop)
        return self.supervisor

    def _on_pass(self, name: str, outcome: Outcome) -> None:
        assert self.rounds is not None
        self.rounds.passed(name, outcome)


def _fault(error: BaseException) -> str | None:
    return "passing" if isinstance(error, PassingError | TimeoutError) else None


async def test_progress_wakes_the_followers_at_once() -> None:
    scheduler = Scheduler()
    first = Scripted("first", [Outcome(progressed=True), NOTHING])
    second = Scripted("second", [lambda: _stop(scheduler)])
    scheduler.add(first, Schedule(3600.0, wakes=("second",)))
    scheduler.add(second, Schedule(3600.0, first_after=3600.0))
    await scheduler.assemble().run_concurrently()
    assert (first.calls, second.calls) == (1, 1)


def _stop(scheduler: Scheduler) -> Outcome:
    scheduler.supervisor.stop()
    return NOTHING


async def test_wake_up_during_a_pass_causes_another_pass() -> None:
    scheduler = Scheduler()

    def wake_self() -> Outcome:
        driver.wakeup.set()
        return NOTHING

    routine = Scripted("routine", [wake_self, lambda: _stop(scheduler)])
    driver = scheduler.add(routine)
    await scheduler.assemble().run_concurrently()
    assert routine.calls == 2


async def test_more_to_do_runs_again_without_waiting() -> None:
    scheduler = Scheduler()
    routine = Scripted("routine", [Outcome(more=True), Outcome(more=True), lambda: _stop(scheduler)])
    scheduler.add(routine)
    await scheduler.assemble().run_concurrently()
    assert routine.calls == 3


async def test_a_routine_that_rests_in_its_own_way_is_left_alone_until_it_is_woken() -> None:
    scheduler = Scheduler()
    routine = Busy("busy", [Outcome(due_in=0.01), lambda: _stop(scheduler)])
    driver = scheduler.add(routine, Schedule(3600.0, jitter=0.0))

    async def wake_later() -> None:
        await asyncio.sleep(0.1)
        assert routine.calls == 1, "it said that it may be left alone"
        driver.wakeup.set()

    async with asyncio.TaskGroup() as group:
        group.create_task(wake_later())
        await scheduler.assemble().run_concurrently()
    assert routine.calls == 2
    assert 0 < routine.rested[0] <= 0.01


async def test_no_rest_is_longer_than_the_schedule_allows() -> None:
    """Where rounds are counted each waits for all routines."""
    scheduler = Scheduler()
    routine = Busy("busy", [NOTHING, lambda: _stop(scheduler)])
    scheduler.add(routine, Schedule(3600.0, longest=0.01))
    await scheduler.assemble().run_concurrently()
    assert routine.calls == 2


async def test_passing_fault_is_retried_until_it_is_over() -> None:
    scheduler = Scheduler()
    routine = Scripted("routine", [PassingError(), PassingError(), lambda: _stop(scheduler)])
    scheduler.add(routine)
    await scheduler.assemble().run_concurrently()
    assert scheduler.observer.retries == [("routine", "passing")] * 2
    assert scheduler.observer.passes == ["routine"]


async def test_passing_fault_without_end_ends_the_scheduler() -> None:
    scheduler = Scheduler(give_up_after=0.0)
    scheduler.add(Scripted("routine", [PassingError("gone")]))
    with pytest.raises(RoutineFailed, match="Routine 'routine' failed: PassingError: gone"):
        await scheduler.assemble().run_concurrently()


@pytest.mark.parametrize("run", ["concurrently", "sequentially"])
async def test_other_error_ends_the_scheduler_and_cancels_the_rest(run: str) -> None:
    scheduler = Scheduler()
    stuck = Stuck("stuck", [])
    if run == "concurrently":
        scheduler.add(stuck)
    scheduler.add(Scripted("routine", [ValueError("broken")]))
    supervisor = scheduler.assemble()
    body = supervisor.run_concurrently() if run == "concurrently" else supervisor.run_sequentially(0.01)
    with pytest.raises(RoutineFailed, match="broken") as failure:
        await body
    assert isinstance(failure.value.cause, ValueError)


async def test_non_fatal_routine_goes_on_after_an_error() -> None:
    scheduler = Scheduler()
    routine = Scripted("routine", [ValueError("broken"), lambda: _stop(scheduler)])
    scheduler.add(routine, Schedule(0.001, non_fatal=True))
    await scheduler.assemble().run_concurrently()
    assert routine.calls == 2


async def test_pass_that_takes_too_long_is_cancelled_and_retried() -> None:
    scheduler = Scheduler(timeout=0.01)
    slow = Stuck("slow", [])

    async def once_stuck_then_stop() -> Outcome:
        if slow.calls:
            return _stop(scheduler)
        return await Stuck.run_once(slow)

    slow.run_once = once_stuck_then_stop  # type: ignore[method-assign]
    scheduler.add(slow)
    await scheduler.assemble().run_concurrently()
    assert scheduler.observer.retries == [("slow", "passing")]


async def test_routine_that_does_not_end_within_the_grace_is_cancelled() -> None:
    scheduler = Scheduler(grace=0.01)
    scheduler.add(Stuck("stuck", []))
    supervisor = scheduler.assemble()
    supervisor.stop()
    await supervisor.run_concurrently()
    assert supervisor.stopping


async def test_stopping_ends_the_routines_in_their_order() -> None:
    scheduler = Scheduler()
    ended: list[str] = []

    class Turns(Scripted):
        """A pass takes some turns of the loop: the first routine's most, so it would end last."""

        async def run_once(self) -> Outcome:
            for _ in range({"one": 50, "two": 10, "three": 1}[self.name]):
                await asyncio.sleep(0)
            return Outcome(more=True)

    def noting(driver: RoutineDriver) -> Callable[[], Coroutine[Any, Any, None]]:
        run = driver.run

        async def run_and_note() -> None:
            await run()
            ended.append(driver.name)

        return run_and_note

    for name in ("one", "two", "three"):
        driver = scheduler.add(Turns(name, []))
        driver.run = noting(driver)  # type: ignore[method-assign]
    supervisor = scheduler.assemble()
    asyncio.get_running_loop().call_later(0.01, supervisor.stop)
    await supervisor.run_concurrently()
    assert ended == ["one", "two", "three"]


async def test_sequential_mode_keeps_the_order() -> None:
    scheduler = Scheduler()
    for name in ("one", "two", "three"):
        scheduler.add(Scripted(name, [NOTHING]), Schedule(3600.0, core=True))
    await scheduler.assemble(limit=2).run_sequentially(0.001)
    assert scheduler.observer.passes == ["one", "two", "three"] * 2


async def test_sequential_mode_runs_timers_only_when_due() -> None:
    scheduler = Scheduler()
    scheduler.add(Scripted("stage", [NOTHING]), Schedule(3600.0, core=True))
    scheduler.add(Scripted("timer", [NOTHING]), Schedule(3600.0, first_after=3600.0))
    await scheduler.assemble(limit=3).run_sequentially(0.001)
    assert scheduler.observer.passes == ["stage"] * 3


@given(st.lists(st.tuples(st.sampled_from("abx"), st.booleans()), max_size=60))
def test_rounds_end_when_each_core_routine_has_passed(passes: list[tuple[str, bool]]) -> None:
    rounds = Rounds("ab", -1, False, lambda _: None, lambda: None)
    expected, missing = 0, {"a", "b"}
    for name, progressed in passes:
        rounds.passed(name, Outcome(progressed=progressed))
        missing.discard(name)
        if not missing:
            expected, missing = expected + 1, {"a", "b"}
    assert rounds.total == expected
    assert rounds.idle_in_a_row <= rounds.total


@pytest.mark.parametrize(("only_idle", "at"), [(False, 3), (True, 5)])
def test_limit_counts_rounds_or_idle_rounds_in_a_row(only_idle: bool, at: int) -> None:
    reached: list[int] = []
    rounds = Rounds("a", 3, only_idle, lambda _: None, lambda: reached.append(rounds.total))
    for progressed in (False, True, False, False, False):
        rounds.passed("a", Outcome(progressed=progressed))
    assert reached[0] == at


def test_looking_again_to_be_safe_makes_no_idle_scheduler_busy() -> None:
    rounds = Rounds("a", 3, True, lambda _: None, lambda: None)
    for progressed, precaution in ((False, False), (True, True), (True, False), (True, True)):
        rounds.passed("a", Outcome(progressed=progressed, precaution=precaution))
    assert rounds.idle_in_a_row == 1


def test_the_first_round_begins_when_what_comes_first_has_passed() -> None:
    reached: list[int] = []
    rounds = Rounds(
        "a", 1, True, lambda _: None, lambda: reached.append(rounds.total), first=["adopt", "other"]
    )
    for name in ("a", "adopt", "a", "a"):
        rounds.passed(name, NOTHING)
    assert rounds.total == 0
    rounds.passed("other", NOTHING)
    assert not reached
    rounds.passed("a", NOTHING)
    assert reached == [1]


@given(st.integers(0, 60), st.floats(0.05, 300))
def test_backoff_waits_stay_below_their_bound(failures: int, longest: float) -> None:
    backoff = Backoff(longest, give_up_after=1e9)
    for number in range(failures):
        wait = backoff.fail(float(number))
        assert wait is not None
        assert 0 <= wait <= min(longest, FIRST_WAIT * 2 ** min(number, 32))


def test_backoff_gives_up_only_after_failing_long_enough_without_a_success() -> None:
    backoff = Backoff(1.0, give_up_after=10.0)
    assert backoff.fail(0.0) is not None
    assert backoff.fail(9.0) is not None
    assert backoff.fail(10.0) is None
    backoff.succeed()
    assert backoff.fail(11.0) is not None
