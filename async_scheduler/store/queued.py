"""Queued dag runs: the ones that may start, and their start."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import Integer, and_, bindparam, false, func, or_, select

from async_scheduler.store.dialect import Dialect, among, dialect_of, locked, nulls_lead, statement
from async_scheduler.store.running import latest_version
from async_scheduler.store.tables import BACKFILL, BACKFILL_RUN, DAG, RUN

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from datetime import datetime
    from uuid import UUID

    from sqlalchemy import ColumnElement, FromClause, Select, Update
    from sqlalchemy.ext.asyncio import AsyncSession


class StartableRun(NamedTuple):
    """A queued run whose row this transaction has locked and that fits its dag's or backfill's limit.

    ``chosen`` is how many runs were chosen with it, itself among them: all that were not locked are claimed.
    """

    id: int
    dag_id: str
    run_id: str
    run_type: str
    run_after: datetime
    triggered_by: str | None
    clear_number: int
    backfill_id: int | None
    bundle_version: str | None
    created_version: UUID | None
    latest_version: UUID | None
    chosen: int

    @property
    def version(self) -> UUID | None:
        """The dag version whose timetable counts for this run."""
        if self.bundle_version and self.created_version:
            return self.created_version
        return self.latest_version


class Hand(NamedTuple):
    """The runs that are dealt to a scheduler: those at *position* where ids are counted off *of* by *of*."""

    position: int
    of: int

    @property
    def is_all(self) -> bool:
        """Whether nobody else gets any."""
        return self.of == 1


ALL_RUNS = Hand(0, 1)


def _in_hand(c: Any, dialect: Dialect) -> ColumnElement[bool]:
    """Whether a run is dealt to this scheduler, or of a dag in *room*, where it has made room for one."""
    counted = c.id % bindparam("of", type_=Integer) == bindparam("position", type_=Integer)
    return or_(counted, among(c.dag_id, "room", dialect))


def _running(*of: ColumnElement[bool]) -> FromClause:
    return (
        select(RUN.c.dag_id, RUN.c.backfill_id, func.count().label("running"))
        .where(RUN.c.state == "running", *of)
        .group_by(RUN.c.dag_id, RUN.c.backfill_id)
        .subquery("running_runs")
    )


def _ranked(dialect: Dialect, *of: ColumnElement[bool]) -> FromClause:
    """Rank the queued runs of each dag and backfill in the order of Airflow, beside the places free.

    Left out are those of dags and backfills that have no place free, before anything is sorted: among many
    queued runs nearly all are. With *of* only runs that meet these conditions are read, which have to hold
    for all runs of a dag or for none.
    """
    running = _running(*of)
    order = (
        nulls_lead(BACKFILL_RUN.c.sort_ordinal, dialect),
        nulls_lead(RUN.c.last_scheduling_decision, dialect),
        RUN.c.run_after,
        RUN.c.id,
    )
    active = func.coalesce(running.c.running, 0)
    free = func.coalesce(BACKFILL.c.max_active_runs, DAG.c.max_active_runs) - active
    of_backfill = and_(BACKFILL_RUN.c.dag_run_id == RUN.c.id, BACKFILL_RUN.c.backfill_id == RUN.c.backfill_id)
    same = and_(
        running.c.dag_id == RUN.c.dag_id,
        func.coalesce(running.c.backfill_id, -1) == func.coalesce(RUN.c.backfill_id, -1),
    )
    return (
        select(
            RUN.c.id.label("id"),
            RUN.c.dag_id.label("dag_id"),
            func.row_number()
            .over(partition_by=(RUN.c.dag_id, RUN.c.backfill_id), order_by=order)
            .label("place"),
            free.label("free"),
            BACKFILL_RUN.c.sort_ordinal.label("ordinal"),
            RUN.c.last_scheduling_decision.label("decision"),
            active.label("active"),
            RUN.c.run_after.label("run_after"),
        )
        .join(DAG, and_(DAG.c.dag_id == RUN.c.dag_id, DAG.c.is_paused == false(), DAG.c.is_stale == false()))
        .outerjoin(BACKFILL_RUN, of_backfill)
        .outerjoin(BACKFILL, BACKFILL.c.id == BACKFILL_RUN.c.backfill_id)
        .outerjoin(running, same)
        .where(
            RUN.c.state == "queued",
            RUN.c.run_after <= func.now(),
            func.coalesce(BACKFILL.c.is_paused, false()) == false(),
            free > 0,
            *of,
        )
        .subquery("ranked")
    )


@statement
def claim(dialect: Dialect) -> Select[Any]:
    """Lock at most *most* queued runs that may start, of those in hand.

    A run's place among the queued runs of its dag and backfill has to lie within what is free of the limit.
    So a dag with many queued runs takes only the places it can use, and the rest of the window is left to
    other dags (#49508). Two schedulers rank alike: what one has locked the other skips, not replaces.
    """
    ranked = _ranked(dialect).c
    return _claim(ranked, dialect, _in_hand(ranked, dialect))


@statement
def claim_in_room(dialect: Dialect) -> Select[Any]:
    """Do the same with the runs of the dags *room* only, and read no other."""
    ranked = _ranked(dialect, among(RUN.c.dag_id, "room", dialect))
    return _claim(ranked.c, dialect)


def _claim(c: Any, dialect: Dialect, *wanted: ColumnElement[bool]) -> Select[Any]:
    order = (nulls_lead(c.ordinal, dialect), nulls_lead(c.decision, dialect), c.active, c.run_after, c.id)
    best = (
        select(c.id.label("id"), func.row_number().over(order_by=order).label("position"))
        .where(c.place <= c.free, *wanted)
        .order_by(*order)
        .limit(bindparam("most", type_=Integer))
        .subquery("best")
    )
    chosen = select(*best.c, func.count().over().label("number")).subquery("chosen")
    query = (
        select(
            RUN.c.id,
            RUN.c.dag_id,
            RUN.c.run_id,
            RUN.c.run_type,
            RUN.c.run_after,
            RUN.c.triggered_by,
            RUN.c.clear_number,
            RUN.c.backfill_id,
            RUN.c.bundle_version,
            RUN.c.created_dag_version_id,
            latest_version().scalar_subquery(),
            chosen.c.number,
        )
        .join(chosen, chosen.c.id == RUN.c.id)
        .where(RUN.c.state == "queued")
        .order_by(chosen.c.position)
    )
    return locked(query, RUN, dialect, skip=True)


async def claim_startable(
    session: AsyncSession, most: int, hand: Hand | None = ALL_RUNS, room: Collection[str] = ()
) -> list[StartableRun]:
    """Lock queued runs that fit their limits, best first, of those in *hand* and of the dags in *room*.

    Without a *hand* it is asked what these dags have, and not what all have.

    Mirrors ``DagRun.get_queued_dag_runs_to_set_running`` and the count that follows it in
    ``_start_queued_dagruns``. Locks: ``dag_run`` NO KEY UPDATE SKIP LOCKED, until the commit.
    """
    dialect = dialect_of(session)
    if hand is None:
        rows = await session.execute(claim_in_room(dialect), {"most": most, "room": sorted(room)})
    else:
        rows = await session.execute(claim(dialect), {"most": most, **_dealt(hand, room)})
    return [StartableRun._make(row) for row in rows]


def _dealt(hand: Hand, room: Collection[str]) -> dict[str, Any]:
    return {"position": hand.position, "of": hand.of, "room": sorted(room)}


def of_waiting(*columns: ColumnElement[Any]) -> Select[Any]:
    """Select *columns* of the queued runs that wait for a start, whether or not their limits let them."""
    active_dag = and_(DAG.c.dag_id == RUN.c.dag_id, DAG.c.is_paused == false(), DAG.c.is_stale == false())
    return (
        select(*columns)
        .select_from(RUN)
        .join(DAG, active_dag)
        .where(RUN.c.state == "queued", RUN.c.run_after <= func.now())
    )


class StillQueued(NamedTuple):
    """Whether queued runs wait, and whether one of those in hand may start, locked by anybody or not."""

    waits: bool
    may_start: bool


@statement
def still_queued(dialect: Dialect) -> Select[bool, bool]:
    """Select what :class:`StillQueued` has."""
    c = _ranked(dialect).c
    may_start = select(c.id).where(c.place <= c.free, _in_hand(c, dialect)).exists()
    return select(of_waiting(RUN.c.id).exists(), may_start)


@statement
def still_queued_in_room(dialect: Dialect) -> Select[bool, bool]:
    """Select the same, where only the runs of the dags *room* may start."""
    c = _ranked(dialect, among(RUN.c.dag_id, "room", dialect)).c
    return select(of_waiting(RUN.c.id).exists(), select(c.id).where(c.place <= c.free).exists())


async def see_queued(
    session: AsyncSession, hand: Hand | None = ALL_RUNS, room: Collection[str] = ()
) -> StillQueued:
    """Return what is left for :func:`claim_startable`, now or once nobody has it locked. Locks nothing."""
    dialect = dialect_of(session)
    if hand is None:
        found = await session.execute(still_queued_in_room(dialect), {"room": sorted(room)})
    else:
        found = await session.execute(still_queued(dialect), _dealt(hand, room))
    return StillQueued._make(found.one())


@statement
def backfills(dialect: Dialect) -> Select[Any]:
    """Lock the backfills *ids* against other schedulers that start their runs."""
    query = select(BACKFILL.c.id).where(among(BACKFILL.c.id, "ids", dialect)).order_by(BACKFILL.c.id)
    return query.with_for_update(skip_locked=True) if dialect.row_locks else query


async def lock_backfills(session: AsyncSession, ids: Collection[int]) -> set[int]:
    """Lock backfills and return those obtained (``SchedulerJobRunner._lock_backfills``).

    Locks: ``backfill`` UPDATE SKIP LOCKED, until the commit.
    """
    rows = await session.scalars(backfills(dialect_of(session)), {"ids": sorted(ids)})
    return set(rows.all())


@statement
def start(dialect: Dialect) -> Update:
    """Start the queued runs *started*."""
    return (
        RUN.update()
        .where(among(RUN.c.id, "started", dialect), RUN.c.state == "queued")
        .values(state="running", start_date=bindparam("now"), end_date=None)
    )


async def start_runs(session: AsyncSession, ids: Sequence[int], now: datetime) -> int:
    """Start runs whose rows the caller has locked; return how many: all of them."""
    result = await session.execute(start(dialect_of(session)), {"started": sorted(ids), "now": now})
    return int(result.rowcount)  # type: ignore[attr-defined]
