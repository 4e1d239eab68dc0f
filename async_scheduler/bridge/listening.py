"""An executor between two beats: when it has news, and how its thread waits for them or for its next call."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from multiprocessing.connection import wait
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow.executors.base_executor import BaseExecutor

WAITING_INSIDE = ("queued_tasks", "queued_callbacks", "queued_connection_tests")
"""Where an executor keeps what it takes up in a later heartbeat, when one has shown that a place is free."""
LOCAL_EXECUTOR = "airflow.executors.local_executor"


class Rhythm(Protocol):
    """How often an executor is asked for news. Called on the executor's thread."""

    def spacing(self) -> float:
        """Return the seconds from one beat to the next at least, so that what comes is taken in sets."""

    def pause(self) -> float:
        """Return the seconds after which an executor that does not tell of its news is asked for them."""


class Bell:
    """Ends a wait of an executor's thread, from any thread. Its pipe is closed with the last use of it."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)

    def ring(self) -> None:
        """End the wait under way, or the next one."""
        with suppress(BlockingIOError):  # rung often enough
            os.write(self._writer, b"!")

    def silence(self) -> None:
        """Forget that it was rung."""
        with suppress(BlockingIOError):
            while os.read(self._reader, 1024):
                pass

    def wait(self, seconds: float, news: Collection[Any] = ()) -> bool:
        """Wait until it is rung or something of *news* can be read; return whether it was rung."""
        return self._reader in wait([self._reader, *news], max(0.0, seconds))

    def __del__(self) -> None:
        os.close(self._reader)
        os.close(self._writer)


def news_of(executor: BaseExecutor) -> list[Any] | None:
    """Return what can be read as soon as *executor* has events to report, None where nothing tells.

    The LocalExecutor's processes put their results into a pipe. Others may have a method
    ``readable_with_news()`` that returns files, sockets or connections. None, too, while the executor holds
    back work that its next heartbeat may begin.
    """
    if any(getattr(executor, name, None) for name in WAITING_INSIDE):
        return None
    told = getattr(executor, "readable_with_news", None)
    if told is not None:
        return list(told()) or None
    local = sys.modules.get(LOCAL_EXECUTOR)
    if local is not None and isinstance(executor, local.LocalExecutor):
        # The pipe of a multiprocessing.SimpleQueue has no public name; without it the executor is asked.
        reader = getattr(getattr(executor, "result_queue", None), "_reader", None)
        return [reader] if reader is not None and not reader.closed else None
    return None
