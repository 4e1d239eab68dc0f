"""Task instances that executors have reported on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import and_, bindparam, select

from async_scheduler.store.connection import run_on_connection
from async_scheduler.store.dialect import Dialect, dialect_of, keyed, keys, statement
from async_scheduler.store.tables import INSTANCE, RUN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
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

    @property
    def key(self) -> Key:
        """The key without the try number, as in ``TaskInstanceKey.primary``."""
        return self.dag_id, self.task_id, self.run_id, self.map_index


@statement
def reported(dialect: Dialect) -> Select[Any]:
    """Select the task instances *keys* with the ids of their runs."""
    c = INSTANCE.c
    columns = [getattr(c, name) for name in ReportedRow._fields[1:]]
    return (
        select(RUN.c.id, *columns)
        .join(RUN, and_(RUN.c.dag_id == c.dag_id, RUN.c.run_id == c.run_id))
        .where(keyed((c.dag_id, c.task_id, c.run_id, c.map_index), "keys", dialect))
    )


async def load_reported(session: AsyncSession, wanted: Sequence[Key]) -> list[ReportedRow]:
    """Return the task instances with these keys, those that exist. Locks nothing, so that none is skipped.

    Mirrors the query of ``SchedulerJobRunner.process_executor_events``, whose SKIP LOCKED loses events
    (#55004).
    """
    dialect = dialect_of(session)
    rows = await session.execute(reported(dialect), keys("keys", wanted, dialect))
    return [ReportedRow._make(row) for row in rows]


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
