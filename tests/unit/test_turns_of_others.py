"""On SQLite others get turns at writing that are long enough to be noticed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy.exc import TimeoutError as WaitedTooLong

from async_scheduler.database import sessions as module
from async_scheduler.database.sessions import LeavingTurns

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

HELD, FREE = 0.2, 0.15


class World:
    """Time that passes only when told, and sessions to lend in it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        self.rested: list[float] = []
        self.waited: list[float] = []
        self.lent = 0
        self._let_others_run = asyncio.sleep
        monkeypatch.setattr(module, "perf_counter", lambda: self.now)
        monkeypatch.setattr(asyncio, "sleep", self._sleep)
        self.turns = LeavingTurns(self, self.waited.append, 1.0, HELD, FREE)

    async def _sleep(self, seconds: float) -> None:
        self.rested.append(round(seconds, 6))
        self.now += seconds
        await self._let_others_run(0)

    @asynccontextmanager
    async def borrow(self) -> AsyncIterator[Any]:
        self.lent += 1
        assert self.lent == 1
        try:
            yield self
        finally:
            self.lent -= 1

    async def transactions(self, *lengths: float, gap: float = 0.0) -> None:
        for seconds in lengths:
            async with self.turns.borrow():
                await self._let_others_run(0)
                self.now += seconds
            self.now += gap


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    return World(monkeypatch)


async def test_after_a_long_transaction(world: World) -> None:
    await world.transactions(HELD, 0.0)
    assert world.rested == [FREE]


async def test_after_many_short_ones_that_leave_no_gap(world: World) -> None:
    await world.transactions(*[HELD / 3.9] * 9)
    assert world.rested == [FREE, FREE]


async def test_what_has_passed_already_counts(world: World) -> None:
    await world.transactions(HELD, HELD, gap=FREE / 3)
    assert world.rested == [pytest.approx(FREE * 2 / 3)]


async def test_not_where_there_are_gaps(world: World) -> None:
    await world.transactions(*[HELD] * 3, gap=FREE)
    assert world.rested == []


async def test_not_before_a_few_short_ones(world: World) -> None:
    await world.transactions(HELD / 4, HELD / 4, HELD / 4)
    assert world.rested == []


async def test_one_at_a_time(world: World) -> None:
    async with asyncio.TaskGroup() as group:
        for _ in range(3):
            group.create_task(world.transactions(0.1, 0.1))
    assert world.lent == 0
    assert max(world.waited) > 0.1


async def test_who_waits_too_long_gives_up_and_the_others_go_on(world: World) -> None:
    world.turns = LeavingTurns(world, world.waited.append, 0.01, HELD, FREE)
    async with world.turns.borrow():
        with pytest.raises(WaitedTooLong):
            await world.transactions(0.1)
    await world.transactions(0.1)
    assert len(world.waited) == 2


async def test_the_turn_of_others_goes_on_after_a_cancellation(world: World) -> None:
    await world.transactions(HELD)
    never = asyncio.Event()

    async def cut_short(_: float) -> None:
        world.now += FREE / 3
        await never.wait()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(asyncio, "sleep", cut_short)
        waiting = asyncio.ensure_future(world.transactions(0.1))
        while world.now < 100.0 + HELD + FREE / 4:
            await world._let_others_run(0)
        waiting.cancel()
        await asyncio.wait([waiting])
    await world.transactions(0.1)
    assert world.rested == [pytest.approx(FREE * 2 / 3)]


async def test_a_failed_one_counts_too(world: World) -> None:
    with pytest.raises(RuntimeError):
        async with world.turns.borrow():
            world.now += HELD
            raise RuntimeError
    await world.transactions(0.0)
    assert world.rested == [FREE]
