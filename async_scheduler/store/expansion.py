"""Unexpanded instances of mapped tasks, and what they become."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.models.renderedtifields import RenderedTaskInstanceFields
from airflow.models.taskinstance import TaskInstanceNote
from sqlalchemy import bindparam, delete, exists, select

from async_scheduler.store.dialect import Dialect, among, dialect_of, statement, still
from async_scheduler.store.tables import INSTANCE, RESCHEDULE, RUN, TASK_MAP, XCOM, of_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from sqlalchemy import Delete, Select, Table, Update
    from sqlalchemy.ext.asyncio import AsyncSession


class UnexpandedRow(NamedTuple):
    """An unexpanded instance and its run, as far as new instances take after them."""

    id: UUID
    dag_id: str
    task_id: str
    run_id: str
    dag_version_id: UUID | None
    run_carrier: dict[str, str] | None


@statement
def unexpanded(dialect: Dialect) -> Select[Any]:
    """Select the unexpanded task instances *ids* with the trace context of their runs."""
    c = INSTANCE.c
    return (
        select(c.id, c.dag_id, c.task_id, c.run_id, c.dag_version_id, RUN.c.context_carrier)
        .join(RUN, of_run())
        .where(among(c.id, "ids", dialect), c.map_index == -1)
    )


async def load_unexpanded(session: AsyncSession, ids: Sequence[UUID]) -> dict[UUID, UnexpandedRow]:
    """Return the unexpanded instances by id. Locks nothing."""
    rows = await session.execute(unexpanded(dialect_of(session)), {"ids": sorted(ids)})
    return {row[0]: UnexpandedRow._make(row) for row in rows}


@statement
def become_first(dialect: Dialect) -> Update:
    """Let the unexpanded task instances *ids* without a state be the first of their tasks' instances."""
    c = INSTANCE.c
    return (
        INSTANCE.update()
        .where(among(c.id, "ids", dialect), c.map_index == -1, still(c.state, (None,)))
        .values(map_index=0)
    )


async def mark_first(session: AsyncSession, ids: Sequence[UUID]) -> int:
    """Turn unexpanded instances into index 0; return how many still were unexpanded and without a state.

    Mirrors ``TaskMap.expand_mapped_task``. Locks: ``task_instance`` NO KEY UPDATE; waits.
    """
    result = await session.execute(become_first(dialect_of(session)), {"ids": sorted(ids)})
    return int(result.rowcount)  # type: ignore[attr-defined]


@statement
def end_unexpanded(dialect: Dialect) -> Update:
    """Give the unexpanded task instances *ids* without a state the state *new*, and no dates."""
    c = INSTANCE.c
    return (
        INSTANCE.update()
        .where(among(c.id, "ids", dialect), c.map_index == -1, still(c.state, (None,)))
        .values(state=bindparam("new"))
    )


async def mark_unexpandable(session: AsyncSession, ids: Sequence[UUID], new: str) -> int:
    """End unexpanded instances that have nothing to become; return how many. Locks as above.

    Airflow assigns the state only: start and end stay empty.
    """
    parameters = {"ids": sorted(ids), "new": new}
    result = await session.execute(end_unexpanded(dialect_of(session)), parameters)
    return int(result.rowcount)  # type: ignore[attr-defined]


def _of_instance(table: Table, dialect: Dialect) -> Delete:
    t, c = table.c, INSTANCE.c
    same = (
        (t.dag_id == c.dag_id)
        & (t.task_id == c.task_id)
        & (t.run_id == c.run_id)
        & (t.map_index == c.map_index)
    )
    chosen = select(1).where(among(c.id, "ids", dialect), same).correlate(table)
    return delete(table).where(exists(chosen))


@statement
def xcoms(dialect: Dialect) -> Delete:
    """Delete the XComs of the task instances *ids*."""
    return _of_instance(XCOM, dialect)


@statement
def rendered(dialect: Dialect) -> Delete:
    """Delete the rendered fields of the task instances *ids*."""
    return _of_instance(RenderedTaskInstanceFields.__table__, dialect)


@statement
def maps(dialect: Dialect) -> Delete:
    """Delete the result lengths of the task instances *ids*."""
    return _of_instance(TASK_MAP, dialect)


@statement
def notes(dialect: Dialect) -> Delete:
    """Delete the notes of the task instances *ids*."""
    table = TaskInstanceNote.__table__
    return delete(table).where(among(table.c.ti_id, "ids", dialect))


@statement
def reschedules(dialect: Dialect) -> Delete:
    """Delete the reschedules of the task instances *ids*."""
    return delete(RESCHEDULE).where(among(RESCHEDULE.c.ti_id, "ids", dialect))


async def clear_references(session: AsyncSession, ids: Sequence[UUID]) -> None:
    """Delete what refers to unexpanded instances (``TaskInstance.clear_db_references``).

    Locks: the rows deleted, of instances that never ran in the usual case: none.
    """
    dialect = dialect_of(session)
    for build in (xcoms, rendered, maps, notes, reschedules):
        await session.execute(build(dialect), {"ids": sorted(ids)})


__all__ = [
    "UnexpandedRow",
    "clear_references",
    "load_unexpanded",
    "mark_first",
    "mark_unexpandable",
]
