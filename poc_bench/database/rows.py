"""What the harness itself asks of a cell's database. Works on every dialect; counts its own commits."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import (
    Boolean,
    Column,
    DateTime,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    func,
    select,
    text,
    update,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sqlalchemy.engine import Engine

    from poc_bench.database.address import Address

HISTORY_PREFIX = "history__"
"""Run ids of runs that were over before the cell began start with this."""

_METADATA = MetaData()
DAG = Table("dag", _METADATA, Column("dag_id", String), Column("is_paused", Boolean))
RUN = Table(
    "dag_run",
    _METADATA,
    Column("dag_id", String),
    Column("run_id", String),
    Column("state", String),
    *(Column(name, DateTime(timezone=True)) for name in ("queued_at", "run_after", "start_date", "end_date")),
)
TI = Table(
    "task_instance",
    _METADATA,
    *(Column(name, String) for name in ("dag_id", "run_id", "task_id", "state", "pool")),
    *(Column(name, Integer) for name in ("map_index", "try_number", "pool_slots")),
    *(Column(name, DateTime(timezone=True)) for name in ("queued_dttm", "start_date", "end_date")),
)
LOG = Table(
    "log",
    _METADATA,
    *(Column(name, String) for name in ("dag_id", "run_id", "task_id", "event")),
    *(Column(name, Integer) for name in ("map_index", "try_number")),
)
HISTORY = Table(
    "task_instance_history",
    _METADATA,
    *(Column(name, String) for name in ("dag_id", "run_id", "task_id", "pool")),
    Column("pool_slots", Integer),
    *(Column(name, DateTime(timezone=True)) for name in ("queued_dttm", "end_date")),
)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A dag run at the end of a cell."""

    dag_id: str
    run_id: str
    state: str
    queued_at: datetime | None
    run_after: datetime
    start_date: datetime | None
    end_date: datetime | None


