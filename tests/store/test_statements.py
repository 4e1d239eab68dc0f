"""Every statement compiles for every database."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.dialects import mysql, postgresql, sqlite

from async_scheduler.store.dialect import (
    MYSQL,
    POSTGRESQL,
    POSTGRESQL_ONLY,
    SQLITE,
    STATEMENTS,
    Dialect,
    build_statements,
)

DIALECTS: dict[Dialect, Any] = {
    POSTGRESQL: postgresql.dialect(),  # type: ignore[no-untyped-call]
    MYSQL: mysql.dialect(),
    SQLITE: sqlite.dialect(),
}


ASKED = [
    (name, dialect)
    for name in sorted(STATEMENTS)
    for dialect in DIALECTS
    if dialect.is_postgresql or name not in POSTGRESQL_ONLY
]


@pytest.mark.parametrize(("name", "dialect"), ASKED, ids=lambda part: getattr(part, "name", part))
def test_statement_compiles(name: str, dialect: Dialect) -> None:
    text = str(STATEMENTS[name](dialect).compile(dialect=DIALECTS[dialect]))
    assert text
    if not dialect.row_locks:
        assert "FOR UPDATE" not in text


def test_statements_are_built_once() -> None:
    name = sorted(STATEMENTS)[0]
    assert STATEMENTS[name](POSTGRESQL) is STATEMENTS[name](POSTGRESQL)


@pytest.mark.parametrize("dialect", [POSTGRESQL, MYSQL, SQLITE])
def test_none_is_left_to_be_built_when_it_is_first_run(dialect: Dialect) -> None:
    wanted = [name for name in STATEMENTS if dialect.is_postgresql or name not in POSTGRESQL_ONLY]
    assert build_statements(dialect) == len(wanted)
    before = [STATEMENTS[name].cache_info().misses for name in wanted]  # type: ignore[attr-defined]
    for name in wanted:
        STATEMENTS[name](dialect)
    assert [STATEMENTS[name].cache_info().misses for name in wanted] == before  # type: ignore[attr-defined]
