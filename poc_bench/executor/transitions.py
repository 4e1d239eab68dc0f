"""The writes of a task instance's life on a worker, as the execution API does them, for a batch at a time.

The source of each write is named with it (``airflow/api_fastapi/execution_api/routes/task_instances.py``). A
row that somebody holds locked is left out and comes with a later batch: the API would wait for that one row
while other requests go on. PostgreSQL does most of a batch in one statement, see
:mod:`poc_bench.executor.at_once`.
"""

from __future__ import annotations

import getpass
import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ColumnClause,
    ColumnElement,
    DateTime,
    Uuid,
    column,
    delete,
    func,
    insert,
    inspect,
    literal,
    select,
    table,
    update,
)
from uuid6 import uuid7

from poc_bench.executor import at_once
from poc_bench.executor.rows import HOSTNAME, LOG, STARTABLE, TASK_MAP, TASK_RESCHEDULE, TI, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from sqlalchemy.engine import Connection, Engine


class Writer:
    """Writes batches of transitions, one transaction each, and counts its commits."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._at_once = engine.dialect.name == "postgresql"
        # An engine that commits each statement saves round trips where one statement is all.
        self._joined = engine.execution_options(isolation_level="READ COMMITTED") if self._at_once else engine
        self._now_is_naive = not self._at_once
        self._history_columns = _shared_columns(engine)
        self.commits = 0
        self.backend_pid = self._backend_pid()

    def start(self, ids: Collection[Any]) -> tuple[list[Row], list[Row]]:
        """Mark queued task instances *running*; return (started, refused). Source: ``ti_run``."""
        with self._engine.begin() as connection:
            if self._at_once:
                rows = at_once.start(connection, ids, self._now())
            else:
                rows = _lock(connection, ids)
                self._mark_running(connection, [row.id for row in rows if row.state in STARTABLE])
        self.commits += 1
        started = [row for row in rows if row.state in STARTABLE]
        return started, [row for row in rows if row.state not in STARTABLE]

    def finish(self, outcomes: dict[Any, str], pushes: dict[Any, int]) -> list[Row]:
        """Write the end of running task instances (id → state); return those that were not locked.

        *pushes* gives the length of a pushed list. Source: ``ti_update_state``, ``set_xcom``.
        """
        more = pushes or "up_for_retry" in outcomes.values()
        with (self._joined if more else self._engine).begin() as connection:
            if self._at_once:
                rows = at_once.finish(connection, outcomes, self._now())
            else:
                rows = _lock(connection, outcomes)
                self._mark_ended(connection, rows, outcomes)
            running = [row for row in rows if row.state == "running"]
            maps = [row for row in running if row.id in pushes]
            if maps:
                connection.execute(insert(TASK_MAP), [_task_map(row, pushes[row.id]) for row in maps])
            self._follow_up(connection, running, outcomes)
        self.commits += 1
        return rows

    def _now(self) -> datetime:
        now = datetime.now(UTC)
        return now.replace(tzinfo=None) if self._now_is_naive else now

    def _mark_running(self, connection: Connection, ids: Sequence[Any]) -> None:
        if not ids:
            return
        now = self._now()
        connection.execute(
            update(TI)
            .where(TI.c.id.in_(ids))
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

    def _mark_ended(self, connection: Connection, rows: Sequence[Row], outcomes: dict[Any, str]) -> None:
        now = self._now()
        for state in sorted(set(outcomes.values())):
            ids = [row.id for row in rows if row.state == "running" and outcomes[row.id] == state]
            if not ids:
                continue
            ended = {
                "state": state,
                "end_date": now,
                "duration": _seconds_since_start(connection, now),
                "updated_at": now,
                "next_method": None,
            }
            connection.execute(update(TI).where(TI.c.id.in_(ids)).values(ended))
            self._log(connection, ids, state, now)

    def _follow_up(self, connection: Connection, ended: Sequence[Row], outcomes: dict[Any, str]) -> None:
        """Write, in the transaction of the ends, what comes of them."""
        self._archive(connection, [row.id for row in ended if outcomes[row.id] == "up_for_retry"])

    def _archive(self, connection: Connection, ids: Sequence[Any]) -> None:
        """Copy the try to the history and give the row a new id. Source: ``prepare_db_for_next_try``."""
        if not ids:
            return
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
        source = select(*columns).where(TI.c.id.in_(list(ids)))
        connection.execute(insert(LOG).from_select([*written, *copied], source))

    def _backend_pid(self) -> int | None:
        if self._engine.dialect.name != "postgresql":
            return None
        with self._engine.connect() as connection:
            return int(connection.scalars(select(func.pg_backend_pid())).one())


def _lock(connection: Connection, ids: Collection[Any]) -> list[Row]:
    columns = (TI.c[name] for name in Row.__dataclass_fields__)
    query = select(*columns).where(TI.c.id.in_(list(ids))).order_by(TI.c.id)
    if connection.dialect.name != "sqlite":
        query = query.with_for_update(skip_locked=True)
    return [Row(*row) for row in connection.execute(query)]


def _seconds_since_start(connection: Connection, now: datetime) -> Any:
    match connection.dialect.name:
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
