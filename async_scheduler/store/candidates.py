"""The candidates of the critical section: the best of the scheduled task instances."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    ARRAY,
    JSON,
    Boolean,
    Integer,
    String,
    and_,
    any_,
    bindparam,
    func,
    not_,
    null,
    select,
    true,
    union_all,
)
from sqlalchemy import column as new_column
from sqlalchemy.dialects.postgresql import aggregate_order_by

from async_scheduler.decide.admit import Candidate, Starved
from async_scheduler.store.constants import inline_constants
from async_scheduler.store.dialect import (
    Dialect,
    among,
    dialect_of,
    keyed,
    keys,
    locked,
    postgresql_statement,
    statement,
    still,
)
from async_scheduler.store.pools import occupied
from async_scheduler.store.tables import DAG, INSTANCE, RUN, of_run

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, FromClause, Select
    from sqlalchemy.ext.asyncio import AsyncSession


class Owners(NamedTuple):
    """Of whose runs candidates are: those of ``schedulers``, or all but those."""

    schedulers: frozenset[int]
    theirs: bool


EVERYBODY = Owners(frozenset(), theirs=False)


def _may_be_queued(run: Any, dialect: Dialect) -> tuple[ColumnElement[bool], ...]:
    """Whether a run and its dag let task instances be queued, and the run is of those asked for."""
    owner = func.coalesce(run.scheduled_by_job_id, 0, type_=Integer)
    asked_for = among(owner, "owners", dialect) == bindparam("theirs", type_=Boolean)
    dag_lets = not_(DAG.c.is_paused), DAG.c.bundle_name.is_not(None)
    return still(run.state, ("running",)), *dag_lets, asked_for


def _best(source: FromClause, dialect: Dialect) -> Select[Any]:
    """The ids of the best *most* scheduled instances of running runs, from each run no more than may run.

    The order is Airflow's with the id as the last word, so that the choice does not depend on the plan.
    """
    waiting = source.c
    order = (waiting.priority_weight.desc(), RUN.c.logical_date, waiting.map_index, waiting.id)
    ranked = (
        select(
            waiting.id,
            waiting.priority_weight,
            RUN.c.logical_date,
            waiting.map_index,
            DAG.c.max_active_tasks.label("most"),
            func.row_number()
            .over(partition_by=(waiting.dag_id, waiting.run_id), order_by=order)
            .label("place"),
        )
        .join(RUN, and_(RUN.c.dag_id == waiting.dag_id, RUN.c.run_id == waiting.run_id))
        .join(DAG, DAG.c.dag_id == waiting.dag_id)
        .where(*_may_be_queued(RUN.c, dialect))
        .subquery("ranked")
    ).c
    return (
        select(ranked.id)
        .where(ranked.place <= ranked.most)
        .order_by(ranked.priority_weight.desc(), ranked.logical_date, ranked.map_index, ranked.id)
        .limit(bindparam("most", type_=Integer))
    )


def _best_by_run(waiting: FromClause, dialect: Dialect) -> Select[Any]:
    """The same on PostgreSQL, where each run's instances become sorted arrays first.

    Runs and dags are then looked up once for each run and not for each instance: of a map 10,000 wide all
    of them wait, and only the next few hundred are wanted.
    """
    c = waiting.c
    order = (c.priority_weight.desc(), c.map_index, c.id)
    parts = {
        column.name: func.array_agg(aggregate_order_by(column, *order), type_=ARRAY(column.type))
        for column in (c.id, c.priority_weight, c.map_index)
    }
    by_run = (
        select(c.dag_id, c.run_id, *(part.label(name) for name, part in parts.items()))
        .group_by(c.dag_id, c.run_id)
        .subquery("by_run")
    ).c
    run = _run_of(by_run).c
    most = func.least(DAG.c.max_active_tasks, bindparam("most", type_=Integer))
    columns = [new_column(name, c[name].type) for name in parts]
    best = func.unnest(*(by_run[name][1:most] for name in parts)).table_valued(*columns, name="best")
    best = best.render_derived()
    return (
        select(best.c.id)
        .select_from(
            by_run.id.table.join(run.run_id.table, run.run_id == by_run.run_id)
            .join(DAG, DAG.c.dag_id == by_run.dag_id)
            .join(best, true())
        )
        .where(*_may_be_queued(run, dialect))
        .order_by(best.c.priority_weight.desc(), run.logical_date, best.c.map_index, best.c.id)
        .limit(bindparam("most", type_=Integer))
    )


def _run_of(keys: Any) -> FromClause:
    """The first run of a dag that is not before the one asked for: that one, if it is there.

    Asked so, the planner takes the index over both parts of the key. By the dag alone it would find all runs
    of the dag, with what every visit since the last vacuum has left of each.
    """
    c = RUN.c
    return (
        select(c.run_id, c.state, c.logical_date, c.scheduled_by_job_id)
        .where(c.dag_id == keys.dag_id, c.run_id >= keys.run_id)
        .order_by(c.dag_id, c.run_id)
        .limit(1)
        .lateral("run")
    )


def _waiting(dialect: Dialect, *, filtered: bool) -> FromClause:
    """All scheduled instances, found first and once, whatever the planner believes about their number."""
    c = INSTANCE.c
    query = (
        select(c.id, c.dag_id, c.run_id, c.priority_weight, c.map_index)
        .where(c.state == "scheduled", *(_not_starved(dialect) if filtered else ()))
        .with_hint(INSTANCE, "USE INDEX (ti_state)", dialect_name="mysql")
    )
    if not dialect.is_postgresql:
        return query.subquery("waiting")
    return query.cte("waiting").prefix_with("MATERIALIZED")


def _not_starved(dialect: Dialect) -> list[Any]:
    c = INSTANCE.c
    return [
        not_(among(c.pool, "pools", dialect)),
        not_(among(func.coalesce(c.executor, "", type_=String), "executors", dialect)),
        not_(keyed((c.dag_id, c.run_id), "runs", dialect)),
        not_(keyed((c.dag_id, c.task_id), "tasks", dialect)),
        not_(keyed((c.dag_id, c.run_id, c.task_id), "run_tasks", dialect)),
    ]


def _candidates(dialect: Dialect, waiting: FromClause, *before: ColumnElement[Any]) -> Select[Any]:
    """The best of those *waiting*, locked, with the columns *before* ahead of a candidate's own."""
    c = INSTANCE.c
    query = (
        select(
            *before,
            c.id,
            c.dag_id,
            c.task_id,
            c.run_id,
            c.map_index,
            c.pool,
            c.pool_slots,
            c.executor,
            DAG.c.max_active_tasks,
            DAG.c.has_task_concurrency_limits,
            RUN.c.scheduled_by_job_id.label("owner"),
        )
        .join(RUN, of_run())
        .join(DAG, DAG.c.dag_id == c.dag_id)
        .where(still(c.state, ("scheduled",)))
        .order_by(c.priority_weight.desc(), RUN.c.logical_date, c.map_index, c.id)
    )
    if dialect.is_postgresql:
        # As an array the ids are found once, before the rows: a join may repeat the search for each row.
        query = query.where(c.id == any_(func.array(_best_by_run(waiting, dialect).scalar_subquery())))
    else:
        chosen = _best(waiting, dialect).subquery("best")
        query = query.join(chosen, chosen.c.id == c.id)
    return locked(query, INSTANCE, dialect, skip=True)


