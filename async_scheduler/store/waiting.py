"""Whether there is anything to do at all: one cheap look for all stages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.models.callback import CallbackState, CallbackType, ExecutorCallback
from airflow.models.connection_test import ConnectionTestRequest, ConnectionTestState
from airflow.models.deadline import Deadline
from sqlalchemy import ColumnElement, false, func, select

from async_scheduler.store.creation import asset_work, due_work
from async_scheduler.store.dialect import Dialect, dialect_of, statement
from async_scheduler.store.jobs import JOB, is_alive, job_state
from async_scheduler.store.queued import of_waiting
from async_scheduler.store.running import due as due_runs
from async_scheduler.store.tables import DAG, INSTANCE, RUN

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncSession


class Waiting(NamedTuple):
    """What waits in the database, seen without a lock; zero or false where nothing does.

    ``queued_runs`` and ``due_dags`` count; the others only tell whether there is any. ``queued_last`` is when
    the last of the queued runs came, by the clock of whoever queued it. ``schedulers`` counts those that are
    alive, this one among them, and once more those that say how they work (:func:`job_kind`), which they do
    when they begin; ``running_runs`` is true if a run may be examined, busy or not; ``job_state``
    is the state of this scheduler's job, None where its row is gone.
    """

    queued_runs: int
    queued_last: datetime | None
    due_dags: int
    assets: bool
    scheduled_instances: bool
    missed_deadlines: bool
    callbacks: bool
    connection_tests: bool
    schedulers: int
    running_runs: bool
    job_state: str | None


def _any(*conditions: ColumnElement[bool]) -> Any:
    return select(1).where(*conditions).exists()


@statement
def waiting(dialect: Dialect) -> Select[Any]:
    """Select what waits, as :class:`Waiting` has it. Parameters ``since`` (:func:`is_alive`) and ``job``."""
    queued = (
        of_waiting(func.count().label("runs"), func.max(RUN.c.queued_at).label("last")).subquery("queued").c
    )
    due = select(func.count()).select_from(DAG).where(*due_work())
    deadline, callback, test = (
        Deadline.__table__.c,
        ExecutorCallback.__table__.c,
        ConnectionTestRequest.__table__.c,
    )
    return select(
        queued.runs,
        queued.last,
        due.scalar_subquery(),
        asset_work(),
        _any(INSTANCE.c.state == "scheduled"),
        _any(deadline.deadline_time < func.now(), deadline.missed == false()),
        _any(callback.type == CallbackType.EXECUTOR, callback.state == CallbackState.PENDING),
        _any(test.state == ConnectionTestState.PENDING),
        select(func.count() + func.count(JOB.c.executor_class)).where(*is_alive()).scalar_subquery(),
        due_runs(dialect).exists(),
        job_state(dialect).scalar_subquery(),
    )


async def look(session: AsyncSession, since: datetime, job: int) -> Waiting:
    """Return what waits for the scheduler of *job*, and how it does. Locks nothing.

    Schedulers count whose heartbeat is not older than *since*.
    """
    row = (await session.execute(waiting(dialect_of(session)), {"since": since, "job": job})).one()
    return Waiting._make(row)
