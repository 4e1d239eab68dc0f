"""Rows that a caller names, whatever their state: what claims would read, without the claim."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.models.dag import DagModel
from sqlalchemy import Select, Update, bindparam, func, select

from async_scheduler.store.creation import DueDag
from async_scheduler.store.dialect import Dialect, among, dialect_of, statement, still
from async_scheduler.store.running import ClaimedRun, examinable_columns, latest_version
from async_scheduler.store.scheduled import _INSTANCE_COLUMNS, QueuedRow, _with_dag_and_run
from async_scheduler.store.tables import DAG, INSTANCE, RUN, SERIALIZED

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession


@statement
def runs(dialect: Dialect) -> Select[Any]:
    """Select the runs *ids* as ``running.claim`` does."""
    return (
        select(*examinable_columns(), RUN.c.state).where(among(RUN.c.id, "ids", dialect)).order_by(RUN.c.id)
    )


async def load_runs(session: AsyncSession, ids: Sequence[int]) -> list[tuple[ClaimedRun, str]]:
    """Return runs that the caller has claimed, or answers for, and their states. Locks nothing."""
    rows = await session.execute(runs(dialect_of(session)), {"ids": sorted(ids)})
    return [(ClaimedRun._make(columns), state) for *columns, state in rows]


@statement
def dags(dialect: Dialect) -> Select[Any]:
    """Select the dags *dag_ids* as ``creation.due`` does."""
    version = latest_version(DAG).scalar_subquery()
    dag_hash = select(SERIALIZED.c.dag_hash).where(SERIALIZED.c.dag_version_id == version).correlate(DAG)
    return select(DagModel, version, dag_hash.scalar_subquery()).where(
        among(DAG.c.dag_id, "dag_ids", dialect)
    )


async def load_dags(session: AsyncSession, dag_ids: Sequence[str]) -> dict[str, DueDag]:
    """Return dags with their latest versions, by id. Locks nothing."""
    rows = await session.execute(dags(dialect_of(session)), {"dag_ids": sorted(dag_ids)})
    return {row[0].dag_id: DueDag._make(row) for row in rows}


@statement
def instances(dialect: Dialect) -> Select[Any]:
    """Select the task instances *ids* as ``scheduled.queued`` does, whatever their state."""
    c = INSTANCE.c
    columns = [c[name] for name in _INSTANCE_COLUMNS]
    return _with_dag_and_run(columns).add_columns(c.state).where(among(c.id, "ids", dialect))


async def load_instances(
    session: AsyncSession, ids: Sequence[UUID]
) -> dict[UUID, tuple[QueuedRow, str | None]]:
    """Return what the workloads of task instances need, and their states, by id. Locks nothing."""
    rows = await session.execute(instances(dialect_of(session)), {"ids": sorted(ids)})
    return {columns[0]: (QueuedRow._make(columns), state) for *columns, state in rows}


@statement
def release(dialect: Dialect) -> Update:
    """Take the state *old* of the task instances *ids*."""
    c = INSTANCE.c
    return (
        INSTANCE.update()
        .where(among(c.id, "ids", dialect), still(c.state, bindparam("old")))
        .values(state=None, start_date=func.coalesce(c.start_date, bindparam("now", type_=c.start_date.type)))
    )


async def release_from(session: AsyncSession, ids: Sequence[UUID], old: str | None, now: datetime) -> int:
    """Take the state of task instances whose run has ended and that a caller names; return how many.

    As ``scheduled.release_queued``, for any state they may have. Locks: ``task_instance`` NO KEY UPDATE.
    """
    parameters = {"ids": sorted(ids), "old": old or "", "now": now}
    result = await session.execute(release(dialect_of(session)), parameters)
    return int(result.rowcount)  # type: ignore[attr-defined]