@statement
def first(dialect: Dialect) -> Select[Any]:
    """Lock the first candidates of a critical section."""
    waiting = _waiting(dialect, filtered=False)
    return _candidates(dialect, waiting, _count(waiting))


@postgresql_statement
def first_with_room(dialect: Dialect) -> Select[Any]:
    """Do the same, and count what is active as ``pools.occupied`` does, in one statement; PostgreSQL only.

    One row tells how many wait, and what is active as an array of arrays; then come the candidates.
    """
    waiting, active = _waiting(dialect, filtered=False), occupied(dialect).subquery("active")
    # Here already: the columns of a CTE do not lead to what is in it.
    order = (INSTANCE.c.priority_weight, RUN.c.logical_date)
    chosen = inline_constants(_candidates(dialect, waiting, *order)).cte("chosen").c
    taken = select(func.json_agg(func.json_build_array(*active.c), type_=JSON))
    counted = (_count(waiting).label("waiting"), taken.scalar_subquery().label("taken"))
    head = select(*counted, *(null().label(column.name) for column in chosen))
    rows = union_all(head, select(null(), null(), *chosen)).subquery("best").c
    best = (rows.priority_weight.desc(), rows.logical_date, rows.map_index, rows.id)
    own = list(rows)[len(counted) + len(order) :]
    return select(rows.waiting, rows.taken, *own).order_by(rows.waiting, *best)


@statement
def more(dialect: Dialect) -> Select[Any]:
    """Lock candidates that need none of the pools, executors, runs and tasks that have no room left."""
    waiting = _waiting(dialect, filtered=True)
    return _candidates(dialect, waiting, _count(waiting))


def _count(waiting: FromClause) -> ColumnElement[Any]:
    return select(func.count()).select_from(waiting).scalar_subquery()


async def lock_candidates(
    session: AsyncSession, most: int, starved: Starved, owners: Owners
) -> tuple[list[Candidate], int | None]:
    """Lock and return at most *most* candidates of *owners*, best first, none of which needs what is starved.

    The second part is how many task instances wait in all, whoever has their runs, starved ones left out;
    None if nothing was found.

    Mirrors the query of ``_executable_task_instances_to_queued``. Locks: ``task_instance`` NO KEY UPDATE SKIP
    LOCKED, until the commit.
    """
    dialect = dialect_of(session)
    asked = {"most": most, "owners": sorted(owners.schedulers), "theirs": owners.theirs}
    if not starved.size():
        return _counted((await session.execute(first(dialect), asked)).all())
    parameters: dict[str, Any] = {
        **asked,
        "pools": sorted(starved.pools),
        "executors": sorted(name or "" for name in starved.executors),
        **keys("runs", sorted(starved.runs) or [("", "")], dialect),
        **keys("tasks", sorted(starved.tasks) or [("", "")], dialect),
        **keys("run_tasks", sorted(starved.run_tasks) or [("", "", "")], dialect),
    }
    return _counted((await session.execute(more(dialect), parameters)).all())


class Opening(NamedTuple):
    """The first candidates, how many task instances wait in all, and the rows of ``pools.occupied``.

    Whoever has their runs: ``waiting`` and ``taken`` count everybody's.
    """

    candidates: list[Candidate]
    waiting: int
    taken: Sequence[Sequence[Any]]


async def lock_first_with_room(session: AsyncSession, most: int, owners: Owners) -> Opening:
    """Lock at most *most* candidates of *owners*, best first, whatever room there is, and say what is active.

    For PostgreSQL: one statement instead of two, for a section in which nothing may have to be left out.
    Locks: as :func:`lock_candidates`.
    """
    asked = {"most": most, "owners": sorted(owners.schedulers), "theirs": owners.theirs}
    head, *rows = (await session.execute(first_with_room(dialect_of(session)), asked)).all()
    return Opening([Candidate._make(row[2:]) for row in rows], head[0], head[1] or ())


def _counted(rows: Sequence[Any]) -> tuple[list[Candidate], int | None]:
    return [Candidate._make(row[1:]) for row in rows], rows[0][0] if rows else None
