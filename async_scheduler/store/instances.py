"""Task instances: read the states of whole runs, write what was decided about them."""

from __future__ import annotations

import typing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import (
    CTE,
    BigInteger,
    ColumnElement,
    Select,
    Update,
    bindparam,
    case,
    cast,
    func,
    literal_column,
    or_,
    select,
    true,
)
from sqlalchemy.dialects.postgresql import aggregate_order_by

from async_scheduler.decide.states import NAMES, NO_STATE
from async_scheduler.store.constants import inline_constants
from async_scheduler.store.dialect import (
    Dialect,
    among,
    dialect_of,
    postgresql_statement,
    seconds_between,
    statement,
    still,
)
from async_scheduler.store.tables import FINISHED, INSTANCE, RUN, SCHEDULABLE, of_run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from decimal import Decimal
    from uuid import UUID

    from sqlalchemy import FromClause
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.sql.selectable import LateralFromClause

_NO_STATE = ""
"""Stands for NULL where a state is compared with a parameter."""
UNKNOWN = 255
"""Stands for a state that has no code."""


@dataclass(slots=True)
class StateRows:
    """The task instances of one run, as parallel lists in no particular order.

    ``map_indexes`` is None where no instance has one. With a ``digest`` (PostgreSQL) all ``ids`` are there,
    without it None stands for those of finished instances.
    """

    task_ids: list[str] = field(default_factory=list)
    states: list[str | None] = field(default_factory=list)
    ids: list[UUID | None] = field(default_factory=list)
    map_indexes: list[int] | None = None
    digest: Decimal | None = None

    @property
    def known_ids(self) -> list[UUID]:
        """All ids, where there is a digest."""
        return typing.cast("list[UUID]", self.ids)


class PackedStates(NamedTuple):
    """The states of one run's task instances in the order of their ids, a letter for each.

    ``digest`` is a hash of the set of ids and map indexes, of 64 bits for each: two sets with the same one
    are the same for all purposes.
    """

    size: int
    digest: Decimal
    states: str


_LETTERS = "abcdefghijklmn"
"""A letter for each state code."""
_CODE_OF_LETTER = bytes(
    _LETTERS.index(chr(byte)) if chr(byte) in _LETTERS else UNKNOWN for byte in range(256)
)


def unpack(states: str) -> bytes:
    """Return the state codes of packed states.

    :raises KeyError: for a state that Airflow does not know.
    """
    codes = states.encode("latin-1").translate(_CODE_OF_LETTER)
    if UNKNOWN in codes:
        raise KeyError(states[codes.index(UNKNOWN)])
    return codes


def _digest() -> ColumnElement[Any]:
    c = INSTANCE.c
    return func.sum(func.uuid_hash_extended(c.id, cast(c.map_index, BigInteger)))


def _of_each_run(aggregates: Sequence[ColumnElement[Any]]) -> LateralFromClause:
    return select(*aggregates).where(of_run()).having(func.count() > 0).correlate(RUN).lateral("found")


def _run_by_run(dialect: Dialect, *aggregates: ColumnElement[Any]) -> Select[Any]:
    """Select *aggregates* of the task instances of each of the runs *ids* that has any; PostgreSQL only.

    Lateral, so that each run costs a look-up in the index on (dag_id, run_id), whatever the plan was made
    for: for a join with GROUP BY the plan that is kept for any number of runs reads the whole table where
    a few running runs hold most of it.
    """
    found = _of_each_run(aggregates)
    source = RUN.join(found, true())
    return select(RUN.c.id, *found.c).select_from(source).where(among(RUN.c.id, "ids", dialect))


@statement
def states(dialect: Dialect) -> Select[Any]:
    """Select the task instances of the runs *ids*: on PostgreSQL one row of arrays per run."""
    c = INSTANCE.c
    open_id = case((or_(c.state.is_(None), c.state.not_in(FINISHED)), c.id))
    if not dialect.is_postgresql:
        return (
            select(RUN.c.id, c.task_id, c.state, open_id, c.map_index)
            .join(INSTANCE, of_run())
            .where(among(RUN.c.id, "ids", dialect))
        )
    aggregate = func.array_agg
    return _run_by_run(
        dialect,
        aggregate(c.task_id),
        aggregate(c.state),
        aggregate(c.id),
        case((func.max(c.map_index) >= 0, aggregate(c.map_index))),
        _digest(),
    )


