"""Runs that arrive at a given rate, whether or not the scheduler keeps up."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from poc_bench.plan import Plan
from poc_bench.workloads.many_small import small_dags
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from collections.abc import Mapping


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return small dags whose runs fall due one after another, *rate* a second for *seconds* seconds."""
    rate, dags = float(parameters["rate"]), int(parameters["dags"])
    runs = max(1, round(rate * float(parameters["seconds"]) / dags))
    plan = Plan(dags=small_dags(dags, runs, float(parameters["duration"]), seed, prefix="steady"))
    return replace(plan, arrival_rate=rate)


WORKLOAD = Workload(
    name="steady",
    description="Runs of small dags arrive at a fixed rate and are timed from when they were due, so that a "
    "scheduler that falls behind cannot hide it (no coordinated omission).",
    defaults={"rate": 2.0, "seconds": 20.0, "dags": 10, "duration": 0.0},
    quick={"rate": 2.0, "seconds": 5.0, "dags": 5, "duration": 0.0},
    full={"rate": 2.0, "seconds": 15.0, "dags": 10, "duration": 0.0},
    build=build,
    primary="run_latency_p50",
)
