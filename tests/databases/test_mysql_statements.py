"""What MySQL 8 would be asked is what somebody has read."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import async_scheduler.store
from async_scheduler.store.dialect import STATEMENTS
from tests.databases.mysql_statements import REVIEWED, load_all, render

CHOSEN_BEFORE = {"build", "statement", "statement_of"}
"""Variables that hold one of several registered statements, or what the caller was given."""
NOT_FOR_MYSQL = {"assets.inactive"}
"""Sent to MariaDB in place of one of Airflow's own; MySQL gets that."""


def test_the_statements_are_the_reviewed_ones() -> None:
    assert render() == REVIEWED.read_text(), "read what has changed, then renew the file as its head says"


def _executed(module: Path) -> Iterator[str]:
    """Yield the name of what each call that runs a statement in *module* is given."""
    for call in ast.walk(ast.parse(module.read_text())):
        if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute | ast.Name)):
            continue
        name = call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
        if name not in ("execute", "scalar", "scalars", "run_on_connection"):
            continue
        given = call.args[1 if name == "run_on_connection" else 0]
        made = given.func if isinstance(given, ast.Call) else given
        yield made.id if isinstance(made, ast.Name) else ast.unparse(made)


def test_no_statement_is_run_that_is_not_among_them() -> None:
    load_all()
    modules = sorted(Path(async_scheduler.store.__path__[0]).glob("*.py"))
    run = {f"{module.stem}.{name}" for module in modules for name in _executed(module)}
    assert len(run) > 40
    unknown = {name for name in run if name.partition(".")[2] not in CHOSEN_BEFORE} - STATEMENTS.keys()
    assert unknown == NOT_FOR_MYSQL
