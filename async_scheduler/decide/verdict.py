"""The end of a run (``DagRun.update_state``)."""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from async_scheduler.decide.states import FAILED, REMOVED, UPSTREAM_FAILED

if TYPE_CHECKING:
    from async_scheduler.decide.board import Board


class Verdict(Enum):
    """How a run ends; the value is what listeners and callbacks are told."""

    SUCCESS = "success"
    FAILED = "task_failure"
    DEADLOCKED = "all_tasks_deadlocked"

    @property
    def run_state(self) -> str:
        """The state the run gets."""
        return "success" if self is Verdict.SUCCESS else "failed"


def judge(board: Board, unfinished: bool, deadlocked: bool) -> Verdict | None:
    """Return how the run ends, or None while it goes on.

    Only some tasks decide: the leaves, teardowns apart unless they say otherwise. Removed instances do
    not count. A run none of whose instances count succeeds.
    """
    if unfinished:
        return Verdict.DEADLOCKED if deadlocked else None
    plan = board.plan.tasks
    failed = any(
        state in (FAILED, UPSTREAM_FAILED) and plan[task].decides_run
        for task, state in zip(board.tasks, board.states, strict=True)
        if state != REMOVED
    )
    return Verdict.FAILED if failed else Verdict.SUCCESS
