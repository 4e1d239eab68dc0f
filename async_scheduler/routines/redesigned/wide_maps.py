"""What a very wide map owes to the runs beside it: it is scheduled in portions."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from async_scheduler.decide.states import SCHEDULED

if TYPE_CHECKING:
    from async_scheduler.routines.redesigned.visiting import Visited

AHEAD = 2000
"""So many instances of one task of a run are scheduled at a time, some sections more than are ever queued
between two visits: one statement for all of a wide map keeps a core busy, and each critical section would
rank all that wait."""


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
