"""The mutex of the critical section, and what is left in the pools."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from airflow.utils.db import DBLocks
from sqlalchemy import BindParameter, Integer, Select, String, bindparam, case, cast, func, literal, select

from async_scheduler.decide.admit import ActiveTasks, PoolSlots
from async_scheduler.store.dialect import (
    Dialect,
    among,
    dialect_of,
    locked,
    postgresql_statement,
    statement,
)
from async_scheduler.store.tables import DAG, INSTANCE, POOL

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from sqlalchemy.ext.asyncio import AsyncSession

OCCUPYING = ("running", "queued", "deferred")
ACTIVE = ("running", "queued", "deferred", "awaiting_input")
"""The states that count for limits per task (``ACTIVE_STATES``)."""


@statement
def lock(dialect: Dialect) -> Select[Any]:
    """Lock all pools or fail; on PostgreSQL, where the advisory lock is taken, lock and select nothing."""
    query = select(POOL.c.pool, POOL.c.slots, POOL.c.include_deferred).order_by(POOL.c.id)
    if dialect.is_postgresql:
        # A sub-select without a reference to the row is evaluated once, before any row is locked.
        query = query.where(select(func.pg_try_advisory_xact_lock(_section())).scalar_subquery())
    return locked(query, POOL, dialect, nowait=True)


@postgresql_statement
def lock_in_line(dialect: Dialect) -> Select[Any]:
    """Lock all pools, once whoever has the advisory lock has let go of it.

    Fails after *patience* milliseconds, as does every wait for a lock in the rest of the transaction.
    """
    query = select(POOL.c.pool, POOL.c.slots, POOL.c.include_deferred).order_by(POOL.c.id)
    bounded = func.set_config("lock_timeout", cast(bindparam("patience", type_=Integer()), String()), True)
    # A CASE, so that the wait is bounded before it begins. Pools that change meanwhile are read anew when
    # they are locked; one that comes meanwhile is seen by the next section.
    entered = case((bounded.is_not(None), func.pg_advisory_xact_lock(_section()).is_not(None)))
    return locked(query.where(select(entered).scalar_subquery()), POOL, dialect, nowait=True)


def _section() -> BindParameter[int]:
    return literal(int(DBLocks.SCHEDULER_CRITICAL_SECTION.value), literal_execute=True)


@statement
def occupied(dialect: Dialect) -> Select[Any]:
    """Count active task instances, and sum the slots they take, by pool, run and state."""
    c = INSTANCE.c
    return (
        select(
            c.pool,
            c.dag_id,
            c.run_id,
            c.state,
            func.count(),
            func.sum(c.pool_slots),
            func.min(DAG.c.max_active_tasks),
        )
        .outerjoin(DAG, DAG.c.dag_id == c.dag_id)
        .where(c.state.in_(OCCUPYING))
        .group_by(c.pool, c.dag_id, c.run_id, c.state)
    )


@dataclass(slots=True)
class Room:
    """What a critical section may fill: the pools, the active task instances by run, and the full runs."""

    pools: dict[str, PoolSlots]
    run_active: Counter[tuple[str, str]] = field(default_factory=Counter)
    full_runs: set[tuple[str, str]] = field(default_factory=set)


class LockedPool(NamedTuple):
    """A pool whose row this transaction has locked; -1 slots are as many as one likes."""

    name: str
    slots: int
    include_deferred: bool


async def enter_critical_section(session: AsyncSession) -> list[LockedPool]:
    """Enter the critical section and return the pools, none if another scheduler is in it.

    Mirrors the locks of ``_executable_task_instances_to_queued``. Locks, until the commit: the advisory lock
    of Airflow's critical section (PostgreSQL), ``slot_pool`` NO KEY UPDATE NOWAIT.

    :raises sqlalchemy.exc.DBAPIError: when a pool row is locked (55P03 and the like).
    """
    return [LockedPool._make(row) for row in (await session.execute(lock(dialect_of(session)))).all()]


async def wait_for_critical_section(session: AsyncSession, patience: float) -> list[LockedPool]:
    """Enter the critical section as soon as those have left who came before; return the pools.

    PostgreSQL only: elsewhere, and with a *patience* of zero, nobody waits and nothing is returned. To be
    called in a transaction that has tried in vain and holds no lock. Locks: see
    :func:`enter_critical_section`. The server serves those who wait in the order in which they came, so
    whoever only tries finds the section taken as long as others line up.

    :param patience: seconds.
    :raises sqlalchemy.exc.DBAPIError: when it has lasted longer, or a pool row is locked (55P03).
    """
    dialect = dialect_of(session)
    if not patience or not dialect.is_postgresql:
        return []
    bound = {"patience": max(1, round(1000 * patience))}  # zero would be for ever
    return [LockedPool._make(row) for row in (await session.execute(lock_in_line(dialect), bound)).all()]


async def count_occupied(session: AsyncSession) -> Sequence[Sequence[Any]]:
    """Return the rows of :func:`occupied`. Locks nothing.

    Called in the critical section, in a statement of its own or with the candidates': so that it sees what
    those committed who were in the section before.
    """
    return list(await session.execute(occupied(dialect_of(session))))


def room_in(pools: Sequence[LockedPool], taken: Iterable[Sequence[Any]]) -> Room:
    """Return what room there is where the rows of :func:`occupied` are *taken*.

    Mirrors ``Pool.slots_stats`` and the part of ``ConcurrencyMap`` that counts runs.
    """
    room = Room({pool.name: _all_open(pool.slots) for pool in pools})
    counts_deferred = {pool.name for pool in pools if pool.include_deferred}
    for row in taken:
        _take(room, counts_deferred, *row)
    return room


def _all_open(slots: int) -> PoolSlots:
    total = float("inf") if slots == -1 else float(slots)
    return PoolSlots(total, total)


def _take(
    room: Room,
    counts_deferred: Collection[str],
    pool: str,
    dag_id: str,
    run_id: str,
    state: str,
    count: int,
    slots: int,
    most: int | None,
) -> None:
    if pool in room.pools and (state != "deferred" or pool in counts_deferred):
        room.pools[pool].open -= int(slots)
    if state != "deferred":
        room.run_active[dag_id, run_id] += count
        if most is not None and room.run_active[dag_id, run_id] >= most:
            room.full_runs.add((dag_id, run_id))


@statement
def active(dialect: Dialect) -> Select[Any]:
    """Count the active task instances of the dags *dag_ids* by task and run."""
    c = INSTANCE.c
    return (
        select(c.dag_id, c.task_id, c.run_id, func.count())
        .where(among(c.dag_id, "dag_ids", dialect), c.state.in_(ACTIVE))
        .group_by(c.dag_id, c.task_id, c.run_id)
    )


async def count_active(session: AsyncSession, dag_ids: Collection[str]) -> ActiveTasks:
    """Return the active task instances of dags with limits per task (``ConcurrencyMap.load``)."""
    counted = ActiveTasks()
    rows = await session.execute(active(dialect_of(session)), {"dag_ids": sorted(dag_ids)})
    for dag_id, task_id, run_id, count in rows.all():
        counted.per_dag[dag_id, task_id] += count
        counted.per_run[dag_id, run_id, task_id] += count
    return counted
