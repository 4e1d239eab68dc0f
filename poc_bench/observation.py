"""What was seen of a cell, before anything is computed from it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datetime import datetime

    from poc_bench.database.rows import RunRow, TaskInstanceRow, TryRow


@dataclass(frozen=True, slots=True)
class Observation:
    """A cell, raw. CPU in seconds of the measured window, memory in MiB."""

    opened: datetime
    """When the work became visible to the schedulers."""
    seconds_to_ready: float
    scheduler_cpu: float
    harness_cpu_share: float
    """CPU of the harness itself while measuring, as a share of one core."""
    server_cpu: float | None
    foreign_cores: float | None
    """Cores that processes outside the cell kept busy meanwhile; None where this cannot be told."""
    peak_rss_mib: float
    connections: int
    samples: list[list[TaskInstanceRow]]
    """The task instances that held slots, at each sampled moment."""
    runs: list[RunRow]
    task_instances: list[TaskInstanceRow]
    earlier_tries: list[TryRow]
    counters: list[dict[str, Any]]
    """One per scheduler, see :mod:`poc_bench.probes.driver`."""
    workers: dict[str, Any]
    """What happened on the workers: ``run_twice``, ``refused``, ``submitted_twice``."""
    server: dict[str, int]
    """The server's statistics of the cell's database, empty where it has none."""
    other_commits: int | None
    """Commits of the harness and the workers, None where nobody counts them."""
    link: dict[str, float] | None = None
    """What the link did, see :mod:`poc_bench.link.linked`."""
    profiles: list[str] = field(default_factory=list)
    """The files of the profiles recorded."""
