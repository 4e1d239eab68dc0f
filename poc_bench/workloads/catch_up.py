"""Run creation: dags with many intervals overdue."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return *dags* daily dags with *intervals* runs to catch up on, each of *tasks* tasks."""
    duration = float(parameters["duration"])
    tasks = tuple(TaskSpec(f"t{n}", duration=duration) for n in range(int(parameters["tasks"])))
    return Plan(
        dags=tuple(
            DagSpec(f"catch_up_{n:03}", tasks, runs=int(parameters["intervals"]), created="by_scheduler")
            for n in range(int(parameters["dags"]))
        )
    )


WORKLOAD = Workload(
    name="catch-up",
    description="Daily dags with hundreds of intervals overdue: the scheduler creates every run itself.",
    defaults={"dags": 10, "intervals": 100, "tasks": 1, "duration": 0.0},
    quick={"dags": 4, "intervals": 15, "tasks": 1, "duration": 0.0},
    full={"dags": 10, "intervals": 30, "tasks": 1, "duration": 0.0},
    build=build,
    primary="throughput",
)
