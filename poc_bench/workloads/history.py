"""Work on top of a long past."""

from __future__ import annotations

from poc_bench.workloads import layers
from poc_bench.workloads.model import Workload

WORKLOAD = Workload(
    name="history",
    description="The layers workload in a database that holds very many finished task instances. Every "
    "workload takes history=N.",
    defaults={**layers.WORKLOAD.defaults, "history": 300_000},
    quick={**layers.WORKLOAD.quick, "history": 5_000},
    full={**layers.WORKLOAD.full, "history": 300_000},
    build=layers.build,
    primary="throughput",
)
