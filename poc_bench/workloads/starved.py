"""Blocked tasks at the head of the queue, and ready ones behind them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

NARROW = "bench_narrow"


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return *blocked* tasks of high priority that few slots let through, and *free* tasks of low priority.

    Half of the blocked ones wait for a pool of two slots, half for ``max_active_tis_per_dag``.
    """
    blocked, free = int(parameters["blocked"]), int(parameters["free"])
    hold = float(parameters["hold"])
    pool = [
        TaskSpec(f"pool{n:04}", pool=NARROW, priority_weight=100, duration=hold) for n in range(blocked // 2)
    ]
    limited = TaskSpec("limited", priority_weight=100, duration=hold, max_active_tis_per_dag=2)
    behind = [TaskSpec(f"free{n:04}", duration=float(parameters["duration"])) for n in range(free)]
    runs = max(1, blocked - blocked // 2)
    return Plan(
        dags=(
            DagSpec("starved_pool", tuple(pool), max_active_tasks=1000),
            DagSpec("starved_limit", (limited,), runs=runs, max_active_runs=runs),
            DagSpec("starved_free", tuple(behind), max_active_tasks=1000),
        ),
        pools={NARROW: 2},
    )


WORKLOAD = Workload(
    name="starved",
    description="Many tasks of high priority that a full pool or a limit holds back, and ready tasks of low "
    "priority behind them: do free slots stay empty?",
    defaults={"blocked": 100, "free": 400, "hold": 0.05, "duration": 0.0},
    quick={"blocked": 20, "free": 60, "hold": 0.02, "duration": 0.0},
    full={"blocked": 60, "free": 400, "hold": 0.05, "duration": 0.0},
    build=build,
    primary="throughput",
)
