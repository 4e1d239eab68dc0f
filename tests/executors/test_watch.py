"""A busy executor is asked on its own thread until it has something to tell; that keeps nobody waiting."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

from airflow.executors.base_executor import BaseExecutor
from airflow.models.taskinstancekey import TaskInstanceKey
from airflow.utils.state import TaskInstanceState

from async_scheduler.bridge.executor_port import ExecutorPort, Watch

KEY = TaskInstanceKey("dag", "task", "run", 1, -1)
SUCCESS = (TaskInstanceState.SUCCESS, None)
LONG = 600.0
"""Longer than any test."""


class Asked(BaseExecutor):  # type: ignore[misc]
    """Counts heartbeats, and lets something happen in each."""

    def __init__(self, happens: Callable[[int], object]) -> None:
        super().__init__()
        self.heartbeats = 0
        self.given: list[Any] = []
        self._happens = happens

    def heartbeat(self) -> None:
        self.heartbeats += 1
        self._happens(self.heartbeats)

    def queue_workload(self, workload: Any, session: Any) -> None:
        self.given.append(workload)

    def end(self) -> None:
        """Nothing is left to end."""

    def report(self) -> None:
        self.event_buffer[KEY] = SUCCESS


@contextmanager
def watched(happens: Callable[[int], object], fence: Any = None) -> Iterator[tuple[ExecutorPort, Asked]]:
    executor = Asked(happens)
    port = ExecutorPort(executor, wake=lambda: None, fence=fence)
    try:
        yield port, executor
    finally:
        port.close()


async def test_a_watch_lasts_until_there_are_events() -> None:
    with watched(lambda number: number == 3 and executor.report()) as (port, executor):
        await port.beat(Watch(LONG, 0.001))
        assert executor.heartbeats == 3
        assert port.events == {KEY: SUCCESS}


async def test_a_watch_without_events_ends() -> None:
    with watched(lambda _: None) as (port, executor):
        await port.beat(Watch(0.05, 0.001))
        assert executor.heartbeats > 1
        assert port.events == {}


async def test_what_is_accepted_during_a_watch_is_handed_over_at_once() -> None:
    loop = asyncio.get_running_loop()
    workload = SimpleNamespace(key=KEY)

    def happens(number: int) -> None:
        if number == 1:
            loop.call_soon_threadsafe(port.accept, workload)
        else:
            executor.report()

    with watched(happens) as (port, executor):
        beat = await port.beat(Watch(LONG, LONG))
        assert (beat.handed_over, executor.given, executor.heartbeats) == (1, [workload], 2)


async def test_a_watch_gives_way_to_a_call() -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    with watched(lambda _: loop.call_soon_threadsafe(begun.set)) as (port, executor):
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(port.beat(Watch(LONG, LONG)))
            await begun.wait()
            assert await asyncio.to_thread(port.call_and_wait, lambda: "called", "call", 300.0) == "called"
        assert watching.result().handed_over == 0
        assert executor.heartbeats <= 2


async def test_a_watch_ends_when_the_scheduler_may_have_been_declared_dead() -> None:
    fence = SimpleNamespace(fresh=True)

    def pause(_: int) -> None:
        fence.fresh = False

    with watched(pause, fence) as (port, executor):
        await port.beat(Watch(LONG, 0.001))
        assert executor.heartbeats == 1


async def test_a_watch_ends_with_the_executor() -> None:
    begun = asyncio.Event()
    loop = asyncio.get_running_loop()
    with watched(lambda _: loop.call_soon_threadsafe(begun.set)) as (port, _):
        async with asyncio.TaskGroup() as group:
            group.create_task(port.beat(Watch(LONG, LONG)))
            await begun.wait()
            group.create_task(port.end(patience=300.0))
