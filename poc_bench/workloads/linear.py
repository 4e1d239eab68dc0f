"""Chains: how long one task after another takes to get going."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return dags × runs, each a chain of *length* tasks; nothing in it is random."""
    length, runs = int(parameters["length"]), int(parameters["runs"])
    tasks = tuple(
        TaskSpec(f"t{n:04}", upstream=(f"t{n - 1:04}",) if n else (), duration=float(parameters["duration"]))
        for n in range(length)
    )
    return Plan(
        dags=tuple(
            DagSpec(f"linear_{n:03}", tasks, runs=runs, max_active_runs=max(16, runs))
            for n in range(int(parameters["dags"]))
        )
    )


WORKLOAD = Workload(
    name="linear",
    description="Chains of tasks that each wait for the one before: the latency of a step, from the end of a "
    "task to its successor being queued.",
    defaults={"dags": 10, "runs": 1, "length": 20, "duration": 0.0},
    quick={"dags": 5, "runs": 1, "length": 6, "duration": 0.0},
    full={"dags": 20, "runs": 1, "length": 10, "duration": 0.0},
    build=build,
    primary="throughput",
)
