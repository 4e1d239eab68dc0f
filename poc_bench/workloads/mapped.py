"""One huge map beside many small dags."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.many_small import small_dags
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return one dag whose second task is mapped *width* wide over the first, and *dags* small ones."""
    duration, width = float(parameters["duration"]), int(parameters["width"])
    tasks = (
        TaskSpec("list", pushes=width, duration=duration),
        TaskSpec("each", mapped_over="list", upstream=("list",), duration=duration),
    )
    return Plan(
        dags=(
            DagSpec("mapped", tasks, max_active_tasks=max(16, width)),
            *small_dags(int(parameters["dags"]), 1, duration, seed),
        )
    )


WORKLOAD = Workload(
    name="mapped",
    description="One task mapped thousands wide over another's result, beside hundreds of small dags: does "
    "one huge map hold everyone up?",
    defaults={"width": 10_000, "dags": 200, "duration": 0.0},
    quick={"width": 100, "dags": 10, "duration": 0.0},
    full={"width": 1000, "dags": 40, "duration": 0.0},
    build=build,
    primary="throughput",
)
