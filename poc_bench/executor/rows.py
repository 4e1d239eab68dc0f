"""The tables that workers write, and a row of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from sqlalchemy import DateTime, Float, Integer, String, Uuid, column, table

TI = table(
    "task_instance",
    column("id", Uuid()),
    column("dag_id", String()),
    column("task_id", String()),
    column("run_id", String()),
    column("map_index", Integer()),
    column("state", String()),
    column("try_number", Integer()),
    column("max_tries", Integer()),
    column("start_date", DateTime(timezone=True)),
    column("end_date", DateTime(timezone=True)),
    column("duration", Float()),
    column("hostname", String()),
    column("unixname", String()),
    column("pid", Integer()),
    column("last_heartbeat_at", DateTime(timezone=True)),
    column("updated_at", DateTime(timezone=True)),
    column("next_method", String()),
    column("retry_delay_override", Float()),
    column("retry_reason", String()),
)
LOG = table(
    "log",
    *(column(name) for name in ("dag_id", "task_id", "run_id", "map_index", "try_number")),
    *(column(name) for name in ("event", "owner", "extra")),
    column("dttm", DateTime(timezone=True)),
)
TASK_MAP = table(
    "task_map", *(column(name) for name in ("dag_id", "task_id", "run_id", "map_index", "length"))
)
TASK_RESCHEDULE = table("task_reschedule", column("ti_id", Uuid()))

STARTABLE = ("queued", "restarting")
HOSTNAME = "bench-worker"


@dataclass(frozen=True, slots=True)
class Row:
    """A task instance as found under its row lock."""

    id: Any
    dag_id: str
    task_id: str
    run_id: str
    map_index: int
    try_number: int
    max_tries: int
    state: str | None
