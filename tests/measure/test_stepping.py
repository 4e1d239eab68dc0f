"""CPU per routine by steps, on every way a coroutine can be run."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

import pytest
import uvloop

from async_scheduler.measure import attribution, stepping
from tests.measure.turns import next_turn

if TYPE_CHECKING:
    from async_scheduler.measure.attribution import Activity

T = TypeVar("T")
LoopFactory = Callable[[], asyncio.AbstractEventLoop]

BURST_NS = 2_000_000


@pytest.fixture(autouse=True)
def _stepping_on() -> Iterator[None]:
    stepping.enabled = True
    yield
    stepping.enabled = False
    stepping.selector = None


class Clock:
    """The time of a test: only work lets it pass, however busy the machine is."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which passes and steps are timed."""
    clock = Clock()
    monkeypatch.setattr(stepping, "monotonic_ns", clock)
    monkeypatch.setattr(attribution, "monotonic_ns", clock)
    return clock


def burn(ns: int = BURST_NS) -> None:
    """Keep the loop busy for *ns*."""
    measured: Any = stepping
    measured.monotonic_ns.now += ns


async def pass_of(name: str, bursts: int) -> Activity:
    with attribution.routine(name) as activity:

        async def work() -> None:
            for _ in range(bursts):
                burn()
                await next_turn()

        await stepping.stepped(work())
    return activity


def run(main: Callable[[], Coroutine[Any, Any, T]], loop_factory: LoopFactory) -> T:
    with asyncio.Runner(loop_factory=loop_factory) as runner:
        return runner.run(main())


@pytest.mark.parametrize(
    "loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop, stepping.new_event_loop]
)
def test_running_time_goes_to_the_routine_that_ran(loop_factory: LoopFactory) -> None:
    async def main() -> tuple[Activity, Activity]:
        return await asyncio.gather(pass_of("short", 2), pass_of("long", 8))

    short, long = run(main, loop_factory)
    assert short.cpu_ns == 2 * BURST_NS
    assert long.cpu_ns == 8 * BURST_NS
    assert short.stepped
    assert long.stepped


def test_child_tasks_count_for_their_parent_pass() -> None:
    async def main() -> Activity:
        with attribution.routine("parent") as activity:
            async with asyncio.TaskGroup() as group:
                for _ in range(3):
                    group.create_task(asyncio.to_thread(lambda: None))
                    group.create_task(_burst())
        return activity

    async def _burst() -> None:
        burn()

    activity = run(main, stepping.new_event_loop)
    assert activity.cpu_ns == 3 * BURST_NS


def test_nested_pass_takes_its_own_time() -> None:
    async def main() -> tuple[Activity, Activity]:
        with attribution.routine("outer") as outer:
            burn()
            with attribution.routine("inner") as inner:
                burn(4 * BURST_NS)
        return outer, inner

    outer, inner = run(main, stepping.new_event_loop)
    assert inner.cpu_ns == 4 * BURST_NS
    assert outer.cpu_ns == BURST_NS
    assert outer.nested_ns == 4 * BURST_NS


def test_exceptions_and_cancellation_pass_through() -> None:
    async def failing() -> None:
        await next_turn()
        raise ValueError("as it was")

    async def main() -> None:
        with pytest.raises(ValueError, match="as it was"):
            await stepping.stepped(failing())
        task = asyncio.create_task(stepping.stepped(asyncio.Event().wait()))
        await next_turn()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await stepping.stepped(asyncio.sleep(0, "value")) == "value"

    run(main, asyncio.new_event_loop)


def test_off_means_untouched() -> None:
    stepping.enabled = False
    coroutine = asyncio.sleep(0)
    assert stepping.stepped(coroutine) is coroutine
    coroutine.close()


def test_task_names_its_coroutine() -> None:
    async def named() -> None:
        await next_turn()

    async def main() -> str:
        task = asyncio.create_task(named())
        shown = repr(task.get_coro())
        qualified = getattr(task.get_coro(), "__qualname__", shown)
        await task
        return str(qualified)

    assert str(run(main, stepping.new_event_loop)).endswith("named")


def test_loop_is_busy_whenever_it_does_not_wait(monkeypatch: pytest.MonkeyPatch, clock: Clock) -> None:
    def wait(_: object, timeout: float | None = None) -> list[object]:
        clock.now += 100
        return []

    monkeypatch.setattr("selectors.DefaultSelector.select", wait)
    selector = stepping.TimedSelector()
    clock.now += 7
    selector.select()
    clock.now += 5
    selector.select()
    clock.now += 3
    assert selector.busy_ns() == 7 + 5 + 3
    selector.close()


def test_being_ready_and_not_run_is_waiting_for_the_loop() -> None:
    async def main() -> tuple[Activity, Activity]:
        ready = asyncio.Event()

        async def patient() -> Activity:
            with attribution.routine("patient") as activity:
                await ready.wait()
            return activity

        async def hog() -> Activity:
            with attribution.routine("hog") as activity:
                ready.set()
                burn()
            return activity

        waiting = asyncio.create_task(patient())
        await next_turn()
        return await asyncio.create_task(hog()), await waiting

    hogging, patient = run(main, stepping.new_event_loop)
    assert patient.loop_ns == BURST_NS
    assert hogging.loop_ns == 0