async def load_states(session: AsyncSession, ids: Sequence[int]) -> dict[int, StateRows]:
    """Return the task instances of the runs by run id; a run without any is missing. Locks nothing.

    Called after the runs were claimed, where they are, in a statement of its own, so that it sees what those
    committed who held them before.
    """
    dialect = dialect_of(session)
    rows = await session.execute(states(dialect), {"ids": list(ids)})
    if dialect.is_postgresql:
        return {run: StateRows(*columns) for run, *columns in rows}
    loaded: dict[int, StateRows] = {}
    for run, task_id, state, instance, map_index in rows:
        of_run = loaded.setdefault(run, StateRows(map_indexes=[]))
        of_run.task_ids.append(task_id)
        of_run.states.append(state)
        of_run.ids.append(instance)
        assert of_run.map_indexes is not None
        of_run.map_indexes.append(map_index)
    return loaded


def _packed() -> tuple[ColumnElement[Any], ...]:
    """The parts of :class:`PackedStates`."""
    c = INSTANCE.c
    letters: list[tuple[str, Any]] = [
        (name, literal_column(f"'{_LETTERS[code]}'")) for code, name in enumerate(NAMES) if name
    ]
    by_name: dict[Any, Any] = {literal_column(f"'{name}'"): letter for name, letter in letters}
    letter = case(
        (c.state.is_(None), literal_column(f"'{_LETTERS[NO_STATE]}'")),
        else_=case(by_name, value=c.state, else_=literal_column("'?'")),
    )
    letters_by_id = func.string_agg(letter, aggregate_order_by(literal_column("''"), c.id))
    return func.count(), _digest(), letters_by_id


def packed_of_run() -> LateralFromClause:
    """Return the packed states of each row of ``dag_run``, to be joined with it."""
    return _of_each_run(_packed())


@postgresql_statement
def packed(dialect: Dialect) -> Select[Any]:
    """Select the states of the task instances of the runs *ids*; PostgreSQL only."""
    return _run_by_run(dialect, *_packed())


async def load_packed(session: AsyncSession, ids: Sequence[int]) -> dict[int, PackedStates]:
    """Return the states of the runs' task instances by run id. Locks nothing.

    Much less to read than :func:`load_states`, for runs of which everything else is known. PostgreSQL only.
    """
    rows = await session.execute(packed(dialect_of(session)), {"ids": list(ids)})
    return {run: PackedStates(*columns) for run, *columns in rows}


def _ordered_update(
    dialect: Dialect, condition: ColumnElement[bool], values: dict[str, Any] | list[tuple[Any, Any]]
) -> Update:
    """Update the task instances *ids* that meet *condition*, locking them in the order of their ids.

    An UPDATE alone locks rows in the order of its plan and deadlocks with another one (#66734).
    """
    c = INSTANCE.c
    chosen = among(c.id, "ids", dialect) & condition
    if not dialect.is_postgresql:
        return _valued(INSTANCE.update().where(chosen), values)
    lock = select(c.id).where(chosen).order_by(c.id).with_for_update(key_share=True)
    # Here already: the columns of a CTE do not lead to what is in it.
    locked: CTE = inline_constants(lock).cte("locked")
    return _valued(INSTANCE.update().where(c.id == locked.c.id), values)


def _valued(update: Update, values: dict[str, Any] | list[tuple[Any, Any]]) -> Update:
    return update.ordered_values(*values) if isinstance(values, list) else update.values(values)


def is_schedulable() -> ColumnElement[bool]:
    return still(INSTANCE.c.state, (None, *SCHEDULABLE))


def into_scheduled() -> list[tuple[Any, Any]]:
    """Return what becomes of task instances that are scheduled *now*."""
    c = INSTANCE.c
    next_try = case((c.state == "up_for_reschedule", c.try_number), else_=c.try_number + 1)
    # MySQL assigns from left to right: the try number has to look at the state before it changes.
    return [(c.try_number, next_try), (c.state, "scheduled"), (c.scheduled_dttm, bindparam("now"))]


