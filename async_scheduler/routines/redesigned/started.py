"""What a pass has started, and what is told of it: to listeners, and as a metric."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airflow._shared.observability.metrics import stats

from async_scheduler.store.queued import StartableRun

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    from async_scheduler.plans.cache import CompiledDag

Planned = tuple[StartableRun, "CompiledDag"]


@dataclass(frozen=True, slots=True)
class Starts:
    """What one transaction started, and the dag versions for want of which it started nothing.

    ``is_full`` if more runs may be left than it could claim; ``taken`` if others had locked some that might
    start, None if that is not known.
    """

    started: list[Planned]
    unplanned: set[UUID]
    is_full: bool
    taken: bool | None

    def and_then(self, other: Starts) -> Starts:
        """Return both as one."""
        return Starts(
            self.started + other.started,
            self.unplanned | other.unplanned,
            self.is_full or other.is_full,
            self.taken or other.taken,
        )


NO_STARTS = Starts([], set(), is_full=False, taken=None)


def announce(dag_run: Any, compiled: CompiledDag) -> None:
    """Tell listeners that *dag_run* has started."""
    dag_run.dag = compiled.dag
    dag_run.notify_dagrun_state_changed(msg="started")


def report_delays(started: Sequence[Planned], now: datetime) -> None:
    """Send ``dagrun.schedule_delay`` for the runs that Airflow sends it for, started at *now*."""
    for run, compiled in started:
        triggered = str(getattr(run.triggered_by, "value", run.triggered_by))
        if (
            compiled.dag.timetable.periodic
            and run.run_type != "manual"
            and triggered != "asset"
            and run.clear_number < 1
        ):
            stats.timing("dagrun.schedule_delay", now - run.run_after, tags={"dag_id": run.dag_id})
