"""Creates the dag runs that are due: runs and task instances of many dags in one statement each."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from math import inf
from time import monotonic
from typing import TYPE_CHECKING

from airflow import settings as airflow_settings
from airflow._shared.timezones import timezone
from airflow.models.dag import DagModel
from airflow.utils.platform import getuser
from airflow.utils.sqlalchemy import prohibit_commit

from async_scheduler.database.transaction import Sessions, Transaction, transaction
from async_scheduler.driver.routine import NOTHING, Outcome
from async_scheduler.routines.redesigned.batch import Batch, add_instances, add_next_run, drop_runs, report
from async_scheduler.store.creation import (
    DueDag,
    claim_due_dags,
    count_active_runs,
    find_taken,
    find_work,
    insert_instances,
    load_existing,
    newest_log_template,
)
from async_scheduler.store.limits import lift_stale

if TYPE_CHECKING:
    from uuid import UUID

    from airflow.jobs.scheduler_job_runner import SchedulerJobRunner
    from sqlalchemy.orm import Session

    from async_scheduler.plans.cache import CompiledDag, Plans

log = logging.getLogger(__name__)

LIFT_EVERY = 10.0
"""Seconds between two looks for dags that a dead scheduler has left marked as being at their limit."""

LookUpAhead = Callable[[], AbstractAsyncContextManager[None]]


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
    :param on_created: called after the commit of new runs.
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
        on_created: Callable[[], None] = lambda: None,
    ) -> None:
        self._on_created = on_created
        self._scheduler = scheduler
        self._sessions = sessions
        self._plans = plans
        self._dags = dags
        self._instances = instances
        self._look_up_ahead = look_up_ahead
        self._turns = turns
        self._unixname = getuser()
        self._failing: set[str] = set()
        self._unreadable: set[str] = set()
        self._lift_at = monotonic() + LIFT_EVERY

    async def run_once(self) -> Outcome:
        """Create what is due; report how many runs."""
        async with transaction(self._sessions) as tx:
            if monotonic() >= self._lift_at:
                await lift_stale(tx.session)
                self._lift_at = monotonic() + LIFT_EVERY
            work = await find_work(tx.session)
        by_assets = await self._create_by_assets() if work.by_assets else 0
        created, unplanned = await self._create_due() if work.scheduled else (0, set())
        count = created + by_assets
        if count:
            self._on_created()
        elif not work.scheduled:
            return NOTHING
        return Outcome({"created": count}, progressed=count > 0, more=created > 0 or bool(unplanned))

    async def _create_due(self) -> tuple[int, set[UUID]]:
        created, unplanned = await self._pass()
        if unplanned:
            # A dag seen for the first time: read outside of the transaction, then look again.
            await self._plans.fetch(self._sessions, unplanned)
            again, unplanned = await self._pass()
            created += again
        return created, unplanned

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
        """Return the dags whose runs are made here, and those left to Airflow's code.

        Those that cannot be read are neither; Airflow's code would only say so, each time.
        """
        hooked = not getattr(airflow_settings.task_instance_mutation_hook, "is_noop", False)
        ours, upstream = [], []
        for dag, version, dag_hash in due:
            # Airflow reads the dag anew for each run: a version rewritten in place must not be missed.
            compiled = self._plans.get_current(version, dag_hash)
            if compiled is None and version is not None and not self._plans.is_absent(version):
                unplanned.add(version)
            elif compiled is None:
                self._say_unreadable(dag.dag_id)
            elif not hooked and _is_usual(dag, compiled):
                ours.append((dag, compiled))
            else:
                upstream.append(dag)
        self._unreadable.difference_update(dag.dag_id for dag, _ in ours)
        self._unreadable.difference_update(dag.dag_id for dag in upstream)
        return ours, upstream

    def _say_unreadable(self, dag_id: str) -> None:
        if dag_id not in self._unreadable:
            log.error("Dag '%s' not found in serialized_dag table", dag_id)
            self._unreadable.add(dag_id)

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
            waiting = [(dag, compiled) for dag, compiled in waiting if add_next_run(batch, dag, compiled)]
            turns -= 1
        await self._leave_out_taken(tx, batch, dags)
        tx.session.add_all(run for run, _ in batch.runs)
        await tx.session.flush()
        add_instances(batch)
        self._say_failed(batch, dag_ids)
        await insert_instances(tx.session, batch.instances, self._unixname, batch.now)
        report(batch)
        return len(batch.runs)

    def _say_failed(self, batch: Batch, dag_ids: Sequence[str]) -> None:
        """Log what keeps a dag from its next run, once for as long as it does."""
        for dag_id in sorted(batch.failed.keys() - self._failing):
            log.error("Failed creating DagRun of %s", dag_id, exc_info=batch.failed[dag_id])
        self._failing.difference_update(dag_ids)
        self._failing.update(batch.failed)

    async def _leave_out_taken(
        self, tx: Transaction, batch: Batch, dags: Sequence[tuple[DagModel, CompiledDag]]
    ) -> None:
        """Let dags whose new runs have ids that are taken be as they were: still due, without a new run."""
        taken = await find_taken(tx.session, sorted(batch.ids)) if batch.ids else set()
        if not taken:
            return
        left_out = drop_runs(batch, taken)
        for dag, _ in dags:
            if dag.dag_id in left_out:
                tx.sync_session.expire(dag)


def _is_usual(dag: DagModel, compiled: CompiledDag) -> bool:
    return bool(
        compiled.templates is not None
        and not compiled.dag.deadline
        and dag.timetable_partitioned is False
        and dag.next_dagrun is not None
        and dag.allowed_run_types is None
    )
