"""Task instances that executors have reported on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, bindparam, literal_column, select, true

from async_scheduler.store.connection import run_on_connection
from async_scheduler.store.dialect import Dialect, among, dialect_of, given, keyed, keys, statement
from async_scheduler.store.tables import INSTANCE, RESCHEDULE, RUN, of_run

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Select, Update
    from sqlalchemy.ext.asyncio import AsyncSession

Key = tuple[str, str, str, int]
"""dag id, task id, run id, map index."""


class ReportedRow(NamedTuple):
    """A task instance an executor reported on, as the database has it, with what the log line names."""

    run: int
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    id: UUID
    state: str | None
    try_number: int
    max_tries: int
    queued_by_job_id: int | None
    start_date: datetime | None
    end_date: datetime | None
    duration: float | None
    pool: str
    queue: str | None
    priority_weight: int | None
    operator: str | None
    queued_dttm: datetime | None
    scheduled_dttm: datetime | None
    pid: int | None
    updated_at: datetime | None

    @property
    def key(self) -> Key:
        """The key without the try number, as in ``TaskInstanceKey.primary``."""
        return self.dag_id, self.task_id, self.run_id, self.map_index


def _columns() -> list[Any]:
    return [INSTANCE.c[name] for name in ReportedRow._fields[1:]]


@statement
def reported(dialect: Dialect) -> Select[Any]:
    """Select the task instances *ids* with the ids of their runs."""
    return select(RUN.c.id, *_columns()).join(RUN, of_run()).where(among(INSTANCE.c.id, "ids", dialect))


@statement
def reported_by_key(dialect: Dialect) -> Select[Any]:
    """Select the task instances *keys* with the ids of their runs."""
    c = INSTANCE.c
    key = (c.dag_id, c.task_id, c.run_id, c.map_index)
    if not dialect.is_postgresql:
        return select(RUN.c.id, *_columns()).join(RUN, of_run()).where(keyed(key, "keys", dialect))
    # Run by run: the planner believes that each key leads to few rows whatever the index, and would read all
    # of a wide map again for each of its instances.
    wanted = given(key, "keys")
    runs = select(wanted.c.k0, wanted.c.k2).distinct().subquery("runs")
    of_each = (
        select(*_columns()).where(c.dag_id == runs.c.k0, c.run_id == runs.c.k2).offset(literal_column("0"))
    )
    found = of_each.lateral("found")
    same = (found.c[column.name] == part for column, part in zip(key, wanted.c, strict=True))
    run = and_(RUN.c.dag_id == found.c.dag_id, RUN.c.run_id == found.c.run_id)
    source = runs.join(found, true()).join(wanted, and_(*same)).join(RUN, run)
    return select(RUN.c.id, *found.c).select_from(source)


async def load_reported(session: AsyncSession, wanted: Mapping[Key, UUID | None]) -> list[ReportedRow]:
    """Return the task instances with these keys, those that exist. Locks nothing, so that none is skipped.

    *wanted* gives the id under which the executor got it, None where that is not known; one that has
    another id by now, as a retry has, is found by its key. Mirrors the query of
    ``SchedulerJobRunner.process_executor_events``, whose SKIP LOCKED loses events (#55004).
    """
    dialect = dialect_of(session)
    found = []
    if ids := [instance for instance in wanted.values() if instance is not None]:
        rows = await session.execute(reported(dialect), {"ids": ids})
        found = [ReportedRow._make(row) for row in rows]
    if missing := wanted.keys() - {row.key for row in found}:
        rows = await session.execute(reported_by_key(dialect), keys("keys", list(missing), dialect))
        found += [ReportedRow._make(row) for row in rows]
    return found


@statement
def rescheduled(dialect: Dialect) -> Select[Any]:
    """Select those of the task instances *ids* that their present try has rescheduled."""
    c = RESCHEDULE.c
    return select(c.ti_id).where(among(c.ti_id, "ids", dialect)).distinct()


async def load_rescheduled(session: AsyncSession, instances: Collection[UUID]) -> set[UUID]:
    """Return those of *instances* that have been rescheduled in the try they are in. Locks nothing."""
    rows = await session.scalars(rescheduled(dialect_of(session)), {"ids": sorted(instances)})
    return set(rows.all())


@statement
def external_id(dialect: Dialect) -> Update:
    """Set the external executor id of one task instance."""
    c = INSTANCE.c
    return (
        INSTANCE.update()
        .where(
            c.dag_id == bindparam("of_dag"),
            c.task_id == bindparam("of_task"),
            c.run_id == bindparam("of_run"),
            c.map_index == bindparam("of_index"),
        )
        .values(external_executor_id=bindparam("given"))
    )


async def set_external_ids(session: AsyncSession, given: Mapping[Key, str | None]) -> None:
    """Store the ids under which executors know their task instances, in the order of their keys.

    Locks: ``task_instance`` NO KEY UPDATE; waits for a worker that is just changing its own row.
    """
    names = ("of_dag", "of_task", "of_run", "of_index", "given")
    rows = [dict(zip(names, (*key, info), strict=True)) for key, info in sorted(given.items())]
    await run_on_connection(session, external_id(dialect_of(session)), rows)
