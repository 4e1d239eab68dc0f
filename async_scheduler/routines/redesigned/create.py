"""Creates the dag runs that are due: runs and task instances of many dags in one statement each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from math import inf
from typing import TYPE_CHECKING, Any

from airflow import settings as airflow_settings
from airflow._shared.observability.metrics import stats
from airflow._shared.observability.traces import new_task_run_carrier
from airflow._shared.timezones import timezone
from airflow.models.dag import DagModel
from airflow.models.dagrun import DagRun
from airflow.models.taskinstance import uuid7
from airflow.utils.platform import getuser
from airflow.utils.sqlalchemy import prohibit_commit
from airflow.utils.state import DagRunState
from airflow.utils.types import DagRunTriggeredByType, DagRunType

from async_scheduler.database.transaction import Sessions, Transaction, transaction
from async_scheduler.driver.routine import NOTHING, Outcome
from async_scheduler.store.creation import (
    DueDag,
    NewInstances,
    claim_due_dags,
    count_active_runs,
    find_work,
    insert_instances,
    load_existing,
    newest_log_template,
)

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session

    from async_scheduler.plans.cache import CompiledDag, Plans
    from async_scheduler.plans.templates import TaskTemplate

log = logging.getLogger(__name__)

LookUpAhead = Callable[[], AbstractAsyncContextManager[None]]


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
    runs: list[DagRun] = field(default_factory=list)
    instances: NewInstances = field(default_factory=NewInstances)
    template_numbers: dict[UUID, dict[str, int]] = field(default_factory=dict)
    tasks: Counter[tuple[str, str]] = field(default_factory=Counter)
    """New task instances by (dag, operator), for the metric."""


class CreateDagRuns:
    """Mirrors ``SchedulerJobRunner._create_dagruns_for_dags``.

    Scheduled runs are made here, as many of each dag as are due and fit its limit. Runs for asset events
    and partitions are made by Airflow's own code, and so are those of dags with deadlines, partitions, weight
    rules of the user's, and all if there is a task instance mutation hook.

    Locks: ``dag`` NO KEY UPDATE SKIP LOCKED, until the commit; for assets whatever Airflow's code locks.

    :param dags: how many dags one transaction looks at, at most.
    :param instances: after how many new task instances a transaction ends.
    :param look_up_ahead: makes the block in which the variables of deadlines are known.
    :param turns: how many runs of one dag a transaction makes at most; None for as many as are due.
    """

    name = "create"

    def __init__(
        self,
        scheduler: SchedulerJobRunner,
        sessions: Sessions,
        plans: Plans,
        dags: int,
        instances: int,
        look_up_ahead: LookUpAhead = nullcontext,
        turns: int | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._sessions = sessions
        self._plans = plans
        self._dags = dags
        self._instances = instances
        self._look_up_ahead = look_up_ahead
        self._turns = turns
        self._unixname = getuser()

    async def run_once(self) -> Outcome:
        """Create what is due; report how many runs."""
        async with transaction(self._sessions) as tx:
            work = await find_work(tx.session)
        by_assets = await self._create_by_assets() if work.by_assets else 0
        if not work.scheduled:
            return Outcome({"created": by_assets}, progressed=by_assets > 0) if by_assets else NOTHING
        created, unplanned = await self._pass()
        if unplanned:
            # A dag seen for the first time: read outside of the transaction, then look again.
            await self._plans.fetch(self._sessions, unplanned)
            again, unplanned = await self._pass()
            created += again
        count = created + by_assets
        return Outcome({"created": count}, progressed=count > 0, more=created > 0 or bool(unplanned))

    async def _pass(self) -> tuple[int, set[UUID]]:
        """Return how many scheduled runs were created, and the dag versions that are not at hand."""
        unplanned: set[UUID] = set()
        async with self._look_up_ahead(), transaction(self._sessions) as tx:
            return await self._create_scheduled(tx, unplanned), unplanned

    async def _create_by_assets(self) -> int:
        async with self._look_up_ahead(), transaction(self._sessions) as tx:
            return await tx.run(self._run_upstream_for_assets, tx.sync_session)

    def _run_upstream_for_assets(self, session: Session) -> int:
        """The parts of ``_create_dagruns_for_dags`` that are not about timetables."""
        scheduler = self._scheduler
        with prohibit_commit(session):
            by_partition = scheduler._create_dagruns_for_partitioned_asset_dags(session)
            query, triggered = DagModel.dags_needing_dagruns(session)
            ready = [d for d in query.all() if d.dag_id in triggered and d.dag_id not in by_partition]
            if ready:
                scheduler._create_dag_runs_asset_triggered(dag_models=ready, session=session)
            session.flush()
        return len(by_partition) + len(ready)

    async def _create_scheduled(self, tx: Transaction, unplanned: set[UUID]) -> int:
        due = await claim_due_dags(tx.session, self._dags)
        return await self._create_for(tx, due, unplanned) if due else 0

    async def _create_for(self, tx: Transaction, due: Sequence[DueDag], unplanned: set[UUID]) -> int:
        ours, upstream = self._sort(due, unplanned)
        created = 0
        if ours:
            created = await self._create_in_bulk(tx, ours)
        if upstream:
            before = {dag.dag_id: dag.next_dagrun_create_after for dag in upstream}
            await tx.run(self._run_upstream, upstream, tx.sync_session)
            created += sum(dag.next_dagrun_create_after != before[dag.dag_id] for dag in upstream)
        return created

    def _run_upstream(self, dags: Sequence[DagModel], session: Session) -> None:
        with prohibit_commit(session):
            self._scheduler._create_dag_runs(dags, session)
            session.flush()

    def _sort(
        self, due: Sequence[DueDag], unplanned: set[UUID]
    ) -> tuple[list[tuple[DagModel, CompiledDag]], list[DagModel]]:
        """Return the dags whose runs are made here, and those left to Airflow's code."""
        hooked = not getattr(airflow_settings.task_instance_mutation_hook, "is_noop", False)
        ours, upstream = [], []
        for dag, version, dag_hash in due:
            # Airflow reads the dag anew for each run: a version rewritten in place must not be missed.
            compiled = self._plans.get_current(version, dag_hash)
            if compiled is not None and not hooked and _is_usual(dag, compiled):
                ours.append((dag, compiled))
            elif compiled is None and version is not None and not self._plans.is_absent(version):
                unplanned.add(version)
            else:
                upstream.append(dag)
        return ours, upstream

    async def _create_in_bulk(self, tx: Transaction, dags: Sequence[tuple[DagModel, CompiledDag]]) -> int:
        dag_ids = [dag.dag_id for dag, _ in dags]
        batch = Batch(
            job=self._scheduler.job.id,
            now=timezone.utcnow(),
            log_template=await newest_log_template(tx.session),
            room=self._instances,
            active=Counter(await count_active_runs(tx.session, dag_ids)),
            existing=await load_existing(tx.session, dag_ids),
        )
        waiting, turns = list(dags), self._turns or inf
        while waiting and batch.room > 0 and turns > 0:
            # One run of each dag in turn, so that none fills the batch alone.
            waiting = [(dag, compiled) for dag, compiled in waiting if _add_next_run(batch, dag, compiled)]
            turns -= 1
        tx.session.add_all(batch.runs)
        await tx.session.flush()
        await insert_instances(tx.session, batch.instances, self._unixname, batch.now)
        _report(batch)
        return len(batch.runs)


