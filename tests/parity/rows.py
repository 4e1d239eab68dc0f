"""The whole database as comparable rows, and the way back to an empty one."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from airflow.models.base import Base
from airflow.utils.session import create_session
from sqlalchemy import text

Row = dict[str, Any]

KEPT = ("alembic_version", "log_template", "slot_pool")
"""Tables that every database has filled; the pools are put back to what they were."""

UNCOMPARED = frozenset(
    {
        *KEPT,
        # Written by the test itself and only read by the schedulers.
        *("dag_code", "dag_version", "serialized_dag", "dag_bundle", "rendered_task_instance_fields"),
    }
)
OWN = {
    *("id", "token", "trigger_id", "callback_id", "last_parsed_time", "last_parse_duration", "dag_hash"),
    "executor_class",
}
"""Columns that number rows or tell when the test wrote them, and where a job tells whose it is."""
SOON = timedelta(minutes=10)

_TIME = re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:?\d\d)?")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_SECRET = re.compile(r"\bgAAAA[\w=-]{60,}")
_TRACE = re.compile(r"\b00-[0-9a-f]{32}-[0-9a-f]{16}-")
_RANDOM = re.compile(r"\b(asset_triggered__[^_]*|scheduled__.*_)_[A-Za-z0-9]{8}(?=$|/)")

_WIPE = f"""
DO $$ DECLARE found record; BEGIN
  SET LOCAL session_replication_role = replica;
  FOR found IN SELECT tablename AS name FROM pg_tables
      WHERE schemaname = 'public' AND tablename NOT IN {KEPT!r} LOOP
    EXECUTE format('DELETE FROM %I', found.name);
  END LOOP;
  DELETE FROM slot_pool WHERE pool <> 'default_pool';
  UPDATE slot_pool SET slots = 128, include_deferred = false;
  FOR found IN SELECT sequencename AS name FROM pg_sequences
      WHERE schemaname = 'public' AND last_value IS NOT NULL
      AND sequencename NOT IN ('log_template_id_seq', 'slot_pool_id_seq') LOOP
    PERFORM setval(found.name::regclass, 1, false);
  END LOOP;
END $$
"""


def wipe() -> None:
    """Empty the database; its sequences count from one again."""
    with create_session() as session:
        session.execute(text(_WIPE))


@dataclass(slots=True)
class Reading:
    """What rows are read against: when the scenario began and how its rows are called."""

    began: datetime
    names: dict[str, str] = field(default_factory=dict)
    """UUIDs that existed before the scheduler did anything, each with a name for it."""
    numbers: dict[int, str] = field(default_factory=dict)
    """Runs by their number."""

    def time(self, value: str) -> str:
        """Times that a scheduler took from the clock are all the same; those of the story stay."""
        moment = datetime.fromisoformat(value.replace(" ", "T").replace("Z", "+00:00"))
        if moment.tzinfo is None or not self.began <= moment <= self.began + SOON:
            return value
        return "<now>"

    def value(self, value: Any) -> Any:
        """Return *value* without what differs between two schedulers that do the same."""
        if isinstance(value, dict):
            if "traceparent" in value:
                return "<carrier>"
            return {key: self.value(one) for key, one in value.items()}
        if isinstance(value, list):
            return [self.value(one) for one in value]
        if isinstance(value, float) and 0 <= value - self.began.timestamp() <= SOON.total_seconds():
            return "<now>"
        if not isinstance(value, str):
            return value
        value = _SECRET.sub("<encrypted>", value)
        value = _TIME.sub(lambda found: self.time(found.group()), value)
        value = _UUID.sub(lambda found: self.names.get(found.group(), "<new>"), value)
        return _RANDOM.sub(r"\1_<random>", _TRACE.sub("<trace>-", value))

    def row(self, row: Row) -> Row:
        """Return *row* with its columns made comparable."""
        return {name: self._column(name, value) for name, value in row.items() if name not in OWN} | {
            name: row[name] is not None for name in ("trigger_id", "callback_id") if name in row
        }

    def _column(self, name: str, value: Any) -> Any:
        if name in {"dag_run_id", "dagrun_id", "created_dag_run_id"} and value is not None:
            return self.value(self.numbers.get(value, "<run>"))
        if name == "duration" and value:
            return "<measured>"
        return self.value(value)


def read(reading: Reading) -> dict[str, list[Row]]:
    """Return the rows of every table that has any, comparable, in an order of their own."""
    found = _everything()
    reading.numbers = {run["id"]: f"{run['dag_id']}/{run['run_id']}" for run in found.get("dag_run", ())}
    for row in found.get("dag_version", ()):
        reading.names[row["id"]] = f"{row['dag_id']} v{row['version_number']}"
    return {
        table: sorted((_with_identity(table, row, reading) for row in rows), key=repr)
        for table, rows in found.items()
        if table not in UNCOMPARED
    }


def _with_identity(table: str, row: Row, reading: Reading) -> Row:
    """A task instance that was given a new id is another one; elsewhere the id says nothing."""
    identity = {"identity": reading.value(row["id"])} if table == "task_instance" else {}
    return identity | reading.row(row)


def task_instance_names() -> dict[str, str]:
    """Return a name for each task instance there is, by id."""
    return {
        row["id"]: f"{row['dag_id']}/{row['run_id']}/{row['task_id']}/{row['map_index']}"
        for row in _everything().get("task_instance", ())
    }


def _everything() -> dict[str, list[Row]]:
    parts = [
        f"SELECT '{table}' AS name, row_to_json(t)::text AS row FROM \"{table}\" t"
        for table in Base.metadata.tables
        if table not in KEPT
    ]
    found: dict[str, list[Row]] = {}
    with create_session() as session:
        for name, row in session.execute(text(" UNION ALL ".join(parts))):
            found.setdefault(name, []).append(json.loads(row))
    return found


def differences(stock: Any, ours: Any, where: str = "") -> list[str]:
    """Return a line for each place where the two are not equal, of both sides what is there."""
    if stock == ours:
        return []
    if isinstance(stock, dict) and isinstance(ours, dict):
        names = sorted(stock.keys() | ours.keys(), key=repr)
        return [
            line for name in names for line in differences(stock.get(name), ours.get(name), f"{where}/{name}")
        ]
    if isinstance(stock, list | tuple) and isinstance(ours, list | tuple) and len(stock) == len(ours):
        return [
            line
            for number, pair in enumerate(zip(stock, ours, strict=True))
            for line in differences(*pair, f"{where}/{number}")
        ]
    return [f"{where}: stock {stock!r}, ours {ours!r}"]
