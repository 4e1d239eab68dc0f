"""The flag that keeps dags at their limit of active runs out of run creation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, Update, false, func, not_, select, true

from async_scheduler.store.dialect import Dialect, among, dialect_of, locked, statement
from async_scheduler.store.tables import DAG, RUN

if TYPE_CHECKING:
    from collections.abc import Collection

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession

COUNTED_RUN_TYPES = frozenset({"scheduled", "manual", "asset_triggered"})
"""Airflow refreshes the flag when a run of these types ends (``_schedule_dag_run``)."""


def _exceeds() -> ColumnElement[bool]:
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
    return active >= func.coalesce(DAG.c.max_active_runs, 0)


@statement
def flip(dialect: Dialect) -> Update:
    """Flip ``exceeds_max_non_backfill`` of those of the dags *dag_ids* where it is wrong."""
    return (
        DAG.update()
        .where(among(DAG.c.dag_id, "dag_ids", dialect), DAG.c.exceeds_max_non_backfill != _exceeds())
        .values(exceeds_max_non_backfill=not_(DAG.c.exceeds_max_non_backfill))
    )


@statement
def wrong(dialect: Dialect) -> Select[Any]:
    """Select those of the dags *dag_ids* whose flag is wrong. Locks nothing."""
    return select(DAG.c.dag_id).where(
        among(DAG.c.dag_id, "dag_ids", dialect), DAG.c.exceeds_max_non_backfill != _exceeds()
    )


@statement
def free(dialect: Dialect) -> Select[Any]:
    """Lock those of the dags *dag_ids* that nobody holds."""
    query = select(DAG.c.dag_id).where(among(DAG.c.dag_id, "dag_ids", dialect)).order_by(DAG.c.dag_id)
    return locked(query, DAG, dialect, skip=True)


@statement
def held_back(dialect: Dialect) -> Select[Any]:
    """Lock the dags that are due and have room, but whose flag says that they have none."""
    due = (
        DAG.c.exceeds_max_non_backfill == true(),
        DAG.c.is_paused == false(),
        DAG.c.next_dagrun_create_after <= func.now(),
    )
    query: Select[Any] = select(DAG.c.dag_id).where(*due, not_(_exceeds())).order_by(DAG.c.dag_id)
    return locked(query, DAG, dialect, skip=True)


async def refresh_exceeding(session: AsyncSession, dag_ids: Collection[str]) -> int:
    """Correct the flag of the dags and return for how many it changed.

    Mirrors ``SchedulerJobRunner._set_exceeds_max_active_runs``. Locks: the ``dag`` rows that change, waiting
    for a DAG processor that holds them.
    """
    result = await session.execute(flip(dialect_of(session)), {"dag_ids": sorted(dag_ids)})
    return int(result.rowcount)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Corrected:
    """How many flags changed, and the dags whose flag is still wrong because somebody holds their row."""

    changed: int = 0
    held: frozenset[str] = frozenset()


async def find_exceeding(session: AsyncSession, dag_ids: Collection[str]) -> frozenset[str]:
    """Return those of the dags whose flag is wrong. Locks nothing."""
    return frozenset((await session.scalars(wrong(dialect_of(session)), {"dag_ids": sorted(dag_ids)})).all())


async def correct_exceeding(session: AsyncSession, dag_ids: Collection[str]) -> Corrected:
    """Correct the flag of those of the dags that nobody holds; for a transaction of its own.

    A DAG processor keeps its rows for a whole parse, and whoever waited for it would stand still meanwhile.
    Locks: ``dag`` NO KEY UPDATE SKIP LOCKED, until the commit.
    """
    ours = (await session.scalars(free(dialect_of(session)), {"dag_ids": sorted(dag_ids)})).all()
    changed = await refresh_exceeding(session, ours) if ours else 0
    return Corrected(changed, frozenset(dag_ids).difference(ours))


async def lift_stale(session: AsyncSession) -> int:
    """Correct the flag of due dags that it holds back wrongly; return how many there were.

    The flag is corrected after the commit that ends a run, in a transaction of its own. What a scheduler that
    died in between left wrong is found here. Locks: ``dag`` NO KEY UPDATE SKIP LOCKED, until the commit.
    """
    dag_ids = (await session.scalars(held_back(dialect_of(session)))).all()
    return await refresh_exceeding(session, dag_ids) if dag_ids else 0
