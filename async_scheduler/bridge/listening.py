"""An executor between two beats: when it has news, and how its thread waits for them or for its next call."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from math import inf
from multiprocessing.connection import wait
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from airflow.executors.base_executor import BaseExecutor

WAITING_INSIDE = ("queued_tasks", "queued_callbacks", "queued_connection_tests")
"""Where an executor keeps what it takes up in a later heartbeat, when one has shown that a place is free."""
LOCAL_EXECUTOR = "airflow.executors.local_executor"
VAIN = 0.02
"""Seconds after which an executor is listened to again whose news brought no event: half a message, or an end
that can be read for ever."""
UNSURE = 0.1
"""Seconds after which it is asked again whether a heartbeat may be sent."""


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


class Source(Protocol):
    """What is listened to. Everything is called on the executor's thread."""

    executor: BaseExecutor
    beaten_at: float
    """When the last heartbeat ended, by the monotonic clock."""

    @property
    def may_beat(self) -> bool:
        """Whether a heartbeat may be sent."""

    @property
    def has_news(self) -> bool:
        """Whether events are there that the loop has not taken."""

    def heartbeat(self) -> object:
        """Send a heartbeat and take the events."""

    def announce(self, error: BaseException | None) -> None:
        """Have the loop take the events, or what went wrong."""


class Listening:
    """What an executor's thread does between two calls: it waits for news, and makes way for the next one.

    :param is_wanted: whether another call of the thread is there.
    """

    def __init__(self, source: Source, is_wanted: Callable[[], bool]) -> None:
        self._source = source
        self._is_wanted = is_wanted
        self._bell = Bell()
        self._rested_at = self._until = -inf
        self.is_on = False
        """Whether the thread listens, or is about to."""

    def interrupt(self) -> None:
        """Have the thread make way; from any thread."""
        if self.is_on:
            self._bell.ring()

    def begin(self, seconds: float) -> bool:
        """Have it last for so long from now; return whether the thread has to be sent to it (:meth:`run`)."""
        self._rested_at = monotonic()
        self._until = self._rested_at + seconds  # written first: who has ended looks at it once more
        was_on, self.is_on = self.is_on, True
        return not was_on

    def run(self, rhythm: Rhythm) -> None:
        """Wait for news until the time is over or the thread is wanted; announce them."""
        while True:
            self.is_on = True  # again, where it was to go on just when it ended
            error: BaseException | None = None
            try:
                announces = self._hears(rhythm)
            # Nobody waits for this call: the next beat raises what it has met.
            except BaseException as met:
                error, announces = met, True
            # Before the loop is woken: what it does then may end with another call of this.
            self.is_on = False
            if announces:
                self._source.announce(error)
            if announces or self._is_wanted() or monotonic() >= self._until:
                return

    def _hears(self, rhythm: Rhythm) -> bool:
        """Return whether there are events, as soon as there are any; False if the thread is wanted before."""
        source, in_vain = self._source, False
        while not source.has_news:
            self._bell.silence()
            now, until = monotonic(), self._until
            if self._is_wanted() or now >= until:
                return False
            told = news_of(source.executor)
            again_in = rhythm.pause() if told is None else rhythm.spacing()
            again_at = max(source.beaten_at, self._rested_at) + (max(again_in, VAIN) if in_vain else again_in)
            if self._bell.wait(min(again_at, until) - now):
                return False
            if told and self._bell.wait(until - monotonic(), told):
                return False
            if monotonic() >= until:
                continue  # it may be to go on for longer by now
            if source.may_beat:
                source.heartbeat()
                in_vain = told is not None
            elif self._bell.wait(min(UNSURE, until - monotonic())):
                return False
        return not self._is_wanted()  # who wants it will see them


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