def _is_usual(dag: DagModel, compiled: CompiledDag) -> bool:
    return bool(
        compiled.templates is not None
        and not compiled.dag.deadline
        and dag.timetable_partitioned is False
        and dag.next_dagrun is not None
        and dag.allowed_run_types is None
    )


def _add_next_run(batch: Batch, dag: DagModel, compiled: CompiledDag) -> bool:
    """Add the run that *dag* is due for; return whether it is due for another one.

    A dag that cannot be scheduled must not keep others from it: whatever its timetable or parameters raise
    is logged, as Airflow does.
    """
    try:
        existing = batch.existing.get((dag.dag_id, dag.next_dagrun))
        if existing is not None:
            log.warning("run already exists; skipping dagrun creation: %s %s", dag.dag_id, dag.next_dagrun)
            dag.calculate_dagrun_date_fields(dag=compiled.dag, reference_run=existing)
        else:
            run = _new_run(batch, dag, compiled)
            dag.calculate_dagrun_date_fields(dag=compiled.dag, reference_run=run)
            batch.active[dag.dag_id] += 1
            dag.exceeds_max_non_backfill = batch.active[dag.dag_id] >= (dag.max_active_runs or 0)
    except Exception:
        log.exception("Failed creating DagRun of %s", dag.dag_id)
        return False
    due = dag.next_dagrun_create_after
    return due is not None and due <= batch.now and not dag.exceeds_max_non_backfill


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
    run.log_template_id = batch.log_template
    run.created_dag_version_id = compiled.version
    run.consumed_asset_events = []
    _add_instances(batch, run, compiled)
    batch.runs.append(run)
    return run


def _add_instances(batch: Batch, run: DagRun, compiled: CompiledDag) -> None:
    new = batch.instances
    numbers = batch.template_numbers.get(compiled.version)
    if numbers is None:
        numbers = batch.template_numbers[compiled.version] = _number_templates(new, compiled)
    new.runs.append((run.dag_id, run.run_id, compiled.version))
    run_number, carriers = len(new.runs), child_carriers(run.context_carrier)
    for template in _templates_at(compiled, run.logical_date):
        batch.tasks[run.dag_id, template.operator] += 1
        batch.room -= len(template.map_indexes)
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


def _report(batch: Batch) -> None:
    """The metric of ``DagRun._create_task_instances``, which counts tasks."""
    for (dag_id, operator), count in batch.tasks.items():
        tags: dict[str, Any] = {"dag_id": dag_id, "run_type": str(DagRunType.SCHEDULED.value)}
        stats.incr("task_instance_created", count, tags={**tags, "task_type": operator})
