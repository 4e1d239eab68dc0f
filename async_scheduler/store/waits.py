"""What a decision looks at beside its run: reschedules, decisions of branches, the previous run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.models.xcom import XComModel
from sqlalchemy import Select, bindparam, case, func, or_, select

from async_scheduler.store.dialect import Dialect, among, dialect_of, keyed, keys, statement
from async_scheduler.store.tables import INSTANCE, RESCHEDULE, RUN, TASK_MAP, XCOM, of_run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession


@statement
def reschedules(dialect: Dialect) -> Select[Any]:
    """Select the date of the newest reschedule of each of the task instances *ids*."""
    c = RESCHEDULE.c
    newest = (
        select(func.max(c.id).label("id")).where(among(c.ti_id, "ids", dialect)).group_by(c.ti_id).subquery()
    )
    return select(c.ti_id, c.reschedule_date).join(newest, newest.c.id == c.id)


async def load_reschedules(session: AsyncSession, ids: Sequence[UUID]) -> dict[UUID, datetime]:
    """Return until when task instances wait to be rescheduled. Mirrors ``ReadyToRescheduleDep``."""
    rows = await session.execute(reschedules(dialect_of(session)), {"ids": list(ids)})
    return dict(rows.all())


@statement
def decisions(dialect: Dialect) -> Select[Any]:
    """Select the XComs in which operators of the runs *ids* left which downstream tasks to skip."""
    c = XCOM.c
    return select(c.dag_run_id, c.task_id, c.map_index, c.value).where(
        among(c.dag_run_id, "ids", dialect), c.key == "skipmixin_key"
    )


async def load_skip_decisions(
    session: AsyncSession, ids: Sequence[int]
) -> dict[int, dict[tuple[str, int], Any]]:
    """Return, by run and by (task id, map index), what operators decided to skip. Locks nothing."""
    rows = await session.execute(decisions(dialect_of(session)), {"ids": list(ids)})
    loaded: dict[int, dict[tuple[str, int], Any]] = {}
    for row in rows:
        value = XComModel.deserialize_value(row)
        loaded.setdefault(row.dag_run_id, {})[(row.task_id, row.map_index)] = value
    return loaded


@statement
def lengths(dialect: Dialect) -> Select[Any]:
    """Select the lengths of what unmapped instances in the runs *ids* returned."""
    c = TASK_MAP.c
    return (
        select(RUN.c.id, c.task_id, c.length)
        .join(RUN, of_run(TASK_MAP))
        .where(among(RUN.c.id, "ids", dialect), c.map_index < 0)
    )


@statement
def returned(dialect: Dialect) -> Select[Any]:
    """Count what mapped instances in the runs *ids* returned."""
    c = XCOM.c
    return (
        select(c.dag_run_id, c.task_id, func.count())
        .where(among(c.dag_run_id, "ids", dialect), c.key == "return_value", c.map_index >= 0)
        .group_by(c.dag_run_id, c.task_id)
    )


async def load_lengths(
    session: AsyncSession, ids: Sequence[int]
) -> tuple[dict[int, dict[str, int]], dict[int, dict[str, int]]]:
    """Return by run and task the lengths that plain tasks returned, and how many values mapped ones did.

    Mirrors ``get_task_map_length``. Locks nothing.
    """
    dialect, plain, mapped = dialect_of(session), {}, {}  # type: ignore[var-annotated]
    for statement_of, into in ((lengths, plain), (returned, mapped)):
        rows = await session.execute(statement_of(dialect), {"ids": list(ids)})
        for run, task_id, number in rows.all():
            into.setdefault(run, {})[task_id] = number
    return plain, mapped


@dataclass(slots=True)
class PreviousRunRows:
    """The run before another one; ``unsuccessful`` counts its task instances per task."""

    id: int
    run_id: str
    logical_date: datetime | None
    unsuccessful: dict[str, int] = field(default_factory=dict)


@statement
def previous(dialect: Dialect) -> Select[Any]:
    """Select for the run *id* of *dag* the run before *date*; manual ones count unless *catchup*."""
    c = RUN.c
    return (
        select(c.id, c.run_id, c.logical_date)
        .where(
            c.dag_id == bindparam("dag"),
            c.logical_date < bindparam("date", type_=c.logical_date.type),
            or_(bindparam("catchup") == 0, c.run_type != "manual"),
        )
        .order_by(c.logical_date.desc())
        .limit(1)
    )


@statement
def unsuccessful(dialect: Dialect) -> Select[Any]:
    """Count for each task of run *run* of *dag* the task instances that are neither success nor skipped."""
    c = INSTANCE.c
    done = case((c.state.in_(("success", "skipped")), 0), else_=1)
    return (
        select(c.task_id, func.sum(done))
        .where(c.dag_id == bindparam("dag"), c.run_id == bindparam("run"))
        .group_by(c.task_id)
    )


async def load_previous_run(
    session: AsyncSession, dag_id: str, logical_date: datetime | None, catchup: bool
) -> PreviousRunRows | None:
    """Return the run before *logical_date*, None if there is none. Locks nothing.

    Mirrors ``DagRun.get_previous_scheduled_dagrun`` with *catchup* and ``get_previous_dagrun`` without.
    """
    if logical_date is None:
        return None
    dialect = dialect_of(session)
    parameters = {"dag": dag_id, "date": logical_date, "catchup": int(catchup)}
    row = (await session.execute(previous(dialect), parameters)).first()
    if row is None:
        return None
    found = PreviousRunRows(*row)
    counts = await session.execute(unsuccessful(dialect), {"dag": dag_id, "run": found.run_id})
    found.unsuccessful = {task_id: int(count) for task_id, count in counts}
    return found


@statement
def seen_before(dialect: Dialect) -> Select[Any]:
    """Select those of the (dag, task) *tasks* that have an instance in a run before *date*."""
    c = INSTANCE.c
    return (
        select(c.task_id)
        .join(RUN, of_run())
        .where(
            keyed((c.dag_id, c.task_id), "tasks", dialect),
            RUN.c.logical_date < bindparam("date", type_=RUN.c.logical_date.type),
        )
        .distinct()
    )


async def tasks_seen_before(
    session: AsyncSession, dag_id: str, task_ids: Sequence[str], logical_date: datetime
) -> set[str]:
    """Return those of the tasks that had an instance before (``PrevDagrunDep._has_any_prior_tis``)."""
    dialect = dialect_of(session)
    wanted = keys("tasks", [(dag_id, task_id) for task_id in task_ids], dialect)
    found = await session.scalars(seen_before(dialect), {**wanted, "date": logical_date})
    return set(found.all())
