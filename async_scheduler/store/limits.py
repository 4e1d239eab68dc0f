"""The flag that keeps dags at their limit of active runs out of run creation."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Update, func, not_, select

from async_scheduler.store.dialect import Dialect, among, dialect_of, statement
from async_scheduler.store.tables import DAG, RUN

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy.ext.asyncio import AsyncSession

COUNTED_RUN_TYPES = frozenset({"scheduled", "manual", "asset_triggered"})
"""Airflow refreshes the flag when a run of these types ends (``_schedule_dag_run``)."""


@statement
def flip(dialect: Dialect) -> Update:
    """Flip ``exceeds_max_non_backfill`` of those of the dags *dag_ids* where it is wrong."""
    active = (
        select(func.count())
        .where(
            RUN.c.dag_id == DAG.c.dag_id,
            RUN.c.state.in_(("queued", "running")),
            RUN.c.run_type != "backfill",
        )
        .correlate(DAG)
        .scalar_subquery()
    )
    exceeds = active >= func.coalesce(DAG.c.max_active_runs, 0)
    return (
        DAG.update()
        .where(among(DAG.c.dag_id, "dag_ids", dialect), DAG.c.exceeds_max_non_backfill != exceeds)
        .values(exceeds_max_non_backfill=not_(DAG.c.exceeds_max_non_backfill))
    )


async def refresh_exceeding(session: AsyncSession, dag_ids: Collection[str]) -> int:
    """Correct the flag of the dags and return for how many it changed.

    Mirrors ``SchedulerJobRunner._set_exceeds_max_active_runs``. Locks: the ``dag`` rows that change, waiting
    for a DAG processor that holds them; for a transaction of its own, so that nothing waits behind it.
    """
    result = await session.execute(flip(dialect_of(session)), {"dag_ids": sorted(dag_ids)})
    return int(result.rowcount)  # type: ignore[attr-defined]
