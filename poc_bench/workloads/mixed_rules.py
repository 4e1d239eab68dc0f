"""Everything at once: trigger rules, failures, skips, retries, pools, priorities, limits, depends_on_past.

How each task ends does not depend on timing, so that the end states of all schedulers can be compared. A task
has therefore upstream tasks that end well, and of one kind only that does not: with a failed and a skipped
one, ``all_success`` ends as whichever comes first.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping

RULES = (
    "all_success",
    "all_failed",
    "all_done",
    "all_done_min_one_success",
    "all_skipped",
    "one_success",
    "one_failed",
    "one_done",
    "none_failed",
    "none_failed_min_one_success",
    "none_skipped",
    "always",
)
SOURCES = (
    TaskSpec("good"),
    TaskSpec("bad", outcomes=("failed",)),
    TaskSpec("skip", outcomes=("skipped",)),
    TaskSpec("again", outcomes=("failed", "success"), retries=1),
)
KINDS = (("good", "bad"), ("good", "skip"), ("good", "again"), ("skip",))
NARROW = "bench_narrow"


def _behind(upstream: tuple[str, ...], rule: str, draw: random.Random, duration: float) -> TaskSpec:
    narrow = draw.random() < 0.3
    return TaskSpec(
        f"{rule}__{'_'.join(upstream)}",
        upstream=upstream,
        trigger_rule=rule,
        duration=duration,
        priority_weight=draw.randint(1, 10),
        pool=NARROW if narrow else "default_pool",
        pool_slots=draw.randint(1, 2) if narrow else 1,
        max_active_tis_per_dag=2 if draw.random() < 0.2 else None,
        max_active_tis_per_dagrun=1 if draw.random() < 0.1 else None,
    )


def _tasks(draw: random.Random, duration: float) -> tuple[TaskSpec, ...]:
    ruled = [_behind(upstream, rule, draw, duration) for rule in RULES for upstream in KINDS]
    in_order = TaskSpec("in_order", upstream=("good",), depends_on_past=True, duration=duration)
    last = TaskSpec(
        "end", upstream=(*(task.task_id for task in ruled), in_order.task_id), trigger_rule="all_done"
    )
    return (*SOURCES, *ruled, in_order, last)


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return *dags* dags × *runs*; pools, priorities and limits are drawn from *seed*."""
    draw = random.Random(seed)
    duration, runs = float(parameters["duration"]), int(parameters["runs"])
    return Plan(
        dags=tuple(
            DagSpec(f"mixed_{n:03}", _tasks(draw, duration), runs=runs, max_active_runs=max(1, runs - 1))
            for n in range(int(parameters["dags"]))
        ),
        pools={NARROW: 4},
    )


WORKLOAD = Workload(
    name="mixed-rules",
    description="All trigger rules over tasks that succeed, fail, skip and retry; a narrow pool, priorities, "
    "limits per dag and per run, depends_on_past. Says whether the rules are kept as much as how fast.",
    defaults={"dags": 4, "runs": 4, "duration": 0.0},
    quick={"dags": 1, "runs": 2, "duration": 0.0},
    full={"dags": 2, "runs": 4, "duration": 0.0},
    build=build,
    primary="throughput",
)
