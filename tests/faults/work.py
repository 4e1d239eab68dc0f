"""The workload ``eventful``: mixed-rules, and dags that leave callbacks, audit rows and asset events behind.

Import this module before a label of it is read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset

from poc_bench.dagfile import build_dag
from poc_bench.plan import DagSpec, Plan, TaskSpec
from poc_bench.workloads import WORKLOADS, mixed_rules
from poc_bench.workloads.model import Number, Workload

if TYPE_CHECKING:
    from airflow.sdk import DAG

ASSET = Asset("faults", "x-faults://asset")
PRODUCER, CONSUMER = "producer", "consumer"
CALLED = ("called_good", "called_bad", "killed")
"""Dags with callbacks for the end of their runs."""
KILLED = ("killed_called", "killed")
"""Tasks whose first worker dies without a word; the first one has callbacks."""
SMALL = "eventful:dags=1,runs=2,duration=0.1,kills=0"
MEDIUM = "eventful:dags=1,runs=4,duration=0.1"
LARGE = "eventful:dags=1,runs=12,duration=0.1"
RETRIES = 9
"""More than a task instance is reset by faults, so that how it ends does not depend on them."""


def _callback(_context: Any) -> None:
    """Never called: no DAG processor runs here."""


def _extra(runs: int, duration: float, kills: bool) -> list[DagSpec]:
    many = max(16, runs)
    bad = TaskSpec("bad", duration=duration, outcomes=("failed",))
    dying = tuple(TaskSpec(name, duration=duration, retries=RETRIES) for name in KILLED)
    return [
        DagSpec("called_good", (TaskSpec("good", duration=duration),), runs, max_active_runs=many),
        DagSpec("called_bad", (bad,), runs, max_active_runs=many),
        *([DagSpec("killed", dying, runs, max_active_runs=many)] if kills else []),
        DagSpec(PRODUCER, (TaskSpec("make", duration=duration),), runs, max_active_runs=many),
        DagSpec(CONSUMER, (TaskSpec("use", duration=duration),), 0, max_active_runs=2),
        DagSpec("due", (TaskSpec("one", duration=2 * duration),), runs, "by_scheduler", max_active_runs=1),
    ]


def build(parameters: Mapping[str, Number], seed: int) -> Plan:
    """Return mixed-rules' plan and the further dags; ``kills=0`` leaves out those whose workers die."""
    plan = mixed_rules.build(parameters, seed)
    extra = _extra(int(parameters["runs"]), float(parameters["duration"]), bool(parameters["kills"]))
    return replace(plan, dags=(*plan.dags, *extra))


WORKLOADS["eventful"] = Workload(
    name="eventful",
    description=__doc__ or "",
    defaults={**mixed_rules.WORKLOAD.defaults, "kills": 1},
    quick=mixed_rules.WORKLOAD.quick,
    full=mixed_rules.WORKLOAD.full,
    build=build,
    primary="throughput",
)


def dag_of(spec: DagSpec) -> DAG:
    """Return the dag that *spec* of this workload describes."""
    called = {"on_success_callback": _callback, "on_failure_callback": _callback}
    dag = build_dag(
        spec,
        **(called if spec.dag_id in CALLED else {}),
        **({"schedule": [ASSET]} if spec.dag_id == CONSUMER else {}),
    )
    if spec.dag_id == PRODUCER:
        dag.get_task("make").outlets = [ASSET]
    if spec.dag_id == KILLED[1]:
        task = dag.get_task(KILLED[0])
        task.on_failure_callback = task.on_retry_callback = [_callback]
    return dag
