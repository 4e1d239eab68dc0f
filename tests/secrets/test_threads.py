"""The bounded pool of threads for backends that block."""

from __future__ import annotations

import asyncio
import threading

import pytest

from async_scheduler.secrets.threads import DaemonThreads


class Blocking:
    """A call that blocks until the test lets it go."""

    def __init__(self) -> None:
        self.entered = threading.Semaphore(0)
        self.release = threading.Event()
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        self.entered.release()
        assert self.release.wait(300)
        return threading.current_thread().name


async def test_calls_run_beside_the_loop_and_threads_are_used_again() -> None:
    threads = DaemonThreads(4, "pool")
    names = {await threads.run(lambda: threading.current_thread().name) for _ in range(20)}
    assert names == {"pool-1"}
    assert threads.threads == 1
    threads.close()


async def test_errors_come_back() -> None:
    threads = DaemonThreads(1, "pool")
    with pytest.raises(ZeroDivisionError):
        await threads.run(lambda: 1 / 0)
    assert await threads.run(lambda: 1) == 1
    threads.close()


async def test_never_more_threads_than_allowed() -> None:
    threads, blocking = DaemonThreads(3, "pool"), Blocking()
    callers = [asyncio.ensure_future(threads.run(blocking)) for _ in range(10)]
    await asyncio.wait(callers, timeout=0)
    for _ in range(3):
        assert await asyncio.to_thread(blocking.entered.acquire, timeout=300)
    assert (blocking.calls, threads.threads) == (3, 3)
    blocking.release.set()
    assert {await caller for caller in callers} == {"pool-1", "pool-2", "pool-3"}
    threads.close()


async def test_a_cancelled_call_that_has_not_begun_never_does() -> None:
    threads, blocking, later = DaemonThreads(1, "pool"), Blocking(), Blocking()
    running = asyncio.ensure_future(threads.run(blocking))
    await asyncio.wait([running], timeout=0)
    queued = asyncio.ensure_future(threads.run(later))
    await asyncio.wait([queued], timeout=0)
    queued.cancel()
    await asyncio.wait([queued])
    blocking.release.set()
    await running
    assert await threads.run(lambda: "free") == "free"
    assert later.calls == 0
    threads.close()


async def test_a_hung_thread_serves_again_once_its_call_returns() -> None:
    threads, blocking = DaemonThreads(1, "pool"), Blocking()
    hung = asyncio.ensure_future(threads.run(blocking))
    await asyncio.to_thread(blocking.entered.acquire, timeout=300)
    hung.cancel()
    await asyncio.wait([hung])
    blocking.release.set()
    assert await threads.run(lambda: "free") == "free"
    assert threads.threads == 1
    threads.close()


async def test_threads_end_and_a_closed_pool_can_be_used_again() -> None:
    threads = DaemonThreads(2, "pool-that-ends")
    thread = await threads.run(threading.current_thread)
    assert thread.daemon
    threads.close()
    await asyncio.to_thread(thread.join, 60)
    assert not thread.is_alive()
    assert await threads.run(lambda: 1) == 1
    threads.close()
