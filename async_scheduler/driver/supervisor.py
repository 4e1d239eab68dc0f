"""Runs all routines together: at once, or one after another, until asked to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Sequence
from typing import TYPE_CHECKING, Any

from async_scheduler.errors import AsyncSchedulerError

if TYPE_CHECKING:
    from async_scheduler.driver.runner import RoutineDriver

log = logging.getLogger(__name__)


class Supervisor:
    """Owns the drivers and the task group they run in."""

    def __init__(self, drivers: Sequence[RoutineDriver], grace: float) -> None:
        self.drivers = {driver.name: driver for driver in drivers}
        if len(self.drivers) != len(drivers):
            raise ValueError(f"Routines of the same name: {sorted(driver.name for driver in drivers)}")
        self._order = list(drivers)
        self._woken_as: dict[str, list[RoutineDriver]] = {}
        for driver in drivers:
            self._woken_as.setdefault(driver.schedule.woken_as or driver.name, []).append(driver)
        self._grace = grace
        self._stop = asyncio.Event()

    def wake(self, names: Sequence[str]) -> None:
        """Ask the routines called *names* for a pass. Names of routines that do not run are ignored.

        Of several by one name the first that is idle is asked, all of them where none is: whoever ends its
        pass first makes another one.
        """
        for name in names:
            drivers = self._woken_as.get(name, [])
            idle = next((driver for driver in drivers if not driver.at_work), None)
            for driver in drivers if idle is None else [idle]:
                driver.wakeup.set()

    def stop(self) -> None:
        """Begin to stop: each routine ends after the pass under way."""
        self._stop.set()

    @property
    def stopping(self) -> bool:
        """Whether :meth:`stop` was called."""
        return self._stop.is_set()

    async def run_concurrently(self) -> None:
        """Run each routine as a task of its own until stopped."""
        await self._run_until_stopped({driver.name: driver.run() for driver in self._order})

    async def run_sequentially(self, idle_sleep: float) -> None:
        """Run the routines one after another, in their order, until stopped; sleep when nothing is due."""
        await self._run_until_stopped({"turns": self._take_turns(idle_sleep)})

    async def _take_turns(self, idle_sleep: float) -> None:
        while not self._stop.is_set():
            progressed = False
            for driver in self._order:
                if self._stop.is_set():
                    return
                # As in the sync loop: its stages take part in every turn, timers when they are due.
                if driver.schedule.core or driver.due:
                    outcome = await driver.run_pass()
                    progressed = progressed or outcome.progressed or outcome.more
            if not progressed:
                await self._sleep(min(idle_sleep, *(driver.due_in for driver in self._order)))

    async def _sleep(self, seconds: float) -> None:
        wakeups = [driver.wakeup for driver in self._order]
        if any(wakeup.is_set for wakeup in wakeups):
            await asyncio.sleep(0)
            return
        try:
            async with asyncio.timeout(seconds):
                await self._stop.wait()
        except TimeoutError:
            return

    async def _run_until_stopped(self, bodies: dict[str, Coroutine[Any, Any, None]]) -> None:
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(body, name=name) for name, body in bodies.items()]
                group.create_task(self._end(tasks), name="supervisor")
        except BaseExceptionGroup as errors:
            raise first_cause(errors) from None

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """After :meth:`stop`: let the routines finish their pass, then cancel those that did not.

        In their order, so that what one has done is passed on by the next. One that is stuck may use up half
        of the grace; the rest of it is for all that come after.
        """
        await self._stop.wait()
        clock = asyncio.get_running_loop().time
        begun = clock()
        if len(tasks) == len(self._order):
            for driver, task in zip(self._order, tasks, strict=True):
                driver.stop()
                await asyncio.wait([task], timeout=max(0.0, begun + self._grace / 2 - clock()))
        for driver in self._order:
            driver.stop()
        _, late = await asyncio.wait(tasks, timeout=max(0.0, begun + self._grace - clock()))
        for task in late:
            log.warning("Routine %s did not end within %g s and is cancelled", task.get_name(), self._grace)
            task.cancel()


def first_cause(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """Return the error to end with: ours if there is one, else the first."""
    own = errors.subgroup(AsyncSchedulerError)
    group: BaseException = own or errors
    while isinstance(group, BaseExceptionGroup):
        group = group.exceptions[0]
    return group
