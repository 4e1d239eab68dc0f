"""Runs every statement of ``store`` once by the async driver, on the database Airflow is configured for.

``python -m tests.databases.every_statement`` prints as JSON which statements were run. The parameters are
made up to the types, so few rows are met; each transaction is rolled back.
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from typing import Any
from uuid import uuid4

from sqlalchemy import ARRAY, Boolean, DateTime, Integer, LargeBinary, Numeric, Uuid
from sqlalchemy.sql.sqltypes import JSON, Float, NullType, TupleType

from async_scheduler.database.engine import create_engine
from async_scheduler.database.sessions import new_session
from async_scheduler.store.dialect import POSTGRESQL_ONLY, STATEMENTS, Dialect, dialect_of
from tests.databases.mysql_statements import load_all

TEXT = {"of_dag", "of_task", "of_run", "given", "dag", "run", "old", "new", "ended_as", "unixname", "kind"}
"""Parameters without a type that are text; ``now`` and ``since`` are dates, the rest numbers."""


def value(kind: Any, name: str) -> Any:
    """Return a value of a column type, by the parameter's name where the type says nothing."""
    if isinstance(kind, ARRAY):
        return [value(kind.item_type, name)]
    if isinstance(kind, TupleType):
        return tuple(value(part, name) for part in kind.types)
    if isinstance(kind, NullType):
        if name in ("now", "since"):
            return datetime.now(UTC)
        return "x" if name in TEXT else 1
    return _of_type(kind)


def _of_type(kind: Any) -> Any:
    impl = getattr(kind, "impl_instance", None) or getattr(kind, "impl", kind)
    for types, made in (
        (Uuid, uuid4),
        (Boolean, bool),
        ((Integer, Numeric, Float), lambda: 1),
        (DateTime, lambda: datetime.now(UTC)),
        (LargeBinary, bytes),
        (JSON, dict),
    ):
        if isinstance(kind, types) or isinstance(impl, types):
            return made()
    return str(uuid4()) if "uuid" in type(kind).__name__.lower() else "x"


def parameters(statement: Any, dialect: Any) -> dict[str, Any]:
    """Return a value for each parameter that *statement* wants."""
    binds = statement.compile(dialect=dialect).binds
    wanted = {name: bind for name, bind in binds.items() if bind.required}
    if getattr(statement, "is_insert", False):
        # Rows that are made up would refer to nothing.
        return {
            name: [] if isinstance(bind.type, ARRAY) else value(bind.type, name)
            for name, bind in wanted.items()
        }
    return {
        name: [value(bind.type, name)] if bind.expanding else value(bind.type, name)
        for name, bind in wanted.items()
    }


def names(dialect: Dialect) -> list[str]:
    """Return the statements that can be run alone on such a database."""
    load_all()
    if dialect.is_postgresql:
        return sorted(STATEMENTS)
    # There it is an INSERT of whatever rows are given: a workload shows it.
    return sorted(STATEMENTS.keys() - POSTGRESQL_ONLY - {"creation.instances"})


async def run_all(**options: Any) -> dict[str, str]:
    """Run each statement; return what went wrong, by name, empty for those that ran."""
    engine = create_engine(1, 300.0, **options)
    outcome = {}
    try:
        async with new_session(engine) as session:
            await session.connection()
            dialect = dialect_of(session)
        for name in names(dialect):
            outcome[name] = await _run(engine, STATEMENTS[name](dialect))
    finally:
        await engine.dispose()
    return outcome


async def _run(engine: Any, statement: Any) -> str:
    async with engine.connect() as connection:
        given = parameters(statement, connection.dialect)
        try:
            result = await connection.execute(statement, given)
            if result.returns_rows:
                result.all()
        except Exception as error:
            return f"{type(error).__name__}: {error}"
        finally:
            await connection.rollback()
    return ""


if __name__ == "__main__":
    print(json.dumps(asyncio.run(run_all())))  # noqa: T201
