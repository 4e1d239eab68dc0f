"""Running dag runs read without a lock, and written only where nobody has changed them since.

For PostgreSQL. Optimistic: a row of ``dag_run`` is locked within one statement instead of from the read to
the commit. Every change of a row gives it another ``xmin``, so who finds the one it has read knows that no
user, no API call and no other scheduler has touched the run in between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    CTE,
    ColumnElement,
    Integer,
    Text,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    select,
    true,
)
from sqlalchemy import column as new_column

from async_scheduler.store.constants import inline_constants
from async_scheduler.store.dialect import Dialect, among, dialect_of, given, postgresql_statement
from async_scheduler.store.instances import PackedStates, into_scheduled, is_schedulable, packed_of_run
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
    job_state = select(JOB.c.state).where(JOB.c.id == bindparam("job", type_=Integer)).scalar_subquery()
    seen = given((RUN.c.id, new_column("version", Text())), "seen").c
    unchanged = (
        select(RUN.c.id)
        .join(seen.k0.table, seen.k0 == RUN.c.id)
        .where(_version() == seen.k1, job_state == "running")
        .order_by(RUN.c.id)
        .with_for_update(of=RUN, skip_locked=True, key_share=True)
    )
    # Here already: the columns of a CTE do not lead to what is in it.
    unchanged_runs = inline_constants(unchanged).cte("unchanged")
    locked = _lock_instances(unchanged_runs.c.id)
    owner = case((among(RUN.c.id, "kept", dialect), RUN.c.scheduled_by_job_id), else_=bindparam("job"))
    stamped = (
        RUN.update()
        .where(RUN.c.id == unchanged_runs.c.id)
        .values(
            last_scheduling_decision=bindparam("now"), scheduled_by_job_id=owner, updated_at=bindparam("now")
        )
        .returning(RUN.c.id)
        .cte("stamped")
    )
    count = select(func.count()).where(locked.c.run == stamped.c.id).correlate(stamped).scalar_subquery()
    head = select(job_state.label("job_state")).subquery("head")
    return (
        select(head.c.job_state, stamped.c.id, count)
        .select_from(head.outerjoin(stamped, true()))
        .add_cte(_schedule_locked(locked))
    )


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
