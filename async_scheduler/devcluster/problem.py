"""What can keep the dev cluster from running, in words for the person at the terminal."""

from __future__ import annotations

from async_scheduler.errors import AsyncSchedulerError


class ClusterProblem(AsyncSchedulerError):
    """The cluster cannot start or go on: one clear line, and a hint what to do about it."""

    def __init__(self, problem: str, hint: str) -> None:
        self.problem, self.hint = problem, hint
        super().__init__(f"{problem}\n{hint}")
