"""What is always the same stands in a statement's text; what is given when it is run does not."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

import pytest
from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Enum,
    Integer,
    MetaData,
    String,
    Table,
    bindparam,
    func,
    literal,
    or_,
    select,
)
from sqlalchemy.dialects.postgresql import asyncpg as asyncpg_dialect
from sqlalchemy.dialects.postgresql import psycopg as psycopg_dialect

from async_scheduler.store.constants import PLAIN, inline_constants
from async_scheduler.store.dialect import MYSQL, POSTGRESQL, SQLITE, STATEMENTS, Dialect
from tests.databases.mysql_statements import load_all

DIALECT: Any = asyncpg_dialect.dialect()  # type: ignore[no-untyped-call]


class Kind(StrEnum):
    """Stored by name, as SQLAlchemy does with an enum."""

    FIRST = "1st"


ROW = Table(
    "row",
    MetaData(),
    Column("id", Integer),
    Column("state", String),
    Column("paused", Boolean),
    Column("at", DateTime),
    Column("kind", Enum(Kind)),
)


class State(StrEnum):
    RUNNING = "running"


def text_of(statement: Any) -> str:
    return " ".join(str(inline_constants(statement).compile(dialect=DIALECT)).split())


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        (ROW.c.state == "running", "row.state = 'running'"),
        (ROW.c.state == State.RUNNING, "row.state = 'running'"),
        (ROW.c.state == "it's", "row.state = 'it''s'"),
        (ROW.c.state == "100%:x", "row.state = '100%:x'"),
        (ROW.c.state.in_(["a", "b"]), "row.state IN ('a', 'b')"),
        (func.coalesce(ROW.c.id, -1) == 7, "coalesce(row.id, -1) = 7"),
        (ROW.c.paused == literal(True), "row.paused = true"),
        (ROW.c.paused == literal(1, Boolean()), "row.paused = true"),
    ],
)
def test_constants_are_literals(condition: Any, text: str) -> None:
    assert text_of(select(ROW.c.id).where(condition)) == f"SELECT row.id FROM row WHERE {text}"


@pytest.mark.parametrize(
    "condition",
    [
        ROW.c.id == bindparam("id"),
        ROW.c.state == bindparam("state", "running"),
        ROW.c.at > datetime(2020, 1, 1, tzinfo=UTC),
        ROW.c.state == "two\nlines",
        ROW.c.state == "back\\slash",
        ROW.c.kind == Kind.FIRST,
        ROW.c.state.in_([]),
        ROW.c.id.in_(bindparam("ids", expanding=True)),
    ],
)
def test_what_is_given_later_or_is_not_plain_stays_a_parameter(condition: Any) -> None:
    compiled = inline_constants(select(ROW.c.id).where(condition)).compile(dialect=DIALECT)
    assert len(compiled.binds) >= 1


def test_percent_signs_are_doubled_for_drivers_that_format() -> None:
    statement = inline_constants(select(ROW.c.id).where(ROW.c.state == "100%"))
    assert "'100%%'" in str(statement.compile(dialect=psycopg_dialect.dialect()))  # type: ignore[no-untyped-call]


def test_no_statement_has_a_plain_constant_left() -> None:
    load_all()
    for name, build in STATEMENTS.items():
        binds = build(POSTGRESQL).compile(dialect=DIALECT).binds.values()
        left = [bind.value for bind in binds if bind.unique and isinstance(bind.type, PLAIN)]
        assert not [value for value in left if value is not None], name


def test_the_statement_that_was_given_stays_as_it_is() -> None:
    given = select(ROW.c.id).where(or_(ROW.c.state == "a", ROW.c.id == 1))
    before = str(given.compile(dialect=DIALECT))
    inline_constants(given)
    assert str(given.compile(dialect=DIALECT)) == before


def test_changes_too() -> None:
    change = ROW.update().where(ROW.c.state == "queued").values(state="running", at=bindparam("now"))
    assert text_of(change) == (
        "UPDATE row SET state='running', at=$1::TIMESTAMP WITHOUT TIME ZONE WHERE row.state = 'queued'"
    )


@pytest.mark.parametrize(
    ("dialect", "literals"), [(POSTGRESQL, True), (MYSQL, False), (SQLITE, False)], ids=lambda d: str(d)
)
def test_statements_for_postgresql_have_them(dialect: Dialect, literals: bool) -> None:
    import async_scheduler.store.running  # noqa: F401  (registers its statements)

    claim = STATEMENTS["running.claim"](dialect).compile(dialect=DIALECT)
    assert ("dag_run.state = 'running'" in str(claim)) is literals
