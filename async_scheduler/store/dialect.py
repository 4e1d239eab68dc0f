"""What differs between databases, and the memory of built statements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, wraps
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.utils.sqlalchemy import USE_ROW_LEVEL_LOCKING
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    FromClause,
    Select,
    TableValuedAlias,
    any_,
    bindparam,
    extract,
    func,
    nulls_first,
    select,
    text,
    tuple_,
)
from sqlalchemy import column as new_column

from async_scheduler.store.constants import inline_constants

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import Session
    from sqlalchemy.sql.visitors import ExternallyTraversible

T = TypeVar("T", bound="ExternallyTraversible")


@dataclass(frozen=True, slots=True)
class Dialect:
    """A kind of database as the statements see it.

    ``row_locks`` is false where Airflow takes none: SQLite, MariaDB, or ``[scheduler]
    use_row_level_locking`` off.
    """

    name: str
    row_locks: bool

    @property
    def is_postgresql(self) -> bool:
        """Whether arrays, CTEs that lock, and advisory locks are at hand."""
        return self.name == "postgresql"


POSTGRESQL = Dialect("postgresql", True)
MYSQL = Dialect("mysql", True)
SQLITE = Dialect("sqlite", False)

Built = Callable[[Dialect], T]

STATEMENTS: dict[str, Built[Any]] = {}
"""Every statement by module and name; a test compiles each for each dialect."""


POSTGRESQL_ONLY: set[str] = set()
"""The names of those that have no meaning on other databases."""


def statement(build: Built[T]) -> Built[T]:
    """Register *build*, a function from dialect to statement, and keep what it returns."""

    @wraps(build)
    def built(dialect: Dialect) -> T:
        return inline_constants(build(dialect)) if dialect.is_postgresql else build(dialect)

    kept: Built[T] = cache(built)
    STATEMENTS[_name(build)] = kept
    return kept


def postgresql_statement(build: Built[T]) -> Built[T]:
    """Do the same for a statement that only PostgreSQL is asked."""
    POSTGRESQL_ONLY.add(_name(build))
    return statement(build)


def build_statements(dialect: Dialect) -> int:
    """Build every statement now and return how many: a quarter of a second in all.

    Else each is built when it is first run: in a transaction, which idles meanwhile, and with all others
    that a scheduler runs in its first second.
    """
    wanted = [
        build for name, build in STATEMENTS.items() if dialect.is_postgresql or name not in POSTGRESQL_ONLY
    ]
    for build in wanted:
        build(dialect)
    return len(wanted)


def _name(build: Built[Any]) -> str:
    return f"{build.__module__.rpartition('.')[2]}.{build.__name__}"


def dialect_of(session: AsyncSession | Session) -> Dialect:
    """Return the dialect that *session* talks to."""
    return as_seen_here(session.get_bind().dialect)


def as_seen_here(dialect: Any) -> Dialect:
    """Return SQLAlchemy's *dialect*, of a database that has been connected to, as the statements see it."""
    return Dialect(dialect.name, takes_row_locks(dialect))


def takes_row_locks(dialect: Any) -> bool:
    """Return whether Airflow locks rows on a database that has been connected to (``with_row_locks``)."""
    return bool(USE_ROW_LEVEL_LOCKING) and (
        dialect.name == "postgresql"
        or (dialect.name == "mysql" and bool(getattr(dialect, "supports_for_update_of", False)))
    )


def among(column: ColumnElement[Any], name: str, dialect: Dialect) -> ColumnElement[bool]:
    """Return ``column IN (parameter name)``; on PostgreSQL as one array, so that its plan is reused."""
    if dialect.is_postgresql:
        return column == any_(bindparam(name, type_=ARRAY(column.type)))
    return column.in_(bindparam(name, expanding=True))


def keyed(columns: Sequence[ColumnElement[Any]], name: str, dialect: Dialect) -> ColumnElement[bool]:
    """Return ``(columns) IN (parameter)`` for composite keys; :func:`keys` makes the parameter.

    On PostgreSQL the keys travel as one array per column, *name*_0 and so on.
    """
    if not dialect.is_postgresql:
        return tuple_(*columns).in_(bindparam(name, expanding=True))
    return tuple_(*columns).in_(select(*given(columns, name).c))


def given(columns: Sequence[ColumnElement[Any]], name: str) -> TableValuedAlias:
    """Return the parameter of :func:`keyed` on PostgreSQL as a table, with a column for each of *columns*."""
    arrays = [bindparam(f"{name}_{n}", type_=ARRAY(c.type)) for n, c in enumerate(columns)]
    parts = [new_column(f"k{n}", c.type) for n, c in enumerate(columns)]
    return func.unnest(*arrays).table_valued(*parts, name=name).render_derived()


def keys(name: str, values: Sequence[Sequence[Any]], dialect: Dialect) -> dict[str, Any]:
    """Return the parameters for :func:`keyed`."""
    if not dialect.is_postgresql:
        return {name: [tuple(value) for value in values]}
    return {f"{name}_{n}": list(part) for n, part in enumerate(zip(*values, strict=True))}


def locked(
    query: Select[Any], of: FromClause, dialect: Dialect, *, skip: bool = False, nowait: bool = False
) -> Select[Any]:
    """Lock the rows of table *of* against writers: NO KEY UPDATE, as Airflow's ``with_row_locks``."""
    if not dialect.row_locks:
        return query
    return query.with_for_update(of=of, skip_locked=skip, nowait=nowait, key_share=True)


def still(
    column: ColumnElement[Any], states: Sequence[str | None] | ColumnElement[Any]
) -> ColumnElement[bool]:
    """Return ``column IN states`` (None for NULL): a check on rows found otherwise, no way to find them.

    Hidden in an expression it cannot draw the planner to the index on the state, which pays only when few
    rows have it: how many do changes faster than any statistics.
    """
    known = func.coalesce(column, "")
    if isinstance(states, ColumnElement):
        return known == states
    return known.in_([state or "" for state in states])


def nulls_lead(column: ColumnElement[Any], dialect: Dialect) -> ColumnElement[Any]:
    """Order NULLs first; other databases than PostgreSQL do so by themselves."""
    return nulls_first(column) if dialect.is_postgresql else column


def seconds_between(
    start: ColumnElement[Any], end: ColumnElement[Any], dialect: Dialect
) -> ColumnElement[Any]:
    """Return the seconds from *start* to *end*, fractions included."""
    if dialect.is_postgresql:
        return extract("epoch", end - start)
    if dialect.name == "mysql":
        return func.timestampdiff(text("MICROSECOND"), start, end) / 1_000_000
    return (func.julianday(end) - func.julianday(start)) * 86400
