"""An executor that blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from poc_bench.workloads import layers
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from poc_bench.plan import Plan


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return layers of tasks on an executor whose heartbeat blocks *heartbeat* seconds."""
    return replace(layers.build(parameters, seed), heartbeat_seconds=float(parameters["heartbeat"]))


WORKLOAD = Workload(
    name="slow-executor",
    description="An executor whose heartbeat blocks for seconds, as one does that calls a slow API: does "
    "scheduling go on meanwhile?",
    defaults={"dags": 2, "runs": 4, "tasks": 20, "duration": 0.0, "heartbeat": 2.0},
    quick={"dags": 1, "runs": 2, "tasks": 10, "duration": 0.0, "heartbeat": 0.5},
    full={"dags": 3, "runs": 1, "tasks": 10, "duration": 0.0, "heartbeat": 2.0},
    build=build,
    primary="throughput",
)
