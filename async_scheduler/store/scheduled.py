"""Scheduled task instances: the candidates of the critical section, and their way into the queue."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.utils.sqlalchemy import random_db_uuid
from sqlalchemy import Integer, Text, and_, bindparam, case, cast, func, or_, select

from async_scheduler.store.dialect import Dialect, among, dialect_of, locked, statement, still
from async_scheduler.store.running import latest_version
from async_scheduler.store.tables import DAG, INSTANCE, RUN

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import Select, Update
    from sqlalchemy.ext.asyncio import AsyncSession


class Limited(NamedTuple):
    """A dag version with limits per task that a candidate's run refers to."""

    dag_id: str
    bundle_version: str | None
    created_version: UUID | None
    latest_version: UUID | None

    @property
    def version(self) -> UUID | None:
        """The dag version whose limits count."""
        if self.bundle_version and self.created_version:
            return self.created_version
        return self.latest_version


@statement
def limited(dialect: Dialect) -> Select[Any]:
    """Select the dag versions that the running runs of the dags *dag_ids* refer to."""
    return (
        select(
            RUN.c.dag_id,
            RUN.c.bundle_version,
            RUN.c.created_dag_version_id,
            latest_version().scalar_subquery(),
        )
        .where(among(RUN.c.dag_id, "dag_ids", dialect), RUN.c.state == "running")
        .distinct()
    )


async def load_limited(session: AsyncSession, dag_ids: Collection[str]) -> list[Limited]:
    """Return the dag versions whose limits count for the running runs of *dag_ids*. Locks nothing."""
    rows = await session.execute(limited(dialect_of(session)), {"dag_ids": sorted(dag_ids)})
    return [Limited._make(row) for row in rows]


@statement
def leftover(dialect: Dialect) -> Select[Any]:
    """Select whether any task instance is scheduled."""
    return select(select(1).where(INSTANCE.c.state == "scheduled").exists())


async def any_scheduled(session: AsyncSession) -> bool:
    """Return whether any task instance is left that waits to be queued. Locks nothing."""
    return bool(await session.scalar(leftover(dialect_of(session))))


@statement
def release(dialect: Dialect) -> Update:
    """Take the state of the queued task instances *ids*, whose run has ended."""
    c = INSTANCE.c
    return (
        INSTANCE.update()
        .where(among(c.id, "ids", dialect), still(c.state, ("queued",)))
        .values(state=None, start_date=func.coalesce(c.start_date, bindparam("now", type_=c.start_date.type)))
    )


async def release_queued(session: AsyncSession, ids: Sequence[UUID], now: datetime) -> int:
    """Give task instances just queued their state back; return how many. The caller holds their locks.

    Mirrors ``_enqueue_task_instances_with_queued_state`` for a run that has ended meanwhile.
    """
    result = await session.execute(release(dialect_of(session)), {"ids": sorted(ids), "now": now})
    return int(result.rowcount)  # type: ignore[attr-defined]


@dataclass(frozen=True, slots=True)
class Preassigned:
    """Which task instances get an external executor id when they are queued.

    ``everyone`` says that all executors opt in; else ``names`` are those that do, and ``default`` says
    whether the default executor does.
    """

    everyone: bool = False
    names: frozenset[str] = frozenset()
    default: bool = False

    @property
    def any(self) -> bool:
        """Whether any executor opts in."""
        return self.everyone or self.default or bool(self.names)


class QueuedRow(NamedTuple):
    """A task instance that was queued, with what its workload needs."""

    id: UUID
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    dag_version_id: UUID | None
    hostname: str | None
    context_carrier: dict[str, Any] | None
    queue: str
    pool_slots: int
    priority_weight: int
    executor: str | None
    executor_config: dict[str, Any] | None
    external_executor_id: str | None
    scheduled_dttm: datetime | None
    end_date: datetime | None
    bundle_name: str | None
    relative_fileloc: str | None
    bundle_version: str | None
    logical_date: datetime | None
    run_state: str
    run: int


_INSTANCE_COLUMNS = QueuedRow._fields[: QueuedRow._fields.index("bundle_name")]


def _queue(dialect: Dialect, *, preassign: bool) -> Update | Select[Any]:
    c = INSTANCE.c
    values: dict[str, Any] = {
        "state": "queued",
        "queued_dttm": bindparam("now"),
        "queued_by_job_id": bindparam("job"),
    }
    if preassign:
        names: Any = bindparam("names", expanding=True)
        opts_in = or_(
            bindparam("everyone", type_=Integer) == 1,
            c.executor.in_(names),
            and_(c.executor.is_(None), bindparam("default", type_=Integer) == 1),
        )
        values["external_executor_id"] = case(
            (opts_in, cast(random_db_uuid(), Text)), else_=c.external_executor_id
        )
    chosen = and_(among(c.id, "ids", dialect), still(c.state, ("scheduled",)))
    update = INSTANCE.update().where(chosen).values(values)
    if not dialect.is_postgresql:
        return update
    updated = update.returning(*(c[name] for name in _INSTANCE_COLUMNS)).cte("updated").c
    return _with_dag_and_run([updated[name] for name in _INSTANCE_COLUMNS])


