"""Wide work with joins: layers of ten tasks, each depending on two tasks of the layer before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

WIDTH = 10


def layer_tasks(count: int, duration: float) -> tuple[TaskSpec, ...]:
    """Return *count* tasks in layers of ten; each has two upstream tasks in the layer before it."""
    return tuple(
        TaskSpec(f"t{index:04}", upstream=_upstream(index), duration=duration) for index in range(count)
    )


def _upstream(index: int) -> tuple[str, ...]:
    layer, position = divmod(index, WIDTH)
    if layer == 0:
        return ()
    start = (layer - 1) * WIDTH
    return tuple(f"t{start + (position + step) % WIDTH:04}" for step in range(2))


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return dags × runs × tasks; nothing in it is random."""
    tasks = layer_tasks(int(parameters["tasks"]), float(parameters["duration"]))
    runs = int(parameters["runs"])
    return Plan(
        dags=tuple(
            DagSpec(f"layers_{n:03}", tasks, runs=runs, max_active_runs=max(16, runs), max_active_tasks=1000)
            for n in range(int(parameters["dags"]))
        )
    )


WORKLOAD = Workload(
    name="layers",
    description="Dags whose tasks stand in layers of ten, each task waiting for two of the layer before. "
    "All runs are queued at once: throughput of a busy scheduler.",
    defaults={"dags": 4, "runs": 5, "tasks": 50, "duration": 0.0},
    quick={"dags": 2, "runs": 3, "tasks": 20, "duration": 0.0},
    full={"dags": 4, "runs": 4, "tasks": 30, "duration": 0.0},
    build=build,
    primary="throughput",
)
