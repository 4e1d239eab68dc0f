"""Reads from a database what schedulers left behind, see :mod:`tests.faults.consequences`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from sqlalchemy import text

from tests.faults.consequences import CallbackRow, Consequences, EventRow, LogRow
from tests.faults.work import CALLED, CONSUMER, KILLED, PRODUCER

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine

LOGS = """
SELECT event, concat_ws('/', dag_id, run_id, task_id, coalesce(map_index, -1)), try_number FROM log
WHERE task_id IS NOT NULL"""
EVENTS = """
SELECT event.id, event."timestamp", event.source_run_id, run.run_id FROM asset_event AS event
LEFT JOIN dagrun_asset_event AS consumed ON consumed.event_id = event.id
LEFT JOIN dag_run AS run ON run.id = consumed.dag_run_id"""
WINDOWS = "SELECT run_id, run_after FROM dag_run WHERE dag_id = :consumer"


def read_consequences(engine: Engine) -> Consequences:
    """Return what was found."""
    with engine.begin() as connection:
        return Consequences(
            called=frozenset(CALLED),
            called_tasks=frozenset({(KILLED[1], KILLED[0])}),
            producer=PRODUCER,
            logs=[LogRow(*row) for row in connection.execute(text(LOGS))],
            callbacks=[_callback(data) for (data,) in connection.execute(text("SELECT data FROM callback"))],
            events=[EventRow(*row) for row in connection.execute(text(EVENTS))],
            windows=_windows(connection),
            queued=connection.scalar(text("SELECT count(*) FROM asset_dag_run_queue")) or 0,
        )


def _windows(connection: Connection) -> list[tuple[str, Any]]:
    return [(row[0], row[1]) for row in connection.execute(text(WINDOWS), {"consumer": CONSUMER})]


def _callback(data: Any) -> CallbackRow:
    stored = data.get("__var", data)
    request = json.loads(stored["req_data"])
    if stored["req_class"] == "DagCallbackRequest":
        key = f"{request['dag_id']}/{request['run_id']}"
        return CallbackRow("run", key, None, bool(request["is_failure_callback"]))
    ti = request["ti"]
    index = -1 if ti.get("map_index") is None else ti["map_index"]
    key = f"{ti['dag_id']}/{ti['run_id']}/{ti['task_id']}/{index}"
    return CallbackRow("task", key, ti["try_number"], request.get("task_callback_type") == "failed")
