"""How late the event loop comes back to a coroutine that asked to be woken at a certain time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


async def watch(report: Callable[[float], None], *, interval: float = 0.5) -> None:
    """Call ``report(lag)`` every *interval* seconds, forever; ``lag`` is in seconds, never negative.

    One timer and no thread: it can run always. It sees a callback that blocks the loop only if it blocks at
    the moment of waking; the mean over many probes is the share of time a waker has to wait.
    """
    loop = asyncio.get_running_loop()
    due = loop.time() + interval
    while True:
        await asyncio.sleep(due - loop.time())
        now = loop.time()
        report(max(0.0, now - due))
        due = now + interval
