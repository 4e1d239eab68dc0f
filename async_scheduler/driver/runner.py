"""Runs one routine for as long as the scheduler lives."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Coroutine
from contextlib import AbstractContextManager
from dataclasses import dataclass
from time import monotonic, perf_counter
from typing import Any, Protocol

from async_scheduler.driver.backoff import Backoff
from async_scheduler.driver.routine import NOTHING, Outcome, Resting, Routine, Schedule
from async_scheduler.driver.wakeup import Wakeup
from async_scheduler.errors import RoutineFailed, SchedulerFenced

log = logging.getLogger(__name__)


class Observer(Protocol):
    """Told about every pass; metrics and traces hang here."""

    def attribute(self, routine: str, iteration: int) -> AbstractContextManager[object]:
        """Return a context in which everything is attributed to this pass of the routine."""

    def timed(self, one_pass: Coroutine[Any, Any, Outcome]) -> Coroutine[Any, Any, Outcome]:
        """Return *one_pass* to be awaited, its running time measured where that is asked for."""

    def passed(self, routine: str, seconds: float, outcome: Outcome) -> None:
        """A pass ended well after *seconds*."""

    def retried(self, routine: str, fault: str) -> None:
        """A pass failed for a passing reason and is tried again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """What a driver does about trouble. Times in seconds.

    ``fault`` names the passing fault that an error is, or returns None for one that is not.
    """

    timeout: float | None
    retry_max_backoff: float
    retry_give_up_after: float
    fault: Callable[[BaseException], str | None]


class RoutineDriver:
    """Runs a routine on its wake-ups and interval, with time-out and retry."""

    def __init__(
        self,
        routine: Routine,
        schedule: Schedule,
        policy: Policy,
        observer: Observer,
        wake_followers: Callable[[tuple[str, ...]], None],
        on_pass: Callable[[str, Outcome], None],
    ) -> None:
        self.routine = routine
        self.schedule = schedule
        self.wakeup = Wakeup()
        self.stopping = False
        self.at_work = False
        self.passes = 0
        self._policy = policy
        self._observer = observer
        self._wake_followers = wake_followers
        self._on_pass = on_pass
        self._backoff = Backoff(policy.retry_max_backoff, policy.retry_give_up_after)
        self._resting = routine if isinstance(routine, Resting) else None
        self._next_due = monotonic() + schedule.first_after

    @property
    def name(self) -> str:
        """The routine's name."""
        return self.routine.name

    def stop(self) -> None:
        """End after the pass under way."""
        self.stopping = True
        self.wakeup.set()

    async def run(self) -> None:
        """Run passes until stopped.

        :raises RoutineFailed: for an error that no retry mends.
        :raises SchedulerFenced: when others have declared this scheduler dead.
        """
        while True:
            await self.wakeup.wait(self._rest())
            if self.stopping:
                return
            await self.run_pass()

    def _rest(self) -> float:
        """Return the seconds until the next pass, which the routine may spend in a way of its own."""
        seconds = self._next_due - monotonic()
        if seconds <= 0 or self.wakeup.is_set or self._resting is None:
            return seconds
        return min(self._resting.rest(seconds), self.schedule.longest)

    @property
    def due(self) -> bool:
        """Whether a pass was asked for or the interval is over."""
        return self.wakeup.is_set or monotonic() >= self._next_due

    @property
    def due_in(self) -> float:
        """Seconds until the routine is due."""
        return 0.0 if self.wakeup.is_set else max(0.0, self._next_due - monotonic())

    async def run_pass(self) -> Outcome:
        """Run one pass, again and again while it fails for a passing reason; then wake the followers."""
        self.wakeup.clear()
        self.at_work = True
        try:
            outcome = await self._tried()
        finally:
            self.at_work = False
        self.passes += 1
        interval = self.schedule.interval if outcome.due_in is None else outcome.due_in
        interval = min(interval, self.schedule.longest)
        spread = interval * self.schedule.jitter
        self._next_due = monotonic() + interval + random.uniform(-spread, spread)
        if outcome.progressed:
            self._wake_followers(self.schedule.wakes if outcome.wakes is None else outcome.wakes)
        if outcome.more:
            self.wakeup.set()
        self._on_pass(self.name, outcome)
        return outcome

    async def _tried(self) -> Outcome:
        while True:
            started = perf_counter()
            try:
                with self._observer.attribute(self.name, self.passes):
                    async with asyncio.timeout(self._policy.timeout):
                        outcome = await self._observer.timed(self.routine.run_once())
            # The one place for a broad except: whatever a routine raises is classified here.
            except Exception as error:
                if not await self._again(error):
                    return NOTHING
            else:
                self._backoff.succeed()
                self._observer.passed(self.name, perf_counter() - started, outcome)
                return outcome

    async def _again(self, error: Exception) -> bool:
        """Wait before the next try; return False where the pass is given up instead.

        :raises RoutineFailed: when the scheduler has to end.
        :raises SchedulerFenced: as it is: no routine is to blame.
        """
        if isinstance(error, SchedulerFenced):
            raise error
        fault = self._policy.fault(error)
        wait = None if fault is None else self._backoff.fail(monotonic())
        if fault is not None and wait is not None:
            self._observer.retried(self.name, fault)
            level = logging.INFO if self._backoff.failures == 1 else logging.WARNING
            log.log(level, "Routine %s: %s; trying again in %.2f s", self.name, fault, wait, exc_info=True)
            if self.stopping:
                return False
            await asyncio.sleep(wait)
            return not self.stopping
        if self.schedule.non_fatal:
            log.warning("Routine %s failed; trying again when it is due", self.name, exc_info=error)
            return False
        log.error("Routine %s failed", self.name, exc_info=error)
        raise RoutineFailed(self.name, error) from error
