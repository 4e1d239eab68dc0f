"""Waits for executors that end, which may take as long as their tasks do, and says so meanwhile."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from async_scheduler.bridge.executor_port import ExecutorPort

log = logging.getLogger(__name__)

TELL_EVERY = 30.0
"""Seconds after which an operator wants to know why the scheduler is still there, and how often again."""


async def wait_for_ends(ending: Mapping[asyncio.Task[None], ExecutorPort], every: float = TELL_EVERY) -> None:
    """Wait until all of *ending* are done; every so many seconds log what the executors left are at."""
    _, left = await asyncio.wait(ending, timeout=every)
    while left:
        doing = "".join(f"\n\t{port.doing()}" for task, port in ending.items() if task in left)
        log.info("Executors are still ending. Signal again if you do not want to wait.%s", doing)
        _, left = await asyncio.wait(left, timeout=every)
