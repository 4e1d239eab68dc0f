"""A long past: finished runs and task instances, loaded into PostgreSQL by COPY.

One finished run per dag serves as the pattern; its rows are repeated with other ids, run ids and dates.
Indexes are dropped meanwhile and made again, and foreign keys are not checked row by row.
"""

from __future__ import annotations

import io
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import psycopg2
from uuid6 import uuid7

from poc_bench.database.rows import HISTORY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

PATTERN = f"{HISTORY_PREFIX}pattern"
"""The run id of the pattern."""
NULL = "\\N"
CHUNK_ROWS = 20_000
NEWEST = datetime(2023, 12, 1, tzinfo=UTC)
"""The logical date of the newest run of the past: before the first run of any workload."""


class Pattern:
    """The rows of a table that belong to the pattern runs, as COPY writes them."""

    def __init__(self, cursor: Any, table: str, left_out: tuple[str, ...]) -> None:
        cursor.execute(
            "SELECT column_name FROM information_schema.columns"
            " WHERE table_name = %s AND table_schema = 'public' AND is_generated = 'NEVER'"
            " ORDER BY ordinal_position",
            (table,),
        )
        self.table = table
        self.columns = [name for (name,) in cursor.fetchall() if name not in left_out]
        text = io.StringIO()
        cursor.copy_expert(
            f"COPY (SELECT {self._column_list} FROM {table} WHERE run_id = '{PATTERN}') TO STDOUT", text
        )
        self.rows = [line.split("\t") for line in text.getvalue().splitlines()]

    @property
    def _column_list(self) -> str:
        return ", ".join(f'"{name}"' for name in self.columns)

    def repeated(self, number: int) -> Iterator[str]:
        """Yield the pattern's rows as those of the run *number*, newest first."""
        date = NEWEST - timedelta(hours=number)
        moment, end = date.isoformat(), (date + timedelta(minutes=1)).isoformat()
        changed = {"run_id": f"{HISTORY_PREFIX}{number:07}", "end_date": end, "duration": "60"}
        changed |= dict.fromkeys(
            ("logical_date", "run_after", "queued_at", "start_date", "queued_dttm", "scheduled_dttm"), moment
        )
        changed |= dict.fromkeys(("data_interval_start", "data_interval_end"), moment)
        for row in self.rows:
            values = [changed.get(name, value) for name, value in zip(self.columns, row, strict=True)]
            if self.table == "task_instance":
                values[self.columns.index("id")] = str(uuid7())
            yield "\t".join(values) + "\n"

    def load(self, cursor: Any, repeats: int) -> None:
        """Write the pattern *repeats* times."""
        lines: list[str] = []
        for number in range(repeats):
            lines.extend(self.repeated(number))
            if len(lines) >= CHUNK_ROWS or number == repeats - 1:
                cursor.copy_expert(
                    f"COPY {self.table} ({self._column_list}) FROM STDIN", io.StringIO("".join(lines))
                )
                lines.clear()


def load_past(dsn: str, task_instances: int) -> None:
    """Fill the database with at least so many finished task instances, as copies of the pattern runs."""
    connection = psycopg2.connect(dsn)
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SET session_replication_role = replica")
            runs = Pattern(cursor, "dag_run", left_out=("id",))
            instances = Pattern(cursor, "task_instance", left_out=())
            repeats = -(-task_instances // len(instances.rows))
            with without_indexes(cursor, ("dag_run", "task_instance")):
                runs.load(cursor, repeats)
                instances.load(cursor, repeats)
    finally:
        connection.close()


@contextmanager
def without_indexes(cursor: Any, tables: tuple[str, ...]) -> Iterator[None]:
    """Drop the indexes that no constraint needs, and make them again."""
    cursor.execute(
        "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
        " WHERE indrelid::regclass::text = ANY(%s)"
        " AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = indexrelid)",
        (list(tables),),
    )
    indexes = cursor.fetchall()
    for name, _ in indexes:
        cursor.execute(f"DROP INDEX {name}")
    yield
    for _, definition in indexes:
        cursor.execute(definition)
