"""Which tasks of a run have to wait for the previous run (``PrevDagrunDep``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from async_scheduler.decide.plan import DagPlan, TaskPlan


@dataclass(frozen=True, slots=True)
class PreviousRun:
    """The run before. ``unsuccessful`` counts, for each task with instances there, those that are neither
    success nor skipped; unfinished ones are among them."""

    logical_date: datetime | None
    unsuccessful: Mapping[int, int]


def blocked_tasks(
    plan: DagPlan, previous: PreviousRun | None, first_in_backfill: bool, seen_before: Collection[int]
) -> frozenset[int]:
    """Return the tasks that the previous run holds back.

    :param previous: the run before: with catch-up the latest earlier one that is not manual, otherwise the
        latest earlier one; None if there is none.
    :param seen_before: tasks that have instances in any earlier run. Looked at only for tasks that ignore
        their first dependence on the past and have no instance in *previous*.
    """
    if previous is None or first_in_backfill:
        return frozenset()
    return frozenset(
        task.index for task in plan.tasks if task.depends_on_past and _held(plan, task, previous, seen_before)
    )


def _held(plan: DagPlan, task: TaskPlan, previous: PreviousRun, seen_before: Collection[int]) -> bool:
    if (
        plan.catchup
        and task.start_date is not None
        and previous.logical_date is not None
        and previous.logical_date < task.start_date
    ):
        return False
    unsuccessful = previous.unsuccessful.get(task.index)
    if unsuccessful is None:
        return not task.ignore_first_depends_on_past or task.index in seen_before
    if unsuccessful:
        return True
    return task.wait_for_downstream and any(
        previous.unsuccessful.get(downstream, 0) for downstream in task.downstream
    )
