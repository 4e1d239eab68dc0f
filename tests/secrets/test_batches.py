"""Look-ups gathered into batches."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from async_scheduler.secrets.batches import Batches


class Store:
    """Answers batches when the test lets it."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.error: Exception | None = None
        self.arrived = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, keys: list[str]) -> Mapping[str, str]:
        self.batches.append(keys)
        self.arrived.set()
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        return {key: key.upper() for key in keys if key != "absent"}


async def test_those_that_ask_together_are_one_batch() -> None:
    store = Store()
    batches: Batches[str] = Batches(store.fetch, size=100)
    keys = [f"k{number}" for number in range(50)]
    assert await asyncio.gather(*map(batches.get, keys)) == [key.upper() for key in keys]
    assert store.batches == [keys]


async def test_what_comes_while_a_batch_is_under_way_is_the_next_batch() -> None:
    store = Store()
    batches: Batches[str] = Batches(store.fetch, size=100)
    store.gate.clear()
    first = asyncio.ensure_future(batches.get("first"))
    await store.arrived.wait()
    later = [asyncio.ensure_future(batches.get(f"k{number}")) for number in range(3)]
    await asyncio.wait(later, timeout=0)
    store.gate.set()
    assert await first == "FIRST"
    assert [await answer for answer in later] == ["K0", "K1", "K2"]
    assert store.batches == [["first"], ["k0", "k1", "k2"]]


async def test_no_batch_is_larger_than_allowed() -> None:
    store = Store()
    batches: Batches[str] = Batches(store.fetch, size=8)
    await asyncio.gather(*(batches.get(f"k{number}") for number in range(40)))
    assert [len(batch) for batch in store.batches] == [8] * 5


async def test_an_absent_key_is_none_and_the_same_key_may_stand_in_one_batch_twice() -> None:
    batches: Batches[str] = Batches(Store().fetch, size=8)
    assert await asyncio.gather(*map(batches.get, ["a", "b", "b", "absent"])) == ["A", "B", "B", None]


async def test_an_error_reaches_all_of_the_batch_and_the_next_one_goes_on() -> None:
    store = Store()
    store.error = ConnectionError("down")
    batches: Batches[str] = Batches(store.fetch, size=8)
    outcomes = await asyncio.gather(*map(batches.get, "abc"), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ConnectionError] * 3
    store.error = None
    assert await batches.get("a") == "A"


async def test_the_others_of_a_cancelled_batch_are_asked_for_again() -> None:
    store = Store()
    batches: Batches[str] = Batches(store.fetch, size=8)
    store.gate.clear()
    first = asyncio.ensure_future(batches.get("first"))
    await store.arrived.wait()
    second, third = (asyncio.ensure_future(batches.get(key)) for key in ("second", "third"))
    await asyncio.wait([second, third], timeout=0)
    store.arrived.clear()
    first.cancel()
    await store.arrived.wait()
    second.cancel()  # it leads the batch of both now
    store.gate.set()
    assert await third == "THIRD"
    assert store.batches == [["first"], ["second", "third"], ["third"]]


async def test_who_gave_up_in_a_batch_does_not_lead_the_next_one() -> None:
    store = Store()
    batches: Batches[str] = Batches(store.fetch, size=8)
    store.gate.clear()
    first, second = (asyncio.ensure_future(batches.get(key)) for key in ("first", "second"))
    await store.arrived.wait()
    third = asyncio.ensure_future(batches.get("third"))
    await asyncio.wait([third], timeout=0)
    second.cancel()
    await asyncio.wait([second])
    first.cancel()
    store.gate.set()
    assert await third == "THIRD"
    assert store.batches == [["first", "second"], ["third"]]


@settings(max_examples=500)
@given(
    actions=st.lists(st.tuples(st.sampled_from(["ask", "cancel", "step"]), st.integers(0, 9)), max_size=40),
    size=st.integers(1, 4),
)
def test_whoever_is_not_cancelled_gets_an_answer(actions: list[tuple[str, int]], size: int) -> None:
    async def play() -> None:
        store, never = Store(), asyncio.get_running_loop().create_future()
        batches: Batches[str] = Batches(store.fetch, size)
        asked: list[tuple[str, asyncio.Future[str | None]]] = []
        for action, number in actions:
            if action == "ask":
                store.gate.clear() if number % 3 else store.gate.set()
                asked.append((f"k{number}", asyncio.ensure_future(batches.get(f"k{number}"))))
            elif action == "cancel" and asked:
                asked[number % len(asked)][1].cancel()
            else:
                await asyncio.wait([never], timeout=0)
        store.gate.set()
        for key, answer in asked:
            await asyncio.wait([answer], timeout=300)
            assert answer.cancelled() or answer.result() == key.upper()
        assert not batches._under_way

    asyncio.run(play())


async def test_a_waiting_caller_may_leave() -> None:
    store = Store()
    batches: Batches[str] = Batches(store.fetch, size=8)
    store.gate.clear()
    first = asyncio.ensure_future(batches.get("first"))
    await store.arrived.wait()
    leaving = asyncio.ensure_future(batches.get("leaving"))
    await asyncio.wait([leaving], timeout=0)
    leaving.cancel()
    store.gate.set()
    assert await first == "FIRST"
    with pytest.raises(asyncio.CancelledError):
        await leaving
    assert store.batches == [["first"]]
