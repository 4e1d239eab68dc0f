"""Nothing to do."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return *dags* dags without a run, watched for *seconds*."""
    return Plan(
        dags=tuple(
            DagSpec(f"idle_{n:04}", (TaskSpec("t0"),), runs=0) for n in range(int(parameters["dags"]))
        ),
        idle_seconds=float(parameters["seconds"]),
    )


WORKLOAD = Workload(
    name="idle",
    description="A thousand dags and nothing due: CPU and statements of a scheduler that has nothing to do.",
    defaults={"dags": 1000, "seconds": 15.0},
    quick={"dags": 100, "seconds": 5.0},
    full={"dags": 1000, "seconds": 10.0},
    build=build,
    primary="idle_cpu",
)
