"""The text of every statement of the redesign as MySQL 8 would get it.

``python -m tests.databases.mysql_statements`` prints it; the reviewed text is ``mysql_statements.sql``.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Any

from sqlalchemy.dialects import mysql

import async_scheduler.store
from async_scheduler.store.dialect import MYSQL, POSTGRESQL_ONLY, STATEMENTS

REVIEWED = Path(__file__).with_name("mysql_statements.sql")
HEADER = """-- Every statement of async_scheduler/store as MySQL 8 would get it, for test_mysql_statements.py.
-- No MySQL 8 was at hand: these were read, not run. On MariaDB, which gets them without the locks, they run.
-- To renew: python -m tests.databases.mysql_statements > tests/databases/mysql_statements.sql
"""


def mysql_8() -> Any:
    """Return the dialect as it is after it has connected to a MySQL 8."""
    dialect: Any = mysql.dialect()
    dialect.server_version_info = (8, 0, 36)
    dialect.supports_for_update_of = True
    return dialect


def load_all() -> None:
    """Import all modules of ``store``, so that their statements are registered."""
    for module in pkgutil.iter_modules(async_scheduler.store.__path__):
        importlib.import_module(f"{async_scheduler.store.__name__}.{module.name}")


def render() -> str:
    """Return the text of the file."""
    load_all()
    dialect, parts = mysql_8(), [HEADER]
    for name in sorted(STATEMENTS.keys() - POSTGRESQL_ONLY):
        text = str(STATEMENTS[name](MYSQL).compile(dialect=dialect))
        lines = "\n".join(line.rstrip() for line in text.strip().splitlines())
        parts.append(f"\n-- {name}\n{lines};\n")
    return "".join(parts)


if __name__ == "__main__":
    print(render(), end="")  # noqa: T201
