"""Running dag runs read without a lock, and written only where nobody has changed them since.

For PostgreSQL. Optimistic: a row of ``dag_run`` is locked within one statement instead of from the read to
the commit. Every change of a row gives it another ``xmin``, so who finds the one it has read knows that no
user, no API call and no other scheduler has touched the run in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.models.dagrun import DagRun
from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    ScalarSelect,
    Text,
    and_,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy import column as new_column
from sqlalchemy.orm import aliased

from async_scheduler.store.constants import inline_constants
from async_scheduler.store.dialect import Dialect, among, dialect_of, given, postgresql_statement
from async_scheduler.store.instances import (
    PackedStates,
    first_start,
    into_scheduled,
    is_schedulable,
    packed_of_run,
)
from async_scheduler.store.jobs import JOB
from async_scheduler.store.running import ClaimedRun, examinable_columns, is_examinable
from async_scheduler.store.tables import DAG, INSTANCE, RUN

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Select
    from sqlalchemy.ext.asyncio import AsyncSession


class SeenRun(NamedTuple):
    """A running run as it was read: its columns, the version of its row, and the states of its instances.

    ``packed`` is None for a run without any.
    """

    run: ClaimedRun
    version: str
    packed: PackedStates | None


def _version() -> ColumnElement[str]:
    return cast(literal_column("dag_run.xmin"), Text)


@postgresql_statement
def see(dialect: Dialect) -> Select[Any]:
    """Select what ``running.claim`` does of the runs *ids*, and ``instances.packed``. Locks nothing."""
    found = packed_of_run()
    source = RUN.join(DAG, DAG.c.dag_id == RUN.c.dag_id).outerjoin(found, true())
    return (
        select(*examinable_columns(), _version(), *found.c)
        .select_from(source)
        .where(among(RUN.c.id, "ids", dialect), *is_examinable())
        .order_by(RUN.c.id)
    )


async def see_runs(session: AsyncSession, ids: Sequence[int]) -> dict[int, SeenRun]:
    """Return those of the runs that are to be examined now, by id, whoever has them locked."""
    rows = await session.execute(see(dialect_of(session)), {"ids": sorted(ids)})
    return {seen.run.id: seen for row in rows for seen in [_seen(tuple(row))]}


def _seen(row: tuple[Any, ...]) -> SeenRun:
    columns, version, packed = row[:_COLUMNS], row[_COLUMNS], row[_COLUMNS + 1 :]
    return SeenRun(ClaimedRun._make(columns), version, PackedStates._make(packed) if packed[0] else None)


_COLUMNS = len(ClaimedRun._fields)


@postgresql_statement
def schedule(dialect: Dialect) -> Select[Any]:
    """Make task instances scheduled and stamp their runs, as ``instances.schedule`` and ``running.touch`` do.

    Only of the runs whose row still is the version read, and for a job that is still running, whose state is
    in every row of the result. First the runs are locked, then their task instances in the order of ids, both
    NO KEY UPDATE SKIP LOCKED until the end of the statement: it waits for nobody, so it cannot go on for a
    scheduler that has given it up. Lost race: a run that somebody has locked or changed is missing from the
    result, and nothing of it was written; a task instance that somebody has is missing from its run's count.
    """
    seen = given((RUN.c.id, new_column("version", Text())), "seen").c
    unchanged = _unchanged(seen)
    # Here already: the columns of a CTE do not lead to what is in it.
    unchanged_runs = inline_constants(unchanged).cte("unchanged")
    locked = _lock_instances(unchanged_runs.c.id)
    owner = case((among(RUN.c.id, "kept", dialect), RUN.c.scheduled_by_job_id), else_=bindparam("job"))
    stamped = (
        RUN.update()
        .where(RUN.c.id == unchanged_runs.c.id)
        .values(scheduled_by_job_id=owner, **_examined_now())
        .returning(RUN.c.id)
        .cte("stamped")
    )
    count = select(func.count()).where(locked.c.run == stamped.c.id).correlate(stamped).scalar_subquery()
    head = select(_job_state().label("job_state")).subquery("head")
    return (
        select(head.c.job_state, stamped.c.id, count)
        .select_from(head.outerjoin(stamped, true()))
        .add_cte(_schedule_locked(locked))
    )


def _job_state() -> ScalarSelect[Any]:
    return select(JOB.c.state).where(JOB.c.id == bindparam("job", type_=Integer)).scalar_subquery()


def _unchanged(seen: Any, *columns: ColumnElement[Any]) -> Select[Any]:
    """Lock those of the runs *seen*, by id and version, that are as they were read; none for a dead job."""
    return (
        select(RUN.c.id, *columns)
        .join(seen.k0.table, seen.k0 == RUN.c.id)
        .where(_version() == seen.k1, _job_state() == "running")
        .order_by(RUN.c.id)
        .with_for_update(of=RUN, skip_locked=True, key_share=True)
    )


def _examined_now() -> dict[str, Any]:
    return {"last_scheduling_decision": bindparam("now"), "updated_at": bindparam("now")}


def _lock_instances(run: ColumnElement[int]) -> CTE:
    """Lock those of the task instances *wanted* that may be scheduled, each given with its run."""
    c = INSTANCE.c
    wanted = given((c.id, RUN.c.id), "wanted").c
    chosen = (
        select(c.id, run.label("run"))
        .join(wanted.k0.table, wanted.k0 == c.id)
        .join(run.table, run == wanted.k1)
        .where(is_schedulable())
        .order_by(c.id)
        .with_for_update(of=INSTANCE, skip_locked=True, key_share=True)
    )
    return inline_constants(chosen).cte("locked")


def _schedule_locked(locked: CTE) -> CTE:
    c = INSTANCE.c
    # By name: SQLAlchemy fills in one such default of a statement only.
    values = [*into_scheduled(), (c.updated_at, bindparam("now"))]
    update = INSTANCE.update().where(c.id == locked.c.id).ordered_values(*values)
    return inline_constants(update).returning(c.id).cte("scheduled")


class Stamped(NamedTuple):
    """The state of the job that wrote, and how many task instances of each run written became scheduled."""

    job_state: str | None
    scheduled: dict[int, int]


async def schedule_unless_changed(
    session: AsyncSession,
    versions: Mapping[int, str],
    instances: Sequence[tuple[UUID, int]],
    job: int,
    now: datetime,
    kept: Collection[int] = (),
) -> Stamped:
    """Schedule *instances* and note that their runs were examined, where these are as they were read.

    One statement, which may commit by itself, and nothing is written unless the job is running. Locks: those
    of :func:`schedule`; waits for none.

    :param versions: of the row of each run examined.
    :param instances: those that become scheduled, each with its run.
    :param kept: the runs that stay with the scheduler that examined them before.
    """
    parameters = {
        "seen_0": list(versions),
        "seen_1": list(versions.values()),
        "wanted_0": [instance for instance, _ in instances],
        "wanted_1": [run for _, run in instances],
        "kept": sorted(kept),
        "job": job,
        "now": now,
    }
    rows = (await session.execute(schedule(dialect_of(session)), parameters)).all()
    return Stamped(rows[0][0], {run: count for _, run, count in rows if run is not None})


@postgresql_statement
def end(dialect: Dialect) -> Select[Any]:
    """End runs and stamp them, as ``running.close`` and ``running.touch`` do, and select what has ended.

    Only runs whose row still is the version read, and for a job that is still running, whose state is in
    every row of the result; then comes the run as it is now, and when its first task instance started where
    that is measured. Locks: ``dag_run`` NO KEY UPDATE SKIP LOCKED in the order of ids, until the end of the
    statement. Lost race: a run that somebody has locked or changed is missing, and was not touched.
    """
    seen = given((RUN.c.id, new_column("version", Text()), RUN.c.state), "seen").c
    unchanged = _unchanged(seen, seen.k2.label("state"))
    # Here already: the columns of a CTE do not lead to what is in it.
    unchanged_runs = inline_constants(unchanged).cte("unchanged")
    ended = (
        RUN.update()
        .where(RUN.c.id == unchanged_runs.c.id)
        .values(
            state=unchanged_runs.c.state,
            end_date=bindparam("now"),
            scheduled_by_job_id=bindparam("job"),
            **_examined_now(),
        )
        .returning(*RUN.c)
        .cte("ended")
    )
    c = ended.c
    measured = and_(c.run_type == "scheduled", c.clear_number == 0)
    started = case((measured, first_start(ended).correlate(ended).scalar_subquery()))
    head = select(_job_state().label("job_state")).subquery("head")
    return select(head.c.job_state, aliased(DagRun, ended), started).select_from(
        head.outerjoin(ended, true())
    )


class Ended(NamedTuple):
    """The state of the job that wrote, and the runs that ended, each with the first start of an instance."""

    job_state: str | None
    runs: list[tuple[DagRun, datetime | None]]


async def end_unless_changed(
    session: AsyncSession, verdicts: Sequence[tuple[int, str, str]], job: int, now: datetime
) -> Ended:
    """End runs that are as they were read; return them.

    One statement, which may commit by itself, and nothing is written unless the job is running. Locks: those
    of :func:`end`; waits for none.

    :param verdicts: of each run the id, the version of its row, and the state it gets.
    """
    ids, versions, states = zip(*verdicts, strict=True)
    parameters = {
        "seen_0": list(ids),
        "seen_1": list(versions),
        "seen_2": list(states),
        "job": job,
        "now": now,
    }
    past_the_objects = {"populate_existing": True}  # that the session may hold
    statement = end(dialect_of(session))
    rows = (await session.execute(statement, parameters, execution_options=past_the_objects)).all()
    return Ended(rows[0][0], [(run, started) for _, run, started in rows if run is not None])
