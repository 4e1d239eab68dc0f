"""What a very wide map owes to the runs beside it: it takes the database and the cores in small portions."""

from __future__ import annotations

import asyncio
from collections import Counter
from time import perf_counter
from typing import TYPE_CHECKING

from async_scheduler.decide.states import SCHEDULED

if TYPE_CHECKING:
    from collections.abc import Callable

    from async_scheduler.routines.redesigned.visiting import Visited

AHEAD = 2000
"""So many instances of one task of a run are scheduled at a time, some sections more than are ever queued
between two visits: one statement for all of a wide map keeps a core busy, and each critical section would
rank all that wait."""
LONGEST_PAUSE = 0.7
"""Seconds that an expansion pauses in all."""


def hold_back(one: Visited, most: int) -> bool:
    """Leave to later visits the instances of a task with which more than *most* of it would be scheduled.

    They are alike to the critical section, which takes them in the order of their map indexes, as this does.
    Return whether there were any.
    """
    outcome, tasks = one.outcome, one.board.tasks
    if len(tasks) <= most:
        return False
    ahead = Counter(tasks[position] for position, state in enumerate(one.states_before) if state == SCHEDULED)
    kept = []
    for position in outcome.scheduled:
        ahead[tasks[position]] += 1
        if ahead[tasks[position]] <= most:
            kept.append(position)
    held_back = len(kept) < len(outcome.scheduled)
    outcome.scheduled = kept
    return held_back


class Pauses:
    """Pauses between the slices of an expansion, each as long as the slice before it took.

    The only waiting inside a transaction for something other than the database: it holds the lock of one run,
    and rows that nobody else can see yet. A transaction for each slice would show others a map that is not
    whole, which they would make whole in their own way.

    :param wanted: whether anybody else has work.
    """

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self._wanted = wanted
        self._left = LONGEST_PAUSE
        self._since = perf_counter()

    async def between(self) -> None:
        """Wait as long as it took since the last call, while that is wanted, :data:`LONGEST_PAUSE` in all."""
        if self._left > 0 and self._wanted():
            pause = min(self._left, perf_counter() - self._since)
            self._left -= pause
            await asyncio.sleep(pause)
        self._since = perf_counter()
