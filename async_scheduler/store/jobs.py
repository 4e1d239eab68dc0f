"""The scheduler's own row in ``job``: whether others still count it among the living."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.jobs.job import Job, JobState
from sqlalchemy import bindparam, select

from async_scheduler.store.dialect import Dialect, dialect_of, statement

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy import ColumnElement, Select, Table, Update
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session

JOB: Table = Job.__table__


@statement
def job_state(dialect: Dialect) -> Select[Any]:
    """The state of one job; no lock. Parameter ``job``."""
    return select(JOB.c.state).where(JOB.c.id == bindparam("job"))


@statement
def job_state_locked(dialect: Dialect) -> Select[Any]:
    """The same, ``job`` NO KEY UPDATE: whoever is marking the job failed is waited for, and waits."""
    query = job_state(dialect)
    return query.with_for_update(key_share=True) if dialect.row_locks else query


def read_job_state(session: Session, job: int, *, lock: bool) -> str | None:
    """Return the state of *job*, None when its row is gone; with *lock* it keeps it until the commit."""
    build = job_state_locked if lock else job_state
    state: str | None = session.scalar(build(dialect_of(session)), {"job": job})
    return state


@statement
def renew(dialect: Dialect) -> Update:
    """Make a job running, alive at ``now``, of that ``kind``. Parameters ``job``, ``now``, ``kind``."""
    values = {
        "state": JobState.RUNNING,
        "executor_class": bindparam("kind"),
        "latest_heartbeat": bindparam("now", type_=JOB.c.latest_heartbeat.type),
    }
    return JOB.update().where(JOB.c.id == bindparam("job")).values(values)


def job_kind(algorithm: str) -> str:
    """Return what the job of an async scheduler has in ``executor_class``, which Airflow 3 leaves empty.

    Others see by it how this one works, and so does whoever looks at Airflow's list of jobs.
    """
    return f"async_scheduler:{algorithm}"


def renew_job(session: Session, job: int, now: datetime, kind: str) -> None:
    """Make *job* running with a heartbeat of *now*, whatever others have made of it. It must own no work.

    Locks: its row; waits.
    """
    session.execute(renew(dialect_of(session)), {"job": job, "now": now, "kind": kind})


def is_alive() -> tuple[ColumnElement[bool], ...]:
    """Whether a job is a scheduler's that is running and has sent a heartbeat ``since`` (a parameter)."""
    return (
        JOB.c.job_type == "SchedulerJob",
        JOB.c.state == JobState.RUNNING,
        JOB.c.latest_heartbeat >= bindparam("since", type_=JOB.c.latest_heartbeat.type),
    )


@statement
def alive(dialect: Dialect) -> Select[Any]:
    """Select id and kind of all schedulers' jobs that are alive. Parameter ``since``."""
    return select(JOB.c.id, JOB.c.executor_class).where(*is_alive())


class Alive(NamedTuple):
    """The jobs of all schedulers that are alive, and of those of them with the redesigned algorithm."""

    everybody: frozenset[int]
    fellows: frozenset[int]


async def load_alive(session: AsyncSession, since: datetime) -> Alive:
    """Return the jobs of all schedulers whose heartbeat is not older than *since*."""
    rows = (await session.execute(alive(dialect_of(session)), {"since": since})).all()
    kinds: dict[int, str | None] = {row.id: row.executor_class for row in rows}
    fellows = frozenset(job for job, kind in kinds.items() if kind == job_kind("redesigned"))
    return Alive(frozenset(kinds), fellows)


@statement
def succeed(dialect: Dialect) -> Update:
    """Make a running job one that has ended well; one that others have marked stays so. Parameter ``job``."""
    alive = JOB.c.id == bindparam("job"), JOB.c.state == JobState.RUNNING
    return JOB.update().where(*alive).values(state=JobState.SUCCESS)


def retire_job(session: Session, job: int) -> bool:
    """End *job* well, if it is still running; return whether it was. Nobody marks it failed after the commit.

    Locks: its row; waits.
    """
    changed: Any = session.execute(succeed(dialect_of(session)), {"job": job})
    return bool(changed.rowcount)
