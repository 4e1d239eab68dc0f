"""One look-up for many callers, and what becomes of it when one of them leaves."""

from __future__ import annotations

import asyncio

import pytest

from async_scheduler.secrets.single_flight import SingleFlight


class Work:
    """A look-up that ends when the test says so."""

    def __init__(self) -> None:
        self.begun = 0
        self.started = asyncio.Event()
        self.go_on = asyncio.Event()
        self.error: Exception | None = None

    async def __call__(self) -> str:
        self.begun += 1
        self.started.set()
        await self.go_on.wait()
        if self.error is not None:
            raise self.error
        return "value"


async def _begun(work: Work) -> None:
    await work.started.wait()
    work.started.clear()


async def test_a_thousand_callers_share_one_lookup() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    async with asyncio.TaskGroup() as group:
        callers = [group.create_task(flights.share("key", work)) for _ in range(1000)]
        await _begun(work)
        work.go_on.set()
    assert {caller.result() for caller in callers} == {"value"}
    assert work.begun == 1
    assert len(flights) == 0


async def test_different_keys_do_not_wait_for_each_other() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    slow, quick = Work(), Work()
    quick.go_on.set()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(flights.share("slow", slow))
        await _begun(slow)
        assert await flights.share("quick", quick) == "value"
        assert not waiting.done()
        slow.go_on.set()


async def test_the_next_caller_takes_over_from_a_cancelled_one() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    async with asyncio.TaskGroup() as group:
        leader = group.create_task(flights.share("key", work))
        await _begun(work)
        followers = [group.create_task(flights.share("key", work)) for _ in range(3)]
        leader.cancel()
        await _begun(work)
        work.go_on.set()
    assert leader.cancelled()
    assert [follower.result() for follower in followers] == ["value"] * 3
    assert work.begun == 2
    assert len(flights) == 0


async def test_a_cancelled_follower_takes_nobody_with_it() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    async with asyncio.TaskGroup() as group:
        leader = group.create_task(flights.share("key", work))
        await _begun(work)
        follower = group.create_task(flights.share("key", work))
        await asyncio.wait([follower], timeout=0)
        follower.cancel()
        work.go_on.set()
    assert follower.cancelled()
    assert leader.result() == "value"


async def test_all_callers_get_the_error_and_the_next_call_tries_again() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    work.error = PermissionError("no")
    callers = [asyncio.ensure_future(flights.share("key", work)) for _ in range(3)]
    await _begun(work)
    work.go_on.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [PermissionError] * 3
    work.error = None
    assert await flights.share("key", work) == "value"
    assert work.begun == 2


async def test_nothing_shows_a_result() -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    caller = asyncio.ensure_future(flights.share("key", work))
    await _begun(work)
    flight = next(iter(flights._flights.values()))
    work.go_on.set()
    await caller
    assert flight.result == ["value"]
    assert "value" not in repr(flight)


@pytest.mark.parametrize("leaving", range(4))
async def test_whoever_leaves_the_others_get_their_answer(leaving: int) -> None:
    flights: SingleFlight[str, str] = SingleFlight()
    work = Work()
    callers = [asyncio.ensure_future(flights.share("key", work)) for _ in range(4)]
    await _begun(work)
    callers[leaving].cancel()
    work.go_on.set()
    outcomes = await asyncio.gather(*callers, return_exceptions=True)
    assert outcomes.count("value") == 3
