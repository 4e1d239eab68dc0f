"""Starts queued runs, a fair window over all dags at a time."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats
from airflow._shared.timezones import timezone
from airflow.listeners.listener import get_listener_manager
from airflow.models.dagrun import DagRun
from sqlalchemy import select

from async_scheduler.database.transaction import Sessions, Transaction, transaction
from async_scheduler.driver.routine import Outcome
from async_scheduler.errors import LostRace
from async_scheduler.store.queued import StartableRun, claim_startable, lock_backfills, start_runs

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from async_scheduler.plans.cache import CompiledDag, Plans
    from async_scheduler.routines.redesigned.dirty import DirtyRuns

log = logging.getLogger(__name__)

Planned = tuple[StartableRun, "CompiledDag"]


class StartDagRuns:
    """Mirrors ``SchedulerJobRunner._start_queued_dagruns``.

    Locks: ``dag_run`` NO KEY UPDATE SKIP LOCKED for one window, ``backfill`` UPDATE SKIP LOCKED where a run
    belongs to one, until the commit. Listeners are notified after it.

    :param window: how many runs one pass starts at most.
    """

    name = "start"

    def __init__(self, sessions: Sessions, dirty: DirtyRuns, plans: Plans, window: int) -> None:
        self._sessions = sessions
        self._dirty = dirty
        self._plans = plans
        self._window = window
        self._unreadable: set[str] = set()
        """The dags that the last pass could not start a run of: each is named once while that lasts."""

    async def run_once(self) -> Outcome:
        """Start what may start; report how many runs."""
        now = timezone.utcnow()
        started, unplanned = await self._pass(now)
        if unplanned:
            # A dag seen for the first time: read outside of the transaction, then look again.
            await self._plans.fetch(self._sessions, unplanned)
            started, unplanned = await self._pass(now)
        self._dirty.mark(run.id for run, _ in started)
        _report_delays(started, now)
        more = bool(unplanned) or len(started) >= self._window
        return Outcome({"started": len(started)}, progressed=bool(started), more=more)

    async def _pass(self, now: datetime) -> tuple[list[Planned], set[UUID]]:
        """Return what was started; nothing is while dag versions, the second part, are not at hand."""
        async with transaction(self._sessions) as tx:
            claimed = await claim_startable(tx.session, self._window)
            unplanned = {run.version for run in claimed if run.version and self._lacks_plan(run)}
            return ([] if unplanned else await self._start(tx, claimed, now)), unplanned

    def _lacks_plan(self, run: StartableRun) -> bool:
        return self._plans.get(run.version) is None and not self._plans.is_absent(run.version)

    async def _start(self, tx: Transaction, claimed: Sequence[StartableRun], now: datetime) -> list[Planned]:
        allowed = await self._allowed(tx, claimed)
        if not allowed:
            return []
        ids = [run.id for run, _ in allowed]
        if (written := await start_runs(tx.session, ids, now)) != len(ids):
            raise LostRace("dag_run", len(ids) - written)
        if self._is_heard():
            await self._notify(tx, dict(zip(ids, allowed, strict=True)))
        return allowed

    async def _allowed(self, tx: Transaction, claimed: Sequence[StartableRun]) -> list[Planned]:
        obtained = await self._obtain(tx, claimed)
        allowed, unreadable = [], set()
        for run in claimed:
            compiled = self._plans.get(run.version)
            if compiled is None:
                unreadable.add(run.dag_id)
            elif run.backfill_id is None or run.backfill_id in obtained:
                allowed.append((run, compiled))
        for dag_id in sorted(unreadable - self._unreadable):
            log.error("DAG '%s' not found in serialized_dag table", dag_id)
        self._unreadable = unreadable
        return allowed

    def _is_heard(self) -> bool:
        return bool(get_listener_manager().has_listeners)

    async def _obtain(self, tx: Transaction, claimed: Sequence[StartableRun]) -> set[int]:
        wanted = {run.backfill_id for run in claimed if run.backfill_id is not None}
        return await lock_backfills(tx.session, wanted) if wanted else set()

    async def _notify(self, tx: Transaction, started: dict[int, Planned]) -> None:
        written = {"populate_existing": True}  # past the objects that the session may hold
        query = select(DagRun).where(DagRun.id.in_(started))
        rows = await tx.session.scalars(query, execution_options=written)
        for dag_run in rows.all():
            await tx.run(_announce, dag_run, started[dag_run.id][1])


def _announce(dag_run: Any, compiled: CompiledDag) -> None:
    dag_run.dag = compiled.dag
    dag_run.notify_dagrun_state_changed(msg="started")


def _report_delays(started: Sequence[Planned], now: datetime) -> None:
    for run, compiled in started:
        triggered = str(getattr(run.triggered_by, "value", run.triggered_by))
        if (
            compiled.dag.timetable.periodic
            and run.run_type != "manual"
            and triggered != "asset"
            and run.clear_number < 1
        ):
            stats.timing("dagrun.schedule_delay", now - run.run_after, tags={"dag_id": run.dag_id})
