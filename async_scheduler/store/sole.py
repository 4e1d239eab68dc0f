"""The jobs of other schedulers, for databases on which only one may run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.jobs.job import Job
from sqlalchemy import bindparam, select

from async_scheduler.store.dialect import Dialect, dialect_of, statement

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import Select, Table, Update
    from sqlalchemy.orm import Session

JOB: Table = Job.__table__


class OtherScheduler(NamedTuple):
    """A scheduler's job that counts as alive."""

    id: int
    hostname: str | None
    latest_heartbeat: datetime


@statement
def earlier(dialect: Dialect) -> Select[Any]:
    """Select the running scheduler jobs older than *job* with a heartbeat after *since*, oldest first."""
    c = JOB.c
    return (
        select(c.id, c.hostname, c.latest_heartbeat)
        .where(
            c.job_type == "SchedulerJob",
            c.state == "running",
            c.id < bindparam("job"),
            c.latest_heartbeat >= bindparam("since"),
        )
        .order_by(c.id)
    )


def find_earlier(session: Session, job: int, since: datetime) -> list[OtherScheduler]:
    """Return the schedulers that started before *job* and have been alive after *since*. Locks nothing."""
    rows = session.execute(earlier(dialect_of(session)), {"job": job, "since": since})
    return [OtherScheduler._make(row) for row in rows]


@statement
def beat(dialect: Dialect) -> Update:
    """Note that *job* was alive at *now*."""
    return JOB.update().where(JOB.c.id == bindparam("job")).values(latest_heartbeat=bindparam("now"))


def note_alive(session: Session, job: int, now: datetime) -> None:
    """Let later schedulers see that *job* is alive. Locks: its row; waits."""
    session.execute(beat(dialect_of(session)), {"job": job, "now": now})