def _with_dag_and_run(columns: Sequence[Any]) -> Select[Any]:
    by_name = {column.name: column for column in columns}
    dag_id, run_id = by_name["dag_id"], by_name["run_id"]
    return (
        select(
            *columns,
            DAG.c.bundle_name,
            DAG.c.relative_fileloc,
            RUN.c.bundle_version,
            RUN.c.logical_date,
            RUN.c.state.label("run_state"),
            RUN.c.id.label("run"),
        )
        .join(DAG, DAG.c.dag_id == dag_id)
        .join(RUN, and_(RUN.c.dag_id == dag_id, RUN.c.run_id == run_id))
    )


@statement
def queue(dialect: Dialect) -> Update | Select[Any]:
    """Queue the scheduled task instances *ids*; on PostgreSQL return what their workloads need."""
    return _queue(dialect, preassign=False)


@statement
def queue_preassigned(dialect: Dialect) -> Update | Select[Any]:
    """The same, giving external executor ids to those whose executor wants it so."""
    return _queue(dialect, preassign=True)


@statement
def queued(dialect: Dialect) -> Select[Any]:
    """Select what the workloads of the queued task instances *ids* need."""
    c = INSTANCE.c
    columns = [c[name] for name in _INSTANCE_COLUMNS]
    return _with_dag_and_run(columns).where(among(c.id, "ids", dialect), still(c.state, ("queued",)))


async def mark_queued(
    session: AsyncSession, ids: Sequence[UUID], job: int | None, now: datetime, preassigned: Preassigned
) -> list[QueuedRow]:
    """Queue task instances whose rows the caller has locked, and return them in no particular order.

    Mirrors the UPDATE at the end of ``_executable_task_instances_to_queued``.
    """
    dialect = dialect_of(session)
    parameters: dict[str, Any] = {"ids": sorted(ids), "now": now, "job": job}
    build = queue
    if preassigned.any:
        build = queue_preassigned
        parameters |= {
            "everyone": int(preassigned.everyone),
            "names": sorted(preassigned.names),
            "default": int(preassigned.default),
        }
    result = await session.execute(build(dialect), parameters)
    if not dialect.is_postgresql:
        result = await session.execute(queued(dialect), {"ids": sorted(ids)})
    return [QueuedRow._make(row) for row in result]


@statement
def owners(dialect: Dialect) -> Select[Any]:
    """Lock those of the task instances *ids* that nobody holds, and select by whom they were queued."""
    c = INSTANCE.c
    query = select(c.id, c.state, c.queued_by_job_id).where(among(c.id, "ids", dialect)).order_by(c.id)
    return locked(query, INSTANCE, dialect, skip=True)


@statement
def existing(dialect: Dialect) -> Select[Any]:
    """Select those of the task instances *ids* that there are."""
    return select(INSTANCE.c.id).where(among(INSTANCE.c.id, "ids", dialect))


class Owned(NamedTuple):
    """The task instances queued by one job, and those held by a transaction: they may become so."""

    queued: set[UUID]
    held: set[UUID]


async def find_queued_by(session: AsyncSession, ids: Sequence[UUID], job: int | None) -> Owned:
    """Return which of the task instances are queued by *job*.

    Locks: ``task_instance`` NO KEY UPDATE SKIP LOCKED in the order of ids, until the commit: a row without a
    lock is as it was left, whatever became of the transaction that had it.
    """
    dialect, sorted_ids = dialect_of(session), sorted(ids)
    rows = (await session.execute(owners(dialect), {"ids": sorted_ids})).all()
    held = set(ids).difference(row[0] for row in rows)
    if held:
        held &= set((await session.scalars(existing(dialect), {"ids": sorted_ids})).all())
    return Owned({row[0] for row in rows if (row[1], row[2]) == ("queued", job)}, held)


@statement
def fail(dialect: Dialect) -> Update:
    """Fail all scheduled task instances of the dags *dag_ids*."""
    c = INSTANCE.c
    return (
        INSTANCE.update()
        .where(among(c.dag_id, "dag_ids", dialect), c.state == "scheduled")
        .values(state="failed")
    )


async def fail_scheduled(session: AsyncSession, dag_ids: Collection[str]) -> int:
    """Fail the scheduled task instances of dags that cannot be read, whatever their run; return how many.

    Mirrors ``_executable_task_instances_to_queued``. Locks: the rows changed; waits.
    """
    result = await session.execute(fail(dialect_of(session)), {"dag_ids": sorted(dag_ids)})
    return int(result.rowcount)  # type: ignore[attr-defined]
