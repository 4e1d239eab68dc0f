"""The writes of a task instance's life on a worker, as the execution API does them, for a batch at a time.

The source of each write is named with it (``airflow/api_fastapi/execution_api/routes/task_instances.py``). A
row that somebody holds locked is left out and comes with a later batch: the API would wait for that one row
while other requests go on.
"""

from __future__ import annotations

import getpass
import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    ColumnClause,
    ColumnElement,
    DateTime,
    Float,
    Integer,
    String,
    Uuid,
    any_,
    cast,
    column,
    delete,
    extract,
    func,
    insert,
    inspect,
    literal,
    select,
    table,
    update,
)
from uuid6 import uuid7

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.engine import Connection, Engine

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


class Writer:
    """Writes batches of transitions, one transaction each, and counts its commits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._now_is_naive = engine.dialect.name != "postgresql"
        self._history_columns = _shared_columns(engine)
        self.commits = 0
        self.backend_pid = self._backend_pid()

    def start(self, ids: Collection[Any]) -> tuple[list[Row], list[Row]]:
        """Mark queued task instances *running*; return (started, refused). Source: ``ti_run``."""
        with self._engine.begin() as connection:
            rows = _lock(connection, ids)
            started = [row for row in rows if row.state in STARTABLE]
            if started:
                self._mark_running(connection, started)
        self.commits += 1
        return started, [row for row in rows if row.state not in STARTABLE]

    def finish(self, outcomes: dict[Any, str], pushes: dict[Any, int]) -> list[Row]:
        """Write the end of running task instances (id → state); return those that were not locked.

        *pushes* gives the length of a pushed list. Source: ``ti_update_state``, ``set_xcom``.
        """
        with self._engine.begin() as connection:
            rows = _lock(connection, outcomes)
            running = [row for row in rows if row.state == "running"]
            for state in sorted(set(outcomes.values())):
                self._mark_ended(connection, [row for row in running if outcomes[row.id] == state], state)
            maps = [row for row in running if row.id in pushes]
            if maps:
                connection.execute(insert(TASK_MAP), [_task_map(row, pushes[row.id]) for row in maps])
        self.commits += 1
        return rows

    def _now(self) -> datetime:
        now = datetime.now(UTC)
        return now.replace(tzinfo=None) if self._now_is_naive else now

    def _mark_running(self, connection: Connection, rows: Sequence[Row]) -> None:
        now = self._now()
        ids = [row.id for row in rows]
        connection.execute(
            update(TI)
            .where(_is_among(connection, ids))
            .values(
                state="running",
                start_date=now,
                end_date=None,
                hostname=HOSTNAME,
                unixname=getpass.getuser(),
                pid=os.getpid(),
                last_heartbeat_at=now,
                updated_at=now,
                retry_delay_override=None,
                retry_reason=None,
            )
        )
        self._log(connection, ids, "running", now)

    def _mark_ended(self, connection: Connection, rows: Sequence[Row], state: str) -> None:
        if not rows:
            return
        now = self._now()
        ended = {
            "state": state,
            "end_date": now,
            "duration": _seconds_since_start(connection, now),
            "updated_at": now,
            "next_method": None,
        }
        ids = [row.id for row in rows]
        connection.execute(update(TI).where(_is_among(connection, ids)).values(ended))
        self._log(connection, ids, state, now)
        if state == "up_for_retry":
            self._archive(connection, ids)  # gives them other ids

    def _archive(self, connection: Connection, ids: Sequence[Any]) -> None:
        """Copy the try to the history and give the row a new id. Source: ``prepare_db_for_next_try``."""
        names = self._history_columns
        source = table("task_instance", *(column(name) for name in ("id", *names)))
        target = table("task_instance_history", column("task_instance_id"), *(column(n) for n in names))
        values = [literal("failed") if name == "state" else source.c[name] for name in names]
        connection.execute(
            insert(target).from_select(
                ["task_instance_id", *names],
                select(source.c.id, *values).where(column("id", Uuid()).in_(ids)),
            )
        )
        connection.execute(delete(TASK_RESCHEDULE).where(TASK_RESCHEDULE.c.ti_id.in_(ids)))
        for old in ids:
            connection.execute(update(TI).where(TI.c.id == old).values(id=uuid7()))

    def _log(self, connection: Connection, ids: Sequence[Any], event: str, now: datetime) -> None:
        # Copied by the server: as values, row by row, they cost the simulator more than all the rest.
        copied = ("dag_id", "task_id", "run_id", "map_index", "try_number")
        written: dict[str, ColumnElement[Any]] = {
            "dttm": literal(now, DateTime(timezone=True)),
            "event": literal(event),
            "owner": literal("airflow"),
            "extra": literal(json.dumps({"host_name": HOSTNAME})),
        }
        columns: list[ColumnElement[Any]] = [*written.values(), *(TI.c[name] for name in copied)]
        source = select(*columns).where(_is_among(connection, ids))
        connection.execute(insert(LOG).from_select([*written, *copied], source))

    def _backend_pid(self) -> int | None:
        if self._engine.dialect.name != "postgresql":
            return None
        with self._engine.connect() as connection:
            return int(connection.scalars(select(func.pg_backend_pid())).one())


def _lock(connection: Connection, ids: Collection[Any]) -> list[Row]:
    columns = (TI.c[name] for name in Row.__dataclass_fields__)
    query = select(*columns).where(_is_among(connection, ids)).order_by(TI.c.id)
    if connection.dialect.name != "sqlite":
        query = query.with_for_update(skip_locked=True)
    return [Row(*row) for row in connection.execute(query)]


def _is_among(connection: Connection, ids: Collection[Any]) -> ColumnElement[bool]:
    if connection.dialect.name == "postgresql":
        # One parameter: a list of them is rendered anew for each batch.
        return TI.c.id == any_(cast(literal([str(one) for one in ids], ARRAY(String())), ARRAY(Uuid())))
    return TI.c.id.in_(list(ids))


def _seconds_since_start(connection: Connection, now: datetime) -> Any:
    match connection.dialect.name:
        case "postgresql":
            return extract("epoch", literal(now, DateTime(timezone=True)) - TI.c.start_date)
        case "sqlite":
            return (func.julianday(now) - func.julianday(TI.c.start_date)) * 86400
        case _:
            return func.timestampdiff(_MICROSECOND, TI.c.start_date, now) / 1e6


_MICROSECOND: ColumnClause[Any] = column("MICROSECOND", is_literal=True)


def _task_map(row: Row, length: int) -> dict[str, Any]:
    return {
        "dag_id": row.dag_id,
        "task_id": row.task_id,
        "run_id": row.run_id,
        "map_index": row.map_index,
        "length": length,
    }


def _shared_columns(engine: Engine) -> list[str]:
    """Return the columns that the history has in common with ``task_instance``, in order."""
    inspector = inspect(engine)
    live = {found["name"] for found in inspector.get_columns("task_instance")}
    history = (found["name"] for found in inspector.get_columns("task_instance_history"))
    return [name for name in history if name in live and name != "id"]
