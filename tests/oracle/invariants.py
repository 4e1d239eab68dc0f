"""What must hold of the database at any moment, whoever is in the middle of whatever."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncpg

    from tests.oracle.story import Story
    from tests.oracle.workers import HeldExecutor

FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})
FLAGS = frozenset({"upstream_failed", "skipped", "removed"})
NEXT: dict[str | None, frozenset[str | None]] = {
    None: FLAGS | {"scheduled", "success"},
    "scheduled": FLAGS | {"queued", "failed", None},
    "queued": frozenset({"running", "failed", "up_for_retry", "scheduled"}) | FLAGS,
    "running": frozenset({"success", "failed", "skipped", "up_for_retry", "up_for_reschedule", "deferred"})
    | FLAGS,
    "deferred": frozenset({"scheduled", "failed"}) | FLAGS,
    "up_for_retry": FLAGS | {"scheduled", "success"},
    "up_for_reschedule": FLAGS | {"scheduled", "success"},
}
"""What may become of a state in one transaction, users apart. A finished one stays what it is."""

INSTANCES = """
SELECT ti.run_id, ti.task_id, ti.map_index, ti.state, ti.try_number, ti.pool, ti.pool_slots
FROM task_instance ti
"""
RUNS = "SELECT run_id, state, run_type FROM dag_run"


class Watch:
    """Looks at the committed rows again and again. *touched* is set once users have changed states."""

    def __init__(self, monitor: asyncpg.Connection[Any], story: Story, executor: HeldExecutor) -> None:
        self._monitor = monitor
        self._story = story
        self._executor = executor
        self._before: dict[tuple[Any, ...], tuple[str | None, int]] = {}
        self.touched = False

    async def look(self) -> None:
        """Assert everything."""
        instances = await self._monitor.fetch(INSTANCES)
        self._no_try_twice()
        self._no_step_back(instances)
        self._pools_hold(instances)
        self._tasks_hold(instances)
        running = [row for row in await self._monitor.fetch(RUNS) if row["state"] == "running"]
        assert len(running) <= self._story.max_active_runs, running

    def _no_try_twice(self) -> None:
        for key, count in self._executor.given.items():
            assert count <= 1 + self._executor.again[key], f"{key} was given to the executor {count} times"

    def _no_step_back(self, instances: list[Any]) -> None:
        now = {
            (row["run_id"], row["task_id"], row["map_index"]): (row["state"], row["try_number"])
            for row in instances
        }
        for key, (state, tries) in now.items():
            before, tries_before = self._before.get(key, (state, tries))
            assert tries >= tries_before, f"{key} fell from try {tries_before} to {tries}"
            if not self.touched:
                assert _may_follow(before, state), f"{key} went from {before} to {state}"
        self._before = now

    def _pools_hold(self, instances: list[Any]) -> None:
        occupying = {"queued", "running"} | ({"deferred"} if self._story.include_deferred else set())
        for number, slots in enumerate(self._story.pools):
            taken = sum(
                row["pool_slots"]
                for row in instances
                if row["state"] in occupying and row["pool"] == f"pool_{number}"
            )
            assert slots < 0 or taken <= slots, f"{taken} slots of pool {number} are taken, it has {slots}"

    def _tasks_hold(self, instances: list[Any]) -> None:
        active = [row for row in instances if row["state"] in ("queued", "running")]
        for row in active:
            work = self._story.work(row["task_id"])
            of_task = [one for one in active if one["task_id"] == row["task_id"]]
            in_run = [one for one in of_task if one["run_id"] == row["run_id"]]
            assert len(of_task) <= (work.per_dag or len(of_task)), of_task
            assert len(in_run) <= (work.per_run or len(in_run)), in_run
            others = [one for one in active if one["run_id"] == row["run_id"]]
            assert len(others) <= self._story.max_active_tasks, others


def _may_follow(before: str | None, state: str | None) -> bool:
    if before == state:
        return True
    if before in FINISHED:
        return False
    # Two transactions may have committed since the last look: a blocked one is let go by another's commit.
    reached = NEXT.get(before, frozenset())
    return state in reached or any(state in NEXT.get(one, frozenset()) for one in reached)