@statement
def schedule(dialect: Dialect) -> Update:
    """Make the schedulable task instances *ids* scheduled, with a new try unless they were rescheduled."""
    return _ordered_update(dialect, is_schedulable(), into_scheduled())


@statement
def succeed(dialect: Dialect) -> Update:
    """Let the schedulable task instances *ids* succeed without being run."""
    c = INSTANCE.c
    values = {
        "state": "success",
        "start_date": bindparam("now"),
        "end_date": bindparam("now"),
        "duration": 0,
        "try_number": c.try_number + 1,
    }
    return _ordered_update(dialect, is_schedulable(), values)


@statement
def flag(dialect: Dialect) -> Update:
    """Give the task instances *ids* the finished state *new*, if they still have the state *old*."""
    c = INSTANCE.c
    now = bindparam("now", type_=c.start_date.type)
    start, end = func.coalesce(c.start_date, now), func.coalesce(c.end_date, now)
    values = [
        (c.duration, seconds_between(start, end, dialect)),
        (c.start_date, start),
        (c.end_date, end),
        (c.state, bindparam("new")),
    ]
    return _ordered_update(dialect, still(c.state, bindparam("old")), values)


async def _run(
    session: AsyncSession, build: Callable[[Dialect], Update], ids: Sequence[UUID], **parameters: Any
) -> int:
    if not ids:
        return 0
    result = await session.execute(build(dialect_of(session)), {"ids": sorted(ids), **parameters})
    return int(result.rowcount)  # type: ignore[attr-defined]


async def mark_scheduled(session: AsyncSession, ids: Sequence[UUID], now: datetime) -> int:
    """Make task instances scheduled; return how many still were schedulable. Mirrors ``schedule_tis``.

    Locks: ``task_instance`` NO KEY UPDATE in the order of ids; waits.
    """
    return await _run(session, schedule, ids, now=now)


async def mark_succeeded(session: AsyncSession, ids: Sequence[UUID], now: datetime) -> int:
    """Let empty task instances succeed; return how many still were schedulable. Locks as above."""
    return await _run(session, succeed, ids, now=now)


async def mark_flagged(
    session: AsyncSession, ids: Sequence[UUID], old: str | None, new: str, now: datetime
) -> int:
    """Change task instances from *old* to the finished state *new*; return how many still were in *old*.

    Mirrors ``TaskInstance.set_state``: dates already set are kept. Locks as above.
    """
    return await _run(session, flag, ids, old=old or _NO_STATE, new=new, now=now)


@statement
def first_starts(dialect: Dialect) -> Select[Any]:
    """Select the earliest start among the finished task instances of each of the runs *ids*."""
    first = first_start(RUN).correlate(RUN)
    return select(RUN.c.id, first.scalar_subquery()).where(among(RUN.c.id, "ids", dialect))


def first_start(run: FromClause) -> Select[Any]:
    """Select the earliest start among the finished task instances of a row of *run*."""
    c = INSTANCE.c
    of_it = (c.dag_id == run.c.dag_id, c.run_id == run.c.run_id)
    return select(func.min(c.start_date)).where(*of_it, still(c.state, FINISHED))


async def first_start_dates(session: AsyncSession, ids: Sequence[int]) -> dict[int, datetime]:
    """Return when the first task instance of each run started, where one did. Locks nothing."""
    rows = await session.execute(first_starts(dialect_of(session)), {"ids": list(ids)})
    return {run: start for run, start in rows if start is not None}


@statement
def failed_tries(dialect: Dialect) -> Select[Any]:
    """Select what decides when the task instances *ids* may be retried."""
    c = INSTANCE.c
    return select(c.id, c.try_number, c.end_date, c.retry_delay_override).where(
        among(c.id, "ids", dialect), still(c.state, ("up_for_retry",))
    )


async def load_failed_tries(
    session: AsyncSession, ids: Sequence[UUID]
) -> dict[UUID, tuple[int, datetime | None, float | None]]:
    """Return try number, end and delay override of the task instances that are up for retry."""
    rows = await session.execute(failed_tries(dialect_of(session)), {"ids": list(ids)})
    return {instance: (tries, end, override) for instance, tries, end, override in rows}
