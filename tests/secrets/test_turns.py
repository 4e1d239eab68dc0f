"""CPU work spread over turns of the event loop."""

from __future__ import annotations

import asyncio
from typing import Any

from async_scheduler.secrets.turns import own_turn


async def _turns_of(workers: list[Any]) -> list[str]:
    """Run *workers* together and return what happened, each new turn of the loop as ``|``."""
    loop, seen = asyncio.get_running_loop(), list[str]()
    running = True

    def tick() -> None:
        if running:
            seen.append("|")
            loop.call_soon(tick)

    loop.call_soon(tick)
    await asyncio.gather(*(worker(seen) for worker in workers))
    running = False
    return seen


async def _work(seen: list[str]) -> None:
    await own_turn()
    seen.append("work")


async def test_each_turn_of_the_loop_has_one_piece_of_work() -> None:
    seen = await _turns_of([_work] * 20)
    assert seen.count("work") == 20
    assert "work work" not in " ".join(seen)


async def test_whoever_comes_alone_does_not_wait() -> None:

    coroutine = own_turn()
    try:
        coroutine.send(None)
    except StopIteration:
        pass
    else:
        raise AssertionError("it waited")
    finally:
        coroutine.close()


async def test_order_is_kept_and_the_cancelled_are_left_out() -> None:
    done: list[int] = []

    async def work(number: int) -> None:
        await own_turn()
        done.append(number)

    tasks = [asyncio.ensure_future(work(number)) for number in range(6)]
    await asyncio.wait(tasks, timeout=0)
    for task in tasks[2:4]:
        task.cancel()
    await asyncio.wait(tasks)
    assert [number for number in done if number not in (2, 3)] == [0, 1, 4, 5]
    await asyncio.wait_for(own_turn(), 300)


def test_every_event_loop_has_turns_of_its_own() -> None:
    for _ in range(2):
        asyncio.run(own_turn())
