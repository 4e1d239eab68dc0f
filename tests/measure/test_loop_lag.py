"""The lag probe."""

from __future__ import annotations

import asyncio

from async_scheduler.measure import loop_lag


async def test_lag_is_reported_again_and_again_and_never_negative() -> None:
    seen: asyncio.Queue[float] = asyncio.Queue()
    probe = asyncio.create_task(loop_lag.watch(seen.put_nowait, interval=0.001))
    lags = [await seen.get() for _ in range(3)]
    probe.cancel()
    assert all(lag >= 0 for lag in lags)
