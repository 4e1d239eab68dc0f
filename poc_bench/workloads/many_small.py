"""Hundreds of small dags."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

FEWEST, MOST = 5, 10


def small_tasks(draw: random.Random, duration: float) -> tuple[TaskSpec, ...]:
    """Return five to ten tasks; each but the first waits for one or two drawn from those before it."""
    names = [f"t{n}" for n in range(draw.randint(FEWEST, MOST))]
    tasks = [TaskSpec(names[0], duration=duration)]
    for position, name in enumerate(names[1:], start=1):
        upstream = draw.sample(names[:position], k=min(position, draw.randint(1, 2)))
        tasks.append(TaskSpec(name, upstream=tuple(sorted(upstream)), duration=duration))
    return tuple(tasks)


def small_dags(
    count: int, runs: int, duration: float, seed: int, prefix: str = "small"
) -> tuple[DagSpec, ...]:
    """Return *count* dags of drawn shapes."""
    draw = random.Random(seed)
    return tuple(DagSpec(f"{prefix}_{n:04}", small_tasks(draw, duration), runs=runs) for n in range(count))


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return *dags* small dags, their shapes drawn from *seed*."""
    runs = int(parameters["runs"])
    return Plan(dags=small_dags(int(parameters["dags"]), runs, float(parameters["duration"]), seed))


WORKLOAD = Workload(
    name="many-small",
    description="Hundreds of dags of five to ten tasks, one run each, all queued at once.",
    defaults={"dags": 500, "runs": 1, "duration": 0.0},
    quick={"dags": 20, "runs": 1, "duration": 0.0},
    full={"dags": 60, "runs": 1, "duration": 0.0},
    build=build,
    primary="throughput",
)