@dataclass(frozen=True, slots=True)
class TaskInstanceRow:
    """A task instance at the end of a cell, or one that occupies slots while it runs."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    state: str | None
    try_number: int
    pool: str
    pool_slots: int
    queued_dttm: datetime | None
    start_date: datetime | None
    end_date: datetime | None


@dataclass(frozen=True, slots=True)
class TryRow:
    """An earlier try of a task instance."""

    dag_id: str
    run_id: str
    task_id: str
    pool: str
    pool_slots: int
    queued_dttm: datetime | None
    end_date: datetime | None


class CellDatabase:
    """The harness's one connection to a cell's database."""

    def __init__(self, address: Address) -> None:
        self._engine: Engine = create_engine(
            address.sync_url, pool_size=1, max_overflow=0, connect_args=address.named("bench-harness")
        )
        self._naive = address.dialect != "postgresql"
        self.commits = 0

    def close(self) -> None:
        """Disconnect."""
        self._engine.dispose()

    def warm_up(self) -> None:
        """Ask once everything that is asked while measuring, so that the first time costs nothing then."""
        self.unfinished_runs(0)
        self.occupying()
        self.scheduler_connections()

    def open_gate(self, arrival_rate: float | None) -> datetime:
        """Let the schedulers see the work: unpause the dags, stamp queued runs. Return the time.

        With an *arrival_rate* (runs per second) the runs fall due one after another from now on.
        """
        now = datetime.now(UTC)
        with self._engine.begin() as connection:
            queued = (
                select(RUN.c.dag_id, RUN.c.run_id).where(RUN.c.state == "queued").order_by(RUN.c.run_after)
            )
            if arrival_rate is None:
                connection.execute(
                    update(RUN).where(RUN.c.state == "queued").values(queued_at=self._stored(now))
                )
            else:
                for number, (dag_id, run_id) in enumerate(connection.execute(queued).all()):
                    due = self._stored(now + timedelta(seconds=number / arrival_rate))
                    this = (RUN.c.dag_id == dag_id) & (RUN.c.run_id == run_id)
                    connection.execute(update(RUN).where(this).values(queued_at=due, run_after=due))
            connection.execute(update(DAG).values(is_paused=False))
        self.commits += 1
        return now

    def _stored(self, moment: datetime) -> datetime:
        return moment.replace(tzinfo=None) if self._naive else moment

    def unfinished_runs(self, expected: int) -> int:
        """Return how many of the *expected* runs have not ended, those not yet created included."""
        open_runs = sum(
            self._scalar(select(func.count()).select_from(RUN).where(RUN.c.state == state))
            for state in ("queued", "running")
        )
        if open_runs:
            return open_runs
        ended = select(func.count()).select_from(RUN).where(RUN.c.run_id.not_like(f"{HISTORY_PREFIX}%"))
        return expected - self._scalar(ended)

    def passed(self) -> tuple[int, int, int]:
        """Return how many task instances have been scheduled, queued and ended so far.

        Counted in the server: a cell may have many.
        """
        state = func.coalesce(TI.c.state, "none")
        counts = (
            func.count().filter(state.not_in(gone))
            for gone in (("none",), ("none", "scheduled"), ("none", "scheduled", "queued", "running"))
        )
        scheduled, queued, ended = self._rows(select(*counts).select_from(TI))[0]
        return scheduled, queued, ended

    def occupying(self) -> list[TaskInstanceRow]:
        """Return the task instances that hold slots now: queued or running."""
        return self._task_instances(TI.c.state.in_(("queued", "running")))

    def task_instances(self) -> list[TaskInstanceRow]:
        """Return all task instances of the cell."""
        return self._task_instances(TI.c.run_id.not_like(f"{HISTORY_PREFIX}%"))

    def runs(self) -> list[RunRow]:
        """Return all runs of the cell."""
        columns = [RUN.c[name] for name in RunRow.__dataclass_fields__]
        query = select(*columns).where(RUN.c.run_id.not_like(f"{HISTORY_PREFIX}%"))
        return [RunRow(*_aware(row)) for row in self._rows(query)]

    def earlier_tries(self) -> list[TryRow]:
        """Return the tries before the last of all task instances of the cell."""
        columns = [HISTORY.c[name] for name in TryRow.__dataclass_fields__]
        query = select(*columns).where(HISTORY.c.run_id.not_like(f"{HISTORY_PREFIX}%"))
        return [TryRow(*_aware(row)) for row in self._rows(query)]

    def started_twice(self) -> list[list[Any]]:
        """Return the tries that the log says were started more than once (real workers only)."""
        names = ("dag_id", "run_id", "task_id", "map_index", "try_number")
        columns = [LOG.c[name] for name in names]
        query = select(*columns).where(LOG.c.event == "running").group_by(*columns).having(func.count() > 1)
        return [list(row) for row in self._rows(query)]

    def our_backends(self) -> list[int]:
        """Return the server's process ids behind the harness and the worker simulator."""
        if self._naive:
            return []
        query = text(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name LIKE 'bench-%'"
        )
        return [pid for (pid,) in self._rows(query)]

    def scheduler_connections(self) -> int | None:
        """Return the connections open to this database, ours and the simulator's left out."""
        if self._naive:
            return None
        return self._scalar(
            text(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
                " AND application_name NOT LIKE 'bench-%'"
            )
        )

    def server_statistics(self) -> dict[str, int]:
        """Return the server's own counts for this database since it was created."""
        if self._naive:
            return {}
        names = ("xact_commit", "xact_rollback", "tup_inserted", "tup_updated", "deadlocks")
        query = text(f"SELECT {', '.join(names)} FROM pg_stat_database WHERE datname = current_database()")
        return dict(zip(names, next(iter(self._rows(query))), strict=True))

    def _task_instances(self, condition: Any) -> list[TaskInstanceRow]:
        columns = [TI.c[name] for name in TaskInstanceRow.__dataclass_fields__]
        return [TaskInstanceRow(*_aware(row)) for row in self._rows(select(*columns).where(condition))]

    def _rows(self, query: Any) -> list[Any]:
        with self._engine.begin() as connection:
            found = connection.execute(query).all()
        self.commits += 1
        return list(found)

    def _scalar(self, query: Any) -> int:
        return int(self._rows(query)[0][0])


def _aware(row: Iterable[Any]) -> list[Any]:
    return [
        value.replace(tzinfo=UTC) if isinstance(value, datetime) and value.tzinfo is None else value
        for value in row
    ]
