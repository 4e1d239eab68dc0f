"""One task that many wait for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return dags × runs, each one source with *leaves* tasks behind it; nothing in it is random."""
    duration = float(parameters["duration"])
    leaves = int(parameters["leaves"])
    tasks = (
        TaskSpec("source", duration=duration),
        *(TaskSpec(f"leaf{n:05}", upstream=("source",), duration=duration) for n in range(leaves)),
    )
    return Plan(
        dags=tuple(
            DagSpec(f"star_{n:03}", tasks, runs=int(parameters["runs"]), max_active_tasks=max(16, leaves))
            for n in range(int(parameters["dags"]))
        )
    )


WORKLOAD = Workload(
    name="star",
    description="One task after which very many become ready at once.",
    defaults={"dags": 1, "runs": 1, "leaves": 500, "duration": 0.0},
    quick={"dags": 1, "runs": 1, "leaves": 100, "duration": 0.0},
    full={"dags": 2, "runs": 1, "leaves": 400, "duration": 0.0},
    build=build,
    primary="throughput",
)
