"""Every statement compiles for every database."""

from __future__ import annotations

import importlib
import pkgutil
from typing import Any

import pytest
from sqlalchemy.dialects import mysql, postgresql, sqlite

import async_scheduler.store
from async_scheduler.store.dialect import MYSQL, POSTGRESQL, SQLITE, STATEMENTS, Dialect

for module in pkgutil.iter_modules(async_scheduler.store.__path__):
    importlib.import_module(f"{async_scheduler.store.__name__}.{module.name}")

DIALECTS: dict[Dialect, Any] = {
    POSTGRESQL: postgresql.dialect(),  # type: ignore[no-untyped-call]
    MYSQL: mysql.dialect(),
    SQLITE: sqlite.dialect(),
}


@pytest.mark.parametrize("dialect", DIALECTS, ids=lambda dialect: dialect.name)
@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_statement_compiles(name: str, dialect: Dialect) -> None:
    text = str(STATEMENTS[name](dialect).compile(dialect=DIALECTS[dialect]))
    assert text
    if not dialect.row_locks:
        assert "FOR UPDATE" not in text


def test_statements_are_built_once() -> None:
    name = sorted(STATEMENTS)[0]
    assert STATEMENTS[name](POSTGRESQL) is STATEMENTS[name](POSTGRESQL)
