"""Ends executors, which may take as long as their tasks: says so meanwhile, and lets none wait for ever."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from airflow.executors.local_executor import LocalExecutor

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.executors.base_executor import BaseExecutor

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


def end(executor: BaseExecutor) -> None:
    """End *executor*; blocks as long as its tasks run.

    ``LocalExecutor.end`` sends one message to go home for each worker that it finds alive, one after another.
    Whichever worker is quickest takes it: when that is one not yet looked at, it is no longer alive when its
    turn comes, one message is missing, and the last worker and ``end`` wait for each other for ever. So each
    gets a message here first; those left over go down with the queue.
    """
    if isinstance(executor, LocalExecutor):
        for _ in executor.workers:
            executor.activity_queue.put(None)
    executor.end()
