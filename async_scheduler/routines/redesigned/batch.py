"""The runs that one pass of *create* makes, put together in memory."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats
from airflow._shared.observability.traces import new_task_run_carrier
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import uuid7
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

from async_scheduler.store.creation import NewInstances

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from airflow.models.dag import DagModel

    from async_scheduler.plans.cache import CompiledDag
    from async_scheduler.plans.templates import TaskTemplate

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Batch:
    """The runs of one pass: their objects, and their task instances in the form of the bulk insert."""

    job: int | None
    now: datetime
    log_template: int
    room: int
    """How many task instances may still be added."""
    active: Counter[str]
    existing: dict[tuple[str, datetime | None], DagRun]
    runs: list[tuple[DagRun, CompiledDag]] = field(default_factory=list)
    ids: set[tuple[str, str]] = field(default_factory=set)
    """Of these runs, by dag and run id."""
    instances: NewInstances = field(default_factory=NewInstances)
    template_numbers: dict[UUID, dict[str, int]] = field(default_factory=dict)
    tasks: Counter[tuple[str, str]] = field(default_factory=Counter)
    """New task instances by (dag, operator), for the metric."""
    failed: dict[str, Exception] = field(default_factory=dict)
    """Dags whose next run could not be made."""


def add_next_run(batch: Batch, dag: DagModel, compiled: CompiledDag) -> bool:
    """Add the run that *dag* is due for; return whether it is due for another, later one.

    A dag that cannot be scheduled must not keep others from it: whatever its timetable or parameters raise
    is kept in ``batch.failed``; Airflow logs it each time.
    """
    logical_date = dag.next_dagrun
    try:
        existing = batch.existing.get((dag.dag_id, logical_date))
        if existing is not None:
            dag.calculate_dagrun_date_fields(dag=compiled.dag, reference_run=existing)
            log.warning("run already exists; skipping dagrun creation: %s %s", dag.dag_id, logical_date)
        else:
            run = _new_run(batch, dag, compiled)
            dag.calculate_dagrun_date_fields(dag=compiled.dag, reference_run=run)
            batch.active[dag.dag_id] += 1
            dag.exceeds_max_non_backfill = batch.active[dag.dag_id] >= (dag.max_active_runs or 0)
    except Exception as error:
        batch.failed[dag.dag_id] = error
        return False
    # A timetable that does not move on is asked once a pass, as by Airflow, and not without end.
    moved = None in (logical_date, dag.next_dagrun) or dag.next_dagrun > logical_date
    due = dag.next_dagrun_create_after
    return moved and due is not None and due <= batch.now and not dag.exceeds_max_non_backfill


def _new_run(batch: Batch, dag: DagModel, compiled: CompiledDag) -> DagRun:
    """Add a run as ``SerializedDAG.create_dagrun`` makes it."""
    serialized = compiled.dag
    info = serialized.timetable.next_run_info_from_dag_model(dag_model=dag)
    run_id = serialized.timetable.generate_run_id(
        run_type=DagRunType.SCHEDULED,
        run_after=info.run_after,
        data_interval=info.data_interval,
        partition_key=info.partition_key,
    )
    serialized.params.deep_merge(None).validate()
    run = DagRun(
        dag_id=dag.dag_id,
        run_id=run_id,
        logical_date=info.logical_date,
        data_interval=info.data_interval,
        run_after=info.run_after,
        run_type=DagRunType.SCHEDULED,
        triggered_by=DagRunTriggeredByType.TIMETABLE,
        state=DagRunState.QUEUED,
        creating_job_id=batch.job,
        bundle_version=None if serialized.disable_bundle_versioning else dag.bundle_version,
    )
    if (run.dag_id, run.run_id) in batch.ids:
        raise ValueError(f"its timetable gives two runs the id {run.run_id}")
    batch.ids.add((run.dag_id, run.run_id))
    run.log_template_id = batch.log_template
    run.created_dag_version_id = compiled.version
    run.consumed_asset_events = []
    batch.runs.append((run, compiled))
    batch.room -= sum(len(template.map_indexes) for template in _templates_at(compiled, run.logical_date))
    return run


def drop_runs(batch: Batch, taken: Collection[tuple[str, str]]) -> set[str]:
    """Leave out all new runs of the dags that have one with an id in *taken*; return these dags.

    Airflow fails on such a run, and with it all creation of the pass: an id can come again when a dag's
    timetable has become another one, or is of the user's making.
    """
    for dag_id, run_id in sorted(taken):
        batch.failed[dag_id] = ValueError(f"it has a run {run_id} already")
    dag_ids = {dag_id for dag_id, _ in taken}
    batch.runs = [(run, compiled) for run, compiled in batch.runs if run.dag_id not in dag_ids]
    return dag_ids


def add_instances(batch: Batch) -> None:
    """Add the task instances of the batch's runs."""
    for run, compiled in batch.runs:
        _add_instances(batch, run, compiled)


def _add_instances(batch: Batch, run: DagRun, compiled: CompiledDag) -> None:
    new = batch.instances
    numbers = batch.template_numbers.get(compiled.version)
    if numbers is None:
        numbers = batch.template_numbers[compiled.version] = _number_templates(new, compiled)
    new.runs.append((run.dag_id, run.run_id, compiled.version))
    run_number, carriers = len(new.runs), child_carriers(run.context_carrier)
    for template in _templates_at(compiled, run.logical_date):
        batch.tasks[run.dag_id, template.operator] += 1
        for map_index in template.map_indexes:
            new.ids.append(uuid7())
            new.run_numbers.append(run_number)
            new.template_numbers.append(numbers[template.task_id])
            new.map_indexes.append(map_index)
            new.carriers.append(next(carriers))


def child_carriers(of_run: Any) -> Iterator[dict[str, str]]:
    """Yield the trace context of one task instance after another; without tracing it is that of the run."""
    while (carrier := new_task_run_carrier(of_run)) != of_run:
        yield carrier
    while True:
        yield carrier


def _templates_at(compiled: CompiledDag, logical_date: datetime | None) -> Iterator[TaskTemplate]:
    return (template for template in compiled.templates or () if template.exists_at(logical_date))


def _number_templates(new: NewInstances, compiled: CompiledDag) -> dict[str, int]:
    numbers = {}
    for template in compiled.templates or ():
        new.templates.append(template.columns())
        numbers[template.task_id] = len(new.templates)
    return numbers


def report(batch: Batch) -> None:
    """The metric of ``DagRun._create_task_instances``, which counts tasks."""
    for (dag_id, operator), count in batch.tasks.items():
        tags: dict[str, Any] = {"dag_id": dag_id, "run_type": str(DagRunType.SCHEDULED.value)}
        stats.incr("task_instance_created", count, tags={**tags, "task_type": operator})
