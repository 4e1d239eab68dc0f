"""Running dag runs: claim them, note that they were looked at, close them, see who else changed them."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Integer,
    Select,
    Table,
    Update,
    bindparam,
    case,
    cast,
    false,
    func,
    not_,
    select,
    text,
    true,
)

from async_scheduler.store.dialect import Dialect, among, dialect_of, locked, statement, still
from async_scheduler.store.tables import (
    BACKFILL_RUN,
    DAG,
    FINISHED,
    HISTORY,
    INSTANCE,
    RUN,
    SCHEDULABLE,
    VERSION,
    of_run,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from sqlalchemy.ext.asyncio import AsyncSession


class ClaimedRun(NamedTuple):
    """A running run with what its decision needs of it; its row is locked where :func:`claim_runs` read it.

    ``version`` is the dag version that decides: the run's own where it is pinned to a bundle version,
    else the latest (``DBDagBag._version_from_dag_run``); ``latest_version`` the latest one.
    """

    id: int
    dag_id: str
    run_id: str
    run_type: str
    logical_date: datetime | None
    start_date: datetime | None
    clear_number: int
    bundle_version: str | None
    created_version: UUID | None
    latest_version: UUID | None
    backfill_ordinal: int | None
    examined_by: int | None = None

    @property
    def version(self) -> UUID | None:
        """The dag version whose tasks and rules count for this run."""
        if self.bundle_version and self.created_version:
            return self.created_version
        return self.latest_version


def latest_version(of: Table = RUN) -> Select[Any]:
    """Select the latest dag version of the dag of a row of *of*, for use inside a statement on that table."""
    return (
        select(VERSION.c.id)
        .where(VERSION.c.dag_id == of.c.dag_id)
        .order_by(VERSION.c.version_number.desc())
        .limit(1)
        .correlate(of)
    )


def _ordinal() -> Select[Any]:
    return (
        select(BACKFILL_RUN.c.sort_ordinal)
        .where(BACKFILL_RUN.c.dag_run_id == RUN.c.id, BACKFILL_RUN.c.backfill_id == RUN.c.backfill_id)
        .limit(1)
        .correlate(RUN)
    )


def examinable_columns() -> tuple[ColumnElement[Any], ...]:
    """Return what a :class:`ClaimedRun` is made of."""
    return (
        RUN.c.id,
        RUN.c.dag_id,
        RUN.c.run_id,
        RUN.c.run_type,
        RUN.c.logical_date,
        RUN.c.start_date,
        RUN.c.clear_number,
        RUN.c.bundle_version,
        RUN.c.created_dag_version_id,
        latest_version().scalar_subquery(),
        _ordinal().scalar_subquery(),
        RUN.c.scheduled_by_job_id,
    )


def is_examinable() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions, on a run joined with its dag, under which it is examined."""
    return (
        RUN.c.state == "running",
        RUN.c.run_after <= func.now(),
        DAG.c.is_paused == false(),
        DAG.c.is_stale == false(),
    )


@statement
def claim(dialect: Dialect) -> Select[Any]:
    """Lock the runs *ids* that are running, due, and of dags that are neither paused nor stale."""
    query = (
        select(*examinable_columns())
        .join(DAG, DAG.c.dag_id == RUN.c.dag_id)
        .where(among(RUN.c.id, "ids", dialect), *is_examinable())
        .order_by(RUN.c.id)
    )
    return locked(query, RUN, dialect, skip=True)


async def claim_runs(session: AsyncSession, ids: Sequence[int]) -> list[ClaimedRun]:
    """Lock running runs and return them. Mirrors ``DagRun.get_running_dag_runs_to_examine``.

    Locks: ``dag_run`` NO KEY UPDATE SKIP LOCKED in the order of ids, until the commit. A run that is missing
    from the result is locked by someone else, or is not to be examined now.
    """
    rows = await session.execute(claim(dialect_of(session)), {"ids": sorted(ids)})
    return [ClaimedRun._make(row) for row in rows]


@statement
def due(dialect: Dialect) -> Select[Any]:
    """Select the ids of all runs that :func:`claim` would lock."""
    return (
        select(RUN.c.id)
        .join(DAG, DAG.c.dag_id == RUN.c.dag_id)
        .where(*is_examinable())
        .with_hint(RUN, "USE INDEX (idx_dag_run_running_dags)", dialect_name="mysql")
    )


@statement
def fingerprint(dialect: Dialect) -> Select[Any]:
    """Select, for each run that may be claimed, what changes when its task instances do, or its dag.

    Those examined last by one of the jobs *owners* are left out.

    Counted are the states that decisions depend on. A running instance is left out: its heartbeats touch
    the row. A sum over modification times, unlike the latest one, also shows a change that was stamped
    before others but committed after them. The latest dag version shows that the dag has another one: its
    new tasks are to run in runs under way.
    """
    c = INSTANCE.c
    relevant = still(c.state, (None, *FINISHED, *SCHEDULABLE))
    head = (RUN.c.id, RUN.c.scheduled_by_job_id, RUN.c.last_scheduling_decision)
    mine = (
        *is_examinable(),
        not_(among(func.coalesce(RUN.c.scheduled_by_job_id, 0, type_=Integer), "owners", dialect)),
    )
    runs = RUN.join(DAG, DAG.c.dag_id == RUN.c.dag_id)
    if dialect.is_postgresql:
        # Lateral, one look-up for each run: see instances.py. Hashes cost half of what intervals do.
        changes = (func.count().filter(relevant), func.sum(_hash(c.updated_at)).filter(relevant))
        seen = select(*changes).where(of_run()).correlate(RUN).lateral("seen")
        chosen = select(*head, *seen.c, latest_version().scalar_subquery())
        return chosen.select_from(runs.join(seen, true())).where(*mine)
    changed = case((relevant, _age(dialect)))
    return (
        select(*head, func.count(changed), func.sum(changed), latest_version().scalar_subquery())
        .select_from(runs.outerjoin(INSTANCE, of_run()))
        .where(*mine)
        .group_by(RUN.c.id)
    )


