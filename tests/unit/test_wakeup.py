"""A wait that others end: asked for before, meanwhile, or not at all."""

from __future__ import annotations

import asyncio

import pytest

from async_scheduler.driver.wakeup import Wakeup

LONG = 3600.0


async def test_what_was_asked_for_before_ends_the_wait_at_once() -> None:
    wakeup = Wakeup()
    wakeup.set()
    assert await wakeup.wait(LONG)
    assert wakeup.is_set, "until the pass begins"
    wakeup.clear()
    assert not await wakeup.wait(0.0)


async def test_what_is_asked_for_meanwhile_ends_the_wait() -> None:
    wakeup = Wakeup()
    waiting = asyncio.create_task(wakeup.wait(LONG))
    await asyncio.sleep(0)
    wakeup.set()
    wakeup.set()
    assert await waiting


async def test_a_wait_ends_by_itself() -> None:
    assert not await Wakeup().wait(0.01)


async def test_asking_in_the_moment_when_the_time_is_over_counts() -> None:
    wakeup = Wakeup()
    waiting = asyncio.create_task(wakeup.wait(0.01))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.01, wakeup.set)
    await waiting
    await asyncio.sleep(0.02)
    assert wakeup.is_set


async def test_a_wait_can_be_cancelled_and_begun_anew() -> None:
    wakeup = Wakeup()
    waiting = asyncio.create_task(wakeup.wait(LONG))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    wakeup.set()
    assert await wakeup.wait(LONG)


@pytest.mark.parametrize("seconds", [0.0, -1.0, LONG])
async def test_others_get_their_turn_even_without_a_wait(seconds: float) -> None:
    turns: list[int] = []
    wakeup = Wakeup()
    wakeup.set()
    asyncio.get_running_loop().call_soon(turns.append, 1)
    await wakeup.wait(seconds)
    assert turns == [1]
