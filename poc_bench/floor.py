"""The floor: a workload's row transitions with no decisions: ``python -m poc_bench.floor FILE``.

Every task instance goes from *none* to *scheduled*, *queued*, *running* and *success*, every run from
*queued* to *running* and *success*, in batches of 256 rows, one transaction each: what the database could do
for a scheduler that knew everything beforehand. FILE is a JSON request: database URL, where to leave figures.
"""

from __future__ import annotations

import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, DateTime, Engine, Integer, MetaData, String, Table, Uuid, create_engine, select
from sqlalchemy import update as update_rows

from poc_bench.database.rows import HISTORY_PREFIX

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BATCH = 256
_METADATA = MetaData()
TI = Table(
    "task_instance",
    _METADATA,
    Column("id", Uuid),
    *(Column(name, String) for name in ("run_id", "state", "hostname", "unixname")),
    *(Column(name, Integer) for name in ("try_number", "queued_by_job_id", "pid")),
    *(
        Column(name, DateTime(timezone=True))
        for name in ("scheduled_dttm", "queued_dttm", "start_date", "end_date", "updated_at")
    ),
)
RUN = Table(
    "dag_run",
    _METADATA,
    Column("id", Integer),
    *(Column(name, String) for name in ("run_id", "state")),
    *(
        Column(name, DateTime(timezone=True))
        for name in ("start_date", "end_date", "last_scheduling_decision", "updated_at")
    ),
)


class Floor:
    """Writes the transitions of a database's runs and task instances."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._naive = engine.dialect.name != "postgresql"

    def write(self) -> dict[str, float]:
        """Do it; return task instances and seconds."""
        runs, instances = self._ids(RUN), self._ids(TI)
        began = time.perf_counter()
        self._update(RUN, runs, state="running", moments=("start_date", "updated_at"))
        for batch in _batches(instances):
            self._life(batch)
        moments = ("end_date", "last_scheduling_decision", "updated_at")
        self._update(RUN, runs, state="success", moments=moments)
        return {"task_instances": len(instances), "seconds": time.perf_counter() - began}

    def _ids(self, table: Table) -> list[Any]:
        query = select(table.c.id).where(table.c.run_id.not_like(f"{HISTORY_PREFIX}%"))
        with self._engine.begin() as connection:
            return list(connection.scalars(query))

    def _life(self, ids: Sequence[Any]) -> None:
        self._update(TI, ids, state="scheduled", moments=("scheduled_dttm", "updated_at"), try_number=1)
        self._update(TI, ids, state="queued", moments=("queued_dttm", "updated_at"))
        worker = {"hostname": "floor", "unixname": "floor", "pid": 1}
        self._update(TI, ids, state="running", moments=("start_date", "updated_at"), **worker)
        self._update(TI, ids, state="success", moments=("end_date", "updated_at"))

    def _update(self, table: Table, ids: Sequence[Any], moments: Sequence[str], **values: Any) -> None:
        now = datetime.now(UTC)
        stamps = dict.fromkeys(moments, now.replace(tzinfo=None) if self._naive else now)
        for batch in _batches(ids):
            with self._engine.begin() as connection:
                connection.execute(
                    update_rows(table).where(table.c.id.in_(batch)).values({**values, **stamps})
                )


def _batches(ids: Sequence[Any]) -> Iterator[Sequence[Any]]:
    return (ids[start : start + BATCH] for start in range(0, len(ids), BATCH))


def main(request_file: Path) -> None:
    """Write the floor that *request_file* asks for and leave the figures."""
    request = json.loads(request_file.read_text())
    figures = Floor(create_engine(request["url"])).write()
    Path(request["figures"]).write_text(json.dumps(figures))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