def _hash(time: ColumnElement[Any]) -> ColumnElement[Any]:
    """Return 64 bits for a time with zone. PostgreSQL before 18 has a hash of times without one only."""
    return func.timestamp_hash_extended(func.timezone(text("interval '0'"), time), cast(0, BigInteger))


def _age(dialect: Dialect) -> ColumnElement[Any]:
    if dialect.name == "mysql":
        return cast(func.unix_timestamp(INSTANCE.c.updated_at) * 1_000_000, BigInteger)
    return cast((func.julianday(INSTANCE.c.updated_at) - 2_440_587.5) * 86_400_000_000, BigInteger)


class Seen(NamedTuple):
    """A running run as the sweep sees it: who examined it last and when, and its fingerprint."""

    examined_by: int | None
    examined_at: datetime | None
    fingerprint: tuple[Any, ...]


async def fingerprints(session: AsyncSession, left_out: Collection[int] = ()) -> dict[int, Seen]:
    """Return the fingerprint of every run that may be claimed, by run id. Locks nothing.

    :param left_out: the ids of jobs; runs that one of them examined last are not looked at.
    """
    rows = await session.execute(fingerprint(dialect_of(session)), {"owners": sorted(left_out)})
    return {run: Seen(owner, decided, tuple(parts)) for run, owner, decided, *parts in rows.all()}


@statement
def examined(dialect: Dialect) -> Select[Any]:
    """Select when each of the jobs *owners* examined last what is still a running run of its own."""
    return (
        select(RUN.c.scheduled_by_job_id, func.max(RUN.c.last_scheduling_decision))
        .where(RUN.c.state == "running", among(RUN.c.scheduled_by_job_id, "owners", dialect))
        .group_by(RUN.c.scheduled_by_job_id)
    )


async def last_examined(session: AsyncSession, owners: Collection[int]) -> dict[int, datetime]:
    """Return when each of these jobs examined a run last, of those that are running. Locks nothing."""
    rows = await session.execute(examined(dialect_of(session)), {"owners": sorted(owners)})
    return {owner: at for owner, at in rows.all() if at is not None}


@statement
def unverified(dialect: Dialect) -> Select[Any]:
    """Select those of the runs *ids* without a task instance, past tries included, of the latest version."""
    latest = latest_version().scalar_subquery()

    def has_it(table: Table) -> ColumnElement[bool]:
        return select(1).where(of_run(table), table.c.dag_version_id == latest).correlate(RUN).exists()

    return select(RUN.c.id).where(among(RUN.c.id, "ids", dialect), ~has_it(INSTANCE), ~has_it(HISTORY))


async def unverified_runs(session: AsyncSession, ids: Sequence[int]) -> set[int]:
    """Return those of the runs whose task instances have not been checked against the latest dag version.

    Mirrors the question of ``DagRun.check_version_id_exists_in_dr``. Locks nothing.
    """
    rows = await session.scalars(unverified(dialect_of(session)), {"ids": list(ids)})
    return set(rows.all())


@statement
def touch(dialect: Dialect) -> Update:
    """Stamp the runs *touched* as examined at *now*, by *job* unless they are among *kept*."""
    owner = case(
        (among(RUN.c.id, "kept", dialect), RUN.c.scheduled_by_job_id),
        else_=bindparam("job", type_=Integer),
    )
    return (
        RUN.update()
        .where(among(RUN.c.id, "touched", dialect))
        .values(last_scheduling_decision=bindparam("now"), scheduled_by_job_id=owner)
    )


async def touch_runs(
    session: AsyncSession, ids: Sequence[int], job: int | None, now: datetime, kept: Sequence[int] = ()
) -> None:
    """Note when the runs were examined, and by which scheduler's job; *kept* stay with the one before.

    The caller holds their locks.
    """
    parameters = {"touched": list(ids), "kept": list(kept), "job": job, "now": now}
    await session.execute(touch(dialect_of(session)), parameters)


@statement
def close(dialect: Dialect) -> Update:
    """End the runs *closed*, if they are still running."""
    return (
        RUN.update()
        .where(among(RUN.c.id, "closed", dialect), RUN.c.state == "running")
        .values(state=bindparam("ended_as"), end_date=bindparam("now"))
    )


async def close_runs(session: AsyncSession, ids: Sequence[int], state: str, now: datetime) -> int:
    """End the runs in *state* and return how many did: all of them, as the caller holds their locks."""
    parameters = {"closed": list(ids), "ended_as": state, "now": now}
    result = await session.execute(close(dialect_of(session)), parameters)
    return int(result.rowcount)  # type: ignore[attr-defined]
