"""Runs made up for the tests of report and comparison: nothing is measured here."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from poc_bench.arms import ARMS, FLOOR
from poc_bench.figures import PERCENTILES
from poc_bench.record import CellRecord, RunRecord

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

SPEED = {"sync": 70.0, "sync-tuned": 400.0, "naive": 200.0, "floor": 9000.0}


def made_up_run(
    sizes: Iterable[str] = ("layers:dags=2,runs=2,tasks=20",),
    arms: Iterable[str] = ("floor", "sync", "sync-tuned", "naive"),
    rtts: Iterable[float] = (0.0,),
    repeats: int = 5,
    factors: Mapping[str, float] | None = None,
    seed: int = 1,
) -> RunRecord:
    """Return a run whose throughput scatters by 2 % around *factors* × the arm's usual speed."""
    draw = random.Random(seed)
    names, places = tuple(arms), [(size, rtt) for size in sizes for rtt in rtts]
    cells = [
        _cell(size, arm, rtt, repeat, (factors or {}).get(arm, 1.0) * draw.uniform(0.98, 1.02))
        for repeat in range(1, repeats + 1)
        for size, rtt in places
        for arm in names
    ]
    return RunRecord(
        created="2026-01-01T00:00:00+00:00",
        seed=1,
        repeats=repeats,
        executor="bench",
        database={"kind": "postgres", "version": "18.0"},
        machine={"cpu": "a CPU", "cores": 2, "memory_gib": 8.0, "system": "Linux"},
        versions={"python": "3.11.0", "apache-airflow-core": "3.3.2"},
        arms={name: _arm(name) for name in names},
        workloads={size: _workload(size) for size, _ in places},
        fixed_environment={},
        cells=cells,
    )


def _arm(name: str) -> dict[str, object]:
    arm = FLOOR if name == FLOOR.name else ARMS[name]
    return {"description": arm.description, "command": list(arm.command), "processes": arm.processes}


def _workload(size: str) -> dict[str, object]:
    name = size.partition(":")[0]
    figure = {"steady": "run_latency_p50", "idle": "idle_cpu"}.get(name, "throughput")
    return {"description": f"{name} work", "primary": figure, "runs": 4, "task_instances": 80}


def _cell(size: str, arm: str, rtt: float, repeat: int, factor: float) -> CellRecord:
    speed = SPEED[arm] * factor / (1 + rtt)
    cell = CellRecord(
        workload=size.partition(":")[0],
        size=size,
        arm=arm,
        rtt=rtt,
        schedulers=1,
        repeat=repeat,
        settings={},
        task_instances=sum(map(len, size.split(","))) * 10,
        runs=4,
        compared_with="sync",
        figures={"throughput": speed, "server_cpu": 1.0 / factor},
    )
    if arm != FLOOR.name:
        cell.figures |= {"scheduler_cpu": 900 / speed, "statements": 10.0, "commits": 0.4, "peak_rss": 170.0}
        cell.distributions = {
            name: [p / 100 / speed for p in PERCENTILES]
            for name in ("queue_delay", "run_close_delay", "run_latency")
        }
    return cell
