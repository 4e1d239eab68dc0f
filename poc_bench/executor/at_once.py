"""The transitions of a batch of task instances in one statement each, where the server can: PostgreSQL.

Rows that somebody holds locked are left out. What is written is what :mod:`poc_bench.executor.transitions`
writes in four statements; a worker that costs little leaves the machine to what is measured.
"""

from __future__ import annotations

import getpass
import json
import os
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    ARRAY,
    CTE,
    ColumnElement,
    DateTime,
    Select,
    String,
    Uuid,
    any_,
    bindparam,
    cast,
    column,
    extract,
    func,
    insert,
    literal,
    null,
    select,
    update,
)

from poc_bench.executor.rows import HOSTNAME, LOG, STARTABLE, TI, Row

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from datetime import datetime

    from sqlalchemy.engine import Connection

IDS: ColumnElement[Any] = cast(bindparam("ids", type_=ARRAY(String())), ARRAY(Uuid()))
STATES = bindparam("states", type_=ARRAY(String()))
NOW = bindparam("now", type_=DateTime(timezone=True))
COPIED = ("dag_id", "task_id", "run_id", "map_index", "try_number")


def start(connection: Connection, ids: Collection[Any], now: datetime) -> list[Row]:
    """Mark those of *ids* running that are queued; return all that are not locked, as they were."""
    parameters = {"ids": [str(one) for one in ids], "now": now}
    return [Row(*row) for row in connection.execute(_START, parameters)]


def finish(connection: Connection, outcomes: Mapping[Any, str], now: datetime) -> list[Row]:
    """Give those their end that are running (id → state); return all that are not locked, as they were."""
    parameters = {"ids": [str(one) for one in outcomes], "states": list(outcomes.values()), "now": now}
    return [Row(*row) for row in connection.execute(_FINISH, parameters)]


def _locked(source: Select[Any]) -> CTE:
    return source.order_by(TI.c.id).with_for_update(of=TI, skip_locked=True).cte("locked")


def _with_log(locked: CTE, changed: CTE) -> Select[Any]:
    written: dict[str, ColumnElement[Any]] = {
        "dttm": NOW,
        "event": changed.c.state,
        "owner": literal("airflow"),
        "extra": literal(json.dumps({"host_name": HOSTNAME})),
    }
    columns: list[ColumnElement[Any]] = [*written.values(), *(changed.c[name] for name in COPIED)]
    logged = insert(LOG).from_select([*written, *COPIED], select(*columns)).cte("logged")
    return select(*(locked.c[name] for name in Row.__dataclass_fields__)).add_cte(logged)


def _start() -> Select[Any]:
    own = (TI.c[name] for name in Row.__dataclass_fields__)
    locked = _locked(select(*own).where(TI.c.id == any_(IDS)))
    changed = (
        update(TI)
        .where(TI.c.id == locked.c.id, locked.c.state.in_(STARTABLE))
        .values(
            state="running",
            start_date=NOW,
            end_date=null(),
            hostname=HOSTNAME,
            unixname=getpass.getuser(),
            pid=os.getpid(),
            last_heartbeat_at=NOW,
            updated_at=NOW,
            retry_delay_override=null(),
            retry_reason=null(),
        )
        .returning(TI.c.state, *(TI.c[name] for name in COPIED))
        .cte("changed")
    )
    return _with_log(locked, changed)


def _finish() -> Select[Any]:
    given = func.unnest(IDS, STATES).table_valued(column("id", Uuid()), column("outcome", String()))
    given = given.render_derived(name="given")
    own = (TI.c[name] for name in Row.__dataclass_fields__)
    locked = _locked(select(*own, given.c.outcome).join_from(given, TI, TI.c.id == given.c.id))
    changed = (
        update(TI)
        .where(TI.c.id == locked.c.id, locked.c.state == "running")
        .values(
            state=locked.c.outcome,
            end_date=NOW,
            duration=extract("epoch", NOW - TI.c.start_date),
            updated_at=NOW,
            next_method=null(),
        )
        .returning(TI.c.state, *(TI.c[name] for name in COPIED))
        .cte("changed")
    )
    return _with_log(locked, changed)


_START, _FINISH = _start(), _finish()
